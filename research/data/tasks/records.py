"""Records of examples by index, records given by a user's `records` and held in memory, and checks of records."""

import hashlib
import json
import sys
from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Int64

from research.config import ConfigError, Examples, require
from research.config.base import digest
from research.config.examples import Names, Records, Split, TextRecord
from research.config.parts import calling, expect, is_shipped, place
from research.storage.lines import is_unicode

FORMAT = 1  # increment when the same files would give other records

Empty = Literal["refuse", "skip", "keep"]  # the effect of an example with an empty side
# What the effect adds to the identity of records.
BY_EMPTY: dict[Empty, tuple[str, ...]] = {"refuse": (), "skip": ("without empty",), "keep": ("with empty",)}


class EmptyTextError(ConfigError):
    """A side of an example is empty."""


@dataclass(frozen=True)
class ExamplesInMemory(Examples):
    """Examples that fit in memory: all records of a split at once.

    Subclass it in a frozen dataclass with `records`. The records are part of the key of the cached tokens, so a changed
    file is noticed. A record that lacks a name that the task reads is an error that gives its number.

    These are the rows of CSV files:

        @dataclass(frozen=True)
        class CSVExamples(ExamplesInMemory):
            train: str
            held_out: str
            test: str | None = None
            delimiter: str = ","

            def records(self, split: Split) -> list[dict[str, str]]:
                path = {"train": self.train, "held_out": self.held_out, "test": self.test}[split]
                if path is None:
                    raise ConfigError("CSVExamples has no test split: name its file with test=.")
                with open(path, newline="", encoding="utf-8") as file:
                    return list(csv.DictReader(file, delimiter=self.delimiter))

    It is used by name: `TextToText(examples=CSVExamples("train.csv", "held_out.csv"), source="question")`.
    """

    @abstractmethod
    def records(self, split: Split) -> Sequence[Mapping[str, str | Sequence[str]]]:
        """Return all records of a split, in the same order every time. A list of texts under a name holds several
        references.

        Raises:
            ConfigError: there is no such split, or it cannot be read.
        """

    def open(self, split: Split, names: Names, manual_dir: str | None) -> Records:
        with calling(self, "records"):
            given = list(self.records(split))
        return RecordsInMemory(self, split, names, given)


def open_records(examples: Examples, split: Split, names: Names, manual_dir: str | None) -> Records:
    """Find and check the examples of a split, building them if needed.

    Raises:
        ConfigError: they are missing, empty or lack a name; or a user's class does not return records.
    """
    with calling(examples, "open"):
        opened = examples.open(split, names, manual_dir)
    kind = type(opened).__name__
    attributes = "name, identity, __len__() and read()"
    expect(isinstance(opened, Records), examples, "open", f"returned {kind}: it must have {attributes}")
    with calling(examples, "open"):
        count = len(opened)
    expect(count > 0, examples, "open", f"of {split} gave no record")
    return opened


class RecordsInMemory:
    """The records of a split in memory, checked for the names that the task reads."""

    def __init__(self, examples: ExamplesInMemory, split: Split, names: Names, given: Sequence[Any]) -> None:
        expect(len(given) > 0, examples, "records", f"of {split} gave no record")
        self.name = f"{examples.label} ({split})"
        where = f"{place(type(examples), 'records')}record {{}} of {self.name}"
        self._records = [check_record(record, names, where.format(number)) for number, record in enumerate(given, 1)]
        self.identity = identity_of(self._records)

    def __len__(self) -> int:
        return len(self._records)

    def read(self, indices: Sequence[int]) -> list[TextRecord]:
        return [self._records[index] for index in indices]


def identity_of(values: Iterable[Any]) -> str:
    """Compute a digest of JSON-serialisable values, in order."""
    whole = hashlib.sha256()
    for value in values:
        whole.update(json.dumps(value).encode() + b"\n")
    return digest([FORMAT, whole.hexdigest()])


def check_record(record: Any, names: Names, where: str) -> TextRecord:
    """Return the texts of a user's record under the names that the task reads. Raises ConfigError if it lacks one."""
    require(isinstance(record, Mapping), f"{where} is {type(record).__name__}: it must be a dictionary of texts.")
    missing = [name for name in names.all if name not in record]
    if missing:
        listed = ", ".join(map(repr, record)) or "none"
        raise ConfigError(f'{where} has no "{missing[0]}": its names are {listed}.')
    texts = {name: check_texts(record[name], where, name) for name in names.all}
    check(texts, names, where)
    return texts


def read_checked(records: Records, names: Names, indices: Sequence[int]) -> list[TextRecord]:
    """Read records, and check them if they come from a user's class."""
    read = records.read(indices)
    if is_shipped(type(records)):
        return read
    where = f"record {{}} of {records.name}"
    return [check_record(one, names, where.format(index + 1)) for index, one in zip(indices, read, strict=True)]


def check_texts(value: Any, where: str, name: str) -> tuple[str, ...]:
    """Return one text or several as a tuple. Raises ConfigError for anything else."""
    texts = tuple(value) if isinstance(value, list | tuple) else (value,)
    for text in texts:
        if not isinstance(text, str):
            kind = type(text).__name__
            raise ConfigError(f'{where} has {kind} as "{name}": it must be text or a list of texts.')
        require(is_unicode(text), f'{where} has half of a surrogate pair in "{name}": UTF-8 cannot represent it.')
    return texts


def check(record: TextRecord, names: Names, where: str) -> str:
    """Return the source text, the hash of which decides whether a record is held out.

    Raises:
        EmptyTextError: a side is empty.
    """
    for side, read in (("source", names.source), ("target", names.target)):
        firsts = [text for name in read for text in record[name][:1]]
        listed = " and ".join(f'"{name}"' for name in read)
        if not any(map(str.strip, firsts)):
            raise EmptyTextError(f"{where} has an empty {side} ({listed}).")
    for name in names.all:
        if not record[name]:
            raise EmptyTextError(f'{where} has an empty list as "{name}".')
    for name in names.target:
        if not all(map(str.strip, record[name])):
            raise EmptyTextError(f'{where} has an empty text among those of "{name}".')
    return source_text(record, names)


def is_filled(record: TextRecord, names: Names, where: str, empty: Empty) -> bool:
    """Tell whether no side of a record is empty, or such records are to be kept.

    Raises:
        ConfigError: one is empty, and such records are neither to be left out nor kept.
    """
    if empty == "keep":
        return True
    try:
        check(record, names, where)
    except EmptyTextError as error:
        if empty == "refuse":
            raise ConfigError(f'{error} Fill it, or give the examples empty="skip" to leave such ones out.') from None
        return False
    return True


def without_empty(name: str, rows: Int64[np.ndarray, " n"], filled: Bool[np.ndarray, " n"]) -> Int64[np.ndarray, " m"]:
    """Return the rows of a split that have no empty side; report how many are left out."""
    kept = rows[filled]
    require(len(kept) > 0, f"Each of the {len(rows):,} examples of {name} has an empty side.")
    if len(kept) < len(rows):
        message = (
            f"{len(rows) - len(kept):,} of {len(rows):,} examples of {name} have an empty side: they are left out."
        )
        print(message, file=sys.stderr, flush=True)
    return kept


def source_text(record: TextRecord, names: Names) -> str:
    """Return the source text of a record, the hash of which decides whether it is held out."""
    return "\n".join(text for name in names.source for text in record[name])


def require_names(names: Names, available: Iterable[str], owner: str) -> None:
    """Raise ConfigError if `owner`, which has the names `available`, lacks a name that the task reads."""
    available = tuple(available)
    for name in names.all:
        require(name in available, f'{owner} has no "{name}": it has {", ".join(available)}.')
