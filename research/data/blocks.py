"""Blocks of rows, which make up the global order, and the batches that each host cuts out of them."""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import grain
import numpy as np
from jaxtyping import Int64

from research.data import mixing
from research.data.batch import Batch, Shard
from research.data.shuffle import Permutation

BLOCK_ROWS = 128
Spans = list[tuple[int, int]]  # (start, stop) in global rows


class Block(NamedTuple):
    start: int  # global index of its first row
    stop: int
    batch: Batch


class BlockPart(NamedTuple):
    """The rows of a block that come from one source."""

    source: int
    where: Int64[np.ndarray, " n"]  # indices in the block
    rows: Int64[np.ndarray, " n"]  # indices in the source


class Order:
    """The global order of rows: sources interleaved by weight, each reshuffled in each of its epochs.

    `key` determines the shuffles. If it is None, sources keep their order and there is no second epoch.
    """

    def __init__(self, sizes: tuple[int, ...], weights: tuple[int, ...], key: tuple[int, int] | None) -> None:
        self.sizes, self.weights, self.key = sizes, weights, key

    def __call__(self, start: int, stop: int) -> list[BlockPart]:
        """Return the parts that make up the global rows start ... stop - 1."""
        source, ordinal = mixing.locate(np.arange(start, stop), self.weights)
        positions = ((index, np.flatnonzero(source == index)) for index in range(len(self.sizes)))
        return [BlockPart(index, where, self._rows(index, ordinal[where])) for index, where in positions if len(where)]

    def _rows(self, source: int, ordinal: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
        """Map ordinals (the n-th row that the source gives) to row indices of the source."""
        if self.key is None:
            return ordinal
        size = self.sizes[source]
        epochs, rows = np.divmod(ordinal, size)
        for epoch in np.unique(epochs):
            now = epochs == epoch
            rows[now] = Permutation(size, self.key, (int(epoch), source))(rows[now])
        return rows


@dataclass(frozen=True)
class Share:
    """A host's shard of each global batch, and the blocks that its rows lie in, in order."""

    batch_size: int
    shard: Shard

    def rows(self, batch: int) -> Spans:
        """Return the global rows of a batch that belong to this host."""
        start = batch * self.batch_size
        return [(start + low, start + high) for low, high in self.shard.spans(self.batch_size)]

    def block(self, index: int) -> int:
        """Return the number of the index-th block that this host needs, counted from row 0."""
        period, place = divmod(index, len(self._needed))
        return period * self._period + self._needed[place]

    def index(self, row: int) -> int:
        """Count the needed blocks before the block of a global row."""
        period, place = divmod(row // BLOCK_ROWS, self._period)
        return period * len(self._needed) + int(np.searchsorted(self._needed, place))

    @property
    def _period(self) -> int:
        """Number of blocks after which batch and block boundaries coincide again and the pattern repeats."""
        return self.batch_size // math.gcd(self.batch_size, BLOCK_ROWS)

    @cached_property
    def _needed(self) -> list[int]:
        needed: set[int] = set()
        for batch in range(self._period * BLOCK_ROWS // self.batch_size):
            for start, stop in self.rows(batch):
                needed.update(range(start // BLOCK_ROWS, (stop - 1) // BLOCK_ROWS + 1))
        return sorted(needed)


class NeededBlocks:
    """The blocks that a host needs for batches `first` ... `stop - 1`, indexable as Grain requires."""

    def __init__(self, make: Callable[[int], Block], share: Share, first: int, stop: int) -> None:
        self.make, self.share = make, share
        self.offset = share.index(share.rows(first)[0][0])
        self.length = share.index(share.rows(stop - 1)[-1][1] - 1) + 1 - self.offset

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Block:
        return self.make(self.share.block(self.offset + index))


def batches(make: Callable[[int], Block], share: Share, first: int, stop: int, threads: int) -> Iterator[Batch]:
    """Yield the host's parts of global batches `first` ... `stop - 1`; `threads` threads make blocks ahead of their
    use.
    """
    rows = sum(high - low for low, high in share.rows(0))
    ahead = 2 * max(threads, -(-rows // BLOCK_ROWS))
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=ahead)
    blocks = iter(grain.MapDataset.source(NeededBlocks(make, share, first, stop)).to_iter_dataset(options))
    try:
        yield from cut(blocks, (share.rows(batch) for batch in range(first, stop)))
    finally:
        blocks.close()


def cut(blocks: Iterator[Block], parts: Iterable[Spans]) -> Iterator[Batch]:
    """Yield the global rows of each part, cut from blocks that come in order and contain them all."""
    held: list[Block] = []
    for spans in parts:
        pieces: list[Batch] = []
        for start, stop in spans:
            while not held or held[-1].stop < stop:
                held.append(next(blocks))
            held = [block for block in held if block.stop > start]
            pieces += [rows_of(block, start, stop) for block in held if block.start < stop]
        yield join(pieces)


def rows_of(block: Block, start: int, stop: int) -> Batch:
    """Return views of those of the global rows start ... stop - 1 that lie in a block."""
    low, high = max(start - block.start, 0), stop - block.start
    return Batch._make(None if field is None else field[low:high] for field in block.batch)


def join(parts: list[Batch]) -> Batch:
    """Concatenate batches along the rows."""
    if len(parts) == 1:
        return parts[0]
    return Batch._make(None if fields[0] is None else np.concatenate(fields) for fields in zip(*parts, strict=True))
