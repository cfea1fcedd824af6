"""BART's denoising (arXiv:1910.13461, 2.2), as fairseq's denoising_dataset.py does it, a block of rows at once.

    raw      The cat sat . It was happy .
    inputs   <s> It <mask> . The cat sat . </s>
    targets  <s> The cat sat . It was happy . </s>

The target is the row in the tokenizer's frame, full and never padded. How much of a row is left depends on how many
tokens its words have, which nothing bounds; so the encoder is as wide as the row was, and padded, unless every row
keeps as much as the others. Text infilling as released leaves 80% of a row. An insertion that would make a row longer
than it was is left out: rows of 510 tokens would have to be 20 standard deviations longer than they are, rows of 126
10, rows of 62 six.
"""

import math

import numpy as np
from jaxtyping import UInt

from research.config import BART, TextInfilling, TokenDeletion, TokenMasking
from research.data.batch import Batch
from research.data.objective.rows import Lengths, Rows, batch_of, mask_of, raw_for, whole
from research.data.objective.sentences import permute_sentences, rotate, sentence_ends
from research.data.objective.words import hide_words
from research.data.tokenizer import Tokenizer

Array = np.ndarray


def lengths(objective: BART, input_length: int, controls: int) -> Lengths:
    """Raises ConfigError where there is no room for text."""
    raw = raw_for(input_length, controls)
    match objective.corruption:
        case TokenDeletion(noise_density=density, whole_words=False):
            left = raw - math.ceil(np.float32(raw) * np.float32(density))
        case _:
            left = raw
    return Lengths(raw, left + controls, input_length)


def check(objective: BART, tokenizer: Tokenizer) -> None:
    """Raises ConfigError where the tokenizer lacks what the objective needs."""
    if isinstance(objective.corruption, TokenMasking | TextInfilling):
        mask_of(tokenizer)
    if objective.permute_sentences:
        sentence_ends(objective.sentence_ends, tokenizer)


def corrupt(
    tokens: UInt[Array, "n raw"],
    objective: BART,
    lengths: Lengths,
    tokenizer: Tokenizer,
    language: str | None,
    rng: np.random.Generator,
) -> Batch:
    source = tokens
    if objective.permute_sentences:
        is_end = sentence_ends(objective.sentence_ends, tokenizer)
        source = permute_sentences(tokens, is_end, objective.permute_sentences, rng)
    rows = whole(source)
    if objective.corruption is not None:
        rows = hide_words(source, objective.corruption, language not in objective.unspaced, tokenizer, rng)
    if objective.rotate:
        rows = rotate(rows, objective.rotate, len(tokens), rng)
    if keeps_lengths(objective):
        rows = Rows(rows.tokens, None)
    return batch_of(len(tokens), rows, whole(tokens), lengths, tokenizer, language)


def keeps_lengths(objective: BART) -> bool:
    """Whether all rows are equally long when they are broken."""
    match objective.corruption:
        case None | TokenMasking(whole_words=False) | TokenDeletion(whole_words=False):
            return True
    return False
