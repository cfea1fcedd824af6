"""Terminals and readers of standard output that go away, and Ctrl-C in a start."""

import json
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from real_runs import ROOT, assert_as_if_nothing_had_happened, environment, log, start, until

pytestmark = pytest.mark.slow


def events(folder: Path, name: str) -> list[str]:
    return [json.loads(line)["event"] for line in (folder / name / "events.jsonl").read_text().splitlines()]


def test_a_terminal_that_is_closed_stops_a_run_or_only_its_printing(folder: Path) -> None:
    """SIGHUP saves; where it is ignored, as under nohup, the run continues and nothing of it is lost."""
    directory = folder / "closed"
    with open("/dev/full", "wb") as full:
        process = start(folder, "closed", faults={"SLOW": "0.2"}, stdout=full, stderr=full)
    until(process, lambda: (directory / "launch.json").exists())
    process.send_signal(signal.SIGHUP)
    assert process.wait(timeout=120) == 42
    result = json.loads((directory / "RESULT.json").read_text())
    assert (result["status"], result["step"] > 0) == ("preempted", True)
    assert events(folder, "closed").count("printing is switched off: No space left on device") == 1

    mine, theirs = pty.openpty()
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        process = start(folder, "closed", faults={}, stdout=theirs, stderr=theirs)
    finally:
        signal.signal(signal.SIGHUP, before)
    os.close(theirs)
    until(process, lambda: (directory / "history.jsonl").read_text().count("\n") == 2)
    os.close(mine)
    process.send_signal(signal.SIGHUP)
    assert process.wait(timeout=120) == 0
    assert "printing is switched off: Input/output error" in events(folder, "closed")
    assert_as_if_nothing_had_happened(folder, "closed")


def test_ctrl_c_in_a_start_leaves_no_traceback_and_is_not_lost(folder: Path) -> None:
    for seconds in (0.2, 1.0, 2.5):
        began = time.monotonic()
        process = start(folder, "early")
        time.sleep(seconds)
        process.send_signal(signal.SIGINT)
        code = process.wait(timeout=120)
        print(seconds, code, time.monotonic() - began)
        # Before its first line, Python itself ends by the signal.
        assert code in (42, -signal.SIGINT, 130)
    assert "Traceback" not in log(folder, "early")
    assert "SIGTERM caught" not in log(folder, "early")


def test_ctrl_c_ends_any_command_without_a_traceback(folder: Path) -> None:
    for seconds in (0.15, 0.6):
        command = [sys.executable, "-m", "scripts.evaluate", str(folder / "whole")]
        process = subprocess.Popen(command, cwd=ROOT, env=environment(folder), stderr=subprocess.PIPE, text=True)
        time.sleep(seconds)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=120)
        assert process.returncode in (130, -signal.SIGINT)
        assert "Traceback" not in said, seconds
