"""The comparison of architectures in T5's table 2, with models of 2.7 to 4.8 M parameters on Python's documentation.

Paper: Raffel et al., arXiv:1910.10683, section 3.2; its table is in t5_architectures.py beside this file, and the
report shows it beside our numbers. Smaller here: stacks of 2 layers of width 256, 128 tokens a row, 1,000 steps of 8
rows, no dropout. Losses of denoising and of language modelling cannot be compared, so small_summaries.py fine-tunes
every model.

Commands:
    python -m scripts.sweep experiments/reproductions/t5_architectures_small.py --dir sweeps/t5_architectures --jobs 2
    python -m scripts.sweep experiments/reproductions/small_summaries.py --dir sweeps/t5_architectures_summaries \
        --jobs 2 --from sweeps/t5_architectures
    python -m scripts.report sweeps/t5_architectures_summaries
Hardware, time, result: not run yet.
"""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from research import Checkpoint, Experiment, Published, product, seeds

from . import t5_objectives_small
from .t5_architectures import architectures, numbers

SERIES = t5_objectives_small.get_config()


def get_config() -> Experiment:
    return replace(SERIES, steps=1000, checkpoint=Checkpoint(every=500))


def sweep() -> Iterable[dict[str, Any]]:
    return product(seeds(3), architectures(layers=2))


def published() -> Iterable[Published]:
    return [numbers(layers=2)]
