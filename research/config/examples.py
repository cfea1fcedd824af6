"""The base of examples: records of named texts, read by index, from which tasks make examples."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol, runtime_checkable

from research.config.parts import Part

Split = Literal["train", "held_out", "test"]
SPLITS: tuple[Split, ...] = ("train", "held_out", "test")
TextRecord = Mapping[str, tuple[str, ...]]  # the texts of each name: one, or all of a list


class Names(NamedTuple):
    """The names that a task reads from a record, for its source and for its targets.

    If examples are held out by a hash, it is of the source's texts.
    """

    source: tuple[str, ...]
    target: tuple[str, ...]

    @property
    def all(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(self.source + self.target))


@runtime_checkable
class Records(Protocol):
    """An open split of examples. Equal identities mean equal records in equal order."""

    name: str
    identity: str

    def __len__(self) -> int: ...

    def read(self, indices: Sequence[int]) -> list[TextRecord]:
        """Read the records at these indices. Raise ConfigError for a record that cannot be read."""


@dataclass(frozen=True)
class Examples(Part):
    """A source of records: texts by name, such as a question and its answers, in up to three splits.

    If a split fits in memory, subclass `ExamplesInMemory`, which needs all records of a split as a list; its docstring
    has an example. Otherwise subclass this class, in a frozen dataclass with `open`.
    """

    @property
    def label(self) -> str:
        """The prefix of metric names if there are several tasks: "multi30k" of "multi30k/bleu"."""
        return type(self).__name__

    @property
    def splits(self) -> tuple[Split, ...]:
        """The splits that are read if there are several tasks: a task without "train" is not trained on."""
        return SPLITS

    @abstractmethod
    def open(self, split: Split, names: Names, manual_dir: str | None) -> Records:
        """Open a split. `manual_dir` is `data.manual_dir`, a directory of files that cannot be downloaded.

        The identity must depend on all that determines the texts of these names, because their tokens are cached.

        Raises:
            ConfigError: the split is missing, empty or unreadable, or lacks a name.
        """
