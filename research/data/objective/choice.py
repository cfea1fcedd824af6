"""Random choice without replacement, for rows of different sizes in step."""

import numpy as np
from jaxtyping import Bool, Int

Array = np.ndarray


def random_subsets(
    sizes: Int[Array, " n"], counts: Int[Array, " n"], width: int, rng: np.random.Generator
) -> Bool[Array, "n width"]:
    """For each row `counts` of the numbers 0 ... sizes - 1, every choice being equally likely, as a mask.

    By R. Floyd's algorithm (Bentley, "Programming Pearls: a sample of brilliance", CACM 30:9, 1987): draw one of the
    numbers up to `last`, which grows to the last of all; where the drawn one is taken already, take `last`.
    """
    rows, steps = len(sizes), int(counts.max(initial=0))
    sink = rows * width  # what a row takes that has enough
    taken = np.zeros(rows * width + 1, bool)
    last = sizes - np.arange(steps, 0, -1)[:, None]  # [steps n]
    drawn = (rng.random(last.shape) * (last + 1)).astype(np.intp)
    asked = last >= sizes - counts
    offsets = np.arange(rows) * width
    for number, otherwise in zip(
        np.where(asked, drawn + offsets, sink), np.where(asked, last + offsets, sink), strict=True
    ):
        taken[np.where(taken[number], otherwise, number)] = True
    return taken[:-1].reshape(rows, width)
