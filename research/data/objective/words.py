"""BART's corruptions of tokens or words, as in fairseq's add_whole_word_mask and add_insertion_noise."""

from abc import abstractmethod
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Bool, Float, Int, UInt

from research.config import require
from research.config.parts import Part
from research.data.objective.choice import random_subsets
from research.data.objective.rows import (
    Rows,
    mask_of,
    masks_or_random,
    random_text,
    require_density,
    require_share,
    select_tokens,
)
from research.data.tokenizer import Tokenizer

Array = np.ndarray

LEAST_PROBABLE = 1e-7  # fairseq's cutoff of the Poisson distribution


@dataclass(frozen=True)
class Corruption(Part):
    """The base of BART's corruptions, each of which hides tokens or words of a row.

    Tokens before the first word of a row are never hidden.
    """

    noise_density: float = 0.3  # share of a row's tokens or, with whole words, of its words

    def __post_init__(self) -> None:
        require_density(self.noise_density)

    def left(self, raw: int) -> int | None:
        """Return the number of tokens that every row of `raw` tokens keeps, or None if rows differ."""
        return None

    def check(self, tokenizer: Tokenizer) -> None:
        """Raise ConfigError if the tokenizer lacks what `hide` needs."""

    @abstractmethod
    def hide(self, tokens: UInt[Array, "n raw"], spaced: bool, tokenizer: Tokenizer, rng: np.random.Generator) -> Rows:
        """Return rows with hidden tokens removed or replaced. If text is not `spaced`, each token is a word."""


@dataclass(frozen=True)
class TokenMasking(Corruption):
    """Replace a share of the tokens or words by a mask each, or by a random token."""

    random_tokens: float = 0.1  # share of the masks that become random tokens
    whole_words: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        require_share("random_tokens", self.random_tokens)

    def left(self, raw: int) -> int | None:
        return None if self.whole_words else raw

    def check(self, tokenizer: Tokenizer) -> None:
        mask_of(tokenizer)

    def hide(self, tokens: UInt[Array, "n raw"], spaced: bool, tokenizer: Tokenizer, rng: np.random.Generator) -> Rows:
        is_start = starts_of(tokens, self.whole_words and spaced, tokenizer)
        words = is_start.sum(axis=1)
        begins, ends = place_words(is_start, words, budgets(words, self.noise_density), rng)
        return replace_spans(tokens, begins, ends, masks_or_random(len(begins), self.random_tokens, tokenizer, rng))


@dataclass(frozen=True)
class TokenDeletion(Corruption):
    """Delete a share of the tokens or words."""

    whole_words: bool = False

    def left(self, raw: int) -> int | None:
        return None if self.whole_words else raw - int(budgets(np.array([raw]), self.noise_density)[0])

    def hide(self, tokens: UInt[Array, "n raw"], spaced: bool, tokenizer: Tokenizer, rng: np.random.Generator) -> Rows:
        is_start = starts_of(tokens, self.whole_words and spaced, tokenizer)
        words = is_start.sum(axis=1)
        begins, ends = place_words(is_start, words, budgets(words, self.noise_density), rng)
        return select_tokens(tokens, ~mark_spans(tokens, begins, ends))


@dataclass(frozen=True)
class TextInfilling(Corruption):
    """Replace spans of Poisson-distributed lengths by a mask each, or by a random token; spans of length 0 insert a
    mask.

    The total length of the spans is a share of the row. The mean length is 3 in the paper and 3.5 in the released
    models; below 2, empty spans would insert more than the other spans remove.

    Spans begin at different words but may overlap; then the mask of the later span is hidden too, and less is hidden
    than the total length of the spans. A span ends with its row.
    """

    poisson_mean: float = 3.5
    random_tokens: float = 0.1  # share of the masks that become random tokens
    whole_words: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        require_share("random_tokens", self.random_tokens)
        mean = self.poisson_mean
        require(2 <= mean <= 16, f"objective.poisson_mean is {mean}: it must lie in [2, 16].")

    def check(self, tokenizer: Tokenizer) -> None:
        mask_of(tokenizer)

    def hide(self, tokens: UInt[Array, "n raw"], spaced: bool, tokenizer: Tokenizer, rng: np.random.Generator) -> Rows:
        is_start = starts_of(tokens, self.whole_words and spaced, tokenizer)
        words = is_start.sum(axis=1)
        spans, lengths, empty = span_lengths(budgets(words, self.noise_density), self.poisson_mean, rng)
        begins, ends = place_spans(is_start, words, spans, lengths, rng)
        left = replace_spans(tokens, begins, ends, masks_or_random(len(begins), self.random_tokens, tokenizer, rng))
        return insert_masks(left, np.minimum(empty, tokens.shape[1] - left.counts), self.random_tokens, tokenizer, rng)


def starts_of(tokens: UInt[Array, "n raw"], whole_words: bool, tokenizer: Tokenizer) -> Bool[Array, "n raw"]:
    """Mark the tokens that begin a word; mark all tokens unless whole words are hidden."""
    return tokenizer.word_starts[tokens] if whole_words else np.ones(tokens.shape, bool)


def budgets(words: Int[Array, " n"], noise_density: float) -> Int[Array, " n"]:
    """Compute the number of words to hide, rounded up in single precision as in fairseq, which matters for
    near-integers.
    """
    return np.ceil(words.astype(np.float32) * np.float32(noise_density)).astype(int)


# --- Spans ------------------------------------------------------------------------------------------------------------


@lru_cache
def poisson_table(mean: float) -> Float[Array, " lengths"]:
    """Compute cumulative probabilities of 0, 1, 2 ..., up to the first one less probable than `LEAST_PROBABLE`."""
    probabilities = [np.exp(-mean)]
    while probabilities[-1] >= LEAST_PROBABLE and len(probabilities) < 128:
        probabilities.append(probabilities[-1] * mean / len(probabilities))
    return np.cumsum(probabilities) / np.sum(probabilities)


def span_lengths(
    budgets: Int[Array, " n"], mean: float, rng: np.random.Generator
) -> tuple[Int[Array, " n"], Int[Array, " spans"], Int[Array, " n"]]:
    """Draw lengths until they reach the budget of a row, cutting the last one to fit.

    Returns (spans per row, lengths, empty spans per row). The lengths are those of the first row's non-empty spans in
    random order, then the second row's, and so on.
    """
    table = poisson_table(mean)
    most = int(budgets.max())

    def draw(columns: int) -> Int[Array, "n columns"]:
        return np.searchsorted(table, rng.random((len(budgets), columns)), side="right")

    drawn = draw(int(most / mean + 4 * np.sqrt(most / mean)) + 4)
    while drawn.sum(axis=1).min() < most:
        drawn = np.concatenate([drawn, draw(8)], axis=1)
    before = np.cumsum(drawn, axis=1) - drawn
    used = before < budgets[:, None]
    drawn = np.minimum(drawn, budgets[:, None] - before)
    empty = used & (drawn == 0)
    filled = used & (drawn > 0)
    shuffled = np.argsort(np.where(filled, rng.random(drawn.shape, np.float32), 2), axis=1)
    spans = filled.sum(axis=1)
    lengths = np.take_along_axis(drawn, shuffled, axis=1)[np.arange(drawn.shape[1]) < spans[:, None]]
    return spans, lengths, empty.sum(axis=1)


def place_spans(
    is_start: Bool[Array, "n raw"],
    words: Int[Array, " n"],
    spans: Int[Array, " n"],
    lengths: Int[Array, " spans"],
    rng: np.random.Generator,
) -> tuple[Int[Array, " spans"], Int[Array, " spans"]]:
    """Place spans of `lengths` words, each at a different word of its row; return their starts and ends.

    Both are indices into the flattened block, in ascending order of the starts within a row.
    """
    rows, raw = is_start.shape
    chosen = random_subsets(words, spans, raw, rng)
    first = np.flatnonzero(chosen[np.arange(raw) < words[:, None]])  # numbers of words, over all rows
    after = np.repeat(np.cumsum(words), spans)  # the number of the first word of the next row
    starts = np.append(np.flatnonzero(is_start), 0)
    row_ends = np.repeat((np.arange(rows) + 1) * raw, spans)
    last = np.minimum(first + lengths, after)
    return starts[first], np.where(last < after, starts[last], row_ends)


def place_words(
    is_start: Bool[Array, "n raw"], words: Int[Array, " n"], count: Int[Array, " n"], rng: np.random.Generator
) -> tuple[Int[Array, " spans"], Int[Array, " spans"]]:
    """Place spans of one word each, like `place_spans`."""
    return place_spans(is_start, words, count, np.ones(count.sum(), int), rng)


def mark_spans(
    tokens: UInt[Array, "n raw"], begins: Int[Array, " spans"], ends: Int[Array, " spans"]
) -> Bool[Array, "n raw"]:
    """Mark the tokens inside any of the spans begin ... end - 1. Spans are not empty, and no two begin together."""
    change = np.zeros(tokens.size + 1, np.int32)
    change[begins] = 1
    change -= np.bincount(ends, minlength=tokens.size + 1).astype(np.int32)
    return (np.cumsum(change[:-1], dtype=np.int32) > 0).reshape(tokens.shape)


def replace_spans(
    tokens: UInt[Array, "n raw"],
    begins: Int[Array, " spans"],
    ends: Int[Array, " spans"],
    hidden: UInt[Array, " spans"],
) -> Rows:
    """Replace each span by its token of `hidden`, dropping the tokens of spans that begin inside another."""
    replaced = tokens.copy()
    replaced.reshape(-1)[begins] = hidden
    longer = ends > begins + 1
    return select_tokens(replaced, ~mark_spans(tokens, begins[longer] + 1, ends[longer]))


# --- Insertions -------------------------------------------------------------------------------------------------------


def insert_masks(
    rows: Rows, inserted: Int[Array, " n"], random_tokens: float, tokenizer: Tokenizer, rng: np.random.Generator
) -> Rows:
    """Insert `inserted` masks at random positions of each row.

    A share of them, rounded up in each row, becomes random tokens instead.
    """
    if not inserted.any():
        return rows
    assert rows.counts is not None
    counts = rows.counts + inserted
    width = int(counts.max())
    is_new = random_subsets(counts, inserted, width, rng)[np.arange(width) < counts[:, None]]
    most = int(inserted.max())
    is_random = random_subsets(inserted, np.ceil(inserted * random_tokens).astype(int), most, rng)
    new = np.full(is_random.shape, mask_of(tokenizer), rows.tokens.dtype)
    new[is_random] = random_text(int(is_random.sum()), tokenizer, rng)
    tokens = np.empty(counts.sum(), rows.tokens.dtype)
    tokens[~is_new] = rows.tokens
    tokens[is_new] = new[np.arange(most) < inserted[:, None]]
    return Rows(tokens, counts)
