"""Overrides, run directories and data made to do harm: nothing of them is run, and nothing is written elsewhere."""

import json
import os
import re
import sys
from pathlib import Path

import compressed
import pytest
import tiny_run as tiny

from research import PlainText
from research.config import ConfigError, override
from research.data.corpora import corpus, documents
from research.pretrained.run_files import checkpoint_of
from research.storage import manifest, run_directory
from research.storage.manifest import steps_on_disk
from research.train.log import _keep_up_to
from research.train.loop import train
from research.train.run import checked_meta
from scripts import average, convert, evaluate, generate, score

DEEP = '{"a":' * 100_000
DEEP_LIST = "[" * 100_000


@pytest.fixture
def nothing_is_run(monkeypatch, tmp_path):
    """Whoever runs a program, or writes outside of the test's directory, fails."""
    ran: list[str] = []

    def watch(event: str, arguments: tuple) -> None:
        if event in ("os.system", "subprocess.Popen", "os.exec", "os.posix_spawn") and watching:
            ran.append(f"{event} {arguments}")

    watching = True
    sys.addaudithook(watch)
    yield
    watching = False
    assert not ran


# --- Overrides --------------------------------------------------------------------------------------------------------

EXPRESSIONS = [
    """__import__("os").system("touch marker")""",
    """eval("open('marker', 'w')")""",
    """open("marker", "w")""",
    """open("marker", mode="w")""",
    "().__class__.__base__.__subclasses__()",
    "Model.__init__.__globals__",
    "[open('marker', 'w') for _ in (1,)]",
    "(lambda: open('marker', 'w'))()",
    "f'{open(chr(109))}'",
    "(marker := 3)",
    "10**10**10",
    "'a' * 10**10",
    "[0] * 10**10",
    "1 << 10**10",
    "0x" + "f" * 20_000,
    "9" * 5000,
    "-" * 100_000 + "1",
    "(" * 100_000,
    "[" * 150 + "]" * 150,
    "{'a': " * 5000,
    "Bytes(" * 5000,
    "Bytes(*[1])",
    "Bytes(**{'sentinels': 1})",
    "Path('marker')",
    "b'1'",
    "{1, 2}",
    "1j",
    "...",
    "{**{}}",
]


@pytest.mark.slow
@pytest.mark.parametrize("text", EXPRESSIONS, ids=lambda text: text[:20])
@pytest.mark.parametrize("field", ["steps", "model", "data.tokenizer", "optimizer.schedule.peak", "model.activation"])
def test_no_expression_of_an_override_is_worked_out(field, text, tmp_path, monkeypatch, nothing_is_run):
    monkeypatch.chdir(tmp_path)
    config = tiny.experiment(tmp_path)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(ConfigError) as error:
        override.apply(config, {field: text})
    assert str(error.value).startswith(field)
    assert len(str(error.value)) < 1500
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    "path", ["__class__", "model.__dict__", "model.__init__", "model.replace", "model.dropped", "data.corpora.-1", ""]
)
def test_a_path_leads_to_fields_alone(path, tmp_path):
    with pytest.raises(ConfigError, match="is no field"):
        override.apply(tiny.experiment(tmp_path), {path: "1"})


# --- Run directories --------------------------------------------------------------------------------------------------


def described(run: Path, **changes: object) -> str:
    return json.dumps(json.loads((run / "config.json").read_text()) | changes)


CONFIGS = {
    "nested": lambda run: DEEP,
    "a list": lambda run: "[1]",
    "empty": lambda run: "",
    "code": lambda run: "import os; os.system('touch marker')",
    "pickled": lambda run: "cos\nsystem\n(S'touch marker'\ntR.",
    "another class": lambda run: described(run, model={"type": "os.system"}),
    "a type that is a list": lambda run: described(run, optimizer={"type": ["AdamW"]}),
    "endless digits": lambda run: described(run).replace('"steps": 2', f'"steps": {"9" * 5000}'),
    "a number beyond floats": lambda run: described(run, seed=10**400),
    "layers": lambda run: described(run).replace('"encoder_layers": 1', '"encoder_layers": 1000000000'),
    "positions": lambda run: described(
        run, model=json.loads(described(run))["model"] | {"positions": {"type": "Sinusoidal", "length": 10**12}}
    ),
}


@pytest.fixture
def run(tmp_path):
    """A run's directory, whose checkpoints are whole and hold nothing."""
    directory = tmp_path / "run"
    for step in (1, 2):
        (directory / "checkpoints" / str(step) / "state").mkdir(parents=True)
        (directory / "checkpoints" / str(step) / "MANIFEST.json").write_text(manifest._text({}, True))
    (directory / "config.json").write_text(override.to_json(tiny.experiment(directory)))
    return directory


@pytest.mark.parametrize("name", CONFIGS)
def test_a_hostile_configuration_is_refused_by_every_script(name, run, tmp_path, monkeypatch, capsys, nothing_is_run):
    monkeypatch.chdir(tmp_path)
    (run / "config.json").write_text(CONFIGS[name](run))
    (tmp_path / "pairs.tsv").write_text("a\tb\n")
    for script, arguments in (
        (generate, [str(run), "text"]),
        (score, [str(run), f"--input={tmp_path}/pairs.tsv"]),
        (evaluate, [str(run)]),
        (convert, [str(run), str(tmp_path / "converted")]),
        (average, [str(run), str(tmp_path / "mean"), "--last=1"]),
    ):
        assert script.main(arguments) == 2
        said = capsys.readouterr().err
        assert said.startswith("error: ")
        assert str(run) in said
        assert said.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pairs.tsv", "run"]


@pytest.mark.parametrize("content", [DEEP, "{", "cos\nsystem\n(S'touch marker'\ntR.", '{"model": []}', "[]"])
def test_training_refuses_a_hostile_configuration(content, run):
    """Its checkpoints hold no record that could be taken instead."""
    config = override.read(run / "config.json")
    (run / "config.json").write_text(content)
    with pytest.raises(ConfigError):
        train(config, run)


@pytest.mark.parametrize("content", ["[]", "3", '"done"', "{}", '{"status": ["done"]}', DEEP])
def test_a_result_of_another_form_says_nothing(content, run):
    (run / "RESULT.json").write_text(content)
    assert not run_directory.is_done(run, 6)


def test_lines_that_are_none_of_a_report_are_dropped(tmp_path):
    path = tmp_path / "metrics.jsonl"
    lines = ['{"step": 1}', DEEP, "[]", "3", '{"step": "1"}', '{"step": []}', "{}", '{"step": 3}', "\udcff"]
    path.write_text("\n".join(lines) + "\n", errors="surrogateescape")
    assert _keep_up_to(path, 2) == 7
    assert path.read_text() == '{"step": 1}\n'
    aside = (tmp_path / "metrics.jsonl.damaged").read_bytes().split(b"\n")[:-1]
    assert sorted(aside) == sorted(line.encode(errors="surrogateescape") for line in (*lines[1:-2], lines[-1]))


GOOD = {"config": {}, "data": {}, "next_row": 16, "random_key": [0, 1], "best": {}}


@pytest.mark.parametrize(
    "changes",
    [
        {"config": []},
        {"data": None},
        {"next_row": -1},
        {"next_row": 10**30},
        {"next_row": "8"},
        {"random_key": [2**32, 0]},
        {"random_key": ["x"]},
        {"random_key": 3},
        {"best": {"__class__": 1}},
        {"best": 3},
    ],
)
def test_what_a_checkpoint_says_of_its_run_is_checked(changes, tmp_path):
    assert checked_meta(GOOD, tmp_path) == GOOD
    with pytest.raises(ConfigError, match="lacks what a run needs"):
        checked_meta(GOOD | changes, tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        DEEP,
        "[]",
        '{"files": 3, "sealed": true}',
        manifest._text({"../../config.json": "0" * 32}, True),
        manifest._text({"/etc/passwd": "0" * 32}, True),
        manifest._text({"state/x": "0" * 32}, True),
    ],
    ids=range(6),
)
def test_a_manifest_names_nothing_outside_of_its_checkpoint(text, run):
    (run / "checkpoints" / "2" / "MANIFEST.json").write_text(text)
    assert manifest.verify(run / "checkpoints" / "2")
    assert checkpoint_of(run).name == "1"


def test_a_step_is_a_number_in_ascii(run):
    (run / "checkpoints" / "²").mkdir()
    (run / "checkpoints" / "٣").mkdir()
    assert steps_on_disk(run / "checkpoints") == [2, 1]


@pytest.mark.parametrize(
    "name",
    [
        "RUN.lock",
        "config.json.tmp",
        "RESULT.json.tmp",
        "metrics.jsonl.tmp",
        "history.jsonl",
        "set_aside",
        "evaluations/x",
    ],
)
def test_a_link_out_of_a_run_directory_is_refused_and_what_it_leads_to_left_alone(name, run, tmp_path, capsys):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (run / name).unlink(missing_ok=True)
    (run / name).parent.mkdir(exist_ok=True)
    (run / name).symlink_to(victim)
    config = override.read(run / "config.json")
    with pytest.raises(ConfigError, match=rf"{name} is a link out of the run directory, to .*victim: link the whole"):
        train(config, run)
    assert evaluate.main([str(run)]) == 2
    assert "is a link out of the run directory" in capsys.readouterr().err
    assert victim.read_text() == "precious"


def test_links_that_are_no_way_out(run, tmp_path):
    (run / "newest").symlink_to("checkpoints/2")
    (tmp_path / "linked").symlink_to(run)
    run_directory.check_contained(tmp_path / "linked")
    os.mkfifo(run / "metrics.jsonl.tmp")
    with pytest.raises(ConfigError, match="neither a file nor a directory"):
        run_directory.check_contained(run)


def test_a_directory_that_the_holder_of_a_run_removes_meanwhile_is_no_fault(run, monkeypatch):
    unfinished = run / "checkpoints" / "4.orbax-checkpoint-tmp"
    unfinished.mkdir()
    listed = os.scandir

    def list_late(path):
        if str(path).endswith(unfinished.name):
            unfinished.rmdir()
        return listed(path)

    monkeypatch.setattr(os, "scandir", list_late)
    run_directory.check_contained(run)
    assert not unfinished.exists()


# --- Data -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["huggingface:squad", "kaggle:x/y", "../../x", "/etc/passwd", "os.system"])
def test_a_name_of_a_data_set_brings_no_code(name, nothing_is_run):
    with pytest.raises(ConfigError):
        corpus.open_builder(name)


@pytest.mark.parametrize("suffix", compressed.PACK)
def test_a_small_compressed_file_does_not_fill_the_disk(suffix, tmp_path, monkeypatch):
    monkeypatch.setenv("KINTSUGI_CACHE", str(tmp_path / "cache"))
    path = tmp_path / f"text.{suffix}"
    path.write_bytes(compressed.PACK[suffix](bytes(100 * 2**20)))
    with pytest.raises(ConfigError, match=rf"text\.{suffix} has [\d,]+ bytes and would become 6.,...,... or more"):
        documents.open_documents(PlainText(str(path)), "train")
    assert sum(file.stat().st_size for file in (tmp_path / "cache").rglob("*") if file.is_file()) < 2**20


@pytest.mark.parametrize("line", [DEEP, DEEP_LIST, "9" * 5000, "\x00"])
def test_lines_to_read_that_are_hostile_json(line, run, tmp_path, capsys):
    path = tmp_path / "lines.jsonl"
    path.write_text(line + "\n")
    assert generate.main([str(run), f"--input={path}"]) == 2
    assert re.search(f"{path}, line 1 (is not JSON|cannot be read as JSON)", capsys.readouterr().err)
    assert evaluate.main(["--predictions", str(path), "--metrics=BLEU()"]) == 2
    assert re.search(f"{path}, line 1 (is not JSON|cannot be read as JSON)", capsys.readouterr().err)


# --- The network ------------------------------------------------------------------------------------------------------

LISTENS = "0A"
LOOPBACK = ("0100007F", "00000000000000000000000001000000", "0000000000000000FFFF00000100007F")


def test_a_process_alone_is_reached_from_no_other_machine():
    """Its runtime, which asks nobody who he is, listens to this machine alone; conftest.py started it."""
    own = {os.readlink(link) for link in Path("/proc/self/fd").iterdir() if link.is_symlink()}
    lines = [
        line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/self/net/{name}").read_text().splitlines()[1:]
    ]
    listening = {line[1].split(":")[0] for line in lines if line[3] == LISTENS and f"socket:[{line[9]}]" in own}
    assert listening
    assert listening <= set(LOOPBACK)
