"""What a batch job has done so far, kept as it is done and put in order at the end.

OUTPUT.partial holds a line of JSON a batch after a first line that says what was asked; OUTPUT comes to be whole, by
renaming. Killed anywhere, the same command goes on after the last whole batch.
"""

import hashlib
import json
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from research.config import ConfigError, require
from research.storage.files import json_line, try_lock, utf8, whole


def check_new(output: Path | None) -> None:
    """Raises ConfigError where the output is there already, or cannot be."""
    if output is not None:
        require(not output.exists(), f"{output} exists: nothing is overwritten, so give another --output.")
        require(output.absolute().parent.is_dir(), f"{output}: there is no directory {output.absolute().parent}.")


class Journal:
    """`done` are the results by number, those of an earlier start too. Without an output they are kept in memory."""

    def __init__(self, output: Path | None, asked: Any) -> None:
        """Raises ConfigError where the output is there, cannot be written, or was begun by another command."""
        check_new(output)
        self.output = output
        self.done: dict[int, Any] = {}
        self.file: BinaryIO | None = None
        if output is None:
            return
        self.partial = output.with_name(output.name + ".partial")
        try:
            self.file = self.partial.open("a+b")
        except OSError as error:
            raise ConfigError(f"{self.partial} cannot be written ({error.strerror}): give another --output.") from error
        try:
            self._go_on(self.file, asked)
        except BaseException:
            self.file.close()
            raise

    def _go_on(self, file: BinaryIO, asked: Any) -> None:
        """Takes what was done before, up to a line that was cut short, which is done anew."""
        require(try_lock(file), f"{self.partial} is being written by another process: wait for it.")
        first = json_line({"asked": hashlib.sha256(json.dumps(asked, default=repr).encode()).hexdigest()})
        file.seek(0)
        begun = file.read()
        require(
            begun.startswith(first) or first.startswith(begun),
            f"{self.partial} was begun by another command or for other lines: move it away, or give another --output.",
        )
        complete = 0
        for line in begun.splitlines(keepends=True):  # at the ends of lines that ASCII knows, which JSON escapes
            if not line.endswith(b"\n"):
                break
            if complete:
                self.done |= {int(number): result for number, result in json.loads(line).items()}
            complete += len(line)
        file.truncate(complete)
        if not complete:
            file.write(first)

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.file is not None:
            if not self.done:
                self.partial.unlink(missing_ok=True)
            self.file.close()

    def add(self, results: dict[int, Any]) -> None:
        """On disk when it returns."""
        self.done |= results
        if self.file is not None:
            self.file.write(json_line(results))
            self.file.flush()
            os.fsync(self.file.fileno())

    def finish(self, lines: Iterable[str]) -> None:
        """Writes the lines in order: to the output, whole or not at all, or to standard output."""
        if self.output is None:
            sys.stdout.writelines(f"{line}\n" for line in lines)
            sys.stdout.flush()
            return
        with whole(self.output) as file:
            file.writelines(utf8(f"{line}\n") for line in lines)
            check_new(self.output)
        self.partial.unlink()
