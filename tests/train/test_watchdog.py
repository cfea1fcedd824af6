"""A run that hangs is ended from outside the thread that hangs, and says where it stood."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = """
import sys, threading, time
from research.train.watchdog import Watchdog

watchdog = Watchdog(1.0, 43, lambda: print("hung"))
time.sleep(1.5)  # before the first beat it only waits
for _ in range(10):
    watchdog.beat()
    time.sleep(0.2)
print("beating", flush=True)
if sys.argv[1] == "stop":
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
