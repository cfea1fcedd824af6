"""A run directory belongs to one process and one experiment."""

import dataclasses
import errno
import json
import multiprocessing
import subprocess
import types
from pathlib import Path

import pytest

from research import (
    BLEU,
    ROUGE,
    TFDS,
    Adafactor,
    Checkpoint,
    Denoising,
    Experiment,
    Model,
    Summarization,
    Supervised,
    Translation,
    TSVExamples,
)
from research.config import ConfigError
from research.config.load import ExperimentFile
from research.config.override import apply, from_json
from research.storage import manifest, run_directory
from research.storage.run_directory import (
    FOLDERS,
    as_data,
    check_same_experiment,
    claim,
    commit,
    is_done,
    record_startup,
    write_result,
)

CONFIG = Experiment(
    model=Model(128, 16, 2, 8, 32, 2, 2),
    data=Denoising(corpora=(TFDS("python_docs"),)),
    optimizer=Adafactor(),
    steps=10,
    batch_size=8,
)


def begin(directory: Path, config: Experiment = CONFIG) -> None:
    module = types.ModuleType("mine")
    module.get_config = lambda size: CONFIG
    with claim(directory, config, ExperimentFile(Path("mine.py"), "base", module)):
        (directory / "metrics.jsonl").write_text('{"step": 1}\n')


def test_the_directory_tells_what_was_run(tmp_path: Path) -> None:
    run = tmp_path / "a" / "run"
    begin(run, dataclasses.replace(CONFIG, steps=20))
    assert from_json((run / "config.json").read_text()) == dataclasses.replace(CONFIG, steps=20)
    assert json.loads((run / "diff.json").read_text()) == {"steps": ["10", "20"]}
    (start,) = [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]
    assert start["packages"].keys() >= {"jax", "flax", "optax"}
    assert start["command"]
    assert start["experiment"] == "mine.py:base"
    assert start["commit"]


def test_without_git_the_commit_is_what_the_image_says(monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(commit().split("+")[0]) == 40
    monkeypatch.setenv("PATH", "/nowhere")
    assert commit() == "unknown"
    monkeypatch.setenv("KINTSUGI_COMMIT", "abc")
    assert commit() == "abc"


def test_changes_to_files_of_the_source_are_told_apart_and_others_do_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def git(*arguments: str) -> None:
        subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@b", *arguments], cwd=tmp_path, check=True)

    monkeypatch.setattr(run_directory, "ROOT", tmp_path)
    source, own = tmp_path / "loss.py", tmp_path / "experiments" / "mine.py"
    own.parent.mkdir()
    source.write_text("1\n")
    git("init", "-q")
    git("add", ".")
    git("commit", "-qm", "a")
    clean = commit()
    assert len(clean) == 40
    (tmp_path / "slurm-7.log").write_text("a log")
    own.write_text("a\n")
    assert commit() == clean
    with_own = commit([own])
    source.write_text("2\n")
    changed = commit()
    source.write_text("3\n")
    assert len({clean, with_own, changed, commit(), commit([own])}) == 5
    assert changed.startswith(f"{clean}+changes-")
    source.write_text("2\n")
    assert commit() == changed
    git("add", ".")
    git("commit", "-qm", "b")
    assert commit([own, Path("/elsewhere/mine.py")]) == commit() != clean
    assert "+" not in commit()


def test_a_second_process_is_refused(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    with claim(tmp_path / "run", CONFIG):
        held = context.Process(target=_expect_in_use, args=(tmp_path / "run",))
        held.start()
        held.join()
    assert held.exitcode == 0
    begin(tmp_path / "run")  # free again


def _expect_in_use(directory: Path) -> None:
    with pytest.raises(ConfigError, match=r"in use by process \d+ on"), claim(directory, CONFIG):
        pass


def test_another_experiment_is_refused_by_field(tmp_path: Path) -> None:
    begin(tmp_path / "run")
    before = (tmp_path / "run" / "config.json").read_text()
    other = apply(CONFIG, {"model.width": "32", "batch_size": "16", "steps": "99"})
    with pytest.raises(ConfigError) as error, claim(tmp_path / "run", other):
        pass
    assert "model.width was 16 and is now 32; batch_size was 8 and is now 16." in str(error.value)
    assert "steps" not in str(error.value)
    assert (tmp_path / "run" / "config.json").read_text() == before


def test_what_decides_no_number_may_change(tmp_path: Path) -> None:
    begin(tmp_path / "run")
    begin(tmp_path / "run", dataclasses.replace(CONFIG, steps=99, checkpoint=Checkpoint(every=7)))


def test_the_metrics_of_a_task_may_change_and_nothing_else_of_it(tmp_path: Path) -> None:
    task = Translation(examples=TSVExamples("a.tsv"), metrics=(ROUGE(), BLEU()))
    before = dataclasses.replace(CONFIG, data=Supervised((Summarization(examples=TSVExamples("b.tsv")), task)))

    def check(**overrides: str) -> None:
        changed = apply(before, {f"data.tasks.{name}": value for name, value in overrides.items()})
        assert changed != before
        check_same_experiment(tmp_path, as_data(before), changed)

    check(**{"1.metrics": '(BLEU("zh"),)'})
    check(**{"1.metrics.1.tokenize": "zh", "0.metrics": "()"})
    with pytest.raises(ConfigError, match=r"experiment: data\.tasks\.1\.prefix was '' and is now 'a'\. Give"):
        check(**{"1.prefix": "a", "1.metrics.1.tokenize": "zh"})
    with pytest.raises(ConfigError, match=r"experiment: data\.tasks was \("):
        check_same_experiment(tmp_path, as_data(before), dataclasses.replace(CONFIG, data=Supervised((task,))))


def test_an_experiment_that_never_began_may_be_replaced(tmp_path: Path) -> None:
    with claim(tmp_path / "run", CONFIG):
        pass
    begin(tmp_path / "run", dataclasses.replace(CONFIG, batch_size=16))


def test_what_is_no_run_directory_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match="is not empty and holds no run"), claim(tmp_path, CONFIG):
        pass
    with pytest.raises(ConfigError, match="is a file"), claim(tmp_path / "notes.txt", CONFIG):
        pass
    with pytest.raises(ConfigError, match="cannot be written"), claim(tmp_path / "notes.txt" / "run", CONFIG):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_what_cannot_be_read_is_reported(tmp_path: Path) -> None:
    with (
        pytest.raises(ConfigError, match=r"cannot be written \(File name too long\)"),
        claim(tmp_path / ("x" * 300), CONFIG),
    ):
        pass
    begin(tmp_path / "run")
    (tmp_path / "run" / "config.json").write_text('{"model": ')
    with (
        pytest.raises(ConfigError, match=r"config\.json is damaged and there is no complete checkpoint"),
        claim(tmp_path / "run", CONFIG),
    ):
        pass
    for name in FOLDERS:
        (tmp_path / "other").mkdir(exist_ok=True)
        (tmp_path / "other" / "config.json").write_text("{}")
        (tmp_path / "other" / name).write_text("")
        match = f"{name} must be a directory, and is a file: move it away"
        with pytest.raises(ConfigError, match=match), claim(tmp_path / "other", CONFIG):
            pass
        (tmp_path / "other" / name).unlink()


@pytest.mark.parametrize("content", ["", "{", "[]", '"done"'])
def test_a_damaged_result_is_said_and_decides_nothing(tmp_path: Path, content: str, capsys) -> None:
    (tmp_path / "RESULT.json").write_text(content)
    assert not is_done(tmp_path, 7)
    assert f"{tmp_path / 'RESULT.json'} is damaged: the next start" in capsys.readouterr().err


def checkpoint(directory: Path, step: int, config: Experiment) -> None:
    """A checkpoint with nothing but its record."""
    meta = directory / "checkpoints" / str(step) / "meta"
    meta.mkdir(parents=True)
    (meta / "metadata").write_text(json.dumps({"config": as_data(config)}))
    manifest.write(meta.parent, sealed=True)


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_text("{"), lambda path: path.write_text("")])
def test_the_record_of_a_checkpoint_decides_and_the_config_is_written_again(tmp_path: Path, damage, capsys) -> None:
    run = tmp_path / "run"
    begin(run)
    before = (run / "config.json").read_text()
    checkpoint(run, 4, CONFIG)
    damage(run / "config.json")
    begin(run)
    assert "config.json is missing or damaged: it is written again, as in the checkpoint of step 4" in (
        capsys.readouterr().out
    )
    assert (run / "config.json").read_text() == before
    damage(run / "config.json")
    other = dataclasses.replace(CONFIG, batch_size=16)
    with pytest.raises(ConfigError, match="batch_size was 8 and is now 16"), claim(run, other):
        pass
    (run / "checkpoints" / "4" / "meta" / "metadata").write_text("{}")  # which then decides nothing
    with pytest.raises(ConfigError, match=r"holds no run|is damaged and"), claim(run, CONFIG):
        pass


def test_one_changed_digit_of_the_config_is_not_believed(tmp_path: Path, capsys) -> None:
    run = tmp_path / "run"
    begin(run)
    checkpoint(run, 4, CONFIG)
    path = run / "config.json"
    before = path.read_text()
    path.write_text(before.replace('"batch_size": 8', '"batch_size": 9'))
    assert path.read_text() != before
    begin(run)
    assert path.read_text() == before
    assert "config.json is missing or damaged" in capsys.readouterr().out


def test_damaged_lines_of_history_are_set_aside(tmp_path: Path) -> None:
    run = tmp_path / "run"
    begin(run)
    history = run / "history.jsonl"
    history.write_bytes(history.read_bytes()[:-40])
    begin(run)
    record_startup(run, {"programs": 3})
    (line,) = map(json.loads, history.read_text().split("\n")[:-1])
    assert line["programs"] == 3
    assert (run / "history.jsonl.damaged").read_bytes().startswith(b'{"experiment": "mine.py:base"')
    history.unlink()
    record_startup(run, {"programs": 3})  # deleted meanwhile: no traceback
    assert json.loads(history.read_text()) == {"programs": 3}


def test_a_full_disk_names_the_checkpoint_that_is_complete(tmp_path: Path, monkeypatch) -> None:
    run = tmp_path / "run"
    begin(run)
    checkpoint(run, 4, CONFIG)

    def no_space(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("research.storage.run_directory.write_json", no_space)
    match = r"run cannot be written \(No space.*\): free disk space.*; the checkpoint of step 4 is complete\."
    with pytest.raises(ConfigError, match=match), claim(run, CONFIG):
        pass


def test_dropout_ties_a_run_to_its_microbatches(tmp_path: Path) -> None:
    dropped = dataclasses.replace(CONFIG, model=dataclasses.replace(CONFIG.model, dropout=0.1))
    begin(tmp_path / "plain")
    begin(tmp_path / "plain", dataclasses.replace(CONFIG, microbatches=2))
    begin(tmp_path / "dropped", dropped)
    with (
        pytest.raises(ConfigError, match="microbatches was 1 and is now 2"),
        claim(tmp_path / "dropped", dataclasses.replace(dropped, microbatches=2)),
    ):
        pass


def test_result_says_how_it_ended(tmp_path: Path) -> None:
    assert write_result(tmp_path, "preempted", 7, "SIGTERM") == 42
    result = json.loads((tmp_path / "RESULT.json").read_text())
    assert (result["status"], result["exit_code"], result["step"], result["reason"]) == ("preempted", 42, 7, "SIGTERM")


EARLY = "stopped at step 5 of 10, since no evaluation of the last 2 was better than held_out_loss 4 of step 3"


@pytest.mark.parametrize(
    ("status", "step", "reason", "facts", "expected"),
    [
        ("done", 10, "reached step 10", {"stopped_early": False}, True),
        ("done", 5, "reached step 5", {"stopped_early": False}, False),  # steps was raised since
        ("done", 5, EARLY, {"stopped_early": True}, True),
        ("done", 5, "in other words", {"stopped_early": True}, True),
        ("done", 5, EARLY, {"stopped_early": False}, False),
        ("failed", 10, "x stopped at step 5: disk full", {}, False),
        ("preempted", 5, "", {}, False),
        ("running", 10, "", {"stopped_early": True}, False),
        # Written before there was the field:
        ("done", 10, "reached step 10", {}, True),
        ("done", 5, "reached step 5", {}, False),
        ("done", 5, EARLY, {}, True),
    ],
)
def test_a_run_is_done_at_its_last_step_or_out_of_patience(
    tmp_path: Path, status: str, step: int, reason: str, facts: dict[str, bool], expected: bool
) -> None:
    assert not is_done(tmp_path, 10)
    write_result(tmp_path, status, step, reason, **facts)
    assert is_done(tmp_path, 10) is expected
