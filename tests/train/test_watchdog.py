"""A run that hangs is ended from outside the thread that hangs, and says where it stood."""

import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from tiny_run import experiment

from research.train import loop

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = """
import sys, threading, time
from research.train.watchdog import Watchdog

watchdog = Watchdog(3.0 if sys.argv[1] == "suspend" else 1.0, 43, lambda: print("hung"))
time.sleep(1.5)  # before the first beat it only waits
for _ in range(10):
    watchdog.beat()
    time.sleep(0.2)
print("beating", flush=True)
if sys.argv[1] == "suspend":
    for _ in range(5):  # the test suspends the process here, for longer than the watchdog waits
        time.sleep(0.2)
    watchdog.beat()
    watchdog.stop()
elif sys.argv[1] == "stop":
    watchdog.stop()
    time.sleep(1.5)
else:
    def in_a_collective():
        threading.Event().wait()
    in_a_collective()
"""


def run(ending: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-u", "-c", PROGRAM, ending]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)


def test_a_hang_ends_with_43_and_every_stack() -> None:
    process = run("hang")
    assert (process.returncode, process.stdout.split()) == (43, ["beating", "hung"])
    assert "No step finished for 1 s" in process.stderr
    assert "in in_a_collective" in process.stderr


def test_a_run_that_beats_or_has_ended_is_left_alone() -> None:
    process = run("stop")
    assert (process.returncode, process.stdout.split(), process.stderr) == (0, ["beating"], "")


def test_time_in_which_the_process_is_suspended_does_not_count() -> None:
    command = [sys.executable, "-u", "-c", PROGRAM, "suspend"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "beating\n"
        process.send_signal(signal.SIGSTOP)
        time.sleep(4)
        process.send_signal(signal.SIGCONT)
        assert (process.wait(timeout=60), process.stderr.read()) == (0, "")


def test_a_run_that_raises_leaves_no_watch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else it would end the process, perhaps a notebook, half an hour later."""

    def breaks(self: object) -> None:
        raise RuntimeError("broken")

    monkeypatch.setattr(loop._Loop, "save", breaks)
    with pytest.raises(RuntimeError, match="broken"):
        loop.train(experiment(tmp_path), tmp_path / "run")
    watching = [thread for thread in threading.enumerate() if thread.name == "watchdog"]
    for thread in watching:
        thread.join(3)
    assert not any(thread.is_alive() for thread in watching)
