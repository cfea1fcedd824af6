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
    assert output.strip().splitlines()[-1] == result["reason"]
    assert "Traceback" not in output
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


@pytest.mark.parametrize("every", ["metrics", "checkpoints"])
def test_a_directory_that_is_moved_ends_the_run_and_leaves_none_under_its_old_name(folder: Path, every: str) -> None:
    name = f"strayed_{every}"
    shutil.copytree(folder / "whole", folder / name)
    saving = ["--config.checkpoint.every=10", "--config.report.every=100000"]
    arguments = saving if every == "checkpoints" else ["--config.checkpoint.every=100000"]
    process = start(folder, name, f"--config.steps={STEPS + 100_000}", "--config.evaluation.every=100000", *arguments)
    result = folder / name / "RESULT.json"
    until(process, lambda: json.loads(result.read_text())["status"] == "running")
    assert json.loads(result.read_text())["step"] == STEPS
    if every == "checkpoints":
        until(process, lambda: json.loads(result.read_text())["step"] > STEPS)
    else:
        until(process, lambda: newest_step(folder, name) > STEPS)
    (folder / name).rename(folder / f"{name}_away")
    assert process.wait(timeout=120) == 1
    assert not (folder / name).exists()
    assert "Traceback" not in log(folder, name)
    last = log(folder, name).strip().splitlines()[-1]
    assert re.search(rf"{name} stopped at step \d+: .*{name} was moved or deleted while the run used it\. Repeat", last)
    assert verify(folder / f"{name}_away" / "checkpoints" / str(STEPS)) == ""


def assert_failed_at_once(result: dict, directory: Path) -> None:
    """It stopped when the save had failed, long before the next was due, and left a whole checkpoint."""
    assert result["status"] == "failed"
    (failed,) = re.findall(r"The checkpoint of step (\d+) could not be written", result["reason"])
    (kept,) = re.findall(r"the checkpoint of step (\d+) is complete", result["reason"])
    assert int(kept) < int(failed) <= result["step"] < int(failed) + 40
    assert verify(directory / "checkpoints" / kept) == ""
