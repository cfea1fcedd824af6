"""T5's prefix LM (arXiv:1910.10683, 3.2.3; random_prefix_noise_mask in t5/data/preprocessors.py).

raw      Thank you for inviting me to your party last week
inputs   Thank you for inviting EOS
targets  me to your party last week EOS
"""

import numpy as np
from jaxtyping import UInt

from research.data.batch import Batch
from research.data.objective.rows import Lengths, batch_of, kept, raw_for
from research.data.tokenizer import Tokenizer

Array = np.ndarray


def lengths(noise_density: float, input_length: int, controls: int) -> Lengths:
    """The longest beginning fills the encoder. Raises ConfigError where there is no room for text."""
    raw = raw_for(input_length, controls) + 1
    return Lengths(raw, input_length, raw - shortest(noise_density, raw) + controls)


def shortest(noise_density: float, raw: int) -> int:
    """Tokens of the shortest beginning; the longest has raw - 1."""
    return min(raw - 1, max(1, round((1 - 2 * noise_density) * (raw - 1))))


def corrupt(
    tokens: UInt[Array, "n raw"],
    noise_density: float,
    lengths: Lengths,
    tokenizer: Tokenizer,
    language: str | None,
    rng: np.random.Generator,
) -> Batch:
    rows, raw = tokens.shape
    split = rng.integers(shortest(noise_density, raw), raw, size=rows)
    is_prefix = np.arange(raw) < np.reshape(split, (rows, 1))
    return batch_of(rows, kept(tokens, is_prefix), kept(tokens, ~is_prefix), lengths, tokenizer, language)
