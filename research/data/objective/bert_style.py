"""T5's BERT-style and MASS-style denoising (arXiv:1910.10683, 3.3.1 and 3.3.2; its
noise_token_to_random_token_or_sentinel).

    raw      Thank you for inviting me to your party last week
    inputs   Thank you <M> <M> me to your apple last week EOS
    targets  Thank you for inviting me to your party last week EOS

Each token is noise by a draw of its own, whatever the others are.
"""

import numpy as np
from jaxtyping import UInt

from research.data.batch import Batch
from research.data.objective.rows import Array, Lengths, batch_of, masks_or_random, raw_for, whole
from research.data.tokenizer import Tokenizer


def lengths(input_length: int, controls: int) -> Lengths:
    """Raises ConfigError where there is no room for text."""
    return Lengths(raw_for(input_length, controls), input_length, input_length)


def corrupt(
    tokens: UInt[Array, "n raw"],
    noise_density: float,
    random_tokens: float,
    lengths: Lengths,
    tokenizer: Tokenizer,
    language: str | None,
    rng: np.random.Generator,
) -> Batch:
    is_noise = rng.random(tokens.shape, np.float32) < noise_density
    broken = tokens.copy()
    broken[is_noise] = masks_or_random(int(is_noise.sum()), random_tokens, tokenizer, rng)
    return batch_of(len(tokens), whole(broken), whole(tokens), lengths, tokenizer, language)
