"""T5's deshuffling (arXiv:1910.10683, 3.3.1): restore the order of a row's shuffled tokens.

raw      Thank you for inviting me
inputs   me for Thank inviting you EOS
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
class Deshuffling(Objective):
    """Shuffle the tokens of a row; the target is the original row (arXiv:1910.10683, 3.3.1)."""

    def lengths(self, input_length: int, num_special_tokens: int = 1) -> Lengths:
        return Lengths(raw_for(input_length, num_special_tokens), input_length, input_length)

    def corrupt(
        self,
        tokens: UInt[Array, "n raw"],
        lengths: Lengths,
        tokenizer: Tokenizer,
        rng: np.random.Generator,
        language: str | None = None,
    ) -> Batch:
        shuffled = rng.permuted(tokens, axis=1)
        return batch_of(len(tokens), full_rows(shuffled), full_rows(tokens), lengths, tokenizer, language)
