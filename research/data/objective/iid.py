"""Noise of which each token is a draw of its own: how many tokens and spans of it a row may have, and its masks."""

from collections.abc import Callable
from functools import lru_cache

import numpy as np
from jaxtyping import Bool, Float

Array = np.ndarray
Gain = Callable[[bool | None, bool], bool]

TOO_WIDE = 1e-9  # the probability of a row for which there is no room; such rows are drawn anew


def starts_span(before: bool | None, noise: bool) -> bool:
    """Whether a token begins a span of noise, the one before it being noise, kept or not there."""
    return noise and not before


def is_kept(before: bool | None, noise: bool) -> bool:
    return not noise


def is_shown(before: bool | None, noise: bool) -> bool:
    """Whether a token, or a sentinel that begins with it, is shown where spans of noise become sentinels."""
    return not noise or not before


@lru_cache
def tail(length: int, density: float, gain: Gain) -> Float[Array, " counts"]:
    """[count]: the probability that more than `count` tokens of a row of noise `gain`, which is exact."""
    kept, noise = np.zeros((2, length + 1))
    kept[int(gain(None, False))] = 1 - density
    noise[int(gain(None, True))] += density
    for _ in range(length - 1):
        kept, noise = (
            share * (_shifted(kept, gain(False, now)) + _shifted(noise, gain(True, now)))
            for now, share in ((False, 1 - density), (True, density))
        )
    return np.append(np.cumsum((kept + noise)[:0:-1])[::-1], 0.0)


def _shifted(probabilities: Float[Array, " counts"], by: bool) -> Float[Array, " counts"]:
    return np.append(0.0, probabilities[:-1]) if by else probabilities


def most(length: int, density: float, gain: Gain, beyond: float = TOO_WIDE) -> int:
    """The least count that a row exceeds with no larger probability than `beyond`."""
    return int(np.argmax(tail(length, density, gain) <= beyond))


def noise_masks(
    rows: int,
    raw: int,
    density: float,
    rng: np.random.Generator,
    fits: Callable[[Bool[Array, "n raw"]], Bool[Array, " n"]],
) -> Bool[Array, "rows raw"]:
    """Rows of noise; those that do not fit are drawn anew."""
    is_noise = rng.random((rows, raw), np.float32) < density
    while len(wrong := np.flatnonzero(~fits(is_noise))):
        is_noise[wrong] = rng.random((len(wrong), raw), np.float32) < density
    return is_noise
