"""Scores of named entities that are written as text."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from research.config import Metric
from research.config.metric import References, reference_count

BETWEEN = " $$ "


@dataclass(frozen=True)
class SpanF1(Metric):
    """F1 of spans such as "PER: rick $$ LOC: Paris" over all examples, in percent, as mT5 scores WikiAnn.

    A part is a span if it has one colon; spaces around its kind and its text do not count. The first reference counts.
    """

    @property
    def names(self) -> tuple[str, ...]:
        return ("span_f1",)

    def score(self, predictions: Sequence[str], references: References) -> Mapping[str, float]:
        right = total = 0
        for prediction, given in zip(predictions, references, strict=True):
            written, expected = _spans(prediction), _spans(given[0])
            right += (written & expected).total()
            total += written.total() + expected.total()
        return {"span_f1": 200.0 * right / total if total else 0.0}

    def signature(self, references: References) -> str:
        return f"{reference_count(references)}|first reference|micro-averaged"


def _spans(text: str) -> Counter[tuple[str, ...]]:
    parts = (part.split(":") for part in text.split(BETWEEN))
    return Counter(tuple(map(str.strip, part)) for part in parts if len(part) == 2)
