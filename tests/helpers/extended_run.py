"""Runs of experiments/extend: trained for a few steps outside a checkout, resumed, and evaluated in another folder."""

import json
import shutil
from pathlib import Path

from scripts import evaluate, train

ROOT = Path(__file__).resolve().parents[2]
TEXT = "\n\n".join(f"Document {n} counts from {n} to {n + 3}: {n}, {n + 1}, {n + 2}, {n + 3}." for n in range(3000))
SMALL = ("batch_size=8", "evaluation.every=2", "evaluation.rows=8", "checkpoint.every=2", "report.every=1")


def copied(name: str, folder: Path) -> Path:
    """Copy an example's file into a new folder, as a user has it, beside a text to train on."""
    (folder / "mine").mkdir(exist_ok=True)
    (folder / "text.txt").write_text(TEXT)
    return Path(shutil.copy(ROOT / "experiments" / "extend" / f"{name}.py", folder / "mine"))


def trained(file: Path, run: Path, steps: int, *changes: str, text: bool = True) -> int:
    """Train up to a step with the example's own parts and the smallest settings; return the exit code."""
    corpora = [f'data.corpora=[PlainText("{file.parents[1] / "text.txt"}")]'] if text else []
    overrides = [f"--config.{change}" for change in (*SMALL, *corpora, f"steps={steps}", *changes)]
    return train.main([str(file), "--run_dir", str(run), *overrides])


def evaluated(run: Path, folder: Path) -> dict[str, float]:
    """Evaluate a copy of the run directory, alone in another folder; return its scores."""
    elsewhere = folder / "elsewhere" / "run"
    shutil.copytree(run, elsewhere)
    assert evaluate.main([str(elsewhere)]) == 0
    (scores,) = elsewhere.glob("evaluations/*/scores.json")
    return json.loads(scores.read_text())


def losses(run: Path) -> dict[int, float]:
    """Return the training loss of every step."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line["nll"] for line in lines if "nll" in line}
