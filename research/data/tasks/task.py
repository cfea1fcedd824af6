"""Examples of tasks, by index: each has a source, a target to learn, and the references for metrics."""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int64

from research.config import ConfigError, Task, require
from research.config.base import digest
from research.config.examples import Names, Records, Split, TextRecord
from research.config.parts import calling, expect, is_shipped, place
from research.config.task import Choices
from research.data.corpora.overlap import pieces_of
from research.data.tasks.records import check_record, identity_of, open_records
from research.storage import cache
from research.storage.lines import is_unicode
from research.storage.progress import Progress

FORMAT = 1  # increment when the same records would give other examples
AT_ONCE = 1024  # examples
SHOWN = 100  # characters of a value in an error message


class Example(NamedTuple):
    source: str  # including the prefix
    target: str  # the text to learn
    references: tuple[str, ...]  # texts that an output is scored against; the target is the first
    more: Mapping[str, str] = MappingProxyType({})  # what metrics need beside the references
    choices: Choices | None = None  # among which the answer can be ranked


@runtime_checkable
class TaskExamples(Protocol):
    """One split of a task. Equal identities mean equal examples in equal order."""

    name: str
    identity: str

    def __len__(self) -> int: ...

    def read(self, indices: Int64[np.ndarray, " n"]) -> list[Example]: ...


def open_task(task: Task, split: Split, manual_dir: str | None = None) -> TaskExamples:
    """Find and check the examples of a task, building them from the files in `manual_dir` if needed.

    Raises:
        ConfigError: they are missing, empty or lack a name that the task reads; or a user's class returns no examples.
    """
    with calling(task, "names"):
        names = task.names
    correct = isinstance(names, Names) and len(names.source) > 0 and len(names.target) > 0
    expect(correct, task, "names", f"returned {names!r}: it must be Names(source=(...), target=(...))")
    records = open_records(task.examples, split, names, manual_dir)
    if split == "train" and type(task).training_examples is not Task.training_examples:
        return TrainingExamples(task, records, names)
    return RecordsAsExamples(task, records, names)


class RecordsAsExamples:
    """The examples that a task makes of records."""

    def __init__(self, task: Task, records: Records, names: Names) -> None:
        self.name = records.name
        self._records, self._task, self._names = records, task, names
        self.pieces = pieces_of([records])
        self._unchecked = not is_shipped(type(records))
        self._made([0])  # fail early, before all examples are read
        decided = identity(task)
        made = identity_of(self._all()) if decided is None else None
        self.identity = digest([FORMAT, records.identity, *(decided or (made,))])

    def __len__(self) -> int:
        return len(self._records)

    def read(self, indices: Int64[np.ndarray, " n"]) -> list[Example]:
        return [example for made in self._made(indices.tolist()) for example in made]

    def _all(self) -> Iterator[tuple[str, str, tuple[str, ...]]]:
        """Yield the texts of all examples."""
        for made in self._made_of_each():
            yield from (example[:3] for example in made)

    def _made_of_each(self) -> Iterator[list[Example]]:
        """Yield the examples of each record."""
        count = len(self._records)
        with Progress(f"Making examples of {self.name}", count, "records") as progress:
            for start in range(0, count, AT_ONCE):
                made = self._made(range(start, min(start + AT_ONCE, count)))
                yield from made
                progress.advance(len(made))

    def _made(self, numbers: Sequence[int]) -> list[list[Example]]:
        """Return the examples of each of some records."""
        with calling(self._task.examples, "open"):
            records = self._records.read(numbers)
        return [self._made_of(number, record) for record, number in zip(records, numbers, strict=True)]

    def _made_of(self, number: int, record: Any) -> list[Example]:
        if self._unchecked:
            where = f"{place(type(self._task.examples))}record {number + 1} of {self.name}"
            record = check_record(record, self._names, where)
        choices = self._choices(record, number)
        return [self._as_example(made, number, choices) for made in self._convert(record)]

    def _convert(self, record: TextRecord) -> Sequence[Any]:
        with calling(self._task, "example"):
            return (self._task.example(record),)

    def _choices(self, record: TextRecord, number: int) -> Choices | None:
        """Return the choices of a record. Raises ConfigError for those of a user's task that cannot be ranked."""
        with calling(self._task, "choices"):
            given: Any = self._task.choices(record)
        if given is not None and not is_shipped(type(self._task)) and not _can_be_ranked(given):
            needed = "it must be Choices(texts, right), with one or more texts and their numbers, or None"
            raise self._wrong(number, f"returned {_shown(given)}: {needed}", "choices")
        return given

    def _as_example(self, made: Any, number: int, choices: Choices | None) -> Example:
        """Convert the result of a user's task. Raises ConfigError unless it is a source and targets, all non-empty
        text, and perhaps a dictionary of texts.
        """
        more: Mapping[Any, Any] = MappingProxyType({})
        match made:
            case (str(source), str() | [_, *_] as given):
                pass
            case (str(source), str() | [_, *_] as given, {**more}):
                pass
            case _:
                raise self._wrong(number, f"returned {_shown(made)}: it must be a source and one or more targets")
        targets: tuple[Any, ...] = (given,) if isinstance(given, str) else tuple(given)
        for text in (source, *targets, *more, *more.values()):
            if not isinstance(text, str) or not is_unicode(text):
                raise self._wrong(number, f"gave {_shown(text)}: it must be text that UTF-8 can represent")
        for text in () if is_shipped(type(self._task)) else (source, *targets):
            if not text.strip():
                raise self._wrong(number, "gave an empty text: the examples must leave such records out")
        return Example(source, targets[0], targets, more, choices)

    def _wrong(self, number: int, reason: str, method: str = "example") -> ConfigError:
        task = type(self._task)
        where = f"of record {number + 1} of {self.name}"
        return ConfigError(f"{place(task, method)}{task.__name__}.{method} {where} {reason}.")


class TrainingExamples(RecordsAsExamples):
    """The examples that a task makes of records of the training split, any number of each."""

    def __init__(self, task: Task, records: Records, names: Names) -> None:
        super().__init__(task, records, names)
        self.identity = digest(["training", self.identity])
        self._starts = np.load(cache.entry("training", self.identity, self._count) / "starts.npy")
        require(len(self) > 0, f"{type(task).__name__} makes no training example of {self.name}.")

    def __len__(self) -> int:
        return int(self._starts[-1])

    def read(self, indices: Int64[np.ndarray, " n"]) -> list[Example]:
        rows = np.searchsorted(self._starts, indices, side="right") - 1
        needed, places = np.unique(rows, return_inverse=True)
        made = self._made(needed.tolist())
        within = (indices - self._starts[rows]).tolist()
        return [made[place][number] for place, number in zip(places.tolist(), within, strict=True)]

    def _convert(self, record: TextRecord) -> Sequence[Any]:
        with calling(self._task, "training_examples"):
            return tuple(self._task.training_examples(record))

    def _count(self, folder: Path) -> None:
        """Write the index of the first example of each record, and the number of all examples."""
        counts = [len(made) for made in self._made_of_each()]
        np.save(folder / "starts.npy", np.cumsum([0, *counts], dtype=np.int64))


def _can_be_ranked(given: Any) -> bool:
    """Tell whether a user's choices are texts, with the numbers of the right ones and a weight."""
    if not isinstance(given, Choices) or not all(isinstance(part, tuple | list) for part in given[:2]):
        return False
    texts, right, weight = given
    known = all(isinstance(text, str) and is_unicode(text) for text in texts) and len(texts) > 0
    numbers = all(type(number) is int and 0 <= number < len(texts) for number in right)
    return known and numbers and isinstance(weight, int | float) and math.isfinite(weight) and weight >= 0


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


def identity(task: Task) -> tuple[str, ...] | None:
    """Return the settings that determine what a task makes of a record, or None if they are unknown.

    They come from the class that makes the examples: a user's class does not inherit them from a shipped one.
    """
    for cls in type(task).__mro__:
        if "identity" in vars(cls):
            with calling(task, "identity"):
                return task.identity
        if not is_shipped(cls):
            return None
    return None
