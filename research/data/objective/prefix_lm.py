"""T5's prefix LM (arXiv:1910.10683, 3.2.3; random_prefix_noise_mask in t5/data/preprocessors.py).

raw      Thank you for inviting me to your party last week
inputs   Thank you for inviting EOS
targets  me to your party last week EOS
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt

from research.config.objective import Lengths, Objective
from research.data.batch import Batch
from research.data.objective.rows import Array, batch_of, raw_for, require_density, select_tokens
from research.data.tokenizer import Tokenizer


@dataclass(frozen=True)
class PrefixLM(Objective):
    """Read a prefix of the row and predict the rest (arXiv:1910.10683, 3.2.3).

    The target is a share of the row, drawn uniformly from 0 to twice the density; neither side is ever empty.
    """

    noise_density: float = 0.5

    def __post_init__(self) -> None:
        require_density(self.noise_density, most=0.5)

    def lengths(self, input_length: int, num_special_tokens: int = 1) -> Lengths:
        """Size rows such that the longest prefix fills the encoder."""
        raw = raw_for(input_length, num_special_tokens) + 1
        return Lengths(raw, input_length, raw - self.shortest(raw) + num_special_tokens)

    def shortest(self, raw: int) -> int:
        """Return the length of the shortest prefix; the longest prefix has raw - 1 tokens."""
        return min(raw - 1, max(1, round((1 - 2 * self.noise_density) * (raw - 1))))

    def corrupt(
        self,
        tokens: UInt[Array, "n raw"],
        lengths: Lengths,
        tokenizer: Tokenizer,
        rng: np.random.Generator,
        language: str | None = None,
    ) -> Batch:
        rows, raw = tokens.shape
        split = rng.integers(self.shortest(raw), raw, size=rows)
        is_prefix = np.arange(raw) < np.reshape(split, (rows, 1))
        return batch_of(
            rows, select_tokens(tokens, is_prefix), select_tokens(tokens, ~is_prefix), lengths, tokenizer, language
        )
