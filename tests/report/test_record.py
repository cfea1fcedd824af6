"""Metrics as reports read them: similar windows of steps, and never more lines than a screen shows."""

import dataclasses
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from research.report.record import MOST_LINES, read, read_metrics, shown_files
from research.storage import run_directory
from research.storage.files import write_json


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


def test_a_run_that_reports_more_often_later_keeps_its_curve(tmp_path: Path) -> None:
    lines = [{"step": 1000, "steps": 1000, "nll": 9.0, "skipped": 0}]
    lines += [{"step": 1000 + n, "steps": 1, "nll": float(n), "skipped": 0} for n in range(1, 101)]
    write(tmp_path / "metrics.jsonl", lines)
    read = read_metrics(tmp_path)
    assert len(read) > 90
    assert read[0] == lines[0]
    assert read[-1]["nll"] == 100.0


def test_the_record_of_a_checkpoint_replaces_a_config_that_is_gone_or_wrong(tmp_path: Path, tiny_run: Path) -> None:
    run = shutil.copytree(tiny_run, tmp_path / "run")
    config = read(run).config
    write_json(run / "config.json", run_directory.as_data(dataclasses.replace(config, steps=1000)))
    assert read(run).config.steps == 1000, "what the last start changed"
    wider = dataclasses.replace(config, model=dataclasses.replace(config.model, width=64))
    write_json(run / "config.json", run_directory.as_data(wider))
    assert read(run).config == config
    (run / "config.json").unlink()
    assert read(run).config == config


def test_files_that_a_run_replaces_meanwhile_are_not_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept, gone = tmp_path / "config.json", tmp_path / "diff.json"
    for path in (kept, gone, tmp_path / "RESULT.json.77.tmp"):
        path.write_text("{}")
    status = Path.stat

    def late(path: Path, **options: bool) -> os.stat_result:
        if path == gone:
            path.unlink(missing_ok=True)
        return status(path, **options)

    monkeypatch.setattr(Path, "stat", late)
    assert list(shown_files(tmp_path)) == [kept]
    assert not os.path.lexists(gone)
