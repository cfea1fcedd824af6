"""A run that is killed or stopped, anywhere, goes on as if nothing had happened: bit for bit."""

import json
import random
import shutil
import signal
from pathlib import Path

import pytest
from real_runs import (
    UNFINISHED,
    assert_as_if_nothing_had_happened,
    began_at,
    log,
    metrics,
    names,
    newest_save,
    newest_step,
    run,
    start,
    until,
)

from research.storage.manifest import verify

pytestmark = pytest.mark.slow


def test_killed_at_random_steps_and_during_a_save(folder: Path) -> None:
    checkpoints = folder / "killed" / "checkpoints"
    for kill_after in random.sample(range(2, 8), 2):
        print("kill", kill_after, "steps on")
        began = began_at(folder, "killed")
        process = start(folder, "killed")
        wanted = began + kill_after
        until(process, lambda wanted=wanted: newest_step(folder, "killed") >= wanted and newest_save(checkpoints) > 0)
        process.kill()
        assert process.wait() == -signal.SIGKILL
    for attempt in range(20):
        shutil.copytree(folder / "killed", folder / "before", dirs_exist_ok=attempt > 0)
        for unfinished in checkpoints.glob(UNFINISHED):
            shutil.rmtree(unfinished)
        process = start(folder, "killed")
        until(process, lambda: any(checkpoints.glob(UNFINISHED)))
        process.kill()
        process.wait()
        if any(checkpoints.glob(UNFINISHED)):
            break  # else the save was over before the kill: try again from where it began
        shutil.rmtree(folder / "killed")
        shutil.move(folder / "before", folder / "killed")
    else:
        raise AssertionError("no kill hit a save")
    assert json.loads((folder / "killed" / "RESULT.json").read_text())["status"] == "running"
    assert run(folder, "killed") == 0
    assert len((folder / "killed" / "history.jsonl").read_text().splitlines()) >= 4
    assert log(folder, "killed").count("Resuming from the checkpoint of step") >= 2
    assert_as_if_nothing_had_happened(folder, "killed")


def test_sigterm_saves_and_exits_with_42(folder: Path) -> None:
    process = start(folder, "preempted", faults={"SLOW": "0.2"})
    until(process, lambda: (folder / "preempted" / "launch.json").exists())
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=120) == 42, log(folder, "preempted")
    result = json.loads((folder / "preempted" / "RESULT.json").read_text())
    assert (result["status"], result["exit_code"]) == ("preempted", 42)
    assert result["step"] > 0
    assert verify(folder / "preempted" / "checkpoints" / str(result["step"])) == ""
    assert run(folder, "preempted") == 0
    assert f"Resuming from the checkpoint of step {result['step']}." in log(folder, "preempted")
    assert_as_if_nothing_had_happened(folder, "preempted")


def test_killed_after_the_last_save_the_run_is_still_concluded(folder: Path) -> None:
    shutil.copytree(folder / "whole", folder / "unfinished")
    expected = json.loads((folder / "whole" / "RESULT.json").read_text())
    (folder / "unfinished" / "RESULT.json").write_text(json.dumps(expected | {"status": "running"}))
    samples = (folder / "unfinished" / "samples.jsonl").read_text().splitlines(keepends=True)
    (folder / "unfinished" / "samples.jsonl").write_text("".join(samples[:-1]))
    assert run(folder, "unfinished") == 0
    result = json.loads((folder / "unfinished" / "RESULT.json").read_text())
    assert result | {"time": 0} == expected | {"time": 0}
    assert (folder / "unfinished" / "samples.jsonl").read_text() == (folder / "whole" / "samples.jsonl").read_text()


def test_a_killed_run_stops_when_its_patience_is_at_an_end_and_stays_so(folder: Path) -> None:
    """Nothing is learned, so the first evaluation stays the best; a kill in between changes neither count nor end."""
    nothing = "--config.optimizer=AdamW(schedule=Constant(peak=0.0, warmup=0))"
    every = ["--config.evaluation.every=1", "--config.checkpoint.every=3", "--config.checkpoint.keep=1"]
    arguments = [nothing, *every, "--config.steps=1000", "--config.evaluation.patience=14"]
    checkpoints = folder / "patient" / "checkpoints"
    process = start(folder, "patient", *arguments)
    until(process, lambda: newest_save(checkpoints) >= 3)
    process.kill()
    process.wait()
    assert run(folder, "patient", *arguments) == 0
    lines = metrics(folder, "patient")
    assert [line["step"] for line in lines if "held_out_loss" in line] == list(range(1, 16))
    result = json.loads((folder / "patient" / "RESULT.json").read_text())
    best = lines[1]["held_out_loss"]
    assert result["best"] == {"held_out_loss": best, "step": 1}
    said = f"stopped at step 15 of 1000, since no evaluation of the last 14 was better than held_out_loss {best:.4g}"
    assert (result["status"], result["exit_code"], result["reason"]) == ("done", 0, f"{said} of step 1")
    assert result["stopped_early"] is True
    assert names(checkpoints) == {"1", "15"}
    assert run(folder, "patient", *arguments) == 0
    assert said in log(folder, "patient").splitlines()[-1]
    assert metrics(folder, "patient") == lines
    assert run(folder, "patient", *arguments[:-1], "--config.evaluation.patience=16") == 0
    assert metrics(folder, "patient")[-1]["step"] == 17
    assert metrics(folder, "patient")[: len(lines)] == lines
