"""Independent noise: bounds on the tokens and spans of noise in a row, and random masks."""

from collections.abc import Callable
from functools import lru_cache

import numpy as np
from jaxtyping import Bool, Float

Array = np.ndarray
Gain = Callable[[bool | None, bool], bool]

TOO_WIDE = 1e-9  # probability that a row does not fit; such rows are redrawn


def starts_span(before: bool | None, noise: bool) -> bool:
    """Return whether a token begins a span of noise.

    `before` is the noise flag of the token before it, or None for the first token.
    """
    return noise and not before


def is_kept(before: bool | None, noise: bool) -> bool:
    return not noise


def is_shown(before: bool | None, noise: bool) -> bool:
    """Return whether a token is shown, itself or as the sentinel of the span that it begins."""
    return not noise or not before


@lru_cache
def tail(length: int, density: float, gain: Gain) -> Float[Array, " counts"]:
    """Compute the exact tail probabilities of a count.

    Entry `count` is the probability that more than `count` tokens of a row have `gain`.
    """
    kept, noise = np.zeros((2, length + 1))
    kept[int(gain(None, False))] = 1 - density
    noise[int(gain(None, True))] += density
    for _ in range(length - 1):
        kept, noise = (
            share * (_shift(kept, gain(False, now)) + _shift(noise, gain(True, now)))
            for now, share in ((False, 1 - density), (True, density))
        )
    return np.append(np.cumsum((kept + noise)[:0:-1])[::-1], 0.0)


def _shift(probabilities: Float[Array, " counts"], by: bool) -> Float[Array, " counts"]:
    return np.append(0.0, probabilities[:-1]) if by else probabilities


def most(length: int, density: float, gain: Gain, beyond: float = TOO_WIDE) -> int:
    """Return the smallest count that a row exceeds with probability at most `beyond`."""
    return int(np.argmax(tail(length, density, gain) <= beyond))


def noise_masks(
    rows: int,
    raw: int,
    density: float,
    rng: np.random.Generator,
    fits: Callable[[Bool[Array, "n raw"]], Bool[Array, " n"]],
) -> Bool[Array, "rows raw"]:
    """Draw noise masks of rows, redrawing those that do not fit."""
    is_noise = rng.random((rows, raw), np.float32) < density
    while len(wrong := np.flatnonzero(~fits(is_noise))):
        is_noise[wrong] = rng.random((len(wrong), raw), np.float32) < density
    return is_noise
