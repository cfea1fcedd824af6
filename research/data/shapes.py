"""Shapes of an experiment's batches, computed without its data."""

from typing import Any

import jax
import numpy as np

from research.config import Buckets, Denoising, Experiment, Supervised
from research.data.batch import Batch
from research.data.objective.checks import lengths_of
from research.data.objective.span_corruption import SpanCorruption


def abstract_batch(experiment: Experiment, rows: int | None = None) -> Batch:
    """Return the shapes of a global batch, or of a batch of `rows` rows.

    Span corruption gives full rows without segments, everything else rows with masks. Packed rows have positions too.
    """
    count, (inputs, targets) = experiment.batch_size if rows is None else rows, row_lengths(experiment)

    def field(width: int, kind: type = np.int32) -> Any:
        return jax.ShapeDtypeStruct((count, width), kind)

    data, source, target = experiment.data, field(inputs), field(targets)
    if isinstance(data, Denoising):
        kinds = {(type(each.objective), lengths_of(each.objective, data.input_length)) for each in data.denoisers}
        if len(kinds) == 1 and {kind for kind, _ in kinds} == {SpanCorruption}:
            return Batch(source, target, target)
    padded = Batch(source, target, target, field(targets, np.float32), source, None, target)
    packed = isinstance(data, Supervised) and not isinstance(data.batching, Buckets)
    return padded._replace(encoder_positions=source, decoder_positions=target) if packed else padded


def row_lengths(experiment: Experiment) -> tuple[int, int]:
    """Return the numbers of tokens per encoder row and per decoder row."""
    data = experiment.data
    if not isinstance(data, Denoising):
        return data.input_length, data.target_length
    lengths = [lengths_of(each.objective, data.input_length) for each in data.denoisers]
    return max(each.inputs for each in lengths), max(each.targets for each in lengths)
