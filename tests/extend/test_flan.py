"""Instructions of experiments/flan: trained for some steps, resumed after their exemplars are cached, and evaluated."""

import json
import shutil
from pathlib import Path

import pytest

from scripts import evaluate, train

pytestmark = pytest.mark.slow  # trains

FOLDER = Path(__file__).resolve().parents[2] / "experiments" / "flan"
SMALL = (
    *("batch_size=8", "model.width=16", "model.head_width=8", "model.feed_forward=32", "report.every=1"),
    *("evaluation.every=2", "evaluation.rows=8", "evaluation.examples=8", "evaluation.generation.max_length=4"),
    "checkpoint.every=2",
)


def trained(steps: int) -> int:
    overrides = [f"--config.{change}" for change in (*SMALL, f"steps={steps}")]
    return train.main(["experiments/flan/flan.py", "--run_dir", "run", *overrides])


def test_instructions_train_resume_and_are_evaluated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A changed template is another data set, so that a run does not resume with it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KINTSUGI_CACHE", str(tmp_path / "cache"))
    shutil.copytree(FOLDER, "experiments/flan")
    assert trained(2) == 0
    assert trained(4) == 0
    lines = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    scored = [line["step"] for line in lines if "numbers2/sequence_accuracy" in line]
    assert scored == [2, 4]
    assert evaluate.main(["run", "--split=held_out", "--examples=3"]) == 0
    results = json.loads(Path("run/evaluations/held_out-4/scores.json").read_text())["results"]
    assert [result["examples"] for result in results.values()] == [3, 3]
    templates = Path("experiments/flan/larger.jsonl")
    templates.write_text(templates.read_text().replace("Compare", "Weigh"))
    assert trained(6) == 2
