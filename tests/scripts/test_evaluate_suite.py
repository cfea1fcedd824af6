"""evaluate --suite: every task of a suite, killed and continued, with tasks missing, and the files for servers."""

import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import jax
import pytest
import suite_data
from tuned_directories import write_model

from research import Generation
from research.config import ConfigError
from research.data.tasks.submissions import SERVER_FILES
from research.data.tasks.suites import SUITES
from research.decode.generate import Generator
from research.model.transformer import initial_params
from research.pretrained import find, huggingface
from research.pretrained.tokenizer_files import write_tokenizer
from research.report import record
from scripts import evaluate
from scripts.evaluate_suite import check_labels

NAMES = {name: [member.name for member in one.tasks] for name, one in SUITES.items()}
FEW = ["--generation.max_length=5", "--batch_size=8"]
DATA = ["--suite_data=data"]


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def model(tiny_run, tmp_path_factory) -> Path:
    """A directory of weights so large that what is written depends on the source."""
    run, directory = find.find(tiny_run), tmp_path_factory.mktemp("model") / "model"
    params = jax.tree.map(lambda leaf: 3 * leaf, initial_params(run.model, jax.random.key(0)))
    huggingface.write(directory, run.model, params, Generation(0, 1, 0))
    write_tokenizer(run.tokenizer(), directory)
    return directory


def main(*arguments: object) -> int:
    return evaluate.main([*map(str, arguments), *FEW])


def results(output: str) -> dict:
    return json.loads(Path(output, "suite.json").read_text())


def numbers(output: str) -> dict:
    """All that suite.json has, without the time and machine of each task."""
    whole = results(output)
    same = ("model", "split", "examples", "scores", "loss", "generation", "signatures")
    return whole | {"tasks": {name: {key: one[key] for key in same} for name, one in whole["tasks"].items()}}


def stop_in_task(patch, number: int, method: str = "_decode") -> None:
    """Interrupt the command in the first batch of a task, counted from 0; each task here has one batch."""
    original, calls = getattr(Generator, method), []

    def counted(self, *given):
        if len(calls) == number:
            raise KeyboardInterrupt
        calls.append(given)
        return original(self, *given)

    patch.setattr(Generator, method, counted)


@pytest.mark.parametrize("name", [pytest.param("glue", marks=pytest.mark.slow), "superglue"])
def test_a_suite_that_is_killed_goes_on_to_the_same_end(name, model, capsys, monkeypatch):
    suite_data.write(Path("data"), NAMES[name])
    command = [model, f"--suite={name}", *DATA]
    assert main(*command, "--output=whole") == 0
    said = capsys.readouterr()
    assert said.err == ""
    for number, method in ((2, "_decode"), (4, "_score")):
        with monkeypatch.context() as patch:
            stop_in_task(patch, 2, method)
            assert main(*command, "--output=killed") == 130
        finished = [task for task in NAMES[name] if Path("killed", task, "predictions.jsonl").exists()]
        assert finished == NAMES[name][:number]
        assert not Path("killed/suite.json").exists()
    assert Path("killed", NAMES[name][4], "predictions.jsonl.partial").exists()
    assert main(*command, "--output=killed") == 0
    for task in NAMES[name]:
        assert sorted(os.listdir(f"killed/{task}")) == ["predictions.jsonl", "scores.json"]
        both = [Path(output, task, "predictions.jsonl").read_text() for output in ("whole", "killed")]
        assert both[0] == both[1]
    assert numbers("whole") == numbers("killed")
    table = Path("killed/suite.md").read_text()
    assert table == Path("whole/suite.md").read_text()
    for member in SUITES[name].tasks:
        assert f"| {member.title} |" in table
        scores = results("whole")["tasks"][member.name]["scores"]
        assert f"{member.name}: {', '.join(f'{one} {scores[one]:.2f}' for one in member.scores)}" in said.out
    capsys.readouterr()
    assert main(*command, "--output=killed") == 0  # all of it is kept
    assert "CoLA" in capsys.readouterr().out or name != "glue"
    first = Path("killed", NAMES[name][0], "scores.json")
    kept = first.read_text()
    first.write_text(kept[:20])
    assert main(*command, "--output=killed") == 2
    assert f"error: {first} is missing or damaged: move the directory away." in capsys.readouterr().err
    first.write_text(kept)
    assert main(*command, "--output=killed", "--examples=2") == 2
    assert f"{Path('killed', NAMES[name][0])} differs in examples from this command" in capsys.readouterr().err


def test_a_task_without_data_is_named_and_the_others_are_evaluated(model, capsys):
    names = NAMES["superglue"]
    suite_data.write(Path("data"), names)
    shutil.move("data/super_glue_cb/held_out.jsonl", "cb.jsonl")
    command = [model, "--suite=superglue", "--suite_data=data", "--output=out", "--examples=2"]
    assert main(*command) == 3
    out, err = capsys.readouterr()
    reason = "there is no data/super_glue_cb/held_out.jsonl, of JSON objects with hypothesis, premise, label."
    assert err == f"note: super_glue_cb is left out: {reason}\n"
    assert f"super_glue_cb is missing: {reason}" in out
    assert results("out")["missing"] == {"super_glue_cb": reason}
    assert results("out")["averages"] == {"SuperGLUE": None}
    assert list(results("out")["tasks"]) == [name for name in names if name != "super_glue_cb"]
    shutil.move("cb.jsonl", "data/super_glue_cb/held_out.jsonl")
    assert main(*command) == 0
    assert results("out")["missing"] == {}
    assert list(results("out")["tasks"]) == names
    assert isinstance(results("out")["averages"]["SuperGLUE"], float)
    assert capsys.readouterr().out.count("super_glue_cb: ") == 1


def test_every_task_may_have_its_own_model(model, tiny_run, capsys):
    for name in NAMES["glue"][:3]:
        suite_data.write(Path("data"), [name])
    Path("runs").mkdir()
    shutil.copytree(tiny_run, "runs/glue_cola")
    Path("runs/glue_sst2").symlink_to(model)
    assert main("runs/{task}", "--suite=glue", *DATA, "--output=out") == 3
    tasks, missing = results("out")["tasks"], results("out")["missing"]
    assert [(name, one["model"], one["step"]) for name, one in tasks.items()] == [
        ("glue_cola", "runs/glue_cola/checkpoints/2", 2),
        ("glue_sst2", "runs/glue_sst2", None),
    ]
    assert missing["glue_mrpc"] == "there is no model runs/glue_mrpc."
    assert main("runs/{task}/checkpoints/best", "--suite=glue", *DATA, "--output=best") == 3
    assert list(results("best")["tasks"]) == ["glue_cola"]
    assert "no model" in results("best")["missing"]["glue_sst2"]


def test_a_run_keeps_its_results_beside_its_checkpoints(tiny_run):
    shutil.copytree(tiny_run, "run")
    suite_data.write(Path("data"), ["glue_cola"])
    assert main("run", "--suite=glue", *DATA) == 3
    assert results("run/evaluations/glue-held_out-2")["tasks"]["glue_cola"]["step"] == 2
    assert record.read(Path("run")).evaluations == {}


def test_scores_do_not_depend_on_the_mesh(model):
    suite_data.write(Path("data"), NAMES["superglue"][3:5])
    for output, mesh in (("one", "Mesh()"), ("other", "Mesh(data=4, tensor=2)")):
        assert main(model, "--suite=superglue", *DATA, f"--output={output}", f"--mesh={mesh}") == 3
    tasks = results("one")["tasks"], results("other")["tasks"]
    assert list(tasks[0]) == ["super_glue_multirc", "super_glue_record"]
    for name, one in tasks[0].items():
        assert one["scores"] == tasks[1][name]["scores"]
        assert one["loss"] == pytest.approx(tasks[1][name]["loss"], rel=1e-5)


def test_a_model_whose_weights_change_between_two_tasks_is_refused(model, capsys):
    suite_data.write(Path("data"), NAMES["glue"][:1])
    shutil.copytree(model, "model")
    assert main("model", "--suite=glue", *DATA, "--output=out") == 3
    suite_data.write(Path("data"), NAMES["glue"][1:2])
    run = find.find(Path("model"))
    huggingface.write(Path("other"), run.model, initial_params(run.model, jax.random.key(1)), Generation(0, 1, 0))
    shutil.copy("other/model.safetensors", "model/model.safetensors")
    capsys.readouterr()
    assert main("model", "--suite=glue", *DATA, "--output=out") == 2
    refused = "error: model had other weights for glue_sst2 than for glue_cola: give another --output.\n"
    assert capsys.readouterr().err.endswith(refused)


def test_data_that_tfds_cannot_build_are_named(model, capsys, monkeypatch):
    def open_builder(name: str, manual_dir: str | None = None) -> None:
        raise ConfigError(f"TFDS could not build {name} from {manual_dir}.")

    monkeypatch.setattr("research.data.corpora.corpus.open_builder", open_builder)
    assert main(model, "--suite=glue", "--output=out", "--config.data.manual_dir=files") == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "note: glue_cola is left out: TFDS could not build glue/cola from files."
    assert lines[6] == "note: glue_mnli_mismatched is left out: TFDS could not build glue/mnli from files."
    assert lines[-1] == "error: No task of glue can be evaluated, as the notes say."


# --- Submissions ------------------------------------------------------------------------------------------------------

FIRST = dict.fromkeys(("MNLI-m.tsv", "MNLI-mm.tsv", "AX.tsv", "QNLI.tsv", "RTE.tsv"), "entailment") | {
    "STS-B.tsv": "0.000"
}


@pytest.mark.parametrize("name", ["glue", "superglue"])
def test_a_submission_has_every_file_of_its_server_with_the_ids_of_the_test_set(name, model, capsys):
    members = SUITES[name].tasks + SUITES[name].diagnostics
    suite_data.write(Path("data"), [member.name for member in members])
    assert main(model, f"--suite={name}", *DATA, "--submission", "--output=out") == 0
    out = capsys.readouterr().out
    assert sorted(os.listdir("out/submission")) == sorted(SERVER_FILES[member.name].name for member in members)
    for member in members:
        file = SERVER_FILES[member.name].name
        lines = Path("out/submission", file).read_text().splitlines()
        rows = [suite_data.record(member.name, number) for number in range(suite_data.COUNT)]
        unreadable = results("out")["files"][member.name]["outputs that are no label"]
        assert f"{file}" in out
        assert f"{suite_data.COUNT} outputs, {unreadable} of them no label" in out
        if file.endswith(".tsv"):
            first = FIRST.get(file, "0")  # the model writes no label
            assert lines == ["index\tprediction", *(f"{row['idx']}\t{first}" for row in rows)]
            assert unreadable == suite_data.COUNT
        elif file == "MultiRC.jsonl":
            assert [json.loads(line)["idx"] for line in lines] == [0, 1]
        else:
            ids = [row["idx"]["query"] if file == "ReCoRD.jsonl" else row["idx"] for row in rows]
            assert [json.loads(line)["idx"] for line in lines] == ids
            texts = [json.loads(line)["label"] for line in lines]
            if file == "ReCoRD.jsonl":
                written = Path("out", member.name, "predictions.jsonl").read_text().splitlines()
                assert texts == [json.loads(line)["prediction"] for line in written]
                assert len(set(texts)) > 1


def test_outputs_have_room_for_every_label_though_a_test_set_has_none(model, capsys):
    """The model's files state no max_length: not_entailment has 14 bytes and an end."""
    shutil.copytree(model, "unstated")
    path = Path("unstated/generation_config.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), "max_length": None}))
    suite_data.write(Path("data"), ["glue_rte"])
    assert evaluate.main(["unstated", "--suite=glue", *DATA, "--submission", "--output=out"]) == 3
    assert "have at most 15 tokens, as its longest target" in capsys.readouterr().err


# --- Bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--suite=gleu"], "There is no suite gleu: did you mean glue?"),
        (["--suite=glue"], "The results of a suite are kept: give --output, a new directory."),
        (["--suite=glue", "--output=absent/out"], "there is no directory"),
        (["--suite=glue", "--output=data"], "data exists and holds something else: nothing is overwritten"),
        (["--suite=glue", "--suite_data=absent", "--output=out"], "--suite_data absent: there is no such directory."),
        (["--suite=t5", "--submission", "--output=out"], "--submission: no server takes the suite t5."),
        (
            ["--suite=glue", "--submission", "--split=held_out", "--output=out"],
            "--submission is for the test sets, not --split=held_out.",
        ),
        (["--suite=glue", "--samples=2", "--output=out"], "--samples cannot be used with --suite."),
        (["--suite_data=data", "--submission"], "--suite_data and --submission cannot be used without --suite."),
        (
            ["--suite=glue", "--suite_data=wrong", "--output=out"],
            "CoLA has no label 'good': its labels are 'unacceptable', 'acceptable', or their numbers",
        ),
        (
            ["--suite=glue", "--suite_data=no_ids", "--submission", "--output=out"],
            'A submission needs the ids of its examples, whole numbers as "idx":',
        ),
    ],
)
def test_bad_input_is_one_sentence(model, capsys, arguments, sentence):
    for name, split, row in (
        ("data", "held_out", suite_data.record("glue_cola", 0)),
        ("wrong", "held_out", {"sentence": "a b", "label": "good"}),
        ("no_ids", "test", {"sentence": "a b"}),
    ):
        Path(name, "glue_cola").mkdir(parents=True)
        Path(name, "glue_cola", f"{split}.jsonl").write_text(json.dumps(row) + "\n")
    Path("data/other.txt").write_text("")
    assert main(model, *arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert sentence in err
    assert err.count("\n") == 1
    assert not Path("out").exists()


def test_without_any_task_and_for_unlabelled_examples_the_notes_say_why(model, capsys):
    Path("data/glue_cola").mkdir(parents=True)
    row = {"sentence": "a b", "label": -1}
    Path("data/glue_cola/test.jsonl").write_text(json.dumps(row) + "\n")
    assert main(model, "--suite=glue", *DATA, "--split=test", "--output=out") == 2
    err = capsys.readouterr().err
    assert "note: glue_cola is left out: 1 of the 1 examples of test have no label: give --split=held_out, or" in err
    assert "error: No task of glue can be evaluated, as the notes say.\n" in err


def test_a_vocabulary_that_cannot_write_a_label_is_refused_before_anything_is_generated(families, capsys, monkeypatch):
    write_model(Path("model"), "t5", families["t5"])
    suite_data.write(Path("data"), ["glue_cola", "glue_qqp"])
    monkeypatch.setattr(Generator, "_decode", None)
    assert main("model", "--suite=glue", *DATA, "--output=out") == 2
    err = capsys.readouterr().err
    assert "error: The vocabulary of model cannot write " in err
    assert ", a label of glue_" in err
    assert not Path("out").exists()


@pytest.mark.parametrize("family", ["fallback", "byt5", "bart"])
def test_vocabularies_with_bytes_write_every_label(families, family):
    opened = SimpleNamespace(tokenizer=families[family])
    for one in SUITES.values():
        for member in one.tasks:
            check_labels(opened, member, "model")
