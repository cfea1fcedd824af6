"""T5's dropping of corrupted tokens (arXiv:1910.10683, 3.3.2; drop_noise_tokens).

    raw      Thank you for inviting me to your party last week
    inputs   Thank you me to your party week EOS
    targets  for inviting last EOS

The number of dropped tokens varies by row. Both sides are wide enough for all rows but one in 1e9, and padded.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, UInt

from research.config.objective import Lengths, Objective
from research.data.batch import Batch
from research.data.objective.iid import is_kept, most, noise_masks
from research.data.objective.rows import Array, batch_of, raw_for, require_density, select_tokens
from research.data.tokenizer import Tokenizer


@dataclass(frozen=True)
class DropTokens(Objective):
    """Drop each token independently; the target lists the dropped tokens (arXiv:1910.10683, 3.3.2)."""

    noise_density: float = 0.15

    def __post_init__(self) -> None:
        require_density(self.noise_density)

    def lengths(self, input_length: int, num_special_tokens: int = 1) -> Lengths:
        """Size rows as T5 does: the raw text would fill the encoder if no token were dropped."""
        raw = raw_for(input_length, num_special_tokens)
        longest, most_dropped = most(raw, self.noise_density, is_kept), most(raw, 1 - self.noise_density, is_kept)
        return Lengths(raw, longest + num_special_tokens, most_dropped + num_special_tokens)

    def corrupt(
        self,
        tokens: UInt[Array, "n raw"],
        lengths: Lengths,
        tokenizer: Tokenizer,
        rng: np.random.Generator,
        language: str | None = None,
    ) -> Batch:
        rows, raw = tokens.shape
        num_special_tokens = sum(map(len, tokenizer.special_tokens(language)))

        def fits(is_noise: Bool[Array, "n raw"]) -> Bool[Array, " n"]:
            dropped = is_noise.sum(axis=1)
            return (raw - dropped <= lengths.inputs - num_special_tokens) & (
                dropped <= lengths.targets - num_special_tokens
            )

        is_noise = noise_masks(rows, raw, self.noise_density, rng, fits)
        return batch_of(
            rows, select_tokens(tokens, ~is_noise), select_tokens(tokens, is_noise), lengths, tokenizer, language
        )
