"""Published scores of suites of tasks, each with its source and where its copy was read.

Scores that no copy was found of are left out; None is one of several scores of a task. No model of this list is one of
ByT5, T5 v1.1, Flan-T5 or UL2: of their scores of these tasks no copy was found.

T5 is quoted from table 14 of arXiv:1910.10683: averages, SQuAD, CNN/DM and WMT as quoted in course notes on GitHub
(CNN/DM of T5-Base and T5-11B also in arXiv:2002.12804, table 4); GLUE as in arXiv:2201.07520 (CM3), table 7; F1 of MRPC
as at paperswithcode2.com/benchmark/53921; T5-11B's Pearson of STS-B from these notes; MNLI-m of T5-Small as at
yourpaperiswrong.com/api/v1/papers/1910.10683; T5-11B's SuperGLUE as on the benchmark's server, in arXiv:2110.07904
(SPoT) and OpenBMB's ModelCenter. On the server their average is 89.3, in table 14 88.9.

The baseline is T5's own of base size in its ablations (tables 1 and 2). BART's scores are from fairseq's
examples/bart/README.md, and MNLI-mm from arXiv:2201.07520, table 7. mT5's are from the README of
google-research/multilingual-t5, means over the languages after training in English alone.
"""

from collections.abc import Mapping
from typing import NamedTuple

TEST, VALIDATION = "test sets, SQuAD's validation set", "validation sets"


class PublishedModel(NamedTuple):
    """The scores of a model by task, in the order of the task's scores in its suite, and averages by their titles."""

    name: str
    sets: str
    source: str
    scores: Mapping[str, tuple[float | None, ...]]
    averages: Mapping[str, float] = {}


def _t5(
    size: str,
    averages: tuple[float, float],
    squad: tuple[float, float],
    summaries: tuple[float, float, float],
    translations: tuple[float, float, float],
    others: Mapping[str, tuple[float | None, ...]],
) -> PublishedModel:
    pairs = zip(("wmt_ende", "wmt_enfr", "wmt_enro"), translations, strict=True)
    scores = {**others, "squad": squad, "cnn_dailymail": summaries, **{name: (value,) for name, value in pairs}}
    named = dict(zip(("GLUE", "SuperGLUE"), averages, strict=True))
    return PublishedModel(f"T5-{size}", TEST, "arXiv:1910.10683, table 14", scores, named)


T5_SMALL = _t5(
    "Small",
    (77.4, 63.3),
    (79.10, 87.24),
    (41.12, 19.56, 38.35),
    (26.7, 36.0, 26.8),
    {"glue_mrpc": (89.7, None), "glue_mnli_matched": (82.4,)},
)
T5_BASE = _t5(
    "Base",
    (82.7, 76.2),
    (85.44, 92.08),
    (42.05, 20.34, 39.40),
    (30.9, 41.2, 28.0),
    {
        **{"glue_cola": (51.1,), "glue_sst2": (95.2,), "glue_mrpc": (90.7, 87.5), "glue_qqp": (None, 89.4)},
        **{"glue_mnli_matched": (87.1,), "glue_mnli_mismatched": (86.2,), "glue_qnli": (93.7,), "glue_rte": (80.1,)},
    },
)
T5_LARGE = _t5(
    "Large",
    (86.4, 82.3),
    (86.66, 93.79),
    (42.50, 20.68, 39.75),
    (32.0, 41.5, 28.1),
    {
        **{"glue_cola": (61.2,), "glue_sst2": (96.3,), "glue_mrpc": (92.4, 89.9), "glue_qqp": (None, 89.9)},
        **{"glue_mnli_matched": (89.9,), "glue_mnli_mismatched": (89.6,), "glue_qnli": (94.8,), "glue_rte": (87.2,)},
    },
)
T5_3B = _t5(
    "3B",
    (88.5, 86.4),
    (88.53, 94.95),
    (42.72, 21.02, 39.94),
    (31.8, 42.6, 28.2),
    {
        **{"glue_cola": (67.1,), "glue_sst2": (97.4,), "glue_mrpc": (92.5, 90.0), "glue_qqp": (None, 89.7)},
        **{"glue_mnli_matched": (91.4,), "glue_mnli_mismatched": (91.2,), "glue_qnli": (96.3,), "glue_rte": (91.1,)},
    },
)
T5_11B = _t5(
    "11B",
    (90.3, 88.9),
    (91.26, 96.22),
    (43.52, 21.55, 40.69),
    (32.1, 43.4, 28.1),
    {
        **{"glue_cola": (71.6,), "glue_sst2": (97.5,), "glue_mrpc": (None, 90.4), "glue_stsb": (93.1, None)},
        **{"glue_qqp": (None, 90.6), "glue_mnli_matched": (92.2,), "glue_mnli_mismatched": (91.9,)},
        **{"glue_qnli": (96.9,), "glue_rte": (92.8,)},
        **{"super_glue_boolq": (91.2,), "super_glue_cb": (93.9, 96.8), "super_glue_copa": (94.8,)},
        **{"super_glue_multirc": (88.1, 63.3), "super_glue_record": (94.1, 93.4), "super_glue_rte": (92.5,)},
        **{"super_glue_wic": (76.9,), "super_glue_wsc": (93.8,)},
    },
)
T5_BASELINE = PublishedModel(
    "T5's baseline",
    VALIDATION,
    "arXiv:1910.10683, tables 1 and 2",
    {
        **{"squad": (80.88, None), "cnn_dailymail": (None, 19.24, None)},
        **{"wmt_ende": (26.98,), "wmt_enfr": (39.82,), "wmt_enro": (27.65,)},
    },
    {"GLUE without WNLI": 83.28, "SuperGLUE": 71.36},
)
BART_LARGE = PublishedModel(
    "BART-large",
    "validation sets, CNN/DM's test set",
    "fairseq, examples/bart/README.md",
    {
        **{"glue_cola": (62.8,), "glue_sst2": (96.6,), "glue_mrpc": (None, 90.4), "glue_qqp": (None, 92.5)},
        **{"glue_mnli_matched": (89.9,), "glue_mnli_mismatched": (90.1,), "glue_qnli": (94.9,), "glue_rte": (87.0,)},
        **{"squad": (88.8, 94.6), "cnn_dailymail": (44.16, 21.28, 40.90)},
    },
)


def _mt5(size: str, *means: float) -> PublishedModel:
    titles = ("XNLI", "PAWS-X", "XQuAD F1", "MLQA F1", "TyDi QA F1")
    averages = dict(zip(titles, means, strict=True))
    source = "google-research/multilingual-t5, README.md"
    return PublishedModel(f"mT5-{size}", "test sets, TyDi QA's validation set", source, {}, averages)


MT5 = (
    _mt5("Small", 67.5, 82.4, 58.1, 54.6, 36.4),
    _mt5("Base", 75.4, 86.4, 67.0, 64.6, 59.1),
    _mt5("Large", 81.1, 88.9, 77.8, 71.2, 68.4),
    _mt5("XL", 82.9, 89.6, 79.5, 73.5, 77.8),
    _mt5("XXL", 85.0, 90.0, 82.5, 76.0, 82.0),
)

PUBLISHED_SUITES = (T5_SMALL, T5_BASE, T5_LARGE, T5_3B, T5_11B, T5_BASELINE, BART_LARGE, *MT5)
