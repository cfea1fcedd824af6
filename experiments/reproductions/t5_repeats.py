"""The repetition of data in T5's table 9: C4 cut down and repeated, with the same total number of tokens.

Paper: Raffel et al., arXiv:1910.10683, section 3.4.2: the baseline of t5_objectives.py beside this file, its 2**35
tokens drawn from 2**35, 2**29, 2**27, 2**25 or 2**23 different ones. The published scores (columns as in that file):

    different tokens   times    GLUE   CNNDM  SQuAD  SGLUE  EnDe   EnFr   EnRo
    all                    0    83.28  19.24  80.88  71.36  26.98  39.82  27.65
    2**29                 64    82.87  19.19  80.97  72.03  26.83  39.74  27.63
    2**27                256    82.62  19.20  79.78  69.97  27.02  39.71  27.33
    2**25              1,024    79.55  18.57  76.27  64.76  26.38  39.56  26.80
    2**23              4,096    76.34  18.33  70.92  59.29  26.37  38.84  25.81

A cut keeps a number of documents, by C4's mean of about 430 tokens a document: 2**29 tokens are the first 1,248,537
documents.

Commands:
    python -m scripts.sweep experiments/reproductions/t5_repeats.py --dir sweeps/t5_repeats --hardware v5p-64
    python -m scripts.sweep experiments/reproductions/t5_downstream.py --dir sweeps/t5_repeats_downstream \
        --from sweeps/t5_repeats
Data: C4 by its TensorFlow Datasets name (about 750 GB; its builder needs Apache Beam). T5's SentencePiece model:
    --config.data.tokenizer.path=PATH.
Hardware, time, result: not run yet; t5_repeats_small.py beside this file is the small version.
"""

from collections.abc import Iterable
from typing import Any

from research import Experiment, Published, grid

from . import t5_objectives

DOCUMENTS = tuple(2**power // 430 for power in (29, 27, 25, 23))


def get_config() -> Experiment:
    return t5_objectives.get_config()


def sweep() -> Iterable[dict[str, Any]]:
    return grid({"data.corpora.0.train": ("train", *(f"train[:{count}]" for count in DOCUMENTS))})


def published() -> Iterable[Published]:
    values = (
        (83.28, 19.24, 80.88, 71.36, 26.98, 39.82, 27.65),
        (82.87, 19.19, 80.97, 72.03, 26.83, 39.74, 27.63),
        (82.62, 19.20, 79.78, 69.97, 27.02, 39.71, 27.33),
        (79.55, 18.57, 76.27, 64.76, 26.38, 39.56, 26.80),
        (76.34, 18.33, 70.92, 59.29, 26.37, 38.84, 25.81),
    )
    scores = ("GLUE", "CNNDM", "SQuAD", "SGLUE", "EnDe", "EnFr", "EnRo")
    return [
        Published("Raffel et al., arXiv:1910.10683, table 9", scores, tuple(zip(sweep(), values, strict=True))),
    ]
