"""Interleaving of several corpora into one endless sequence of rows: each position maps to a corpus and a row of it.

The first corpus takes its share of the positions, evenly spread: of the first r positions it has floor(r * w / W),
where w is its weight and W the total weight. The other corpora share the remaining positions in the same way. All
arithmetic is on integers and depends on the position alone, so any position is found directly and nothing drifts:

- after k * W positions, each corpus has given exactly k times its weight in rows;
- after any number r of positions, a corpus has given r * w / W rows, to within the number of corpora.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int64

from research.config import Mixing, require

LARGEST_TOTAL = 2**31  # products of two weights must fit in 64 bits


def weights(rows: tuple[int, ...], mixing: Mixing) -> tuple[int, ...]:
    """Compute integer weights in proportion to min(rows, limit) ** (1 / temperature), each at least 1.

    At temperature 1 the weights are the (capped) numbers of rows: proportional mixing then gives every row of every
    corpus exactly once in each run of sum(rows) positions that begins at a multiple of sum(rows). At other
    temperatures, and for totals of 2**31 rows and more, weights are rounded to a part in 2**30. The rates of `mixing`
    replace the numbers of rows. Raises ConfigError if there are more or fewer of them.
    """
    capped = _sizes(rows, mixing)
    if not mixing.rates and mixing.temperature == 1 and sum(capped) < LARGEST_TOTAL:
        return tuple(map(int, capped))
    return _rounded([(count / max(capped)) ** (1 / mixing.temperature) for count in capped])


def rate_of(size: int | float, mixing: Mixing) -> float:
    """Compute min(size, limit) ** (1 / temperature)."""
    return float(_capped(size, mixing)) ** (1 / mixing.temperature)


def _sizes(rows: tuple[int, ...], mixing: Mixing) -> list[int | float]:
    """Return the numbers of rows, or the rates in their place, up to the limit."""
    given = len(mixing.rates)
    require(
        given in (0, len(rows)),
        f"data.mixing.rates has {given} numbers: it must have {len(rows)}, one for each corpus or task that is trained"
        " on.",
    )
    rates = [count if rate is None else rate for rate, count in zip(mixing.rates, rows, strict=True)] if given else rows
    return [_capped(rate, mixing) for rate in rates]


def _capped(size: int | float, mixing: Mixing) -> int | float:
    return size if mixing.limit is None else min(size, mixing.limit)


def _rounded(shares: Sequence[int | float]) -> tuple[int, ...]:
    """Return integer weights in the proportions of `shares`, to a part in 2**30."""
    return tuple(max(1, round(share / sum(shares) * 2**30)) for share in shares)


def cross_weights(outer: tuple[int, ...], inner: tuple[int, ...]) -> tuple[int, ...]:
    """Multiply every outer weight by every inner weight, in row-major order.

    The outer weights are scaled down and rounded if the total would be too large.
    """
    largest = (LARGEST_TOTAL - 1) // sum(inner) - len(outer)
    if sum(outer) > largest:
        outer = tuple(max(1, weight * largest // sum(outer)) for weight in outer)
    return tuple(weight * part for weight in outer for part in inner)


def row_weights(examples: tuple[int, ...], rows: tuple[int, ...], mixing: Mixing) -> tuple[int, ...]:
    """Compute weights of packed rows such that their examples come at the rates that `weights` gives them."""
    sized = mixing.temperature == 1 and not mixing.rates
    if sized and (mixing.limit is None or max(examples) <= mixing.limit):
        return weights(rows, Mixing())
    return _rounded(_row_shares(weights(examples, mixing), examples, rows))


def multitask_weights(
    examples: tuple[int, ...], rows: tuple[int, ...], mixing: Mixing, text: tuple[int, ...], text_rate: float
) -> tuple[int, ...]:
    """Compute weights of packed rows, then of sources of text, which share `text_rate` in the proportions of `text`.

    A row of text counts as an example. The rate of tasks is as for `weights`; temperature and limit leave `text_rate`
    as it is.
    """
    of_tasks = _row_shares([rate_of(size, mixing) for size in _sizes(examples, mixing)], examples, rows)
    return _rounded([*of_tasks, *(text_rate * weight / sum(text) for weight in text)])


def _row_shares(rates: Sequence[int | float], examples: Sequence[int], rows: Sequence[int]) -> list[float]:
    """Convert rates of examples to rates of the rows that they are packed in."""
    return [rate * row / count for rate, row, count in zip(rates, rows, examples, strict=True)]


def locate(
    positions: Int64[np.ndarray, " n"], weights: tuple[int, ...]
) -> tuple[Int64[np.ndarray, " n"], Int64[np.ndarray, " n"]]:
    """Return the corpus at each position, and the number of rows that this corpus has given before it."""
    corpus = np.full_like(positions, -1)
    ordinal = np.zeros_like(positions)
    left, total = positions, sum(weights)
    for index, weight in enumerate(weights):
        before = _share(left, weight, total)
        mine = (corpus < 0) & (_share(left + 1, weight, total) > before)
        corpus[mine] = index
        ordinal[mine] = before[mine]
        left, total = left - before, total - weight
    return corpus, ordinal


def _share(count: Int64[np.ndarray, " n"], weight: int, total: int) -> Int64[np.ndarray, " n"]:
    """Compute floor(count * weight / total) without overflow."""
    whole, rest = np.divmod(count, total)
    return whole * weight + rest * weight // total
