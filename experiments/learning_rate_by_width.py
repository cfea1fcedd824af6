"""The best learning rate at three widths of a small T5, in the standard parametrization and in muP (AdamW).

Data: Python's documentation.

Paper: Yang et al., arXiv:2203.03466 (muP). Widths 64, 128 and 256, with heads of width 32 and a feed-forward of three
times the width; six peaks of a linear schedule. The base of muP is width 64, where both parametrizations are equal.

Commands:
    python -m scripts.coordinates experiments/learning_rate_by_width.py --widths 64 128 256 512 --plot coordinates.svg
    python -m scripts.sweep experiments/learning_rate_by_width.py --dir sweeps/widths --jobs 2
    python -m scripts.rates sweeps/widths --plot rates.svg
Hardware, time: 2 cores of an Intel Xeon beside other work, 24 minutes for the 30 runs (commit e1b69ee).
Result: the best rate is 0.0037, 0.0031 and 0.0037 in muP; in the standard parametrization it halves with every doubling
    of the width. Losses are in LOG.md.
"""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from research import (
    AdamW,
    Checkpoint,
    Evaluation,
    Experiment,
    Linear,
    MaximalUpdate,
    Standard,
    chain,
    grid,
    product,
    widths,
)

from . import quickstart

BASE = MaximalUpdate(width=64, heads=2, head_width=32, feed_forward=192)
RATES = (1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2, 3.2e-2)
QUICKSTART = quickstart.get_config()


def get_config() -> Experiment:
    return replace(
        QUICKSTART,
        model=replace(QUICKSTART.model, width=64, heads=2, feed_forward=192),
        optimizer=AdamW(schedule=Linear(peak=4e-3, warmup=20)),
        steps=300,
        evaluation=Evaluation(every=150, rows=512),
        checkpoint=Checkpoint(every=300, keep=1),
    )


def sweep() -> Iterable[dict[str, Any]]:
    """Return six rates at each width; at the base's width both parametrizations are equal, so muP is left out."""
    model = get_config().model
    standard = product(grid({"model.parametrization": [Standard()]}), widths(model, (64, 128, 256)))
    maximal = product(grid({"model.parametrization": [BASE]}), widths(model, (128, 256)))
    return product(chain(standard, maximal), grid({"optimizer.schedule.peak": RATES}))
