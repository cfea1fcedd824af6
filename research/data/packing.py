"""Examples put into rows of fixed lengths, several to a row, so that little is padding.

Which examples share a row is decided once, not once an epoch: a packed row is then a row like any other, to be permuted
and mixed, and nothing leaks between its examples, which see only their own segment.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Int64

from research.data.batch import Batch
from research.data.example_tokens import ExampleTokens, Side
from research.data.progress import Progress
from research.data.shuffle import Permutation
from research.data.tokenizer import Tokenizer

WINDOW = 2**15  # examples that are put into rows together
PLAN_ORDER = (0, 0)  # the key and the position of the one order in which examples are packed


class Plan(NamedTuple):
    """Row r holds the examples order[starts[r] : starts[r + 1]]."""

    order: Int64[np.ndarray, " examples"]
    starts: Int64[np.ndarray, " rows_and_one"]


def plan(lengths: Int64[np.ndarray, "examples 2"], sizes: tuple[int, int], what: str) -> Plan:
    """Best fit, longest first, within windows of a fixed pseudo-random order; none may be longer than a row.

    The longest is the one with the larger share of a row on either side; the best row the one with the least room left.
    """
    order = Permutation(len(lengths), PLAN_ORDER, PLAN_ORDER)(np.arange(len(lengths)))
    packed, counts = [], []
    with Progress(f"Packing {what}", len(lengths), "examples") as progress:
        for start in range(0, len(order), WINDOW):
            window = order[start : start + WINDOW]
            rows = _rows(lengths[window], np.array(sizes))
            by_row = np.argsort(rows, kind="stable")
            packed.append(window[by_row])
            counts.append(np.bincount(rows))
            progress.advance(len(window))
    starts = np.concatenate([[0], np.cumsum(np.concatenate(counts))])
    return Plan(np.concatenate(packed), starts)


def _rows(lengths: Int64[np.ndarray, "n 2"], sizes: Int64[np.ndarray, " 2"]) -> Int64[np.ndarray, " n"]:
    """The row that each example of a window goes to."""
    room = np.zeros((len(lengths), 2), np.int64)  # of the rows in use
    scales = sizes[::-1]  # room * scales compares shares of a row in whole numbers
    rows, used = np.empty(len(lengths), np.int64), 0
    for example in np.argsort(-np.max(lengths * scales, axis=1), kind="stable"):
        fits = np.flatnonzero((room[:used] >= lengths[example]).all(axis=1))
        if len(fits):
            row = fits[np.argmin((room[fits] * scales).sum(axis=1))]
        else:
            row, used = used, used + 1
            room[row] = sizes
        room[row] -= lengths[example]
        rows[example] = row
    return rows


class PackedExamples:
    """The rows of a plan, as a `Source`."""

    def __init__(
        self, examples: ExampleTokens, rows: Plan, sizes: tuple[int, int], tokenizer: Tokenizer, start_id: int
    ):
        self.name, self.digest = examples.name, examples.digest
        self.inputs, self.targets = sizes
        self.examples = len(rows.order)
        self._sides, self._plan = (examples.source, examples.target), rows
        self._pad_id, self._start_id = tokenizer.pad_id, start_id
        self.tokens = tuple(int(side.lengths[rows.order].sum()) for side in self._sides)
        self.raw = round(sum(self.tokens) / max(len(self), 1))

    def __len__(self) -> int:
        return len(self._plan.starts) - 1

    @property
    def padding(self) -> tuple[float, float]:
        """The share of padding in the rows of the encoder and of the decoder."""
        source, target = self.tokens
        return 1 - source / (len(self) * self.inputs), 1 - target / (len(self) * self.targets)

    def __call__(self, rows: Int64[np.ndarray, " n"], rng: np.random.Generator) -> Batch:
        inputs = self._packed(rows, self._sides[0], self.inputs)
        targets = self._packed(rows, self._sides[1], self.targets)
        shifted = np.full_like(targets.tokens, self._pad_id)
        shifted[:, 1:] = targets.tokens[:, :-1]
        shifted[(targets.positions == 0) & (targets.segments > 0)] = self._start_id
        shifted[targets.segments == 0] = self._pad_id
        return Batch(
            encoder_input_tokens=inputs.tokens,
            decoder_input_tokens=shifted,
            decoder_target_tokens=targets.tokens,
            decoder_loss_weights=(targets.segments > 0).astype(np.float32),
            encoder_segment_ids=inputs.segments,
            encoder_positions=inputs.positions,
            decoder_segment_ids=targets.segments,
            decoder_positions=targets.positions,
        )

    def _packed(self, rows: Int64[np.ndarray, " n"], side: Side, width: int) -> "Filled":
        starts = self._plan.starts
        counts = starts[rows + 1] - starts[rows]
        examples = self._plan.order[np.repeat(starts[rows], counts) + counting(counts)]
        lengths = side.lengths[examples]
        before = np.cumsum(lengths) - lengths  # of all examples of the block
        row = np.repeat(np.arange(len(rows)), counts)
        first = np.cumsum(counts) - counts  # the first example of each row, of which every example has one
        offsets = row * width + before - before[first][row]
        places, positions = np.repeat(offsets, lengths) + counting(lengths), counting(lengths)
        tokens = np.full(len(rows) * width, self._pad_id, np.int32)
        segments, within = np.zeros_like(tokens), np.zeros_like(tokens)
        tokens[places] = side.tokens[np.repeat(side.starts[examples], lengths) + positions]
        segments[places] = np.repeat(counting(counts) + 1, lengths)
        within[places] = positions
        return Filled(*(field.reshape(len(rows), width) for field in (tokens, segments, within)))


class Filled(NamedTuple):
    tokens: np.ndarray
    segments: np.ndarray
    positions: np.ndarray


def counting(lengths: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " total"]:
    """0, 1, ... length - 1 for each length, one after another."""
    return np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
