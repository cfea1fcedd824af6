"""The base of examples: records of named texts that tasks read, by index."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol, runtime_checkable

from research.config.parts import Part

Split = Literal["train", "held_out", "test"]
TextRecord = Mapping[str, tuple[str, ...]]  # the texts under each name: one, or as many as a list there has


class Names(NamedTuple):
    """The names that a task reads of a record: those whose texts make the source, and those that make the targets.

    Examples that are held out by a hash are held out by the texts of the source.
    """

    source: tuple[str, ...]
    target: tuple[str, ...]

    @property
    def all(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(self.source + self.target))


@runtime_checkable
class Records(Protocol):
    """One split of some examples, opened. Equal identities mean equal records in equal order."""

    name: str
    identity: str

    def __len__(self) -> int: ...

    def read(self, indices: Sequence[int]) -> list[TextRecord]:
        """The records at these indices. Raises ConfigError for one that cannot be read."""


@dataclass(frozen=True)
class Examples(Part):
    """A source of records: texts by name, such as a question and its answers, in up to three splits.

    For what fits in memory subclass `ExamplesInMemory`, which asks for all records of a split at once; it has an
    example. For anything larger subclass this one, in a frozen dataclass with `open`.
    """

    @property
    def label(self) -> str:
        """The prefix of the names of its numbers where there are several tasks: "multi30k" of "multi30k/bleu"."""
        return type(self).__name__

    @abstractmethod
    def open(self, split: Split, names: Names, manual_dir: str | None) -> Records:
        """A split by index. `manual_dir` is `data.manual_dir`, where files lie that cannot be downloaded.

        Its identity must follow everything that decides the texts under these names, since tokens of it are kept.

        Raises:
            ConfigError: there is no such split; it is empty, or lacks a name; or it cannot be read.
        """
