"""Language modelling with an encoder that is given nothing (arXiv:1910.10683, 3.2.2).

raw      Thank you for inviting me
inputs   EOS
targets  Thank you for inviting me EOS
"""

from jaxtyping import UInt

from research.data.batch import Batch
from research.data.objective.rows import Array, Lengths, batch_of, raw_for, whole
from research.data.tokenizer import Tokenizer


def lengths(input_length: int, controls: int) -> Lengths:
    """The decoder has `input_length` tokens, the encoder its controls. Raises ConfigError without room for text."""
    return Lengths(raw_for(input_length, controls), controls, input_length)


def corrupt(tokens: UInt[Array, "n raw"], lengths: Lengths, tokenizer: Tokenizer, language: str | None) -> Batch:
    return batch_of(len(tokens), whole(tokens[:, :0]), whole(tokens), lengths, tokenizer, language)
