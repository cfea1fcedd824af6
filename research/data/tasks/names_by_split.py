"""Examples whose splits differ: in the names of their texts, or in where they come from."""

from collections.abc import Sequence
from dataclasses import dataclass

from research.config import ConfigError, Examples, require
from research.config.base import digest
from research.config.examples import Names, Records, Split, TextRecord
from research.data.corpora.overlap import pieces_of
from research.data.tasks.records import open_records, read_checked


@dataclass(frozen=True)
class NamesBySplit(Examples):
    """Examples that have the texts of `name` under other names in a split; all of several are references.

    For example, with one summary for training and three references for the test:

        NamesBySplit(
            JSONExamples("train.jsonl", "dev.jsonl", "test.jsonl"),
            "summary",
            test=("summary1", "summary2", "summary3"),
        )
    """

    examples: Examples
    name: str  # that the task reads
    train: tuple[str, ...] = ()  # names in that split; none: `name`
    held_out: tuple[str, ...] = ()
    test: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        return self.examples.label

    @property
    def splits(self) -> tuple[Split, ...]:
        return self.examples.splits

    def names_in(self, split: Split) -> tuple[str, ...]:
        return {"train": self.train, "held_out": self.held_out, "test": self.test}[split] or (self.name,)

    def open(self, split: Split, names: Names, manual_dir: str | None) -> Records:
        require(self.name in names.all, f'NamesBySplit names "{self.name}", but the task reads {", ".join(names.all)}.')
        return RenamedRecords(self, split, names, manual_dir)


@dataclass(frozen=True, kw_only=True)
class BySplit(Examples):
    """Examples with a source for each split, such as WMT17 for training and WMT14's test set.

        BySplit(
            train=TFDSExamples("wmt17_translate/de-en"),
            held_out=TFDSExamples("wmt14_translate/de-en"),
            test=TFDSExamples("wmt14_translate/de-en"),
        )

    Of each source, the split of the same kind is read.
    """

    train: Examples
    held_out: Examples
    test: Examples | None = None  # None: there is no test

    @property
    def label(self) -> str:
        return self.train.label

    def open(self, split: Split, names: Names, manual_dir: str | None) -> Records:
        source = {"train": self.train, "held_out": self.held_out, "test": self.test}[split]
        if source is None:
            raise ConfigError("BySplit has no test: give it examples for one.")
        return open_records(source, split, names, manual_dir)


class RenamedRecords:
    """The records of a split, with the texts of several names under one."""

    def __init__(self, examples: NamesBySplit, split: Split, names: Names, manual_dir: str | None) -> None:
        self._name, self._stored_names, self._names = examples.name, examples.names_in(split), names
        self._stored = Names(self._stored_in(names.source), self._stored_in(names.target))
        self._records = open_records(examples.examples, split, self._stored, manual_dir)
        self.name = self._records.name
        self.pieces = pieces_of([self._records])
        self.identity = digest([self._records.identity, self._name, self._stored_names])

    def _stored_in(self, names: tuple[str, ...]) -> tuple[str, ...]:
        every = [stored for name in names for stored in (self._stored_names if name == self._name else (name,))]
        return tuple(dict.fromkeys(every))

    def __len__(self) -> int:
        return len(self._records)

    def read(self, indices: Sequence[int]) -> list[TextRecord]:
        return [self._renamed(record) for record in read_checked(self._records, self._stored, indices)]

    def _renamed(self, record: TextRecord) -> TextRecord:
        texts = tuple(text for stored in self._stored_names for text in record[stored])
        return {name: texts if name == self._name else record[name] for name in self._names.all}
