"""Standard input."""

import io
import os
import tempfile

import pytest


@pytest.fixture
def standard_input(monkeypatch):
    """A function that makes a text what file 0, and `sys.stdin`, give."""
    kept = os.dup(0)

    def give(text: str) -> None:
        with tempfile.TemporaryFile() as file:
            file.write(text.encode())
            file.flush()
            file.seek(0)
            os.dup2(file.fileno(), 0)
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.FileIO(0, closefd=False), encoding="utf-8"))

    yield give
    os.dup2(kept, 0)
    os.close(kept)
