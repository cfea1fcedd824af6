"""The optimizers and schedules of nanoT5, with a model of 5.9 M parameters on Python's documentation.

Source: Nawrot, "nanoT5", arXiv:2309.02373, section 3: a T5 v1.1 base after 65,536 steps of 128 rows; its numbers are
in nanot5_optimizers.py beside this file, and the report shows them beside ours. Every combination has the same peak,
0.02, and the same warm-up, from half of it over the first 15 % of the steps. Smaller here: 2 + 2 layers of width 256,
128 tokens a row, 1,000 steps of 8 rows.

Commands:
    python -m scripts.sweep experiments/reproductions/nanot5_optimizers_small.py --dir sweeps/nanot5_optimizers --jobs 2
    python -m scripts.report sweeps/nanot5_optimizers
Hardware, time: 2 cores of an Intel Xeon beside other work, 100 minutes for the 18 runs (commit dc85378).
Result: held-out loss 4.647 (Adafactor, inverse square root), 4.661 (its cosine), 4.656 and 4.665 (RMS-scaled AdamW),
    all within the seeds' spread; plain AdamW stays at 5.6, the loss of a model without context. LOG.md discusses it.
"""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from research import (
    TFDS,
    Checkpoint,
    Cosine,
    Denoising,
    Evaluation,
    Experiment,
    InverseSquareRoot,
    Loss,
    Published,
    RMSScaledAdamW,
    TrainedSentencePiece,
    grid,
    product,
    seeds,
)

from .. import quickstart
from .nanot5_optimizers import OPTIMIZERS, numbers

QUICKSTART = quickstart.get_config()


def get_config() -> Experiment:
    return replace(
        QUICKSTART,
        model=replace(QUICKSTART.model, vocab_size=4224, width=256, head_width=64, feed_forward=704),
        data=Denoising(
            corpora=(TFDS("python_docs"),),
            tokenizer=TrainedSentencePiece(pieces=4096),
            input_length=128,
        ),
        optimizer=RMSScaledAdamW(schedule=Cosine(peak=2e-2, warmup=150, warmup_start=0.5, final=1e-5), clip_norm=1.0),
        loss=Loss(z_loss=0.0),
        steps=1000,
        batch_size=8,
        evaluation=Evaluation(every=200, rows=256),
        checkpoint=Checkpoint(every=500),
    )


SCHEDULES = (
    InverseSquareRoot(peak=2e-2, timescale=150, warmup=150, warmup_start=0.5),
    Cosine(peak=2e-2, warmup=150, warmup_start=0.5, final=1e-5),
)


def sweep() -> Iterable[dict[str, Any]]:
    return product(seeds(3), grid({"optimizer": OPTIMIZERS, "optimizer.schedule": SCHEDULES}))


def published() -> Iterable[Published]:
    return [numbers(SCHEDULES)]
