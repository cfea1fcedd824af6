"""Examples in files that are read in parallel line by line, such as one file per language."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from research.config import require
from research.config.base import digest
from research.config.examples import Names, Records, Split, TextRecord
from research.data.corpora.text_files import FileIndex, Span, choose
from research.data.tasks.examples import FileExamples
from research.data.tasks.records import FORMAT, Empty, without_empty
from research.storage.lines import Line


@dataclass(frozen=True)
class ParallelText(FileExamples):
    """One file per name; line n of each file is a side of example n: "train.{name}.gz". The names are those the task
    reads.
    """

    def __post_init__(self) -> None:
        for split in (self.train, self.held_out, self.test):
            require(
                split is None or "{name}" in split,
                f'The files of ParallelText are {split}: the path must contain "{{name}}", such as the language.',
            )

        require(self.empty != "keep", 'ParallelText cannot keep empty lines: give it empty="refuse" or empty="skip".')

    def open(self, split: Split, names: Names, manual_dir: str | None) -> Records:
        return ParallelRecords(self, split, names)


class ParallelRecords:
    """One split of files that are read in parallel line by line."""

    def __init__(self, files: FileExamples, split: Split, names: Names) -> None:
        pattern = files.pattern(split)
        self.name = f"{pattern} ({', '.join(names.all)})"
        rules = [FORMAT, "ParallelText", *["without empty"] * (files.empty == "skip")]
        spans = partial(line_spans, empty=files.empty)
        self._columns = {name: FileIndex(pattern.replace("{name}", name), rules, spans) for name in names.all}
        first, *others = self._columns.values()
        for other in others:
            _check_parallel(first, other)
        by_hash = files.by_hash(split)
        pieces = [piece for index in self._columns.values() for piece in index.pieces]
        self.pieces = [piece._replace(hashed=first.identity if by_hash else "") for piece in pieces]
        rows, _ = choose(first, split, by_hash, "example")
        filled = np.logical_and.reduce([index.is_filled(rows) for index in self._columns.values()])
        self._rows = without_empty(self.name, rows, filled)
        identities = [(name, index.identity) for name, index in self._columns.items()]
        self.identity = digest([identities, split if by_hash else "whole"])

    def __len__(self) -> int:
        return len(self._rows)

    def read(self, indices: Sequence[int]) -> list[TextRecord]:
        rows = [int(self._rows[index]) for index in indices]
        return [{name: (index[row].decode(),) for name, index in self._columns.items()} for row in rows]


def _check_parallel(first: FileIndex, other: FileIndex) -> None:
    """Raise ConfigError unless both have the same number of files and, in order, of lines per file."""
    counts = len(first.files), len(other.files)
    require(
        counts[0] == counts[1],
        f"{first.name} names {counts[0]} files and {other.name} {counts[1]}: each must have a counterpart.",
    )
    for one, lines, another, others in zip(first.files, first.counts, other.files, other.counts, strict=True):
        require(
            lines == others,
            f"{one} has {lines:,} lines and {another} has {others:,}: the same line of each must be one example.",
        )


def line_spans(name: str, lines: Iterable[Line], empty: Empty) -> Iterator[Span]:
    for line in lines:
        text = line.content
        if not text.strip():
            what = 'each line must be a side of an example, or give ParallelText empty="skip"'
            require(empty == "skip", f"{name}, line {line.number} is empty: {what}.")
            text = ""
        yield Span(line.start, line.start + len(text.encode()), text)
