"""BART's denoising (arXiv:1910.13461, 2.2) as in fairseq's denoising_dataset.py, applied to a block of rows at once.

    raw      The cat sat . It was happy .
    inputs   <s> It <mask> . The cat sat . </s>
    targets  <s> The cat sat . It was happy . </s>

The target is the row with the tokenizer's special tokens, full and never padded. The number of tokens that remain in
the input depends on the number of tokens per word, which is unbounded; so the encoder is as wide as the raw row, and
padded, unless every row keeps the same number of tokens. Text infilling as released leaves 80% of a row. An insertion
that would make a row longer than the raw row is omitted: rows of 510 tokens would have to be 20 standard deviations
longer than they are, rows of 126 tokens 10, rows of 62 tokens six.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt

from research.config.objective import Lengths, Objective
from research.config.parts import calling, expect
from research.data.batch import Batch
from research.data.objective.rows import Rows, batch_of, full_rows, raw_for, require_share
from research.data.objective.sentences import permute_sentences, rotate, sentence_ends
from research.data.objective.words import Corruption, TextInfilling
from research.data.tokenizer import Tokenizer

Array = np.ndarray


@dataclass(frozen=True)
class BART(Objective):
    """Permute sentences, then hide words, then rotate the row; the target is the whole text.

    arXiv:1910.13461, 2.2, as in fairseq. Any of the three steps can be disabled: a share of 0, or no corruption.
    """

    corruption: Corruption | None = TextInfilling()
    permute_sentences: float = 1.0  # share of a row's sentences that are permuted among themselves
    rotate: float = 0.0  # share of the rows that are rotated
    sentence_ends: tuple[str, ...] = (".",)  # tokens that end a sentence, besides EOS
    unspaced: tuple[str, ...] = ()  # languages written without spaces: each token counts as a word

    def __post_init__(self) -> None:
        require_share("permute_sentences", self.permute_sentences)
        require_share("rotate", self.rotate)

    def lengths(self, input_length: int, num_special_tokens: int = 1) -> Lengths:
        raw = raw_for(input_length, num_special_tokens)
        left = self.left(raw)
        return Lengths(raw, (raw if left is None else left) + num_special_tokens, input_length)

    def left(self, raw: int) -> int | None:
        """Return the number of tokens that every row of `raw` tokens keeps, or None if rows differ."""
        if self.corruption is None:
            return raw
        with calling(self.corruption, "left"):
            return self.corruption.left(raw)

    def check(self, lengths: Lengths, tokenizer: Tokenizer, language: str | None = None) -> None:
        if self.corruption is not None:
            with calling(self.corruption, "check"):
                self.corruption.check(tokenizer)
        if self.permute_sentences:
            sentence_ends(self.sentence_ends, tokenizer)

    def corrupt(
        self,
        tokens: UInt[Array, "n raw"],
        lengths: Lengths,
        tokenizer: Tokenizer,
        rng: np.random.Generator,
        language: str | None = None,
    ) -> Batch:
        source = tokens
        if self.permute_sentences:
            is_end = sentence_ends(self.sentence_ends, tokenizer)
            source = permute_sentences(tokens, is_end, self.permute_sentences, rng)
        rows = full_rows(source)
        if self.corruption is not None:
            rows = apply_corruption(self.corruption, source, language not in self.unspaced, tokenizer, rng)
        if self.rotate:
            rows = rotate(rows, self.rotate, len(tokens), rng)
        if self.left(tokens.shape[1]) is not None:
            rows = Rows(rows.tokens, None)
        return batch_of(len(tokens), rows, full_rows(tokens), lengths, tokenizer, language)


def apply_corruption(
    corruption: Corruption,
    tokens: UInt[Array, "n raw"],
    spaced: bool,
    tokenizer: Tokenizer,
    rng: np.random.Generator,
) -> Rows:
    """Hide tokens of rows by the corruption. Raises ConfigError if the result does not match `left()`."""
    with calling(corruption, "hide"):
        rows = corruption.hide(tokens, spaced, tokenizer, rng)
    left, (count, raw) = corruption.left(tokens.shape[1]), tokens.shape
    expect(isinstance(rows, Rows), corruption, "hide", f"returned {type(rows).__name__}, not Rows")
    counts = np.full(count, left or 0) if rows.counts is None else rows.counts
    fits = len(counts) == count and counts.sum() == len(rows.tokens) and counts.max(initial=0) <= raw
    expect(
        fits and (left is None or bool((counts == left).all())),
        corruption,
        "hide",
        f"returned {len(rows.tokens)} tokens for {count} rows of {raw}, which does not match its counts",
    )
    return rows
