"""Rows by number, whatever they are made of: what a pipeline mixes, shuffles and cuts into batches."""

from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int64

from research.data.batch import Batch
from research.data.tokenizer import Tokenizer


@runtime_checkable
class Source(Protocol):
    """One split of a corpus under an objective, or of a task's examples packed into rows."""

    name: str
    digest: str  # of its text: equal digests, config and random numbers mean equal rows
    inputs: int  # encoder tokens a row
    targets: int  # decoder tokens a row
    raw: int  # tokens of text that a row is made of; where rows differ, their mean

    def __len__(self) -> int: ...

    def __call__(self, rows: Int64[np.ndarray, " n"], rng: np.random.Generator) -> Batch:
        """Those rows, in that order; everything random comes from `rng`."""
        ...


class Prepared(NamedTuple):
    """What a data config has become: everything found, built and checked."""

    tokenizer: Tokenizer
    train: tuple[Source, ...]
    held_out: tuple[Source, ...]
    weights: tuple[int, ...]  # in which the training sources are mixed
    fingerprint: dict[str, str | int]  # an entry for everything in the config that decides the batches
    notes: tuple[str, ...] = ()  # how the training sources came to be, for the launch summary
