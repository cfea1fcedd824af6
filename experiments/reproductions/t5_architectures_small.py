"""T5's comparison of architectures, its table 2, with models of 2.7 to 4.8 M parameters on Python's documentation.

Paper: Raffel et al., arXiv:1910.10683, section 3.2; its table stands in t5_architectures.py beside this file, and in
the report beside ours. Smaller than there: stacks of 2 layers of width 256, 128 tokens a row, 1,000 steps of 8 rows, no
dropout. Losses of denoising and of language modelling cannot be compared: small_summaries.py fine-tunes every model.

Commands:
    python -m scripts.sweep experiments/reproductions/t5_architectures_small.py --dir sweeps/t5_architectures --jobs 2
    python -m scripts.sweep experiments/reproductions/small_summaries.py --dir sweeps/t5_architectures_summaries \
        --jobs 2 --from sweeps/t5_architectures
    python -m scripts.report sweeps/t5_architectures_summaries
Hardware, time, result: not run yet.
"""

from collections.abc import Iterable
from typing import Any

from experiments.reproductions.t5_architectures import architectures, numbers
from research import (
    TFDS,
    Adafactor,
    Checkpoint,
    Denoising,
    Evaluation,
    Experiment,
    InverseSquareRoot,
    Model,
    Published,
    ReplaceSpans,
    Report,
    Tied,
    TrainedSentencePiece,
    product,
    seeds,
)


def get_config() -> Experiment:
    return Experiment(
        model=Model(
            vocab_size=4224,
            width=256,
            heads=4,
            head_width=64,
            feed_forward=1024,
            encoder_layers=2,
            decoder_layers=2,
            activation="relu",
            gated=False,
            head=Tied(scaled=True),
            compute="float32",
            unroll=2,
        ),
        data=Denoising(
            corpora=(TFDS("python_docs"),),
            tokenizer=TrainedSentencePiece(pieces=4096),
            objective=ReplaceSpans(noise_density=0.15),
            input_length=128,
        ),
        optimizer=Adafactor(schedule=InverseSquareRoot(peak=0.02, timescale=400, warmup=50)),
        steps=1000,
        batch_size=8,
        evaluation=Evaluation(every=200, rows=256),
        checkpoint=Checkpoint(every=500),
        report=Report(every=20),
    )


def sweep() -> Iterable[dict[str, Any]]:
    return product(seeds(3), architectures(layers=2))


def published() -> Iterable[Published]:
    return [numbers(layers=2)]
