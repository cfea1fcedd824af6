"""GLUE (arXiv:1804.07461) as text, to the letter as in T5 0.9.4: prefixes, order of the features, labels and metrics.

By default the examples are those of TFDS. Files and data sets of other sources have the same columns.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from research.config import ConfigError, Examples, Metric
from research.data.tasks.classification import Classification
from research.data.tasks.data_set import TFDSExamples
from research.score.labels import BinaryF1, LabelAccuracy, MatthewsCorrelation, Pearson, Spearman

ACCEPTABLE = ("unacceptable", "acceptable")
SENTIMENT = ("negative", "positive")
EQUIVALENT = ("not_equivalent", "equivalent")
DUPLICATE = ("not_duplicate", "duplicate")
THREE_WAY = ("entailment", "neutral", "contradiction")
TWO_WAY = ("entailment", "not_entailment")
WINOGRAD = ("not_entailment", "entailment")
STEPS_A_POINT = np.float32(5)  # of similarity: labels are rounded to 0.2


@dataclass(frozen=True, kw_only=True)
class CoLA(Classification):
    """Grammatical acceptability."""

    word: ClassVar[str] = "cola"
    features: ClassVar[tuple[str, ...]] = ("sentence",)
    labels: ClassVar[tuple[str, ...]] = ACCEPTABLE
    examples: Examples = TFDSExamples("glue/cola")
    metrics: tuple[Metric, ...] = (MatthewsCorrelation(ACCEPTABLE),)


@dataclass(frozen=True, kw_only=True)
class SST2(Classification):
    """Sentiment of sentences from reviews."""

    word: ClassVar[str] = "sst2"
    features: ClassVar[tuple[str, ...]] = ("sentence",)
    labels: ClassVar[tuple[str, ...]] = SENTIMENT
    examples: Examples = TFDSExamples("glue/sst2")
    metrics: tuple[Metric, ...] = (LabelAccuracy(SENTIMENT),)


@dataclass(frozen=True, kw_only=True)
class MRPC(Classification):
    """Paraphrases in news."""

    word: ClassVar[str] = "mrpc"
    features: ClassVar[tuple[str, ...]] = ("sentence1", "sentence2")
    labels: ClassVar[tuple[str, ...]] = EQUIVALENT
    examples: Examples = TFDSExamples("glue/mrpc")
    metrics: tuple[Metric, ...] = (BinaryF1(EQUIVALENT), LabelAccuracy(EQUIVALENT))


@dataclass(frozen=True, kw_only=True)
class QQP(Classification):
    """Duplicate questions of Quora."""

    word: ClassVar[str] = "qqp"
    features: ClassVar[tuple[str, ...]] = ("question1", "question2")
    labels: ClassVar[tuple[str, ...]] = DUPLICATE
    examples: Examples = TFDSExamples("glue/qqp")
    metrics: tuple[Metric, ...] = (BinaryF1(DUPLICATE), LabelAccuracy(DUPLICATE))


@dataclass(frozen=True, kw_only=True)
class MNLI(Classification):
    """Entailment, matched genres. Mismatched: examples=TFDSExamples("glue/mnli", held_out="validation_mismatched")."""

    word: ClassVar[str] = "mnli"
    features: ClassVar[tuple[str, ...]] = ("hypothesis", "premise")
    labels: ClassVar[tuple[str, ...]] = THREE_WAY
    examples: Examples = TFDSExamples("glue/mnli", held_out="validation_matched", test="test_matched")
    metrics: tuple[Metric, ...] = (LabelAccuracy(THREE_WAY),)


@dataclass(frozen=True, kw_only=True)
class QNLI(Classification):
    """Answers in sentences of Wikipedia."""

    word: ClassVar[str] = "qnli"
    features: ClassVar[tuple[str, ...]] = ("question", "sentence")
    labels: ClassVar[tuple[str, ...]] = TWO_WAY
    examples: Examples = TFDSExamples("glue/qnli")
    metrics: tuple[Metric, ...] = (LabelAccuracy(TWO_WAY),)


@dataclass(frozen=True, kw_only=True)
class RTE(Classification):
    """Textual entailment."""

    word: ClassVar[str] = "rte"
    features: ClassVar[tuple[str, ...]] = ("sentence1", "sentence2")
    labels: ClassVar[tuple[str, ...]] = TWO_WAY
    examples: Examples = TFDSExamples("glue/rte")
    metrics: tuple[Metric, ...] = (LabelAccuracy(TWO_WAY),)


@dataclass(frozen=True, kw_only=True)
class WNLI(Classification):
    """Winograd schemas as entailment."""

    word: ClassVar[str] = "wnli"
    features: ClassVar[tuple[str, ...]] = ("sentence1", "sentence2")
    labels: ClassVar[tuple[str, ...]] = WINOGRAD
    examples: Examples = TFDSExamples("glue/wnli")
    metrics: tuple[Metric, ...] = (LabelAccuracy(WINOGRAD),)


@dataclass(frozen=True, kw_only=True)
class STSB(Classification):
    """Similarity of sentences from 0 to 5, rounded to 0.2 and written with one decimal."""

    word: ClassVar[str] = "stsb"
    features: ClassVar[tuple[str, ...]] = ("sentence1", "sentence2")
    labels: ClassVar[tuple[str, ...]] = ()
    examples: Examples = TFDSExamples("glue/stsb")
    metrics: tuple[Metric, ...] = (Pearson(), Spearman())

    def label(self, given: str) -> str:
        return rounded(given)


def rounded(label: str) -> str:
    """Round a similarity to 0.2 in float32, halves to even, as T5 does. Raises ConfigError if it is no number."""
    try:
        value = np.float32(label)
    except ValueError:
        raise ConfigError(f"STSB has the label {label!r}: it must be a number from 0 to 5, or -1.") from None
    return f"{np.round(value * STEPS_A_POINT) / STEPS_A_POINT:.1f}"
