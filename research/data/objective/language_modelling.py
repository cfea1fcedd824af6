"""Language modelling with an empty encoder input (arXiv:1910.10683, 3.2.2).

raw      Thank you for inviting me
inputs   EOS
targets  Thank you for inviting me EOS
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt

from research.config.objective import Lengths, Objective
from research.data.batch import Batch
from research.data.objective.rows import Array, batch_of, full_rows, raw_for
from research.data.tokenizer import Tokenizer


@dataclass(frozen=True)
class LanguageModelling(Objective):
    """Read nothing and predict the whole row (arXiv:1910.10683, 3.2.2)."""

    def lengths(self, input_length: int, num_special_tokens: int = 1) -> Lengths:
        """Give the decoder `input_length` tokens, and the encoder only its special tokens."""
        return Lengths(raw_for(input_length, num_special_tokens), num_special_tokens, input_length)

    def corrupt(
        self,
        tokens: UInt[Array, "n raw"],
        lengths: Lengths,
        tokenizer: Tokenizer,
        rng: np.random.Generator,
        language: str | None = None,
    ) -> Batch:
        return batch_of(len(tokens), full_rows(tokens[:, :0]), full_rows(tokens), lengths, tokenizer, language)
