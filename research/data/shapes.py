"""The shapes that an experiment's batches will have, without its data."""

from typing import Any

import jax
import numpy as np

from research.config import Denoising, Experiment
from research.data.batch import Batch
from research.data.objective.checks import lengths_of
from research.data.objective.span_corruption import SpanCorruption


def abstract_batch(experiment: Experiment, rows: int | None = None) -> Batch:
    """A global batch, or one of so many rows: full ones of span corruption, masked ones of all else."""
    count, (inputs, targets) = experiment.batch_size if rows is None else rows, row_lengths(experiment)

    def field(width: int, kind: type = np.int32) -> Any:
        return jax.ShapeDtypeStruct((count, width), kind)

    data, source, target = experiment.data, field(inputs), field(targets)
    if isinstance(data, Denoising):
        made = {(type(each.objective), lengths_of(each.objective, data.input_length)) for each in data.denoisers}
        if len(made) == 1 and {kind for kind, _ in made} == {SpanCorruption}:
            return Batch(source, target, target)
    weights = field(targets, np.float32)
    return Batch(source, target, target, weights, source, source, target, target)


def row_lengths(experiment: Experiment) -> tuple[int, int]:
    """Tokens of the encoder's and of the decoder's rows."""
    data = experiment.data
    if not isinstance(data, Denoising):
        return data.input_length, data.target_length
    found = [lengths_of(each.objective, data.input_length) for each in data.denoisers]
    return max(each.inputs for each in found), max(each.targets for each in found)
