"""Marian's transformer-base, English to German on WMT14, from random weights.

Paper: Vaswani et al., arXiv:1706.03762 (the base model); the hyper-parameters are those of Marian's
    --task transformer-base (marian-dev, src/common/aliases.cpp): learning rate 3e-4 after 16,000 updates of warm-up,
    then inverse square root, Adam (0.9, 0.98, 1e-9), label smoothing 0.1, dropout 0.1, exponential smoothing 1e-4, no
    clipping, beam 8 with normalisation 1. Initial values are Glorot's, as Marian's, but for fairseq's smaller ones in
    attention.
Command: python -m scripts.train experiments/marian/wmt14_base.py --run_dir runs/wmt14
Data: by its TensorFlow Datasets name, downloaded once. A joint vocabulary of 32,000 pieces is trained on it.
Hardware, time, result: not run yet.
"""

from research import (
    AdamW,
    Beam,
    Checkpoint,
    Evaluation,
    Experiment,
    Generation,
    InverseSquareRoot,
    Loss,
    Supervised,
    TFDSExamples,
    TrainedSentencePiece,
    Translation,
    Xavier,
)
from research.model import family


def get_config() -> Experiment:
    return Experiment(
        model=family.marian("base", initial=Xavier()),
        data=Supervised(
            tasks=(Translation(examples=TFDSExamples("wmt14_translate/de-en"), source="en", target="de"),),
            tokenizer=TrainedSentencePiece(pieces=32_000, sentinels=0),
            input_length=256,
            target_length=256,
        ),
        loss=Loss(z_loss=0.0, label_smoothing=0.1, smoothing="marian"),
        optimizer=AdamW(
            schedule=InverseSquareRoot(peak=3e-4, timescale=16_000, warmup=16_000),
            b2=0.98,
            epsilon=1e-9,
            weight_decay=0.0,
        ),
        average_decay=1 - 1e-4,
        steps=300_000,
        batch_size=128,
        evaluation=Evaluation(every=5_000, generation=Generation(method=Beam(8), max_length=256), best="bleu"),
        checkpoint=Checkpoint(every=5_000, keep=10),
    )
