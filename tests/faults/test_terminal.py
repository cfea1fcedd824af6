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
from real_runs import ROOT, assert_as_if_nothing_had_happened, environment, start, until

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


def interrupted(folder: Path, seconds: float, module: str, *arguments: str) -> tuple[int, str]:
    """Interrupt a command so long after its own code began; return its exit code and output.

    Before, a signal ends Python while it starts, with a traceback of its own.
    """
    code = f"import scripts, runpy; print(flush=True); runpy.run_module({module!r}, run_name='__main__')"
    process = subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        cwd=ROOT, env=environment(folder), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    process.stdout.readline()
    time.sleep(seconds)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=120)
    return process.returncode, output


def test_ctrl_c_in_a_start_leaves_no_traceback_and_is_not_lost(folder: Path) -> None:
    for seconds in (0.0, 1.0, 2.5):
        arguments = str(folder / "experiment.py"), "--run_dir", str(folder / "early")
        code, output = interrupted(folder, seconds, "scripts.train", *arguments)
        assert code in (42, 130, -signal.SIGINT), seconds
        assert "Traceback" not in output
        assert "SIGTERM caught" not in output


def test_ctrl_c_ends_any_command_without_a_traceback(folder: Path) -> None:
    for seconds in (0.0, 0.2, 0.6):
        code, output = interrupted(folder, seconds, "scripts.evaluate", str(folder / "whole"))
        assert code in (130, -signal.SIGINT), seconds
        assert "Traceback" not in output, seconds
