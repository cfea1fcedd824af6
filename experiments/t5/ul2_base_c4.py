"""T5 v1.1 base with SwiGLU (248 M parameters) pretrained on C4 by UL2's mixture of seven denoisers.

Paper: Tay et al., arXiv:2205.05131: table 1 (the denoisers in equal parts, each applied to all of the text) and its
ablations' budget: 500,000 steps of 128 rows of 512 inputs and 512 targets, Adafactor with the inverse square root
schedule; no copy of that section was at hand to check it. No dropout, and the schedule's peak, are T5 v1.1's. The size
is T5 v1.1's base, not one of the paper's. The S-denoiser hides an end whose length is drawn uniformly, with the paper's
mean of a quarter. Each row begins with [R], [X] or [S] in the pieces that the vocabulary has for it, within the 512
tokens of the encoder. Half of a row in spans of three takes 128 sentinels: T5's vocabulary names 100, and its 32,128
rows of embedding have room for 128.

Command: python -m scripts.train experiments/t5/ul2_base_c4.py --run_dir runs/t5_ul2_base_c4
Data: C4 by its TensorFlow Datasets name (about 750 GB; its builder needs Apache Beam), or the JSON lines that AllenAI
    publishes, with --config.data.corpora='[JSONLines("en/c4-train.*.json.gz", "en/c4-validation.*.json.gz")]'.
    T5's SentencePiece model: --config.data.tokenizer.path=PATH.
Hardware, time, result: not run yet.
"""

from research import (
    TFDS,
    UL2,
    Adafactor,
    Checkpoint,
    Denoising,
    Evaluation,
    Experiment,
    InverseSquareRoot,
    Mesh,
    SentencePiece,
)
from research.model import family


def get_config() -> Experiment:
    return Experiment(
        model=family.t5_v1_1("base", activation="silu"),
        data=Denoising(
            corpora=(TFDS("c4/en:2.2.0"),),
            tokenizer=SentencePiece("sentencepiece.model", sentinels=128),
            objective=UL2(regular="[R]", extreme="[X]", sequential="[S]"),
            input_length=512,
        ),
        optimizer=Adafactor(schedule=InverseSquareRoot(peak=0.01, timescale=10_000)),
        steps=500_000,
        batch_size=128,
        mesh=Mesh(data=-1),
        evaluation=Evaluation(every=10_000, rows=32_768),
        checkpoint=Checkpoint(every=5_000),
    )
