"""Random choice without replacement, vectorised over rows of different sizes."""

import numpy as np
from jaxtyping import Bool, Int

Array = np.ndarray


def random_subsets(
    sizes: Int[Array, " n"], counts: Int[Array, " n"], width: int, rng: np.random.Generator
) -> Bool[Array, "n width"]:
    """Choose `counts` of the numbers 0 ... sizes - 1 in each row, all subsets being equally likely; return a mask.

    Uses R. Floyd's algorithm (Bentley, "Programming Pearls: a sample of brilliance", CACM 30:9, 1987): draw one of the
    numbers up to `last`, which grows to the last of all; if the drawn number is already taken, take `last`.
    """
    rows, steps = len(sizes), int(counts.max(initial=0))
    sink = rows * width  # dummy index for rows that have enough numbers already
    taken = np.zeros(rows * width + 1, bool)
    last = sizes - np.arange(steps, 0, -1)[:, None]  # [steps n]
    drawn = (rng.random(last.shape) * (last + 1)).astype(np.intp)
    needed = last >= sizes - counts
    offsets = np.arange(rows) * width
    for number, fallback in zip(
        np.where(needed, drawn + offsets, sink), np.where(needed, last + offsets, sink), strict=True
    ):
        taken[np.where(taken[number], fallback, number)] = True
    return taken[:-1].reshape(rows, width)
