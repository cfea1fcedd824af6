"""Metrics as reports read them: similar windows of steps, and never more lines than a screen shows."""

import json
from pathlib import Path
from typing import Any

import pytest

from research.report.record import MOST_LINES, read_metrics


def write(path: Path, lines: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_a_line_of_few_steps_is_averaged_with_its_neighbour(tmp_path: Path) -> None:
    """One step before a save and one after a resume are outliers of every curve."""
    lines = [
        {"step": 10, "steps": 10, "nll": 4.0, "skipped": 0},
        {"step": 11, "steps": 1, "nll": 9.0, "skipped": 1},
        {"step": 20, "steps": 9, "nll": 3.0, "skipped": 1},
        {"step": 20, "held_out_loss": 5.0},
        {"step": 30, "steps": 10, "nll": 2.0, "skipped": 0},
        {"step": 31, "steps": 1, "nll": None, "skipped": 0},
    ]
    write(tmp_path / "metrics.jsonl", lines)
    assert read_metrics(tmp_path) == [
        lines[0],
        {"step": 20, "steps": 10, "nll": pytest.approx(3.6), "skipped": 2},
        {"step": 31, "steps": 11, "nll": 2.0, "skipped": 0},
        lines[3],
    ]


def test_a_long_run_is_averaged_to_what_a_screen_shows(tmp_path: Path) -> None:
    count = 5 * MOST_LINES
    lines = [{"step": 10 * n, "steps": 10, "nll": float(n), "step_seconds": 0.5} for n in range(1, count + 1)]
    write(tmp_path / "metrics.jsonl", lines)
    read = read_metrics(tmp_path)
    assert MOST_LINES <= len(read) <= 2 * MOST_LINES
    assert {line["steps"] for line in read} == {40}
    assert read[0]["nll"] == 2.5
    assert read[-1]["step"] == 10 * count
    assert sum(line["steps"] * line["step_seconds"] for line in read) == pytest.approx(5 * count)
