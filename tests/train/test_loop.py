"""Runs as a person starts them: what they leave, what they say, and what they refuse."""

import json
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from real_runs import ROOT, STEPS, environment, log, metrics, names, run, start, two_hosts

from research.storage.manifest import verify
from scripts import evaluate, train

pytestmark = pytest.mark.slow


def test_the_run_learns_and_its_directory_tells_all(folder: Path) -> None:
    lines = metrics(folder, "whole")
    assert [line["step"] for line in lines if "loss" in line] == list(range(1, STEPS + 1))
    losses = [line["held_out_loss"] for line in lines if "held_out_loss" in line]
    assert len(losses) == STEPS // 8
    assert losses[-1] < losses[0]
    names = {path.name for path in (folder / "whole").iterdir()}
    assert names >= {
        "config.json",
        "diff.json",
        "history.jsonl",
        "RESULT.json",
        "loss.png",
        "samples.jsonl",
        "tensorboard",
    }
    result = json.loads((folder / "whole" / "RESULT.json").read_text())
    assert (result["status"], result["exit_code"], result["step"]) == ("done", 0, STEPS)


def test_complete_says_so_and_more_steps_go_on(folder: Path) -> None:
    shutil.copytree(folder / "whole", folder / "longer")
    assert run(folder, "longer") == 0
    assert f"is complete at step {STEPS}" in log(folder, "longer")
    assert run(folder, "longer", f"--config.steps={STEPS + 8}") == 0
    assert [line["step"] for line in metrics(folder, "longer") if "loss" in line] == list(range(1, STEPS + 9))
    assert metrics(folder, "longer")[: len(metrics(folder, "whole"))] == metrics(folder, "whole")


def test_the_best_by_another_number_is_kept(folder: Path) -> None:
    by = ["--config.evaluation.best=held_out_accuracy", "--config.evaluation.every=2", "--config.checkpoint.keep=1"]
    assert run(folder, "accurate", *by) == 0
    scores = {line["step"]: line["held_out_accuracy"] for line in metrics(folder, "accurate") if len(line) == 3}
    best = max(scores, key=lambda step: (scores[step], -step))
    assert names(folder / "accurate" / "checkpoints") == {str(best), str(STEPS)}
    assert f"checkpoints/{best}, by held_out_accuracy {scores[best]:.4g}" in log(folder, "accurate")


TASKS = """
from research import *

def get_config():
    return Experiment(
        model=Model(400, 32, 2, 16, 64, 1, 1, compute="float32"),
        data=Supervised(
            (TextToText(examples=TSVExamples("{folder}/train.tsv", "{folder}/held_out.tsv"), prefix="say: ",
                        metrics=(ChrF(), ROUGE(), Accuracy())),),
            Bytes(), input_length=32, target_length=8,
        ),
        optimizer=AdamW(schedule=Constant(peak=1e-2, warmup=0)),
        steps=12,
        batch_size=4,
        evaluation=Evaluation(every=4, rows=1000, samples=2, generation=Generation(method=Beam(2), max_length=8),
                              examples=13, best="chrf"),
        checkpoint=Checkpoint(every=4, keep=1),
        report=Report(every=1),
    )
"""


@pytest.fixture(scope="module")
def tasks(folder: Path) -> Path:
    """A folder of an experiment of one task, and a run of it."""
    inside = folder / "tasks"
    inside.mkdir()
    draw = random.Random(1)
    for name, count in (("train", 300), ("held_out", 21)):
        words = [draw.choice(["fee", "fie", "foe", "fum", "englishman"]) for _ in range(count)]
        (inside / f"{name}.tsv").write_text(
            "".join(f"{word} {n} words that are long\t{word}\n" for n, word in enumerate(words))
        )
    (inside / "experiment.py").write_text(TASKS.format(folder=inside))
    assert run(inside, "whole") == 0, log(inside, "whole")
    return inside


def test_tasks_are_written_and_scored_at_every_evaluation(tasks: Path) -> None:
    lines = [line for line in metrics(tasks, "whole") if "held_out_loss" in line]
    names_of_scores = {"chrf", "rouge1", "rouge2", "rougeL", "rougeLsum", "sequence_accuracy"}
    others = {"held_out_loss", "held_out_accuracy", "unfinished_outputs"}
    assert [line.keys() - {"step"} for line in lines] == [names_of_scores | others] * 3
    assert max(line["chrf"] for line in lines) > 0
    result = json.loads((tasks / "whole" / "RESULT.json").read_text())
    assert {name: result[name] for name in names_of_scores} == {name: lines[-1][name] for name in names_of_scores}
    best = max(lines, key=lambda line: (line["chrf"], -line["step"]))
    assert result["best"] == {"chrf": best["chrf"], "step": best["step"]}
    assert names(tasks / "whole" / "checkpoints") == {str(best["step"]), "12"}
    held_out = [line.split("\t") for line in (tasks / "held_out.tsv").read_text().splitlines()]
    samples = [json.loads(line) for line in (tasks / "whole" / "samples.jsonl").read_text().splitlines()]
    assert [row["step"] for row in samples] == [4, 4, 8, 8, 12, 12]
    assert [(row["source"], row["reference"]) for row in samples] == [(f"say: {a}", b) for a, b in held_out[:2]] * 3


def test_what_a_run_said_of_itself_is_what_scripts_evaluate_says(tasks: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of one, so that the last batch is whole, and every held-out example in the loss."""
    assert run(tasks, "single", "--config.batch_size=1", "--config.steps=5") == 0, log(tasks, "single")
    monkeypatch.setenv("KINTSUGI_CACHE", str(tasks / "cache"))
    for output, count in (("all", 21), ("some", 13)):
        arguments = ["--split=held_out", f"--output={tasks / output}", f"--examples={count}"]
        assert evaluate.main([str(tasks / "single"), *arguments]) == 0
    every, some = (json.loads((tasks / name / "scores.json").read_text()) for name in ("all", "some"))
    (every,), (some,) = every["results"].values(), some["results"].values()
    said = json.loads((tasks / "single" / "RESULT.json").read_text())
    assert every["loss"] == pytest.approx(said["held_out_loss"], rel=1e-5)
    assert some["scores"] == {name: pytest.approx(said[name]) for name in some["scores"]}
    assert some["unfinished outputs"] == said["unfinished_outputs"]
    rows = [json.loads(line) for line in (tasks / "some" / "predictions.jsonl").read_text().splitlines()]
    samples = [json.loads(line) for line in (tasks / "single" / "samples.jsonl").read_text().splitlines()]
    assert [row["prediction"] for row in rows[:2]] == [row["written"] for row in samples if row["step"] == 5]


def test_two_hosts_write_and_score_the_same(tasks: Path) -> None:
    hosts = [start(tasks, "hosts", "--config.mesh.fsdp=2", env=env) for env in two_hosts(tasks)]
    assert [host.wait(timeout=300) for host in hosts] == [0, 0], log(tasks, "hosts")
    for expected, found in zip(metrics(tasks, "whole"), metrics(tasks, "hosts"), strict=True):
        assert found == {name: pytest.approx(value, rel=1e-4, abs=1e-6) for name, value in expected.items()}
    written = [(tasks / name / "samples.jsonl").read_text() for name in ("whole", "hosts")]
    assert written[0] == written[1]


def test_a_run_of_tasks_that_writes_none_shows_some_at_its_end(tasks: Path) -> None:
    arguments = ["--config.evaluation.generation=None", "--config.evaluation.best=held_out_loss"]
    assert run(tasks, "silent", *arguments, "--config.steps=4") == 0, log(tasks, "silent")
    assert len((tasks / "silent" / "samples.jsonl").read_text().splitlines()) == 2
    assert "chrf" not in (tasks / "silent" / "metrics.jsonl").read_text()


def test_a_relative_run_directory_is_as_good(folder: Path) -> None:
    arguments = ["-m", "scripts.train", "experiment.py", "--run_dir", "runs/relative", "--config.steps=2"]
    path = {"PYTHONPATH": str(ROOT)}
    assert subprocess.run([sys.executable, *arguments], cwd=folder, env=environment(folder) | path).returncode == 0
    assert verify(folder / "runs" / "relative" / "checkpoints" / "2") == ""


def test_dry_run_writes_nothing(folder: Path) -> None:
    assert run(folder, "dry", "--dry_run") == 0
    assert "Launch" in log(folder, "dry")
    assert not (folder / "dry").exists()


def test_bad_input_is_one_sentence(
    folder: Path, tasks: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(folder, "bad", "--config.data.input_length=1") == 2
    assert log(folder, "bad").splitlines()[-1].startswith("error: data.input_length is 1")
    monkeypatch.setenv("KINTSUGI_CACHE", str(folder / "cache"))
    for arguments, said in (
        (["--config.model.vocab_size=100"], "model.vocab_size is 100: it must be at least the tokenizer's size"),
        (["--config.mesh.fsdp=3"], "mesh is data"),
        ([f"--config.data.corpora.0.train={folder}/absent.txt"], "absent.txt"),
        (["--stesp=3"], "--stesp=3 is not understood"),
        (["--config.evaluation.best=bleu"], "the metrics are held_out_loss, held_out_accuracy."),
        (["--config.evaluation.generation=Generation()"], "evaluation.generation needs Supervised data"),
    ):
        assert train.main([str(folder / "experiment.py"), "--run_dir", str(folder / "bad"), *arguments]) == 2
        last = capsys.readouterr().err.splitlines()[-1]
        assert last.startswith("error: ")
        assert said in last
        assert not (folder / "bad" / "metrics.jsonl").exists()
    unwritten = [str(tasks / "experiment.py"), "--run_dir", str(tasks / "bad"), "--config.evaluation.generation=None"]
    assert train.main(unwritten) == 2
    assert "and with evaluation.generation those of the tasks." in capsys.readouterr().err
