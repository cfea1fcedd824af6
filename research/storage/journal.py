"""The journal of a batch job: results are stored as they are computed, and written in order at the end.

OUTPUT.partial has a first line that identifies the request, then one line of JSON per batch. OUTPUT is written
atomically, by renaming. After a kill, the same command resumes after the last complete batch.
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
from research.storage.files import json_line, parse_lines, utf8, whole
from research.storage.lock import FileLock


def check_new(output: Path | None) -> None:
    """Check that an output file can be created.

    Raises:
        ConfigError: the file exists, or its directory does not.
    """
    if output is not None:
        require(not output.exists(), f"{output} exists: nothing is overwritten, so give another --output.")
        require(output.absolute().parent.is_dir(), f"{output}: there is no directory {output.absolute().parent}.")


class Journal:
    """Results of a batch job by number, in `done`, with those of earlier starts. Without an output, only in memory."""

    def __init__(self, output: Path | None, request: Any) -> None:
        """Open the journal of an output; `request` identifies the command and its input.

        Raises:
            ConfigError: the output exists, cannot be written, or was begun by another command.
        """
        check_new(output)
        self.output = output
        self.done: dict[int, Any] = {}
        self.file: BinaryIO | None = None
        if output is None:
            return
        self.partial = output.with_name(output.name + ".partial")
        try:
            self.file, self.lock = self.partial.open("a+b"), FileLock(self.partial)
        except OSError as error:
            raise ConfigError(f"{self.partial} cannot be written ({error.strerror}): give another --output.") from error
        try:
            self._resume(self.file, request)
        except BaseException:
            self.file.close()
            self.lock.release()
            raise

    def _resume(self, file: BinaryIO, request: Any) -> None:
        """Read the results of earlier starts. A last line that was cut short is dropped and computed again."""
        require(self.lock.take(), f"{self.partial} is being written by another process: wait for it.")
        first = json_line({"asked": hashlib.sha256(json.dumps(request, default=repr).encode()).hexdigest()})
        file.seek(0)
        content = file.read()
        require(
            content.startswith(first) or first.startswith(content),
            f"{self.partial} was begun by another command or for other lines: move it away, or give another --output.",
        )
        complete = 0
        for line in content.split(b"\n")[:-1]:
            values, damaged = parse_lines(line)
            if damaged:
                print(f"{self.partial} is damaged: what follows byte {complete:,} is computed again.", file=sys.stderr)
                break
            if complete:
                self.done |= {int(number): result for value in values for number, result in value.items()}
            complete += len(line) + 1
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
            self.lock.release()

    def add(self, results: dict[int, Any]) -> None:
        """Add results; they are on disk when this returns."""
        self.done |= results
        if self.file is not None:
            self.file.write(json_line(results))
            self.file.flush()
            os.fsync(self.file.fileno())

    def finish(self, lines: Iterable[str]) -> None:
        """Write the lines in order: to the output, atomically, or to standard output."""
        if self.output is None:
            sys.stdout.writelines(f"{line}\n" for line in lines)
            sys.stdout.flush()
            return
        with whole(self.output) as file:
            file.writelines(utf8(f"{line}\n") for line in lines)
            check_new(self.output)
        self.partial.unlink()
