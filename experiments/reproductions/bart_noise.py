"""The comparison of noise in BART's table 1: six kinds of noise, each pretraining a BART base on books and Wikipedia.

Paper: Lewis et al., arXiv:1910.13461, section 4: models of base size, 1,000,000 steps on books and Wikipedia. The
published scores are SQuAD 1.1 (F1) and MNLI (accuracy), for which higher is better, and the perplexity of ELI5, XSum,
ConvAI2 and CNN/DM, for which lower is better:

    noise                         SQuAD   MNLI    ELI5    XSum   ConvAI2   CNN/DM
    token masking                 90.4    84.1   25.05    7.08     11.73     6.10
    token deletion                90.4    84.1   24.61    6.90     11.46     5.87
    text infilling                90.8    84.0   24.26    6.61     11.05     5.83
    document rotation             77.2    75.3   53.69   17.14     19.87    10.59
    sentence shuffling            85.4    81.5   41.87   10.93     16.67     7.89
    infilling and shuffling       90.8    83.8   24.17    6.62     11.12     5.41

The paper gives neither the batch of these runs nor the share of masked or deleted tokens: here they are those of its
large model, 8,000 rows and 30 %. Everything else is from ../bart/bart.py, which cites the source of each number.

Commands:
    python -m scripts.sweep experiments/reproductions/bart_noise.py --dir sweeps/bart_noise --hardware v5p-64
    python -m scripts.report sweeps/bart_noise
Data: as in ../bart/bart.py.
Hardware, time, result: not run yet; bart_noise_small.py beside this file, the small version, was run.
"""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from research import (
    BART,
    ByteLevelBPE,
    Denoising,
    Experiment,
    JSONLines,
    Published,
    TextInfilling,
    TokenDeletion,
    TokenMasking,
    grid,
)

from ..bart import bart

PRETRAINING = bart.get_config("base")


def get_config() -> Experiment:
    return replace(
        PRETRAINING,
        data=Denoising(
            corpora=(JSONLines("books_wiki/train-*.jsonl.gz", "books_wiki/held_out.jsonl.gz"),),
            tokenizer=ByteLevelBPE("bart"),
            objective=BART(TextInfilling(), permute_sentences=1.0),
            input_length=512,
        ),
        steps=1_000_000,
    )


MASKING = BART(TokenMasking(), permute_sentences=0.0)
DELETION = BART(TokenDeletion(), permute_sentences=0.0)
INFILLING = BART(TextInfilling(), permute_sentences=0.0)
ROTATION = BART(None, permute_sentences=0.0, rotate=1.0)
SHUFFLING = BART(None, permute_sentences=1.0)
BOTH = BART(TextInfilling(), permute_sentences=1.0)


def sweep() -> Iterable[dict[str, Any]]:
    return grid({"data.objective": (MASKING, DELETION, INFILLING, ROTATION, SHUFFLING, BOTH)})


def published() -> Iterable[Published]:
    rows = (
        ({"data.objective": MASKING}, (90.4, 84.1, 25.05, 7.08, 11.73, 6.10)),
        ({"data.objective": DELETION}, (90.4, 84.1, 24.61, 6.90, 11.46, 5.87)),
        ({"data.objective": INFILLING}, (90.8, 84.0, 24.26, 6.61, 11.05, 5.83)),
        ({"data.objective": ROTATION}, (77.2, 75.3, 53.69, 17.14, 19.87, 10.59)),
        ({"data.objective": SHUFFLING}, (85.4, 81.5, 41.87, 10.93, 16.67, 7.89)),
        ({"data.objective": BOTH}, (90.8, 83.8, 24.17, 6.62, 11.12, 5.41)),
    )
    perplexities = ("ELI5", "XSum", "ConvAI2", "CNN/DM")
    return [Published("Lewis et al., arXiv:1910.13461, table 1", ("SQuAD", "MNLI", *perplexities), rows, perplexities)]
