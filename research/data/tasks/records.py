"""Examples opened: records by index, kept in memory where a user's `records` gives them; and checks of records."""

import hashlib
import json
from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from research.config import ConfigError, Examples, require
from research.config.base import digest
from research.config.examples import Names, Records, Split, TextRecord
from research.config.parts import calling, expect, place
from research.data.corpora.documents import is_unicode

FORMAT = 1  # raised when the same files would give other records


@dataclass(frozen=True)
class ExamplesInMemory(Examples):
    """Examples that fit in memory: all records of a split at once.

    Subclass it in a frozen dataclass with `records`. Its results decide which tokens are those kept on disk, so a
    changed file is noticed. A record without a name that the task reads is an error that numbers it.

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
        """All records of a split, in the same order every time. A list of texts under a name has several references.

        Raises:
            ConfigError: there is no such split, or it cannot be read.
        """

    def open(self, split: Split, names: Names, manual_dir: str | None) -> Records:
        with calling(self, "records"):
            given = list(self.records(split))
        return RecordsInMemory(self, split, names, given)


def open_records(examples: Examples, split: Split, names: Names, manual_dir: str | None) -> Records:
    """Examples found, checked and, where need be, built.

    Raises:
        ConfigError: they are missing, empty, or lack a name; or a user's class does not give records.
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
    """Records of a split, checked for the names that are read."""

    def __init__(self, examples: ExamplesInMemory, split: Split, names: Names, given: Sequence[Any]) -> None:
        expect(len(given) > 0, examples, "records", f"of {split} gave no record")
        self.name = f"{examples.label} ({split})"
        where = f"{place(type(examples), 'records')}record {{}} of {self.name}"
        self._records = [checked_record(record, names, where.format(number)) for number, record in enumerate(given, 1)]
        self.identity = identity_of(self._records)

    def __len__(self) -> int:
        return len(self._records)

    def read(self, indices: Sequence[int]) -> list[TextRecord]:
        return [self._records[index] for index in indices]


def identity_of(values: Iterable[Any]) -> str:
    """A digest of values that JSON can hold, in their order."""
    whole = hashlib.sha256()
    for value in values:
        whole.update(json.dumps(value).encode() + b"\n")
    return digest([FORMAT, whole.hexdigest()])


def checked_record(record: Any, names: Names, where: str) -> TextRecord:
    """The texts of a user's record under the names that are read. Raises ConfigError where it lacks one."""
    require(isinstance(record, Mapping), f"{where} is {type(record).__name__}: it must be a dictionary of texts.")
    missing = [name for name in names.all if name not in record]
    if missing:
        there = ", ".join(map(repr, record)) or "none"
        raise ConfigError(f'{where} has no "{missing[0]}": its names are {there}.')
    texts = {name: checked_texts(record[name], where, name) for name in names.all}
    check(texts, names, where)
    return texts


def checked_texts(value: Any, where: str, name: str) -> tuple[str, ...]:
    """One text or several, as a tuple. Raises ConfigError for anything else."""
    texts = tuple(value) if isinstance(value, list | tuple) else (value,)
    for text in texts:
        if not isinstance(text, str):
            kind = type(text).__name__
            raise ConfigError(f'{where} has {kind} as "{name}": it must be text or a list of texts.')
        require(is_unicode(text), f'{where} has half of a surrogate pair in "{name}": UTF-8 cannot hold it.')
    return texts


def check(record: TextRecord, names: Names, where: str) -> str:
    """Return the source's text, by which a record is held out. Raises ConfigError where a side is empty."""
    for side, read in (("source", names.source), ("target", names.target)):
        firsts = [text for name in read for text in record[name][:1]]
        told = " and ".join(f'"{name}"' for name in read)
        require(any(map(str.strip, firsts)), f"{where} has an empty {side} ({told}).")
    for name in names.all:
        require(len(record[name]) > 0, f'{where} has an empty list as "{name}".')
    for name in names.target:
        require(all(map(str.strip, record[name])), f'{where} has an empty text among those of "{name}".')
    return source_text(record, names)


def source_text(record: TextRecord, names: Names) -> str:
    """The text by whose hash a record is held out."""
    return "\n".join(text for name in names.source for text in record[name])


def require_names(names: Names, there: Iterable[str], owner: str) -> None:
    """Raise ConfigError where a name that is read is none of those that `owner` has."""
    there = tuple(there)
    for name in names.all:
        require(name in there, f'{owner} has no "{name}": it has {", ".join(there)}.')
