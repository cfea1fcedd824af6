"""The comparison of noise in BART's table 1, with a model of 4.8 M parameters on Python's documentation.

Paper: Lewis et al., arXiv:1910.13461, section 4; its table is in bart_noise.py beside this file, and the report shows
it beside our numbers. Smaller here: 2 + 2 layers of width 256, 128 tokens a row, 600 steps of 8 rows. All targets are
the whole text, but each noise leaves another part of it as input, so losses cannot be compared. Therefore
bart_small_summaries.py fine-tunes every model. At a peak of 2e-3 the model knew no more than the frequencies of tokens
for 400 steps, at 1e-3 for fewer than 200.

Commands:
    python -m scripts.sweep experiments/reproductions/bart_noise_small.py --dir sweeps/bart_noise --jobs 2
    python -m scripts.sweep experiments/reproductions/bart_small_summaries.py --dir sweeps/bart_noise_summaries \
        --jobs 2 --from sweeps/bart_noise
    python -m scripts.report sweeps/bart_noise_summaries
Hardware, time: 2 cores of an AMD EPYC beside some tests, 60 minutes for the 18 runs, 49 for their fine-tuning (commit
    bdd30654).
Result: fine-tuned models are close: summaries' loss 4.532 after masking, 4.540 to 4.546 with infilling or deletion,
    4.556 after rotation or shuffling alone, which are the last in the paper too. ../LOG.md discusses it.
"""

from collections.abc import Iterable
from typing import Any

from research import (
    BART,
    TFDS,
    AdamW,
    Checkpoint,
    Denoising,
    Evaluation,
    Experiment,
    Learned,
    Linear,
    Loss,
    Report,
    TextInfilling,
    TrainedSentencePiece,
    product,
    seeds,
)
from research.model import family

from . import bart_noise
from .bart_noise import published as published


def get_config() -> Experiment:
    return Experiment(
        model=family.bart(
            "base",
            vocab_size=4104,
            width=256,
            heads=4,
            head_width=64,
            feed_forward=1024,
            encoder_layers=2,
            decoder_layers=2,
            positions=Learned(128),
            dropout=0.0,
            compute="float32",
            unroll=2,
        ),
        data=Denoising(
            corpora=(TFDS("python_docs"),),
            tokenizer=TrainedSentencePiece(pieces=4096, sentinels=1),  # the mask
            objective=BART(TextInfilling(), permute_sentences=1.0),
            input_length=128,
        ),
        optimizer=AdamW(
            schedule=Linear(peak=1e-3, warmup=100), clip_norm=1.0, weight_decay=0.01, b2=0.98, epsilon=1e-6
        ),
        loss=Loss(z_loss=0.0),
        steps=600,
        batch_size=8,
        evaluation=Evaluation(every=200, rows=256),
        checkpoint=Checkpoint(every=300),
        report=Report(every=20),
    )


def sweep() -> Iterable[dict[str, Any]]:
    return product(seeds(3), bart_noise.sweep())
