"""A metric of a user's own: its number is in evaluations and in the report, and a broken one fails before training."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from scripts import evaluate, report, train

pytestmark = pytest.mark.slow  # trains

ROOT = Path(__file__).resolve().parents[2] / "experiments" / "extend"
TASK = 'Summarization(examples=TSVExamples("a.tsv", "b.tsv"), source="source", target="target", metrics=[{}])'
SMALL = (
    *("batch_size=8", "model.width=16", "model.head_width=8", "model.feed_forward=32", "report.every=1"),
    *("evaluation.every=2", "evaluation.rows=8", "evaluation.examples=8", "evaluation.generation.max_length=4"),
    *("checkpoint.every=2", "data.input_length=32", "data.target_length=16"),
)


def trained(run: str, steps: int, metrics: str, *changes: str) -> int:
    tasks = f"data.tasks=[{TASK.format(metrics)}]"
    overrides = [f"--config.{change}" for change in (*SMALL, f"steps={steps}", tasks, *changes)]
    return train.main(["mine.py", "--run_dir", run, *overrides])


def rows(path: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that is no checkout, with the user's file and some examples."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KINTSUGI_CACHE", str(tmp_path / "cache"))
    shutil.copy(ROOT / "own_metric.py", "mine.py")
    for name in "ab":
        Path(f"{name}.tsv").write_text("".join(f"source {number}\ttarget {number}{name}\n" for number in range(40)))


def test_its_number_is_everywhere() -> None:
    metrics, best = "ChrF(), Distinct(1)", "evaluation.best=distinct1"
    assert trained("run", 2, metrics, best) == 0
    assert trained("run", 4, metrics, best) == 0
    lines = rows("run/metrics.jsonl")
    assert [line["step"] for line in lines if "distinct1" in line] == [2, 4]
    assert evaluate.main(["run", "--split=held_out"]) == 0
    (result,) = json.loads(Path("run/evaluations/held_out-4/scores.json").read_text())["results"].values()
    assert result["signatures"]["distinct1"] == "nrefs:1|Distinct(order=1)"
    written = [
        json.loads(line) for line in Path("run/evaluations/held_out-4/predictions.jsonl").read_text().splitlines()
    ]
    words = [word for row in written for word in row["prediction"].split()]
    assert result["scores"]["distinct1"] == pytest.approx(100 * len(set(words)) / max(1, len(words)))
    assert [row["scores"].keys() for row in written] == [{"chrf"}] * 40
    assert report.main(["run"]) == 0
    assert "held out distinct1" in Path("run/report.md").read_text()


def test_a_broken_metric_fails_before_training(capsys: pytest.CaptureFixture[str]) -> None:
    text = Path("mine.py").read_text().replace("max(1, len(grams))", "len(grams[0])")
    Path("mine.py").write_text(text)
    line = text[: text.index("len(grams[0])")].count("\n") + 1
    assert trained("run", 2, "Distinct(9)", "evaluation.best=held_out_loss") == 2
    assert (
        f"error: mine.py:{line}: Distinct.score raised IndexError: list index out of range." in capsys.readouterr().err
    )
    assert not Path("run/metrics.jsonl").exists()
