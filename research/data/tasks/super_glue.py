"""SuperGLUE (arXiv:1905.00537) as text, to the letter as in T5 0.9.4; see glue.py."""

from dataclasses import dataclass
from typing import ClassVar

from research.config import Examples, Metric
from research.data.tasks.classification import Classification
from research.data.tasks.data_set import TFDSExamples
from research.data.tasks.glue import TWO_WAY
from research.score.labels import LabelAccuracy, MacroF1

BOOLEAN = ("False", "True")
COMMITMENT = ("entailment", "contradiction", "neutral")
CHOICES = ("choice1", "choice2")


@dataclass(frozen=True, kw_only=True)
class BoolQ(Classification):
    """Questions whose answer is yes or no."""

    word: ClassVar[str] = "boolq"
    features: ClassVar[tuple[str, ...]] = ("passage", "question")
    labels: ClassVar[tuple[str, ...]] = BOOLEAN
    examples: Examples = TFDSExamples("super_glue/boolq")
    metrics: tuple[Metric, ...] = (LabelAccuracy(BOOLEAN),)


@dataclass(frozen=True, kw_only=True)
class CB(Classification):
    """CommitmentBank: entailment of embedded clauses."""

    word: ClassVar[str] = "cb"
    features: ClassVar[tuple[str, ...]] = ("hypothesis", "premise")
    labels: ClassVar[tuple[str, ...]] = COMMITMENT
    examples: Examples = TFDSExamples("super_glue/cb")
    metrics: tuple[Metric, ...] = (MacroF1(COMMITMENT), LabelAccuracy(COMMITMENT))


@dataclass(frozen=True, kw_only=True)
class COPA(Classification):
    """The more plausible of two causes or effects; the question is "cause" or "effect"."""

    word: ClassVar[str] = "copa"
    features: ClassVar[tuple[str, ...]] = ("choice1", "choice2", "premise", "question")
    labels: ClassVar[tuple[str, ...]] = CHOICES
    examples: Examples = TFDSExamples("super_glue/copa")
    metrics: tuple[Metric, ...] = (LabelAccuracy(CHOICES),)


@dataclass(frozen=True, kw_only=True)
class SuperGLUERTE(Classification):
    """Textual entailment, with the names of SuperGLUE's columns."""

    word: ClassVar[str] = "rte"
    features: ClassVar[tuple[str, ...]] = ("hypothesis", "premise")
    labels: ClassVar[tuple[str, ...]] = TWO_WAY
    examples: Examples = TFDSExamples("super_glue/rte")
    metrics: tuple[Metric, ...] = (LabelAccuracy(TWO_WAY),)


@dataclass(frozen=True, kw_only=True)
class WiC(Classification):
    """One word in two sentences: the same sense or not. Its places in the sentences are not told, as in T5."""

    word: ClassVar[str] = "wic"
    features: ClassVar[tuple[str, ...]] = ("sentence1", "sentence2", "word")
    labels: ClassVar[tuple[str, ...]] = BOOLEAN
    examples: Examples = TFDSExamples("super_glue/wic")
    metrics: tuple[Metric, ...] = (LabelAccuracy(BOOLEAN),)
