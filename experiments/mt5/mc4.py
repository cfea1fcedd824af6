"""The pretraining of mT5 on mC4, its 107 parts by language and script: small, base (the default), large, xl or xxl.

Sizes: small 300 M parameters, base 582 M, large 1.23 billion, xl 3.74 billion, xxl 12.9 billion.

Paper: Xue et al., arXiv:2010.11934: T5 v1.1's recipe on text of 101 languages, some of which mC4 has also in Latin
letters, drawn by sizes to the power 0.3. The authors' command (github.com/google-research/multilingual-t5, README):
1024 rows of 1024 inputs, Adafactor with the inverse square root schedule, no dropout, 1,000,000 steps.
Differs: a language's size is its rows here, its documents there.

Command: python -m scripts.train experiments/mt5/mc4.py:base --run_dir runs/mt5_base
Data: mC4 by its TensorFlow Datasets name (its builder needs Apache Beam), or JSON lines of each language with
    --config.data.corpora='[JSONLines("de/c4-train.*.json.gz", "de/c4-validation.*.json.gz"), ...]'.
    mT5's SentencePiece model, whose own pieces are the sentinels: --config.data.tokenizer.path=PATH.
Hardware, modelled by python -m scripts.plan experiments/mt5/mc4.py:base --hardware v5p-64 --config.mesh.fsdp=32 gives
    chip-hours, at least: small 533, base 1,306, large 3,706, xl 10,994, xxl 49,239.
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
    Mixing,
    SentencePiece,
    SpanCorruption,
)
from research.model import family

LANGUAGES = (
    "af", "am", "ar", "az", "be", "bg", "bg-Latn", "bn", "ca", "ceb", "co", "cs", "cy", "da", "de", "el", "el-Latn",
    "en", "eo", "es", "et", "eu", "fa", "fi", "fil", "fr", "fy", "ga", "gd", "gl", "gu", "ha", "haw", "hi", "hi-Latn",
    "hmn", "ht", "hu", "hy", "id", "ig", "is", "it", "iw", "ja", "ja-Latn", "jv", "ka", "kk", "km", "kn", "ko", "ku",
    "ky", "la", "lb", "lo", "lt", "lv", "mg", "mi", "mk", "ml", "mn", "mr", "ms", "mt", "my", "ne", "nl", "no", "ny",
    "pa", "pl", "ps", "pt", "ro", "ru", "ru-Latn", "sd", "si", "sk", "sl", "sm", "sn", "so", "sq", "sr", "st", "su",
    "sv", "sw", "ta", "te", "tg", "th", "tr", "uk", "ur", "uz", "vi", "xh", "yi", "yo", "zh", "zh-Latn", "zu",
)  # fmt: skip
MC4 = tuple(TFDS("c4/multilingual:3.0.1", code, f"{code}-validation") for code in LANGUAGES)

REMAT = {"small": "none", "base": "none", "large": "dots", "xl": "dots", "xxl": "full"}
FSDP = {"small": 1, "base": 1, "large": 8, "xl": 8, "xxl": 64}


def get_config(size: Literal["small", "base", "large", "xl", "xxl"] = "base") -> Experiment:
    return Experiment(
        model=family.mt5(size, remat=REMAT[size]),
        data=Denoising(
            corpora=MC4,
            tokenizer=SentencePiece("sentencepiece.model", sentinels=0),
            objective=SpanCorruption(noise_density=0.15, mean_span_length=3.0),
            input_length=1024,
            mixing=Mixing(temperature=1 / 0.3),
        ),
        optimizer=Adafactor(schedule=InverseSquareRoot(peak=0.01, timescale=10_000)),
        steps=1_000_000,
        batch_size=1024,
        mesh=Mesh(data=-1, fsdp=FSDP[size]),
        evaluation=Evaluation(every=10_000, rows=10_240),
        checkpoint=Checkpoint(every=5_000),
    )
