"""Standard output that goes away ends no run, and any other command with one sentence at most."""

import io
import os
import subprocess
import sys
from pathlib import Path
from typing import TextIO

import pytest

from research.storage import output

ROOT = Path(__file__).resolve().parents[2]


def closed_pipe() -> TextIO:
    reading, writing = os.pipe()
    os.close(reading)
    return io.TextIOWrapper(os.fdopen(writing, "wb"), write_through=True)


def test_printing_is_switched_off_and_that_is_noted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = closed_pipe()
    monkeypatch.setattr(sys, "stdout", stream)
    with output.guarded(fatal=False):
        print("a", "b")
        print("c", flush=True)
        assert output.failure() == "printing is switched off: Broken pipe"
        assert output.failure() == ""
    assert sys.stdout is stream
    print("what is written at exit", flush=True)  # goes nowhere


def test_or_ends_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", closed_pipe())
    with pytest.raises(output.OutputError) as error, output.guarded(fatal=True):
        print("a")
    assert error.value.closed


FULL = "error: standard output cannot be written (No space left on device)."


@pytest.mark.parametrize(("where", "said"), [("/dev/full", FULL), ("|", "")])
def test_a_command_ends_with_one_sentence_or_none(where: str, said: str) -> None:
    program = "import sys; from scripts import command_line\ndef work(options):\n    print('x' * 100_000)\n"
    program += "sys.exit(command_line.run(command_line.parser('score', ''), work, []))"
    to = "| true" if where == "|" else f"> {where}"
    command = f'{sys.executable} -c "$PROGRAM" {to}; exit ${{PIPESTATUS[0]}}'
    ended = subprocess.run(
        ["bash", "-c", command], cwd=ROOT, env=os.environ | {"PROGRAM": program}, capture_output=True, text=True
    )
    assert ended.returncode == 1
    assert ended.stderr.startswith(said)
    assert len(ended.stderr.splitlines()) == bool(said)
