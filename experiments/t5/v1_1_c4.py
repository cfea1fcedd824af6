"""The pretraining of T5 v1.1 on C4 by span corruption, with its authors' recipe: small, base, large, xl or xxl.

Sizes: small 77 M parameters, base (the default) 248 M, large 783 M, xl 2.8 billion, xxl 11.1 billion.

Paper: Raffel et al., arXiv:1910.10683 (the objective); Shazeer, arXiv:2002.05202 (gated GELU). The v1.1 recipe: 2048
rows of 512 inputs and 114 targets, Adafactor with the inverse square root schedule (0.01 for 10,000 steps, then
1 / sqrt(step)), no dropout, 1,000,000 steps.

Command: python -m scripts.train experiments/t5/v1_1_c4.py:base --run_dir runs/t5_v1_1_base_c4
Data: C4 by its TensorFlow Datasets name (about 750 GB; its builder needs Apache Beam), or the JSON lines that AllenAI
    publishes, with --config.data.corpora='[JSONLines("en/c4-train.*.json.gz", "en/c4-validation.*.json.gz")]'.
    T5's SentencePiece model: --config.data.tokenizer.path=PATH.
Hardware: xl and xxl are for TPU slices of 64 chips and more; python -m scripts.plan experiments/t5/v1_1_c4.py:xl
    --hardware v5p-512 estimates time and memory.
Time, result: not run yet, at any size.
"""

from typing import Literal

from research import (
    TFDS,
    Adafactor,
    Checkpoint,
    Denoising,
    Evaluation,
    Experiment,
    InverseSquareRoot,
    Mesh,
    SentencePiece,
    SpanCorruption,
)
from research.model import family

REMAT = {"small": "none", "base": "none", "large": "none", "xl": "dots", "xxl": "full"}
FSDP = {"small": 1, "base": 1, "large": 1, "xl": 8, "xxl": 64}


def get_config(size: Literal["small", "base", "large", "xl", "xxl"] = "base") -> Experiment:
    return Experiment(
        model=family.t5_v1_1(size, remat=REMAT[size]),
        data=Denoising(
            corpora=(TFDS("c4/en:2.2.0"),),
            tokenizer=SentencePiece("sentencepiece.model"),
            objective=SpanCorruption(noise_density=0.15, mean_span_length=3.0),
            input_length=512,
        ),
        optimizer=Adafactor(schedule=InverseSquareRoot(peak=0.01, timescale=10_000)),
        steps=1_000_000,
        batch_size=2048,
        mesh=Mesh(data=-1, fsdp=FSDP[size]),
        evaluation=Evaluation(every=10_000, rows=32_768),
        checkpoint=Checkpoint(every=5_000),
    )
