"""The pretraining of ByT5 on mC4's UTF-8 bytes: small, base (the default), large, xl or xxl.

Sizes: small 300 M parameters, base 582 M, large 1.23 billion, xl 3.74 billion, xxl 12.9 billion.

Paper: Xue et al., arXiv:2105.13626: mT5's text and budget, spans of mean length 20 bytes, the last ids of bytes as
sentinels, deep encoders and shallow decoders. The authors' command (github.com/google-research/byt5, README): 1024 rows
of 1024 inputs and 189 targets, Adafactor with the inverse square root schedule, 1,000,000 steps.
Differs: as ../mt5/mc4.py says.

Command: python -m scripts.train experiments/byt5/mc4.py:base --run_dir runs/byt5_base
Data: as in ../mt5/mc4.py, without a vocabulary.
Hardware, modelled by python -m scripts.plan experiments/byt5/mc4.py:base --hardware v5p-64 --config.mesh.fsdp=32 gives
    chip-hours, at least: small 1,570, base 2,988, large 6,492, xl 17,377, xxl 71,799.
Time, result: not run yet, at any size.
"""

from dataclasses import replace
from typing import Literal

from research import Bytes, Denoising, Experiment, Mixing, SpanCorruption
from research.model import family

from ..mt5 import mc4


def get_config(size: Literal["small", "base", "large", "xl", "xxl"] = "base") -> Experiment:
    return replace(
        mc4.get_config(size),
        model=family.byt5(size, remat=mc4.REMAT[size]),
        data=Denoising(
            corpora=mc4.MC4,
            tokenizer=Bytes(sentinels=0),
            objective=SpanCorruption(noise_density=0.15, mean_span_length=20.0),
            input_length=1024,
            mixing=Mixing(temperature=1 / 0.3),
        ),
    )
