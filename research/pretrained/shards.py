"""Assembly of a parameter from tensors read one at a time; each process keeps only its own shards."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding

from research.parallel.padding import padded_shape

Index = tuple[slice, ...]
Bounds = tuple[tuple[int, int], ...]  # start and end of a shard on every axis

# Bytes. XLA's CPU backend uses a buffer with this alignment in place and copies any other.
ALIGNMENT = 64


@dataclass(frozen=True)
class Converted:
    """The sharding of a parameter that is converted as soon as it has been read, before the next one is."""

    sharding: NamedSharding
    convert: Callable[[jax.Array], Any]


class ShardBuffer:
    """Float32 buffers for the local shards of one parameter, or without a sharding for all of it.

    A vocabulary that the mesh does not divide is filled up with rows of zeros.
    """

    def __init__(self, shape: tuple[int, ...], sharding: NamedSharding | Converted | None) -> None:
        self.convert: Callable[[jax.Array], Any] = lambda array: array
        if isinstance(sharding, Converted):
            self.convert = sharding.convert
            sharding = sharding.sharding
        self.shape = shape if sharding is None else padded_shape(shape, sharding)
        self.sharding = sharding
        indices: Iterable[Index | None] = [(slice(None),) * len(shape)]
        if sharding is not None:
            indices = sharding.addressable_devices_indices_map(self.shape).values()
        # Devices that hold the same shard share one buffer.
        self.shards = {bounds: aligned(bounds) for bounds in dict.fromkeys(map(self.bounds, indices))}

    def bounds(self, index: Index | None) -> Bounds:
        assert index is not None  # None only for devices of other processes
        return tuple(piece.indices(size)[:2] for piece, size in zip(index, self.shape, strict=True))

    def fill(self, array: np.ndarray, layer: int | None) -> None:
        """Copy the local shards' part of an array: one layer, or with None the complete parameter."""
        for bounds, shard in self.shards.items():
            if layer is None:
                write(shard, array[spans(bounds)])
            elif bounds[0][0] <= layer < bounds[0][1]:
                write(shard[layer - bounds[0][0], ...], array[spans(bounds[1:])])

    def finish(self) -> Any:
        """Return the parameter, or what it is converted to; do not call `fill` afterwards."""
        if self.sharding is None:
            (whole,) = self.shards.values()
            return whole
        shards, place = self.shards, self.bounds
        return self.convert(jax.make_array_from_callback(self.shape, self.sharding, lambda index: shards[place(index)]))


def write(shard: np.ndarray, part: np.ndarray) -> None:
    """Write the part of an array that a shard holds; what the shard has beyond it is zero."""
    if part.shape != shard.shape:
        shard[...] = 0.0
    shard[tuple(map(slice, part.shape))] = part


def spans(bounds: Bounds) -> tuple[slice, ...]:
    return tuple(slice(*ends) for ends in bounds)


def aligned(bounds: Bounds) -> np.ndarray:
    shape = [end - start for start, end in bounds]
    size = math.prod(shape) * np.dtype(np.float32).itemsize
    raw = np.empty(size + ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % ALIGNMENT
    return raw[start : start + size].view(np.float32).reshape(shape)
