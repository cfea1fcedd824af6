"""The denoisers, one file each, behind two functions; what an objective is, is its config."""

import numpy as np
from jaxtyping import UInt

from research.config import SpanCorruption
from research.data.batch import Batch
from research.data.objective import span_corruption
from research.data.objective.span_corruption import Lengths, require_sentinels
from research.data.tokenizer import Tokenizer

__all__ = ["Lengths", "corrupt", "lengths", "require_sentinels"]


def lengths(objective: SpanCorruption, input_length: int) -> Lengths:
    """Tokens a row before and after corruption, such that the encoder's inputs are `input_length` long."""
    match objective:
        case SpanCorruption():
            return span_corruption.lengths(objective, input_length)


def corrupt(
    tokens: UInt[np.ndarray, "n raw"],
    objective: SpanCorruption,
    lengths: Lengths,
    tokenizer: Tokenizer,
    rng: np.random.Generator,
) -> Batch:
    """A block of raw rows -> a Batch of as many rows; everything random comes from `rng`."""
    match objective:
        case SpanCorruption():
            return span_corruption.corrupt(tokens, lengths, tokenizer, rng)
