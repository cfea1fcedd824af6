"""Sources of numbered rows, independent of their origin. A pipeline mixes, shuffles and batches them."""

from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int64

from research.data.batch import Batch
from research.data.tokenizer import Tokenizer


@runtime_checkable
class Source(Protocol):
    """One split of a corpus under an objective, or of a task's examples packed into rows."""

    name: str
    digest: str  # of the text: with equal digests, configs and random numbers, the rows are equal
    inputs: int  # encoder tokens per row
    targets: int  # decoder tokens per row
    raw: int  # tokens of text per row; the mean if rows differ

    def __len__(self) -> int: ...

    def __call__(self, rows: Int64[np.ndarray, " n"], rng: np.random.Generator) -> Batch:
        """Return the given rows, in the given order. All randomness comes from `rng`."""
        ...


class PreparedData(NamedTuple):
    """The built and checked contents of a data config."""

    tokenizer: Tokenizer
    train: tuple[Source, ...]
    held_out: tuple[Source, ...]
    weights: tuple[int, ...]  # mixing weights of the training sources
    fingerprint: dict[str, str | int]  # one entry for each part of the config that affects the batches
    notes: tuple[str, ...] = ()  # descriptions of the training sources, for the launch summary
