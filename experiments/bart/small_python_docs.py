"""A small BART learns, in minutes on 2 CPU cores, to restore Python's own documentation.

Paper: Lewis et al., arXiv:1910.13461: text infilling and sentence permutation, as in bart.py beside this file.
Command: python -m scripts.train experiments/bart/small_python_docs.py --run_dir runs/bart_small
Other noise of the paper's table 1: --config.data.objective='BART(TokenMasking(), 0.0)', 'BART(TokenDeletion(), 0.0)',
    'BART(None, 0.0, 1.0)' (rotation), 'BART(None, 1.0)' (sentences), 'BART(TextInfilling(), 0.0)' (infilling alone).
Result: held-out loss 1.373 nats a target token, accuracy 74.3 %; on one NVIDIA H200, shared with a
    dozen other runs (commit 5db4c41; the curve is in LOG.md).
"""

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
)
from research.model import family


def get_config() -> Experiment:
    return Experiment(
        model=family.bart(
            "base",
            vocab_size=2056,
            width=128,
            heads=4,
            head_width=32,
            feed_forward=512,
            encoder_layers=2,
            decoder_layers=2,
            positions=Learned(64),
            dropout=0.0,
            compute="float32",
            unroll=2,
        ),
        data=Denoising(
            corpora=(TFDS("python_docs"),),
            tokenizer=TrainedSentencePiece(pieces=2048, sentinels=1),  # the mask
            objective=BART(TextInfilling(noise_density=0.3, poisson_mean=3.5), permute_sentences=1.0),
            input_length=64,
        ),
        optimizer=AdamW(
            schedule=Linear(peak=2e-3, warmup=200), clip_norm=1.0, weight_decay=0.01, b2=0.98, epsilon=1e-6
        ),
        loss=Loss(z_loss=0.0),
        steps=4000,
        batch_size=16,
        evaluation=Evaluation(every=1000, rows=512),
        checkpoint=Checkpoint(every=1000),
        report=Report(every=20),
    )
