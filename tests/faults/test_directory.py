"""A run directory belongs to one process and one experiment."""

from pathlib import Path

import pytest
from real_runs import STEPS, log, metrics, run, start, until

pytestmark = pytest.mark.slow


def test_another_experiment_in_the_directory_is_refused_by_its_fields(folder: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in (folder / "whole").rglob("*") if path.name != "RUN.lock"}
    changes = {"batch_size": (8, 16), "seed": (0, 1), "model.width": (16, 32), "optimizer.schedule.peak": (0.01, 0.5)}
    arguments = [f"--config.{name}={now}" for name, (_, now) in changes.items()]
    assert run(folder, "whole", *arguments, f"--config.steps={STEPS + 1}") == 2
    last = log(folder, "whole").splitlines()[-1]
    assert all(f"{name} was {was} and is now {now}" in last for name, (was, now) in changes.items())
    assert before == {path: path.stat().st_mtime_ns for path in before}


def test_a_second_run_in_the_directory_is_refused(folder: Path) -> None:
    first = start(folder, "shared", "--config.steps=100000")
    until(first, lambda: len(metrics(folder, "shared")) > 0)
    assert run(folder, "shared", "--config.steps=100000") == 2
    assert f"is in use by process {first.pid} on" in log(folder, "shared")
    assert first.poll() is None
    first.kill()
    first.wait()
