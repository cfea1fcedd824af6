"""T5's BERT-style and MASS-style denoising (arXiv:1910.10683, 3.3.1 and 3.3.2).

Follows T5's noise_token_to_random_token_or_sentinel.

    raw      Thank you for inviting me to your party last week
    inputs   Thank you <M> <M> me to your apple last week EOS
    targets  Thank you for inviting me to your party last week EOS

Each token is noise independently of the others.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt

from research.config.objective import Lengths, Objective
from research.data.batch import Batch
from research.data.objective.rows import (
    Array,
    batch_of,
    full_rows,
    mask_of,
    masks_or_random,
    raw_for,
    require_density,
    require_share,
)
from research.data.tokenizer import Tokenizer


@dataclass(frozen=True)
class Masked(Objective):
    """The base of both objectives: each token is noise independently, and the target is the whole text."""

    noise_density: float = 0.15

    def __post_init__(self) -> None:
        require_density(self.noise_density)
        require_share("random_tokens", self.random_share)

    @property
    def random_share(self) -> float:
        """Share of the noise that becomes a random token instead of the mask."""
        return 0.0

    def lengths(self, input_length: int, num_special_tokens: int = 1) -> Lengths:
        return Lengths(raw_for(input_length, num_special_tokens), input_length, input_length)

    def check(self, lengths: Lengths, tokenizer: Tokenizer, language: str | None = None) -> None:
        mask_of(tokenizer)

    def corrupt(
        self,
        tokens: UInt[Array, "n raw"],
        lengths: Lengths,
        tokenizer: Tokenizer,
        rng: np.random.Generator,
        language: str | None = None,
    ) -> Batch:
        is_noise = rng.random(tokens.shape, np.float32) < self.noise_density
        masked = tokens.copy()
        masked[is_noise] = masks_or_random(int(is_noise.sum()), self.random_share, tokenizer, rng)
        return batch_of(len(tokens), full_rows(masked), full_rows(tokens), lengths, tokenizer, language)


@dataclass(frozen=True)
class BERTStyle(Masked):
    """Replace each noise token by the mask or a random token; the target is the whole text.

    Each token is noise independently. arXiv:1910.10683, 3.3.1, after BERT (arXiv:1810.04805).
    """

    random_tokens: float = 0.1  # share of the noise that becomes a random token

    @property
    def random_share(self) -> float:
        return self.random_tokens


@dataclass(frozen=True)
class MASSStyle(Masked):
    """BERT-style denoising in which all noise becomes the mask (arXiv:1910.10683, 3.3.2).

    After MASS (arXiv:1905.02450).
    """
