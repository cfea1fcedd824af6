"""BART's corruptions of tokens or words, as fairseq's add_whole_word_mask and add_insertion_noise."""

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
    kept,
    mask_of,
    masks_or_random,
    random_text,
    require_density,
    require_share,
)
from research.data.tokenizer import Tokenizer

Array = np.ndarray

LEAST_PROBABLE = 1e-7  # where fairseq cuts the Poisson distribution off


@dataclass(frozen=True)
class Corruption(Part):
    """The base of BART's corruptions, of which one hides tokens or words of a row.

    Tokens before the first word of a row are never hidden.
    """

    noise_density: float = 0.3  # share of the tokens of a row or, with whole words, of its words

    def __post_init__(self) -> None:
        require_density(self.noise_density)

    def left(self, raw: int) -> int | None:
        """The number of tokens that every row of `raw` keeps; None where rows differ."""
        return None

    def check(self, tokenizer: Tokenizer) -> None:
        """Raise ConfigError if the tokenizer lacks what `hide` needs."""

    @abstractmethod
    def hide(self, tokens: UInt[Array, "n raw"], spaced: bool, tokenizer: Tokenizer, rng: np.random.Generator) -> Rows:
        """Rows without hidden tokens, with their replacements. Text that is not `spaced` has a word in each token."""


@dataclass(frozen=True)
class TokenMasking(Corruption):
    """Replace a share of the tokens, or words, by a mask each, or a random token."""

    random_tokens: float = 0.1  # share of the masks
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
    """Leave out a share of the tokens, or words."""

    whole_words: bool = False

    def left(self, raw: int) -> int | None:
        return None if self.whole_words else raw - int(budgets(np.array([raw]), self.noise_density)[0])

    def hide(self, tokens: UInt[Array, "n raw"], spaced: bool, tokenizer: Tokenizer, rng: np.random.Generator) -> Rows:
        is_start = starts_of(tokens, self.whole_words and spaced, tokenizer)
        words = is_start.sum(axis=1)
        begins, ends = place_words(is_start, words, budgets(words, self.noise_density), rng)
        return kept(tokens, ~covered(tokens, begins, ends))


@dataclass(frozen=True)
class TextInfilling(Corruption):
    """Replace spans of lengths from a Poisson distribution by a mask each, or a random token; put empty ones between.

    The lengths of all spans together are a share of the row. The paper's mean is 3, the released models' 3.5; below 2,
    spans that are empty would put in more than others take out.

    Spans begin at different words, but may run into one another; then the latter's mask is hidden too, and less is
    hidden than the lengths of the spans together. A span ends with its row.
    """

    poisson_mean: float = 3.5
    random_tokens: float = 0.1  # share of the masks
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
    """Mark the tokens that begin a word; all of them unless whole words are hidden."""
    return tokenizer.word_starts[tokens] if whole_words else np.ones(tokens.shape, bool)


def budgets(words: Int[Array, " n"], noise_density: float) -> Int[Array, " n"]:
    """The words to hide, rounded up in single precision as in fairseq: that decides where a product is almost whole."""
    return np.ceil(words.astype(np.float32) * np.float32(noise_density)).astype(int)


# --- Spans ------------------------------------------------------------------------------------------------------------


@lru_cache
def poisson_table(mean: float) -> Float[Array, " lengths"]:
    """Cumulative probabilities of 0, 1, 2 ..., up to the first less probable than `LEAST_PROBABLE`."""
    probabilities = [np.exp(-mean)]
    while probabilities[-1] >= LEAST_PROBABLE and len(probabilities) < 128:
        probabilities.append(probabilities[-1] * mean / len(probabilities))
    return np.cumsum(probabilities) / np.sum(probabilities)


def span_lengths(
    budgets: Int[Array, " n"], mean: float, rng: np.random.Generator
) -> tuple[Int[Array, " n"], Int[Array, " spans"], Int[Array, " n"]]:
    """Lengths drawn until they reach the budget of a row, the last one cut to it: (spans a row, lengths, empty a row).

    The lengths are those of the first row's spans that are not empty, in random order, then the second's ...
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
    """Where spans of so many words begin, each at another word of its row, and where they end.

    Both are indices into the flattened block, those of a row in ascending order of their beginnings.
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
    """As `place_spans`, each of one word."""
    return place_spans(is_start, words, count, np.ones(count.sum(), int), rng)


def covered(
    tokens: UInt[Array, "n raw"], begins: Int[Array, " spans"], ends: Int[Array, " spans"]
) -> Bool[Array, "n raw"]:
    """What lies in any of the spans begin ... end - 1, which are not empty. No two begin together."""
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
    """Spans with a token of `hidden` for each, but for those that begin inside another."""
    replaced = tokens.copy()
    replaced.reshape(-1)[begins] = hidden
    longer = ends > begins + 1
    return kept(replaced, ~covered(tokens, begins[longer] + 1, ends[longer]))


# --- Insertions -------------------------------------------------------------------------------------------------------


def insert_masks(
    rows: Rows, inserted: Int[Array, " n"], random_tokens: float, tokenizer: Tokenizer, rng: np.random.Generator
) -> Rows:
    """So many masks put in anywhere, of which a share, rounded up in each row, is random tokens instead."""
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
