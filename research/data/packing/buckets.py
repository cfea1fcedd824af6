"""Batches of examples of similar lengths: each bucket has its own width, and more rows the narrower it is.

Every batch has room for the same number of tokens, so each bucket is one shape, compiled once. In an epoch every
example comes once: examples are reshuffled within their bucket, and the batches of all buckets are reshuffled among
each other. A bucket's last batch is filled up with rows of padding with loss weights of 0.
"""

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import NamedTuple

import grain
import jax
import numpy as np
from jaxtyping import Int64

from research.config import Buckets, require
from research.data.batch import Batch, Shard
from research.data.shuffle import Permutation
from research.data.tasks.pairs import Pairs, cut, gather, spread
from research.data.tokenizer import Tokenizer

PREFETCHED_BATCHES = 4  # batches prefetched per thread


class Shape(NamedTuple):
    rows: int
    inputs: int
    targets: int


def shapes(buckets: Buckets, target_length: int, batch_size: int) -> list[Shape]:
    """Return the batch shape of each bucket, narrowest first."""
    longest = buckets.lengths[-1]
    folds = [longest // length for length in buckets.lengths]
    return [Shape(batch_size * fold, longest // fold, target_length // fold) for fold in folds]


class BucketedExamples:
    """One split of the examples of all tasks, by bucket."""

    def __init__(self, tasks: Sequence[Pairs], shapes: Sequence[Shape], drop: bool, pad_id: int) -> None:
        self.shapes, self.tasks, self._pad_id = list(shapes), tasks, pad_id
        fitting = [cut(pairs, shapes[-1].inputs, shapes[-1].targets, drop) for pairs in tasks]
        self.too_long = [each.too_long for each in fitting]
        task = np.repeat(np.arange(len(tasks)), [len(each.chosen) for each in fitting])
        chosen, sources, targets = (np.concatenate(parts) for parts in list(zip(*fitting, strict=True))[:3])
        named = ", ".join(pairs.name for pairs in tasks)
        require(len(chosen) > 0, f"All examples of {named} are longer than the longest bucket, {shapes[-1].inputs}.")
        bucket = np.zeros(len(chosen), np.int64)
        for shape in shapes[:-1]:
            bucket += (sources > shape.inputs) | (targets > shape.targets)
        # By bucket: the task of each example, its index in the task, and its lengths.
        columns = np.stack([task, chosen, sources, targets], axis=1)
        self._members = [columns[bucket == index] for index in range(len(shapes))]
        self.tokens = int(sources.sum()), int(targets.sum())
        self.examples = len(chosen)
        counts = [-(-len(members) // shape.rows) for members, shape in zip(self._members, shapes, strict=True)]
        self._ends = np.cumsum(counts)

    def __len__(self) -> int:
        """Return the number of batches per epoch."""
        return int(self._ends[-1])

    @property
    def used(self) -> list[Shape]:
        """Shapes of the buckets that hold an example."""
        return [shape for shape, members in zip(self.shapes, self._members, strict=True) if len(members)]

    @property
    def padding(self) -> tuple[float, float]:
        """Fractions of an epoch's inputs and targets that are padding."""
        counts = np.diff(self._ends, prepend=0)
        rows, inputs, targets = np.array(self.shapes).T
        source, target = self.tokens
        return 1 - source / int((counts * rows * inputs).sum()), 1 - target / int((counts * rows * targets).sum())

    def batch(self, position: int, key: tuple[int, int], shard: Shard) -> Batch:
        """Return this host's rows of the batch at a position of the endless sequence of epochs."""
        epoch, place = divmod(position, len(self))
        number = int(Permutation(len(self), key, (epoch, 0))(np.array([place]))[0])
        index = int(np.searchsorted(self._ends, number, side="right"))
        within = number - (int(self._ends[index - 1]) if index else 0)
        shape, members = self.shapes[index], self._members[index]
        indices = within * shape.rows + np.concatenate([np.arange(*span) for span in shard.spans(shape.rows)])
        real = indices[indices < len(members)]
        rows = members[Permutation(len(members), key, (epoch, index + 1))(real)]
        return self._padded(rows, Shape(len(indices), shape.inputs, shape.targets))

    def _padded(self, rows: Int64[np.ndarray, "n 4"], shape: Shape) -> Batch:
        sides = [np.full((shape.rows, width), self._pad_id, np.int32) for width in shape[1:]]
        real = [np.zeros((shape.rows, width), np.int32) for width in shape[1:]]
        starts = np.full(shape.rows, self._pad_id, np.int32)
        for task, pairs in enumerate(self.tasks):
            where = np.flatnonzero(rows[:, 0] == task)
            starts[where] = pairs.start_id
            for side, ragged in enumerate((pairs.sources, pairs.targets)):
                lengths = rows[where, 2 + side]
                laid = spread(lengths)
                place = where[laid.piece], laid.place
                sides[side][place] = gather(ragged, rows[where, 1], lengths, pairs.endings[side], laid)
                real[side][place] = 1
        shifted = np.concatenate([starts[:, None], sides[1][:, :-1]], axis=1)
        return Batch(
            encoder_input_tokens=sides[0],
            decoder_input_tokens=np.where(real[1] > 0, shifted, np.int32(self._pad_id)),
            decoder_target_tokens=sides[1],
            decoder_loss_weights=real[1].astype(np.float32),
            encoder_segment_ids=real[0],
            decoder_segment_ids=real[1],
        )


class HostBatches:
    """This host's rows of the batches `first` ... `stop - 1`, indexable as Grain requires."""

    def __init__(self, examples: BucketedExamples, first: int, stop: int, key: tuple[int, int], shard: Shard) -> None:
        self.examples, self.first, self.stop, self.key, self.shard = examples, first, stop, key, shard

    def __len__(self) -> int:
        return self.stop - self.first

    def __getitem__(self, index: int) -> Batch:
        return self.examples.batch(self.first + index, self.key, self.shard)

    def read(self, threads: int) -> Iterator[Batch]:
        """Yield all batches in order, prefetched."""
        options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=PREFETCHED_BATCHES * threads)
        batches = iter(grain.MapDataset.source(self).to_iter_dataset(options))
        try:
            yield from batches
        finally:
            batches.close()


class BucketedSplits:
    """Both splits of a `Supervised` config in buckets, as a pipeline needs them."""

    def __init__(self, train: BucketedExamples, held_out: BucketedExamples) -> None:
        self.train, self.held_out = train, held_out

    @cached_property
    def batch_shapes(self) -> tuple[Batch, ...]:
        """Batch shapes of every bucket that has an example in either split."""
        used = sorted({*self.train.used, *self.held_out.used}, key=lambda shape: shape.inputs)
        return tuple(map(abstract, used))

    def __str__(self) -> str:
        inputs, targets = self.train.padding
        shapes = ", ".join(f"{shape.rows} x {shape.inputs} and {shape.targets}" for shape in self.train.used)
        return (
            f"{self.train.examples:,} examples in {len(self.train):,} batches of {shapes}: {inputs:.1%} of the inputs"
            f" and {targets:.1%} of the targets are padding"
        )


class PreparedBuckets(NamedTuple):
    """The built and checked contents of a `Supervised` config in buckets."""

    tokenizer: Tokenizer
    buckets: BucketedSplits
    fingerprint: dict[str, str | int]
    notes: tuple[str, ...]  # for the launch summary


def abstract(shape: Shape) -> Batch:
    def field(width: int, kind: type = np.int32) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((shape.rows, width), kind)

    inputs, targets = field(shape.inputs), field(shape.targets)
    weights = field(shape.targets, np.float32)
    return Batch._make((inputs, targets, targets, weights, inputs, None, targets, None))
