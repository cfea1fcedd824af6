"""From a `Data` config to batches, at any position, on any number of hosts.

Rows have one global order, which only the config, the corpora and the seed decide. Global row r lies in block r // 128;
a block is cut out of the token streams and corrupted as one, with noise of its own. Global batch i is rows i*B ...
(i+1)*B - 1, of which host h of n has the h-th of n equal parts. Threads, hosts and the place where a run starts decide
only who computes what.
"""

from collections.abc import Callable, Iterable, Iterator
from functools import cached_property

import jax
import numpy as np

from research.config import Data, TrainedSentencePiece, require
from research.data import blocks, cache, mixture
from research.data.batch import Batch
from research.data.blocks import BLOCK_ROWS, Block, Rows, Share
from research.data.corpus import open_documents
from research.data.objective import Lengths, corrupt, lengths, require_sentinels
from research.data.shuffle import counter_generator
from research.data.tokenizer import Tokenizer, open_tokenizer
from research.data.tokens import TokenStream, token_stream
from research.data.vocabulary import tokenizer_for

FORMAT = 1  # raised when the same config, corpora and seed would give other batches
ORDER, TRAIN_NOISE, HELD_OUT_NOISE = 1, 2, 3  # what random numbers are for: the second half of their keys
HELD_OUT_SEED = 0
ENDLESS = 2**40  # batches


def prepare(data: Data, seed: int, batch_size: int) -> "Pipeline":
    """Everything that batches need: corpora found, built and checked, the vocabulary trained or opened, text tokenised.

    What is slow is done once and cached, with its progress shown.

    Raises:
        ConfigError: what `data` asks for is missing, empty, damaged or does not fit together.
    """
    require(batch_size > 0, f"batch_size is {batch_size}: it must be above 0.")
    row_lengths = lengths(data.objective, data.input_length)
    if not isinstance(data.tokenizer, TrainedSentencePiece):
        require_sentinels(row_lengths, open_tokenizer(data.tokenizer))  # before a corpus is built, which can take hours
    train = [open_documents(corpus, "train") for corpus in data.corpora]
    held_out = [open_documents(corpus, "held_out") for corpus in data.corpora]
    tokenizer = tokenizer_for(data.tokenizer, train, data.mixing)
    require_sentinels(row_lengths, tokenizer)
    train_streams = tuple(token_stream(documents, tokenizer) for documents in train)
    held_out_streams = tuple(token_stream(documents, tokenizer) for documents in held_out)
    return Pipeline(data, seed, batch_size, tokenizer, row_lengths, train_streams, held_out_streams)


class Pipeline:
    """Batches of a prepared `Data`. `train_rows` and `held_out_rows` count the rows of all corpora together.

    `fingerprint` has an entry for everything that decides the batches, so that a later run can say what is different.
    """

    def __init__(
        self,
        data: Data,
        seed: int,
        batch_size: int,
        tokenizer: Tokenizer,
        lengths: Lengths,
        train: tuple[TokenStream, ...],
        held_out: tuple[TokenStream, ...],
    ) -> None:
        self.data, self.seed, self.batch_size = data, seed, batch_size
        self.tokenizer, self.lengths = tokenizer, lengths
        train_rows = tuple(stream.rows(lengths.raw) for stream in train)
        held_out_rows = tuple(stream.rows(lengths.raw) for stream in held_out)
        sizes, held_out_sizes = tuple(map(len, train_rows)), tuple(map(len, held_out_rows))
        self.train_rows, self.held_out_rows = sum(sizes), sum(held_out_sizes)
        self._train = Rows(train_rows, mixture.weights(sizes, data.mixing), (seed, ORDER))
        self._held_out = Rows(held_out_rows, held_out_sizes, None)
        self.fingerprint = self._fingerprint([stream.text_digest for stream in (*train, *held_out)])

    def train(self, start_row: int = 0, shard: tuple[int, int] = (0, 1)) -> Iterator[Batch]:
        """This host's rows of global batch after global batch, without end, from a global row on.

        `shard` is (this host, hosts). In an epoch of a corpus each of its rows comes once, in an order of that
        epoch; noise is always new. Raises ConfigError where rows do not divide.
        """
        require(
            start_row >= 0 and start_row % self.batch_size == 0,
            f"The data position is row {start_row}: it must be a multiple of batch_size, which is {self.batch_size}.",
        )
        return self._batches(self._train_block, shard, start_row // self.batch_size, ENDLESS)

    def held_out(self, rows: int, shard: tuple[int, int] = (0, 1)) -> Iterator[Batch]:
        """This host's rows of the first `rows` held-out rows, the same rows and noise at every call and with any seed.

        Whole batches: `rows` is rounded up to them and cut to as many as there are. Corpora are in it by their sizes,
        whatever the mixing. Raises ConfigError where there is not even one batch.
        """
        require(rows > 0, f"evaluation.rows is {rows}: it must be above 0.")
        available = self.held_out_rows // self.batch_size
        require(
            available > 0,
            f"The held-out text gives {self.held_out_rows} rows, fewer than one batch of {self.batch_size}: hold out"
            " more text, or lower batch_size.",
        )
        return self._batches(self._held_out_block, shard, 0, min(-(-rows // self.batch_size), available))

    @cached_property
    def batch_shapes(self) -> Batch:
        """Shapes and types of a global batch, before it is read."""
        batch = self._held_out_block(0).batch
        return jax.tree.map(lambda rows: jax.ShapeDtypeStruct((self.batch_size, *rows.shape[1:]), rows.dtype), batch)

    def _batches(self, make: Callable[[int], Block], shard: tuple[int, int], first: int, stop: int) -> Iterator[Batch]:
        host, hosts = shard
        require(
            self.batch_size % hosts == 0,
            f"batch_size is {self.batch_size}: it must be a multiple of the number of hosts, which is {hosts}.",
        )
        return blocks.batches(make, Share(self.batch_size, host, hosts), first, stop, self.data.threads)

    def _train_block(self, number: int) -> Block:
        start = number * BLOCK_ROWS
        return self._corrupted(self._train, start, start + BLOCK_ROWS, (self.seed, TRAIN_NOISE))

    def _held_out_block(self, number: int) -> Block:
        start = number * BLOCK_ROWS
        stop = min(start + BLOCK_ROWS, self.held_out_rows)
        return self._corrupted(self._held_out, start, stop, (HELD_OUT_SEED, HELD_OUT_NOISE))

    def _corrupted(self, rows: Rows, start: int, stop: int, noise: tuple[int, int]) -> Block:
        """A global row never returns, though its text does in each epoch: the block's number makes its noise new."""
        generator = counter_generator(noise, (start // BLOCK_ROWS, 0))
        return Block(
            start, stop, corrupt(rows(start, stop), self.data.objective, self.lengths, self.tokenizer, generator)
        )

    def _fingerprint(self, texts: list[str]) -> dict[str, str | int]:
        return {
            "data.corpora": cache.digest(texts),
            "data.tokenizer": self.tokenizer.digest,
            "data.objective": repr(self.data.objective),
            "data.input_length": self.data.input_length,
            "data.mixing": repr(self.data.mixing),
            "data format": FORMAT,
            "seed": self.seed,
            "batch_size": self.batch_size,
        }


def unigram_entropy(batches: Iterable[Batch]) -> float:
    """Entropy, in nats a token, of the targets' own token frequencies: the best a model blind to context can do."""
    counts = np.zeros(0, np.int64)
    for batch in batches:
        targets, weights = batch.decoder_target_tokens, batch.decoder_loss_weights
        counted = np.bincount(np.ravel(targets if weights is None else targets[weights > 0]), minlength=len(counts))
        counted[: len(counts)] += counts
        counts = counted
    frequencies = counts[counts > 0] / counts.sum()
    return float(-(frequencies * np.log(frequencies)).sum())
