"""Examples of tasks, by index: each has a source, a target to learn, and the references for metrics."""

from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int64

from research.config import ConfigError, Task
from research.config.base import digest
from research.config.examples import Names, Records, Split
from research.config.parts import calling, expect, is_shipped, place
from research.data.corpora.overlap import pieces_of
from research.data.tasks.records import check_record, identity_of, open_records
from research.storage.lines import is_unicode
from research.storage.progress import Progress

FORMAT = 1  # increment when the same records would give other examples
AT_ONCE = 1024  # examples
SHOWN = 100  # characters of a value in an error message


class Example(NamedTuple):
    source: str  # including the prefix
    target: str  # the text to learn
    references: tuple[str, ...]  # texts that an output is scored against; the target is the first


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
    return RecordsAsExamples(task, open_records(task.examples, split, names, manual_dir), names)


class RecordsAsExamples:
    """The examples that a task makes of records."""

    def __init__(self, task: Task, records: Records, names: Names) -> None:
        self.name = records.name
        self._records, self._task, self._names = records, task, names
        self.pieces = pieces_of([records])
        self._unchecked = not is_shipped(type(records))
        self.read(np.array([0]))  # fail early, before all examples are read
        decided = identity(task)
        made = identity_of(self._all()) if decided is None else None
        self.identity = digest([FORMAT, records.identity, *(decided or (made,))])

    def __len__(self) -> int:
        return len(self._records)

    def read(self, indices: Int64[np.ndarray, " n"]) -> list[Example]:
        numbers = indices.tolist()
        with calling(self._task.examples, "open"):
            records = self._records.read(numbers)
        return [self._example(record, number) for record, number in zip(records, numbers, strict=True)]

    def _all(self) -> Iterator[Example]:
        with Progress(f"Making examples of {self.name}", len(self), "examples") as progress:
            for start in range(0, len(self), AT_ONCE):
                made = self.read(np.arange(start, min(start + AT_ONCE, len(self))))
                yield from made
                progress.advance(len(made))

    def _example(self, record: Any, number: int) -> Example:
        if self._unchecked:
            where = f"{place(type(self._task.examples))}record {number + 1} of {self.name}"
            record = check_record(record, self._names, where)
        with calling(self._task, "example"):
            made = self._task.example(record)
        return self._as_example(made, number)

    def _as_example(self, made: Any, number: int) -> Example:
        """Convert the result of a user's task. Raises ConfigError unless it is a source and targets, all non-empty
        text.
        """
        match made:
            case (str(source), str(target)):
                targets: tuple[Any, ...] = (target,)
            case (str(source), [_, *_] as several):
                targets = tuple(several)
            case _:
                raise self._wrong(number, f"returned {_shown(made)}: it must be a source and one or more targets")
        for text in (source, *targets):
            if not isinstance(text, str) or not is_unicode(text):
                raise self._wrong(number, f"gave {_shown(text)}: it must be text that UTF-8 can represent")
            if not text.strip() and not is_shipped(type(self._task)):
                raise self._wrong(number, "gave an empty text: the examples must leave such records out")
        return Example(source, targets[0], targets)

    def _wrong(self, number: int, reason: str) -> ConfigError:
        task = type(self._task)
        where = f"of record {number + 1} of {self.name}"
        return ConfigError(f"{place(task, 'example')}{task.__name__}.example {where} {reason}.")


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
