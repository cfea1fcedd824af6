"""The optimizers and schedules of nanoT5: Adafactor, RMS-scaled AdamW and plain AdamW, each with two schedules.

Source: Nawrot, "nanoT5", arXiv:2309.02373, section 3, and its repository's README. T5 v1.1 base on C4, 65,536 steps of
128 rows, peak 0.02 with 10,000 steps of warm-up from half of it, gradient norm clipped at 1. The
published held-out negative log-likelihoods, in nats a target token (plain AdamW diverges at this learning rate):

                         inverse square root    cosine
    Adafactor                  1.995             1.993
    RMS-scaled AdamW           2.040             1.953

../t5/nanot5_base_c4.py is the best of them alone, and lists the differences that matter when comparing.

Commands:
    python -m scripts.sweep experiments/reproductions/nanot5_optimizers.py --dir sweeps/nanot5_optimizers --jobs 8
    python -m scripts.report sweeps/nanot5_optimizers
Data: as in ../t5/nanot5_base_c4.py.
Hardware, time, result: not run yet (its authors: one A100, 10 hours each); nanot5_optimizers_small.py beside this file,
    the small version, was run.
"""

from collections.abc import Iterable
from typing import Any

from research import (
    Adafactor,
    AdamW,
    Constant,
    Cosine,
    Experiment,
    InverseSquareRoot,
    Published,
    RMSScaledAdamW,
    grid,
)

from ..t5 import nanot5_base_c4


def get_config() -> Experiment:
    return nanot5_base_c4.get_config()


PEAK = Constant(peak=2e-2)  # replaced by each of the schedules
OPTIMIZERS = (
    Adafactor(schedule=PEAK, clip_norm=1.0),
    RMSScaledAdamW(schedule=PEAK, clip_norm=1.0),
    AdamW(schedule=PEAK, clip_norm=1.0),
)
SCHEDULES = (
    InverseSquareRoot(peak=2e-2, timescale=10_000, warmup=10_000, warmup_start=0.5),
    Cosine(peak=2e-2, warmup=10_000, warmup_start=0.5, final=1e-5),
)


def sweep() -> Iterable[dict[str, Any]]:
    return grid({"optimizer": OPTIMIZERS, "optimizer.schedule": SCHEDULES})


def published() -> Iterable[Published]:
    return [numbers(SCHEDULES)]


def numbers(schedules: tuple[InverseSquareRoot, Cosine]) -> Published:
    """Return nanoT5's losses for these schedules. Plain AdamW has none, since it diverges."""
    losses = {"Adafactor": (1.995, 1.993), "RMSScaledAdamW": (2.040, 1.953)}
    rows = tuple(
        ({"optimizer": optimizer, "optimizer.schedule": schedule}, (loss,))
        for optimizer in OPTIMIZERS[:2]
        for schedule, loss in zip(schedules, losses[type(optimizer).__name__], strict=True)
    )
    return Published("nanoT5, arXiv:2309.02373", ("held-out loss",), rows, lower_is_better=("held-out loss",))
