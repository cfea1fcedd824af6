"""The pipeline from a data config to batches, at any position and on any number of hosts.

Rows have one global order, determined by the config, the corpora and the seed alone. Global row r lies in block r //
128; a block is made as a unit, with its own noise. Global batch i consists of rows i*B ... (i+1)*B - 1, of which host h
of n has the h-th of n equal parts. Threads, hosts and the starting position affect only which process computes what.
"""

from collections.abc import Callable, Iterable, Iterator
from functools import cached_property

import jax
import numpy as np

from research.config import Buckets, Denoising, Supervised, require
from research.data import blocks
from research.data.batch import WHOLE, Batch, Shard, fields_of, interleave, with_start_token
from research.data.blocks import BLOCK_ROWS, Block, Order, Share, rows_of
from research.data.corpora import denoising
from research.data.corpora.tokens import Recipe
from research.data.packing.buckets import BucketedExamples, HostBatches, PreparedBuckets
from research.data.shuffle import counter_generator
from research.data.source import PreparedData, Source
from research.data.tasks import supervised
from research.data.tokenizer import Tokenizer

FORMAT = 2  # increment when the same config, text and seed would give other batches
ORDER, TRAIN_NOISE, HELD_OUT_NOISE = 1, 2, 3  # purposes of random numbers: the second half of their keys
HELD_OUT_SEED = 0
ENDLESS = 2**40  # batches


def prepare(
    data: Denoising | Supervised,
    seed: int,
    batch_size: int,
    start_token: int | None = None,
    prompt: range = range(0),
) -> "Pipeline":
    """Build the pipeline of a data config. Slow steps run once, show their progress and are cached.

    `start_token` replaces the tokenizer's start token of the decoder: a model's `zero_token`. The ids of `prompt`, a
    model's, precede each source of Supervised data.

    Raises:
        ConfigError: a part of `data` is missing, empty or damaged, or the parts do not fit together.
    """
    require(batch_size > 0, f"batch_size is {batch_size}: it must be above 0.")
    match data:
        case Supervised(batching=Buckets() as batching):
            buckets = supervised.prepare_buckets(data, batching, batch_size, prompt)
            return BucketPipeline(buckets, seed, batch_size, data.threads, start_token)
        case Supervised():
            prepared = supervised.prepare(data, batch_size, prompt)
        case Denoising():
            prepared = denoising.prepare(data)
    return Pipeline(prepared, seed, batch_size, data.threads, start_token)


def text_recipes(data: Denoising | Supervised) -> list[Recipe]:
    """Return the recipes for the token streams of a data config's text, those to train on first; [] without text."""
    match data:
        case Denoising():
            _, train, held_out = denoising.recipes(data)
            return [*train, *held_out]
        case Supervised(unlabelled=None):
            return []
    train, held_out = supervised.recipes(data)
    return [*train, *held_out]


class Pipeline:
    """Batches of prepared data.

    `train_rows` and `held_out_rows` count the rows of all sources together; `train_tokens` counts the tokens of text in
    the training rows. `fingerprint` has an entry for everything that affects the batches, so that a later run can
    report the differences. A row has `inputs` encoder tokens and `targets` decoder tokens, and holds `raw` tokens of
    text on average.
    """

    def __init__(
        self, prepared: PreparedData, seed: int, batch_size: int, threads: int, start_token: int | None = None
    ) -> None:
        self.seed, self.batch_size, self.threads, self.start_token = seed, batch_size, threads, start_token
        self.tokenizer, self.notes = prepared.tokenizer, prepared.notes
        self.sources, self.held_out_sources = prepared.train, prepared.held_out
        sizes, held_out_sizes = tuple(map(len, prepared.train)), tuple(map(len, prepared.held_out))
        self.train_rows, self.held_out_rows = sum(sizes), sum(held_out_sizes)
        self.inputs = max(source.inputs for source in prepared.train)
        self.targets = max(source.targets for source in prepared.train)
        # All batches have the same fields, even those that by chance have no row of a rare source.
        firsts = [source(np.zeros(1, np.int64), np.random.default_rng(0)) for source in prepared.train]
        self._fields = fields_of(firsts, self.inputs, self.targets)
        self.raw = round(np.average([source.raw for source in prepared.train], weights=prepared.weights))
        # A text under several objectives has one source for each, but counts once.
        texts = {(source.name, source.digest): len(source) * source.raw for source in prepared.train}
        self.train_tokens = sum(texts.values())
        self.order = Order(sizes, prepared.weights, (seed, ORDER))
        self._held_out = Order(held_out_sizes, held_out_sizes, None)
        self.fingerprint = _fingerprint(prepared.fingerprint, self.tokenizer, seed, batch_size)

    def train(self, start_row: int = 0, shard: Shard = WHOLE) -> Iterator[Batch]:
        """Yield this host's rows of consecutive global batches, without end, starting at global row `start_row`.

        In an epoch of a corpus each row comes once, in a new order; noise is always new. Raises ConfigError if the
        batch does not divide into the shard's parts, or if `start_row` is not a multiple of the batch size.
        """
        return self._batches(self._train_block, shard, self._first(start_row), ENDLESS)

    def train_row(self, row: int) -> Batch:
        """Return one global row as training reads it, in a batch of one."""
        first, place = row - row % self.batch_size, row % self.batch_size
        return rows_of(Block(0, self.batch_size, next(self.train(first))), place, place + 1)

    def held_out(self, rows: int, shard: Shard = WHOLE) -> Iterator[Batch]:
        """Yield this host's rows of the first `rows` held-out rows. Rows and noise are equal at every call and for
        every seed.

        `rows` is rounded up to whole batches and capped at the number available. Corpora are represented by their
        sizes, whatever the mixing. Raises ConfigError if there is not even one batch.
        """
        require(rows > 0, f"evaluation.rows is {rows}: it must be above 0.")
        available = self.held_out_rows // self.batch_size
        require(
            available > 0,
            f"The held-out text has {self.held_out_rows} rows, fewer than one batch of {self.batch_size}: hold out"
            " more text, or lower batch_size.",
        )
        return self._batches(self._held_out_block, shard, 0, min(-(-rows // self.batch_size), available))

    @cached_property
    def batch_shapes(self) -> tuple[Batch, ...]:
        """Shapes and dtypes of all kinds of global batches, known before any is read."""
        batch = self._held_out_block(0).batch
        shape = jax.tree.map(lambda rows: jax.ShapeDtypeStruct((self.batch_size, *rows.shape[1:]), rows.dtype), batch)
        return (shape,)

    def _first(self, start_row: int) -> int:
        require(
            start_row >= 0 and start_row % self.batch_size == 0,
            f"The data position is row {start_row}: it must be a multiple of batch_size, which is {self.batch_size}.",
        )
        return start_row // self.batch_size

    def _check(self, shard: Shard) -> None:
        require(
            self.batch_size % shard.parts == 0,
            f"batch_size is {self.batch_size}: it must be a multiple of the parts it is split into, which are"
            f" {shard.parts}.",
        )

    def _batches(self, make: Callable[[int], Block], shard: Shard, first: int, stop: int) -> Iterator[Batch]:
        self._check(shard)
        return blocks.batches(make, Share(self.batch_size, shard), first, stop, self.threads)

    def _train_block(self, number: int) -> Block:
        start = number * BLOCK_ROWS
        return self._block(self.sources, self.order, start, start + BLOCK_ROWS, (self.seed, TRAIN_NOISE))

    def _held_out_block(self, number: int) -> Block:
        start = number * BLOCK_ROWS
        stop = min(start + BLOCK_ROWS, self.held_out_rows)
        return self._block(self.held_out_sources, self._held_out, start, stop, (HELD_OUT_SEED, HELD_OUT_NOISE))

    def _block(self, sources: tuple[Source, ...], order: Order, start: int, stop: int, noise: tuple[int, int]) -> Block:
        """Make a block of rows. A global row index never repeats, though its text does in each epoch: the block number
        makes the noise new.
        """
        parts = []
        for part in order(start, stop):
            rng = counter_generator(noise, (start // BLOCK_ROWS, part.source))
            parts.append((part.where, sources[part.source](part.rows, rng)))
        batch = interleave(parts, self.inputs, self.targets, self.tokenizer.pad_id, self._fields)
        return Block(start, stop, self._with_start_token(batch))

    def _with_start_token(self, batch: Batch) -> Batch:
        return batch if self.start_token is None else with_start_token(batch, self.start_token)


class BucketPipeline(Pipeline):
    """Batches of examples grouped by length.

    Positions and `train_rows` count `batch_size` rows per batch, even though batches of shorter examples have more
    rows.
    """

    def __init__(
        self, prepared: PreparedBuckets, seed: int, batch_size: int, threads: int, start_token: int | None = None
    ) -> None:
        self.seed, self.batch_size, self.threads, self.start_token = seed, batch_size, threads, start_token
        self.tokenizer, self.buckets, self.notes = prepared.tokenizer, prepared.buckets, prepared.notes
        train, held_out = prepared.buckets.train, prepared.buckets.held_out
        self.train_rows, self.held_out_rows = len(train) * batch_size, len(held_out) * batch_size
        _, self.inputs, self.targets = train.shapes[-1]
        self.train_tokens = sum(train.tokens)
        self.raw = round(self.train_tokens / self.train_rows)
        self.fingerprint = _fingerprint(prepared.fingerprint, self.tokenizer, seed, batch_size)

    def train(self, start_row: int = 0, shard: Shard = WHOLE) -> Iterator[Batch]:
        return self._read(self.buckets.train, self._first(start_row), ENDLESS, (self.seed, ORDER), shard)

    def held_out(self, rows: int, shard: Shard = WHOLE) -> Iterator[Batch]:
        require(rows > 0, f"evaluation.rows is {rows}: it must be above 0.")
        held_out = self.buckets.held_out
        return self._read(held_out, 0, min(-(-rows // self.batch_size), len(held_out)), (HELD_OUT_SEED, ORDER), shard)

    @property
    def batch_shapes(self) -> tuple[Batch, ...]:
        return self.buckets.batch_shapes

    def _read(
        self, examples: BucketedExamples, first: int, stop: int, key: tuple[int, int], shard: Shard
    ) -> Iterator[Batch]:
        self._check(shard)
        return map(self._with_start_token, HostBatches(examples, first, stop, key, shard).read(self.threads))


def _fingerprint(data: dict[str, str | int], tokenizer: Tokenizer, seed: int, batch_size: int) -> dict[str, str | int]:
    return {
        **data,
        "data.tokenizer": tokenizer.digest,
        "data format": FORMAT,
        "seed": seed,
        "batch_size": batch_size,
    }


def unigram_entropy(batches: Iterable[Batch]) -> float:
    """Compute the entropy of the targets' token frequencies, in nats per token: the best loss of a model without
    context.
    """
    counts = np.zeros(0, np.int64)
    for batch in batches:
        targets, weights = batch.decoder_target_tokens, batch.decoder_loss_weights
        counted = np.bincount(np.ravel(targets if weights is None else targets[weights > 0]), minlength=len(counts))
        counted[: len(counts)] += counts
        counts = counted
    frequencies = counts[counts > 0] / counts.sum()
    return float(-(frequencies * np.log(frequencies)).sum())
