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
    """Exact match and F1 over words, normalised as English by SQuAD's own script (arXiv:1806.03822)."""

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
    """Lowercase, remove punctuation, then articles, and join the words by single spaces."""
    return " ".join(_ARTICLES.sub(" ", answer.lower().translate(_PUNCTUATION)).split())


def _overlap(prediction: str, reference: str) -> float:
    """Compute F1 over bags of words; two empty answers score 1, unlike in v1.1's script, and one empty answer 0."""
    predicted, expected = _normalised(prediction).split(), _normalised(reference).split()
    if not predicted or not expected:
        return float(predicted == expected)
    same = sum((Counter(predicted) & Counter(expected)).values())
    return 2 * same / (len(predicted) + len(expected))


@dataclass(frozen=True)
class Accuracy(Metric):
    """The percentage of outputs that equal a reference, ignoring surrounding whitespace."""

    @property
    def names(self) -> tuple[str, ...]:
        return ("sequence_accuracy",)

    def score_example(self, prediction: str, references: Sequence[str]) -> Mapping[str, float]:
        return {"sequence_accuracy": 100.0 * (prediction.strip() in {one.strip() for one in references})}

    def signature(self, references: References) -> str:
        return f"{reference_count(references)}|equal to a reference after strip"
