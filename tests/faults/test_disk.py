"""Disks that are full, cannot be written, or go away."""

import json
import re
import resource
import shutil
import subprocess
from pathlib import Path

import pytest
from real_runs import STEPS, log, newest_step, start, until

from research.storage.manifest import verify

pytestmark = pytest.mark.slow


def test_a_full_disk_ends_the_run_at_once_and_keeps_the_last_good_checkpoint(folder: Path) -> None:
    result = starved(folder, "full", 100_000, "--config.checkpoint.every=50", "--config.evaluation.every=1000")
    assert_failed_at_once(result, folder / "full")


def test_a_disk_too_full_for_metrics_ends_the_run_too(folder: Path) -> None:
    result = starved(folder, "fuller", 20_000, "--config.checkpoint.every=1000", "--config.evaluation.every=1000")
    assert f"fuller stopped at step {result['step']}: [Errno 27] File too large; the checkpoint of" in result["reason"]
    assert STEPS < result["step"] < STEPS + 500
    assert verify(folder / "fuller" / "checkpoints" / str(STEPS)) == ""


def starved(folder: Path, name: str, limit: int, *arguments: str) -> dict:
    """RESULT.json of a run that goes on where a file may have `limit` bytes; it must end by itself and say why last."""
    shutil.copytree(folder / "whole", folder / name)
    process = start(folder, name, f"--config.steps={STEPS + 1000}", *arguments, stdout=subprocess.PIPE, text=True)
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (limit, limit))
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 1, output
    result = json.loads((folder / name / "RESULT.json").read_text())
    # Another thread's traceback, of the save that failed, may have begun the line.
    assert output.strip().splitlines()[-1].strip() == result["reason"]
    return result


def test_a_directory_that_cannot_be_written_any_more_ends_the_run_at_once(folder: Path) -> None:
    shutil.copytree(folder / "whole", folder / "gone")
    checkpoints = folder / "gone" / "checkpoints"
    process = start(folder, "gone", f"--config.steps={STEPS + 100_000}", "--config.checkpoint.every=50")
    until(process, lambda: newest_step(folder, "gone") > STEPS)
    checkpoints.rename(folder / "gone" / "moved")
    checkpoints.touch()  # a file where the directory was: this binds root too, unlike permissions
    assert process.wait(timeout=120) == 1
    result = json.loads((folder / "gone" / "RESULT.json").read_text())
    assert log(folder, "gone").strip().splitlines()[-1].strip() == result["reason"]
    checkpoints.unlink()
    (folder / "gone" / "moved").rename(checkpoints)
    assert re.search(r"The checkpoint of step \d+ could not be written: .*Not a directory", result["reason"])
    assert verify(checkpoints / str(STEPS)) == ""


def assert_failed_at_once(result: dict, directory: Path) -> None:
    """It stopped when the save had failed, long before the next was due, and left a whole checkpoint."""
    assert result["status"] == "failed"
    (failed,) = re.findall(r"The checkpoint of step (\d+) could not be written", result["reason"])
    (kept,) = re.findall(r"the checkpoint of step (\d+) is complete", result["reason"])
    assert int(kept) < int(failed) <= result["step"] < int(failed) + 40
    assert verify(directory / "checkpoints" / kept) == ""
