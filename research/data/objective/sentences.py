"""BART's permutation of sentences and rotation of rows, as in fairseq's permute_sentences and add_rolling_noise."""

import numpy as np
from jaxtyping import Bool, Int, UInt

from research.config import require
from research.data.objective.rows import Rows
from research.data.tokenizer import Tokenizer

Array = np.ndarray


def sentence_ends(ends: tuple[str, ...], tokenizer: Tokenizer) -> Bool[Array, " ids"]:
    """Return a mask of the ids that end a sentence: EOS, and the tokens exactly equal to one of `ends`.

    Raises ConfigError if one of `ends` is not a token.
    """
    is_end = np.zeros(tokenizer.size, bool)
    is_end[tokenizer.eos_id] = True
    for end in ends:
        ids = tokenizer.ids_by_bytes.get(end.encode(), []) if end else []
        require(len(ids) > 0, f"objective.sentence_ends has {end!r}: it must be a single token of the vocabulary.")
        is_end[ids] = True
    return is_end


def permute_sentences(
    tokens: UInt[Array, "n raw"], is_end: Bool[Array, " ids"], share: float, rng: np.random.Generator
) -> UInt[Array, "n raw"]:
    """Permute a random subset of the sentences of each row, all orders of the subset being equally likely.

    A sentence ends with the first of a run of end tokens, and with the row. As in fairseq, if a row ends in such a run,
    or in one token after it, the text after the last end token is not a sentence and keeps its position.
    """
    rows, raw = tokens.shape
    stops = is_end[tokens]
    stops[:, -1] = True
    ends = stops.copy()
    ends[:, 1:] &= ~stops[:, :-1]
    sentences = ends.sum(axis=1)
    slots = int(sentences.max()) + 1  # one more for text that is no sentence
    number = np.cumsum(ends, axis=1) - ends + np.arange(rows)[:, None] * slots
    lengths = np.bincount(number.reshape(-1), minlength=rows * slots).reshape(rows, slots)
    starts = (np.cumsum(lengths) - lengths.reshape(-1)).reshape(rows, slots)
    order = random_orders(sentences, np.ceil(sentences * 2 * share / 2).astype(int), slots, rng)
    lengths, starts = np.take_along_axis(lengths, order, axis=1), np.take_along_axis(starts, order, axis=1)
    now = np.cumsum(lengths) - lengths.reshape(-1)
    source = np.arange(rows * raw) + np.repeat(starts.reshape(-1) - now, lengths.reshape(-1))
    return tokens.reshape(-1)[source].reshape(rows, raw)


def random_orders(
    sizes: Int[Array, " n"], moved: Int[Array, " n"], width: int, rng: np.random.Generator
) -> Int[Array, "n width"]:
    """Return the numbers 0 ... width - 1 per row, with `moved` of the first `sizes` numbers permuted at random."""
    columns = np.arange(width)
    keys = np.where(columns < sizes[:, None], rng.random((len(sizes), width)), np.inf)
    ranked = np.argsort(keys, axis=1)
    chosen = np.zeros(keys.shape, bool)
    np.put_along_axis(chosen, ranked, columns < moved[:, None], axis=1)
    # Both sorts put the other numbers last and in order, so that they keep their positions.
    positions = np.argsort(np.where(chosen, columns, width), axis=1, kind="stable")
    taken = np.argsort(np.where(chosen, keys, np.inf), axis=1, kind="stable")
    order = np.empty_like(positions)
    np.put_along_axis(order, positions, taken, axis=1)
    return order


def rotate(rows: Rows, share: float, count: int, rng: np.random.Generator) -> Rows:
    """Rotate a share of the rows: each begins at a random token, and the tokens before it move to the end.

    As in fairseq, the first token is twice as likely as any other, since a rotation by the whole length counts too.
    """
    counts = np.full(count, len(rows.tokens) // count) if rows.counts is None else rows.counts
    shifts = np.where(rng.random(count) < share, rng.integers(0, counts + 1), 0)
    starts = np.cumsum(counts) - counts
    place = np.arange(len(rows.tokens)) - np.repeat(starts - shifts, counts)
    source = place % np.repeat(counts, counts) + np.repeat(starts, counts)
    return rows._replace(tokens=rows.tokens[source])
