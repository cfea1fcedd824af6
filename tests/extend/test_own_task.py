"""A task and examples of a user's own: trained for some steps, resumed, evaluated, scored and in the report."""

import json
import shutil
from pathlib import Path

import pytest

from scripts import evaluate, report, score, train

pytestmark = pytest.mark.slow  # trains

ROOT = Path(__file__).resolve().parents[2] / "experiments" / "extend"
SMALL = (
    *("batch_size=8", "model.width=16", "model.head_width=8", "model.feed_forward=32", "report.every=1"),
    *("evaluation.every=2", "evaluation.rows=8", "evaluation.examples=8", "evaluation.generation.max_length=4"),
    "checkpoint.every=2",
)


def trained(file: str, run: str, steps: int, *changes: str) -> int:
    overrides = [f"--config.{change}" for change in (*SMALL, f"steps={steps}", *changes)]
    return train.main([file, "--run_dir", run, *overrides])


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is no checkout, with the user's file and the rows that it reads."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KINTSUGI_CACHE", str(tmp_path / "cache"))
    shutil.copy(ROOT / "own_task.py", "mine.py")
    rows = (ROOT / "numbers.csv").read_text().splitlines()
    Path("own.csv").write_text("\n".join(rows[:201]) + "\n")
    return tmp_path


def test_it_trains_resumes_and_is_evaluated(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tasks = """data.tasks=[NumbersInWords(examples=CSVExamples("own.csv"))]"""
    assert trained("mine.py", "run", 2, tasks) == 0
    assert trained("mine.py", "run", 4, tasks) == 0
    lines = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "chrf" in line] == [2, 4]
    assert evaluate.main(["run", "--split=held_out"]) == 0
    (result,) = json.loads(Path("run/evaluations/held_out-4/scores.json").read_text())["results"].values()
    assert result["examples"] == 20
    assert result["scores"].keys() == {"sequence_accuracy", "chrf"}
    first = json.loads(Path("run/evaluations/held_out-4/predictions.jsonl").read_text().splitlines()[3])
    assert (first["source"], first["references"]) == ("39 = 30 + 9", ["thirty-nine"])
    Path("pairs.tsv").write_text("39 = 30 + 9\tthirty-nine\n")
    capsys.readouterr()
    assert score.main(["run", "--input=pairs.tsv"]) == 0
    likelihood = float(capsys.readouterr().out.split("\t")[0])
    assert likelihood == pytest.approx(-first["target_nll"], abs=1e-3)
    assert report.main(["run"]) == 0
    assert "held out chrf" in Path("run/report.md").read_text()


def test_a_broken_task_is_named_before_training(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = Path("mine.py").read_text().replace('record["words"][0]', 'record["word"][0]')
    Path("mine.py").write_text(text)
    line = text[: text.index('record["word"]')].count("\n") + 1
    assert trained("mine.py", "run", 2, 'data.tasks=[NumbersInWords(examples=CSVExamples("own.csv"))]') == 2
    errors = capsys.readouterr().err.splitlines()
    assert f"error: mine.py:{line}: NumbersInWords.example raised KeyError: 'word'." in errors
    assert not Path("run/metrics.jsonl").exists()
