"""The repetition of data in T5's table 9, with a model of 4.8 M parameters on Python's documentation.

Paper: Raffel et al., arXiv:1910.10683, section 3.4.2; its table is in t5_repeats.py beside this file. Smaller here: the
model of t5_objectives_small.py, 1,000 steps of 8 rows, 1.1 M raw tokens, a quarter of the corpus. Cut to a share of its
documents, this quarter is read 1, 4, 16, 64 and 256 times. All variants have the same held-out text, so the held-out
loss shows the cost of repetition.

Commands:
    python -m scripts.sweep experiments/reproductions/t5_repeats_small.py --dir sweeps/t5_repeats --jobs 2
    python -m scripts.report sweeps/t5_repeats
    The vocabulary is that of t5_objectives_small.py, which is trained on the whole corpus.
Hardware, time, result: not run yet.
"""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from research import (
    TFDS,
    Checkpoint,
    Denoising,
    Evaluation,
    Experiment,
    Published,
    ReplaceSpans,
    SentencePiece,
    grid,
    product,
    seeds,
)

from . import t5_objectives_small, t5_repeats

DOCUMENTS = (7874, 1969, 492, 123, 31)  # of 31,498; each a quarter of the one before
SERIES = t5_objectives_small.get_config()


def get_config() -> Experiment:
    return replace(
        SERIES,
        data=Denoising(
            corpora=(TFDS("python_docs"),),
            tokenizer=SentencePiece("sweeps/t5_objectives/seed=0,objective=ReplaceSpans/tokenizer.model"),
            objective=ReplaceSpans(noise_density=0.15),
            input_length=128,
        ),
        steps=1000,
        evaluation=Evaluation(every=100, rows=256),
        checkpoint=Checkpoint(every=500),
    )


def sweep() -> Iterable[dict[str, Any]]:
    cut = grid({"data.corpora.0.train": [f"train[:{count}]" for count in DOCUMENTS]})
    return product(seeds(3), cut)


def published() -> Iterable[Published]:
    """Return the paper's table with each of its cuts replaced by the corresponding cut of this sweep."""
    (table,) = t5_repeats.published()
    rows = [
        ({"data.corpora.0.train": f"train[:{count}]"}, values)
        for count, (_, values) in zip(DOCUMENTS, table.rows, strict=True)
    ]
    return [Published(table.source, table.scores, tuple(rows))]
