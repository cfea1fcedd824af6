"""Scores of short answers: SQuAD's exact match and F1, and the accuracy of whole outputs."""

import re
import string
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from research.config import Metric
from research.config.metric import References, reference_count

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(a|an|the)\b")


@dataclass(frozen=True)
class SQuAD(Metric):
    """Exact match and F1 of words, after the normalisation of English in SQuAD's own script (arXiv:1806.03822)."""

    @property
    def names(self) -> tuple[str, ...]:
        return ("exact_match", "f1")

    def score_example(self, prediction: str, references: Sequence[str]) -> Mapping[str, float]:
        return {
            "exact_match": 100.0 * max(_normalised(one) == _normalised(prediction) for one in references),
            "f1": 100.0 * max(_overlap(prediction, one) for one in references),
        }

    def signature(self, references: References) -> str:
        return f"{reference_count(references)}|best reference|normalised as SQuAD v2.0's script"


def _normalised(answer: str) -> str:
    """Lower case, without punctuation, then without articles, words parted by one space."""
    return " ".join(_ARTICLES.sub(" ", answer.lower().translate(_PUNCTUATION)).split())


def _overlap(prediction: str, reference: str) -> float:
    """F1 of the words as bags. Where one is empty, whether both are (v1.1's script gives 0 for two empty ones)."""
    written, wanted = _normalised(prediction).split(), _normalised(reference).split()
    if not written or not wanted:
        return float(written == wanted)
    same = sum((Counter(written) & Counter(wanted)).values())
    return 2 * same / (len(written) + len(wanted))


@dataclass(frozen=True)
class Accuracy(Metric):
    """The share of outputs that equal a reference, but for space around them."""

    @property
    def names(self) -> tuple[str, ...]:
        return ("sequence_accuracy",)

    def score_example(self, prediction: str, references: Sequence[str]) -> Mapping[str, float]:
        return {"sequence_accuracy": 100.0 * (prediction.strip() in {one.strip() for one in references})}

    def signature(self, references: References) -> str:
        return f"{reference_count(references)}|equal to a reference after strip"
