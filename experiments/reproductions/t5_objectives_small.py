"""The ablations of the objective in T5's tables 4 to 7, with a model of 4.8 M parameters on Python's documentation.

Paper: Raffel et al., arXiv:1910.10683, sections 3.3.1 to 3.3.4. Its tables are in t5_objectives.py beside this file,
and the report shows them beside our numbers. As in the paper, every objective has the same number of steps and rows;
the cost of a step differs, since some targets are the whole text. Smaller here: 2 + 2 layers of width 256, 128 tokens a
row, 600 steps of 8 rows (0.7 M raw tokens, a seventh of an epoch), and no dropout, since no text is seen twice. Each
objective has other targets, so losses cannot be compared: small_summaries.py fine-tunes every model, and its scores
count.

Commands:
    python -m scripts.sweep experiments/reproductions/t5_objectives_small.py --dir sweeps/t5_objectives --jobs 2
    python -m scripts.sweep experiments/reproductions/small_summaries.py --dir sweeps/t5_objectives_summaries --jobs 2 \
        --from sweeps/t5_objectives
    python -m scripts.report sweeps/t5_objectives_summaries
Hardware, time: 2 cores of an Intel Xeon beside other work, 85 minutes for the 39 runs, 45 for their fine-tuning (commit
    b033f4a).
Result: fine-tuned models rank by how much fluent text the decoder wrote in pretraining: MASS-style, BERT-style and
    deshuffling (summaries' loss 4.48 to 4.52), prefix LM (4.74), longer before shorter spans (4.95 to 5.18), i.i.d.
    (5.31). Some of the paper's rankings hold; deshuffling's last place does not. ../LOG.md discusses it.
"""

from collections.abc import Iterable
from typing import Any

from research import (
    TFDS,
    Adafactor,
    Checkpoint,
    Denoising,
    Evaluation,
    Experiment,
    InverseSquareRoot,
    Model,
    ReplaceSpans,
    Report,
    Tied,
    TrainedSentencePiece,
    product,
    seeds,
)

from . import t5_objectives
from .t5_objectives import published as published


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
        steps=600,
        batch_size=8,
        evaluation=Evaluation(every=200, rows=256),
        checkpoint=Checkpoint(every=300),
        report=Report(every=20),
    )


def sweep() -> Iterable[dict[str, Any]]:
    """Yield all objectives of one seed before the next seed, so that an interrupted sweep has whole series."""
    return product(seeds(3), t5_objectives.sweep())
