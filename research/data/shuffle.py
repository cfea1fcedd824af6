"""A pseudo-random permutation of n numbers in constant memory: any position of any epoch is computed directly.

The numbers 0 ... n-1 are laid out in a grid of a x b >= n cells, with a and b near sqrt(n). Adding to one coordinate a
keyed hash of the other is invertible, so any number of such rounds is a bijection of the grid (the generalised Feistel
cipher of Black and Rogaway, "Ciphers with Arbitrary Finite Domains", CT-RSA 2002). A number that falls outside 0 ...
n-1 is encrypted again until it falls inside (cycle walking, same paper); fewer than a of the a x b cells lie outside,
so this is rare.
"""

import math

import numpy as np
from jaxtyping import Int64, UInt64

ROUNDS = 8  # must be even; four suffice for pseudo-randomness in theory, small grids need more


def counter_generator(key: tuple[int, int], position: tuple[int, int]) -> np.random.Generator:
    """Create a Philox generator (Salmon et al., SC 2011). Streams of different keys or positions never overlap."""
    words = [part % 2**64 for part in (*key, *position)]
    counter = np.array([0, words[2], words[3], 0], np.uint64)  # the first word is the counter of draws
    return np.random.Generator(np.random.Philox(counter=counter, key=np.array(words[:2], np.uint64)))


class Permutation:
    """A bijection of 0 ... size-1, determined by a key (seed and purpose) and a position (epoch and corpus)."""

    def __init__(self, size: int, key: tuple[int, int], position: tuple[int, int]) -> None:
        self.size = size
        self.width = math.isqrt(max(size - 1, 0)) + 1
        self.height = -(-size // self.width)
        bits = counter_generator(key, position).bit_generator
        self.round_keys: UInt64[np.ndarray, " rounds"] = bits.random_raw(ROUNDS)

    def __call__(self, numbers: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
        image = self._encrypt(numbers.astype(np.uint64))
        outside = np.flatnonzero(image >= self.size)
        while outside.size:
            image[outside] = self._encrypt(image[outside])
            outside = outside[image[outside] >= self.size]
        return image.astype(np.int64)

    def _encrypt(self, numbers: UInt64[np.ndarray, " n"]) -> UInt64[np.ndarray, " n"]:
        width, height = np.uint64(self.width), np.uint64(self.height)
        row, column = np.divmod(numbers, width)
        for first, second in self.round_keys.reshape(-1, 2):
            column = (column + _hash(row + first) % width) % width
            row = (row + _hash(column + second) % height) % height
        return row * width + column


def _hash(numbers: UInt64[np.ndarray, " n"]) -> UInt64[np.ndarray, " n"]:
    """Apply the finaliser of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014)."""
    numbers = (numbers ^ (numbers >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    numbers = (numbers ^ (numbers >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return numbers ^ (numbers >> np.uint64(31))
