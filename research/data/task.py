"""Supervised tasks as examples by index: what is read, what is to be written, and what that is scored against."""

from typing import Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int64

from research.config import Task

Split = Literal["train", "held_out", "test"]


class Example(NamedTuple):
    source: str  # the prefix included
    target: str  # what is learned
    references: tuple[str, ...]  # what an output is scored against; the target among them


@runtime_checkable
class TaskExamples(Protocol):
    """One split of a task. Equal identities mean equal examples in equal order."""

    name: str
    identity: str

    def __len__(self) -> int: ...

    def read(self, indices: Int64[np.ndarray, " n"]) -> list[Example]: ...


def open_task(task: Task, split: Split, manual_dir: str | None = None) -> TaskExamples:
    raise NotImplementedError
