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
from typing import Any, TextIO

from research.config import require


class Journal:
    """`done` are the results by number, those of an earlier start too. Without an output they are kept in memory."""

    def __init__(self, output: Path | None, asked: Any) -> None:
        """Raises ConfigError where the output is there, cannot be written, or was begun by another command."""
        self.output = output
        self.done: dict[int, Any] = {}
        self.file: TextIO | None = None
        if output is None:
            return
        require(not output.exists(), f"{output} exists: nothing is overwritten, so give another --output.")
        require(output.absolute().parent.is_dir(), f"{output}: there is no directory {output.absolute().parent}.")
        self.partial = output.with_name(output.name + ".partial")
        first = json.dumps({"asked": hashlib.sha256(json.dumps(asked, default=repr).encode()).hexdigest()}) + "\n"
        begun = self.partial.read_text(encoding="utf-8") if self.partial.exists() else ""
        if begun.startswith(first):
            self._take(begun[len(first) :])
        require(
            begun.startswith(first) or not begun.endswith("\n"),
            f"{self.partial} was begun by another command or for other lines: move it away, or give another --output.",
        )
        self.file = self.partial.open("a" if self.done else "w", encoding="utf-8")
        if not self.done:
            self.file.write(first)

    def _take(self, lines: str) -> None:
        """Whole lines; a last one that was cut short is written anew."""
        whole = lines[: lines.rfind("\n") + 1]
        for line in whole.splitlines():
            self.done |= {int(number): result for number, result in json.loads(line).items()}
        if len(whole) < len(lines):
            os.truncate(self.partial, self.partial.stat().st_size - len(lines[len(whole) :].encode()))

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.file is not None:
            self.file.close()

    def add(self, results: dict[int, Any]) -> None:
        """On disk when it returns."""
        self.done |= results
        if self.file is not None:
            self.file.write(json.dumps(results, ensure_ascii=False) + "\n")
            self.file.flush()
            os.fsync(self.file.fileno())

    def finish(self, lines: Iterable[str]) -> None:
        """Writes the lines in order: to the output, whole or not at all, or to standard output."""
        if self.output is None:
            sys.stdout.writelines(f"{line}\n" for line in lines)
            sys.stdout.flush()
            return
        unfinished = self.output.with_name(f".{self.output.name}.{os.getpid()}")
        with unfinished.open("w", encoding="utf-8") as file:
            file.writelines(f"{line}\n" for line in lines)
            file.flush()
            os.fsync(file.fileno())
        unfinished.rename(self.output)
        self.partial.unlink()
