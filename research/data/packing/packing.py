"""Packing of examples into rows: several examples share a row, each as its own segment, so that little of it is
padding.

The assignment of examples to rows is decided once, not in each epoch. A row starts with the longest remaining example
and repeatedly takes the one that leaves the least space free on both sides (the norm-based greedy algorithm of
Panigrahy et al., "Heuristics for Vector Bin Packing", 2011). Among examples of equal lengths a fixed pseudo-random
order decides. The rows are in such an order too, so that the first of them, which an evaluation reads, are
representative.
"""

from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, Int64

from research.config import require
from research.config.base import digest
from research.data.batch import Batch
from research.data.shuffle import Permutation
from research.data.tasks.pairs import Pairs, Spread, Truncation, cut, gather, spread
from research.storage import cache
from research.storage.progress import Progress

FORMAT = 2  # increment when the same examples would be packed differently
ORDER = (0, 1)  # the key of fixed pseudo-random orders
EQUALS, ROWS = (0, 1), (0, 2)  # positions of these orders: among examples of equal lengths, and of the rows


class Packing(NamedTuple):
    """The examples in the order of their rows; row r holds those from offsets[r] to offsets[r + 1]."""

    members: Int64[np.ndarray, " examples"]
    offsets: Int64[np.ndarray, " rows_and_one"]


class PackedRows:
    """A task's examples as packed rows. The last `empty` rows hold only padding, to fill up a last batch."""

    def __init__(self, pairs: Pairs, content: str, inputs: int, targets: int, drop: bool, pad_id: int) -> None:
        self.name, self.digest, self.inputs, self.targets = pairs.name, content, inputs, targets
        self.pairs, self._pad_id = pairs, pad_id
        fitting = cut(pairs, inputs, targets, drop)
        require(
            len(fitting.chosen) > 0,
            f"All {len(pairs):,} examples of {pairs.name} are longer than {inputs} input or {targets} target tokens:"
            ' raise data.input_length and data.target_length, or set too_long="truncate".',
        )
        self.examples, self.too_long = len(fitting.chosen), fitting.too_long
        key = digest([FORMAT, pairs.identity, inputs, targets, drop])
        self._plan = _open_plan(pairs.name, key, fitting, inputs, targets)
        self._chosen = fitting.chosen[self._plan.members]
        self._lengths = fitting.sources[self._plan.members], fitting.targets[self._plan.members]
        self.rows, self.empty = len(self._plan.offsets) - 1, 0
        prompts = len(pairs.sources.before) * self.examples
        self.raw = round((sum(int(lengths.sum()) for lengths in self._lengths) - prompts) / self.rows)

    def __len__(self) -> int:
        return self.rows + self.empty

    @property
    def padding(self) -> tuple[float, float]:
        """Fractions of the inputs and of the targets that are padding."""
        inputs, targets = (int(lengths.sum()) for lengths in self._lengths)
        return 1 - inputs / (self.rows * self.inputs), 1 - targets / (self.rows * self.targets)

    def __str__(self) -> str:
        inputs, targets = self.padding
        both = (inputs * self.inputs + targets * self.targets) / (self.inputs + self.targets)
        return (
            f"{self.examples:,} examples of {self.name} in {self.rows:,} rows of {self.inputs} and {self.targets}:"
            f" {both:.1%} padding ({inputs:.1%} of the inputs, {targets:.1%} of the targets)"
        )

    def __call__(self, rows: Int64[np.ndarray, " n"], rng: np.random.Generator) -> Batch:
        offsets = self._plan.offsets
        first = offsets[np.minimum(rows, self.rows)]
        counts = offsets[np.minimum(rows + 1, self.rows)] - first  # 0 for an empty row
        segments = spread(counts)
        members = first[segments.piece] + segments.place
        sides = [
            lay_out(segments, self._lengths[side][members], len(rows), width)
            for side, width in enumerate((self.inputs, self.targets))
        ]
        examples = self._chosen[members]
        sources = gather(self.pairs.sources, examples, sides[0].lengths, self.pairs.endings[0], sides[0].spread)
        labels = gather(self.pairs.targets, examples, sides[1].lengths, self.pairs.endings[1], sides[1].spread)
        return build_batch(sides, sources, labels, self._pad_id, self.pairs.start_id)


class Layout(NamedTuple):
    """Positions of the tokens of one side."""

    shape: tuple[int, int]
    lengths: Int64[np.ndarray, " segments"]
    spread: Spread
    where: Int64[np.ndarray, " total"]  # index in the flattened rows
    segment_ids: Int64[np.ndarray, " total"]  # from 1


def lay_out(segments: Spread, lengths: Int64[np.ndarray, " segments"], rows: int, width: int) -> Layout:
    """Lay out segments of the given lengths one after the other in their rows, given by `segments.piece`."""
    before = np.cumsum(lengths) - lengths
    first_of_row = np.arange(len(lengths)) - segments.place
    starts = segments.piece * width + before - before[first_of_row]
    tokens = spread(lengths)
    where = starts[tokens.piece] + tokens.place
    return Layout((rows, width), lengths, tokens, where, segments.place[tokens.piece] + 1)


def build_batch(sides: list[Layout], sources: np.ndarray, labels: np.ndarray, pad_id: int, start_id: int) -> Batch:
    """Build a batch from the layouts of both sides and their tokens."""
    encoder, decoder = sides
    shifted = np.concatenate([[start_id], labels[:-1]])
    shifted[decoder.spread.place == 0] = start_id

    def field(side: Layout, values: np.ndarray | float, empty: int = 0, kind: type = np.int32) -> np.ndarray:
        flat: np.ndarray = np.full(side.shape[0] * side.shape[1], empty, kind)
        flat[side.where] = values
        return flat.reshape(side.shape)

    return Batch(
        encoder_input_tokens=field(encoder, sources, pad_id),
        decoder_input_tokens=field(decoder, shifted[: len(labels)], pad_id),
        decoder_target_tokens=field(decoder, labels, pad_id),
        decoder_loss_weights=field(decoder, 1.0, kind=np.float32),
        encoder_segment_ids=field(encoder, encoder.segment_ids),
        encoder_positions=field(encoder, encoder.spread.place),
        decoder_segment_ids=field(decoder, decoder.segment_ids),
        decoder_positions=field(decoder, decoder.spread.place),
    )


# --- The plan ---------------------------------------------------------------------------------------------------------


def _open_plan(name: str, key: str, fitting: Truncation, inputs: int, targets: int) -> Packing:
    def write(folder: Path) -> None:
        for field, values in pack(fitting.sources, fitting.targets, inputs, targets, name)._asdict().items():
            np.save(folder / f"{field}.npy", values)

    folder = cache.entry("packing", key, write)
    return Packing(*(np.load(folder / f"{field}.npy") for field in Packing._fields))


def pack(
    sources: Int64[np.ndarray, " n"], targets: Int64[np.ndarray, " n"], inputs: int, width: int, name: str = "examples"
) -> Packing:
    """Pack examples of these lengths into rows of `inputs` and `width` tokens. No example may be longer than a row."""
    order = Permutation(len(sources), ORDER, EQUALS)(np.arange(len(sources)))
    classes = Classes(sources[order], targets[order], inputs, width)
    rows = []
    with Progress(f"Packing {name}", len(sources), "examples") as progress:
        while classes.left:
            rows.append(classes.row())
            progress.advance(len(rows[-1]))
    rows = [rows[place] for place in Permutation(len(rows), ORDER, ROWS)(np.arange(len(rows)))]
    members = np.fromiter(chain.from_iterable(rows), np.int64, len(sources))
    return Packing(order[members], np.cumsum([0, *map(len, rows)], dtype=np.int64))


class Classes:
    """Examples grouped by their pair of lengths, longest first, and taken one by one."""

    def __init__(
        self, sources: Int64[np.ndarray, " n"], targets: Int64[np.ndarray, " n"], inputs: int, width: int
    ) -> None:
        self.shape = inputs, width
        size = np.maximum(sources / inputs, targets / width)
        self._members = np.lexsort((targets, sources, -size))
        sorted_sources, sorted_targets = sources[self._members], targets[self._members]
        changes = (np.diff(sorted_sources) != 0) | (np.diff(sorted_targets) != 0)
        starts = np.concatenate([[0], np.flatnonzero(changes) + 1])
        self._source, self._target = sorted_sources[starts], sorted_targets[starts]
        self._next, self._stop = starts, np.concatenate([starts[1:], [len(sources)]])
        self.left = len(sources)

    def row(self) -> list[int]:
        """Remove and return the examples of the next row."""
        room = list(self.shape)
        row: list[int] = []
        fits = np.flatnonzero(self._next < self._stop)
        while len(fits):
            best = fits[0] if not row else fits[int(np.argmin(self._rest(fits, room)))]
            row.append(int(self._members[self._next[best]]))
            self._next[best] += 1
            room[0] -= int(self._source[best])
            room[1] -= int(self._target[best])
            fits_room = (self._source[fits] <= room[0]) & (self._target[fits] <= room[1])
            fits = fits[fits_room & (self._next[fits] < self._stop[fits])]
        self.left -= len(row)
        self._forget()
        return row

    def _rest(self, fits: Int64[np.ndarray, " m"], room: list[int]) -> Float64[np.ndarray, " m"]:
        """Compute the squared free space that each candidate would leave, summed over both sides."""
        source, target = (
            (room[0] - self._source[fits]) / self.shape[0],
            (room[1] - self._target[fits]) / self.shape[1],
        )
        return source * source + target * target

    def _forget(self) -> None:
        """Drop exhausted classes once there are many."""
        kept = self._next < self._stop
        if kept.mean() < 0.9:
            self._source, self._target = self._source[kept], self._target[kept]
            self._next, self._stop = self._next[kept], self._stop[kept]
