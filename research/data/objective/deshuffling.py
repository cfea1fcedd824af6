"""T5's deshuffling (arXiv:1910.10683, 3.3.1): the tokens of a row in random order are to be put in their own.

raw      Thank you for inviting me
inputs   me for Thank inviting you EOS
targets  Thank you for inviting me EOS
"""

import numpy as np
from jaxtyping import UInt

from research.data.batch import Batch
from research.data.objective.rows import Array, Lengths, batch_of, raw_for, whole
from research.data.tokenizer import Tokenizer


def lengths(input_length: int, controls: int) -> Lengths:
    """Raises ConfigError where there is no room for text."""
    return Lengths(raw_for(input_length, controls), input_length, input_length)


def corrupt(
    tokens: UInt[Array, "n raw"],
    lengths: Lengths,
    tokenizer: Tokenizer,
    language: str | None,
    rng: np.random.Generator,
) -> Batch:
    return batch_of(len(tokens), whole(rng.permuted(tokens, axis=1)), whole(tokens), lengths, tokenizer, language)
