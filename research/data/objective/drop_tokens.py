"""T5's dropping of corrupted tokens (arXiv:1910.10683, 3.3.2; drop_noise_tokens).

    raw      Thank you for inviting me to your party last week
    inputs   Thank you me to your party week EOS
    targets  for inviting last EOS

How many tokens a row drops varies. Both sides are as wide as all rows but one in 1e9 need, and padded.
"""

import numpy as np
from jaxtyping import Bool, UInt

from research.data.batch import Batch
from research.data.objective.iid import is_kept, most, noise_masks
from research.data.objective.rows import Array, Lengths, batch_of, kept, raw_for
from research.data.tokenizer import Tokenizer


def lengths(noise_density: float, input_length: int, controls: int) -> Lengths:
    """Rows as T5's: the text that would fill the encoder if none were dropped. ConfigError without room for any."""
    raw = raw_for(input_length, controls)
    longest, most_dropped = most(raw, noise_density, is_kept), most(raw, 1 - noise_density, is_kept)
    return Lengths(raw, longest + controls, most_dropped + controls)


def corrupt(
    tokens: UInt[Array, "n raw"],
    noise_density: float,
    lengths: Lengths,
    tokenizer: Tokenizer,
    language: str | None,
    rng: np.random.Generator,
) -> Batch:
    rows, raw = tokens.shape
    controls = sum(map(len, tokenizer.frame(language)))

    def fits(is_noise: Bool[Array, "n raw"]) -> Bool[Array, " n"]:
        dropped = is_noise.sum(axis=1)
        return (raw - dropped <= lengths.inputs - controls) & (dropped <= lengths.targets - controls)

    is_noise = noise_masks(rows, raw, noise_density, rng, fits)
    return batch_of(rows, kept(tokens, ~is_noise), kept(tokens, is_noise), lengths, tokenizer, language)
