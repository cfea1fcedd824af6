"""Standard output and error that may go away: a reader that ends, a terminal that is closed, a full disk."""

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any


class OutputError(Exception):
    """Standard output cannot be written. Nothing more is written to it."""

    def __init__(self, error: OSError) -> None:
        super().__init__(f"standard output cannot be written ({error.strerror})")
        self.closed = isinstance(error, BrokenPipeError)  # by its reader, such as head


class _Stream:
    """A stream that writes nothing more once it cannot be written; with `fatal` it raises OutputError then."""

    def __init__(self, stream: Any, fatal: bool) -> None:
        self._stream, self._fatal = stream, fatal

    def write(self, text: str) -> int:
        self._try(self._stream.write, text)
        return len(text)

    def flush(self) -> None:
        self._try(self._stream.flush)

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _try(self, method: Any, *arguments: str) -> None:
        try:
            method(*arguments)
        except OSError as error:
            with contextlib.suppress(OSError, ValueError):
                # What is buffered is written at exit, and C code writes by the number.
                os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())
            if self._fatal:
                raise OutputError(error) from None
            _failures.append(f"printing is switched off: {error.strerror}")


_failures: list[str] = []


def failure() -> str:
    """Return, once, that printing was switched off and why; else ""."""
    return _failures.pop() if _failures else ""


@contextlib.contextmanager
def guarded(*, fatal: bool) -> Iterator[None]:
    """Let nothing that is printed end this process or, with `fatal`, end it by an OutputError, if it cannot be written.

    Only standard output is fatal. Inside another `guarded` this does nothing.
    """
    if isinstance(sys.stdout, _Stream):
        yield
        return
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = _Stream(sys.stdout, fatal), _Stream(sys.stderr, fatal=False)
    try:
        yield
        sys.stdout.flush()
    finally:
        sys.stdout, sys.stderr = before
