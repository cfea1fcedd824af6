"""Scores of classification by text, and of similarity as a number, as T5 0.9.4 computes them (arXiv:1910.10683).

An output counts as a label only if it is that label to the letter. Any other text is a class of its own, "none".
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int64

from research.config import ConfigError, Metric, require
from research.config.metric import References

NONE = -1  # the class of a text that is no label
NOT_A_NUMBER = -1.0  # the value of a text that is no number

LabelNumbers = Int64[np.ndarray, " n"]


@dataclass(frozen=True)
class LabelMetric(Metric):
    """The base of metrics of labels, which are compared with the first reference of each example."""

    labels: tuple[str, ...]

    def __post_init__(self) -> None:
        distinct = len(self.labels) > 1 and len(set(self.labels)) == len(self.labels)
        require(distinct, f"The labels of {type(self).__name__} are {self.labels}: give two or more that differ.")

    def classes(self, predictions: Sequence[str], references: References) -> tuple[LabelNumbers, LabelNumbers]:
        """Return the classes of predictions and of first references: indices of labels, or NONE."""
        number = {label: index for index, label in enumerate(self.labels)}
        return (
            np.array([number.get(text, NONE) for text in predictions], np.int64),
            np.array([number.get(texts[0], NONE) for texts in references], np.int64),
        )


@dataclass(frozen=True)
class LabelAccuracy(LabelMetric):
    """The percentage of outputs that are the label of their example."""

    @property
    def names(self) -> tuple[str, ...]:
        return ("accuracy",)

    def score_example(self, prediction: str, references: Sequence[str]) -> Mapping[str, float]:
        predicted, expected = self.classes([prediction], [references])
        return {"accuracy": 100.0 * float(predicted[0] == expected[0])}


@dataclass(frozen=True)
class MatthewsCorrelation(LabelMetric):
    """Matthews' correlation coefficient in percent, for any number of classes; 0 if one side has a single class.

    Texts that are no label are one more class (Gorodkin, "Comparing two K-category assignments by a K-category
    correlation coefficient", 2004).
    """

    @property
    def names(self) -> tuple[str, ...]:
        return ("matthews_corrcoef",)

    def score(self, predictions: Sequence[str], references: References) -> Mapping[str, float]:
        predicted, expected = self.classes(predictions, references)
        found, known = (
            np.array([(side == label).sum() for label in range(NONE, len(self.labels))], np.float64)
            for side in (predicted, expected)
        )
        count = len(predicted)
        covariance = count * (predicted == expected).sum() - found @ known
        spread = np.sqrt((count**2 - found @ found) * (count**2 - known @ known))
        return {"matthews_corrcoef": 100.0 * float(covariance / spread) if spread else 0.0}


@dataclass(frozen=True)
class BinaryF1(LabelMetric):
    """F1 of the second of two labels, in percent. A text that is no label counts as the wrong label."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(len(self.labels) == 2, f"The labels of BinaryF1 are {self.labels}: give two.")

    @property
    def names(self) -> tuple[str, ...]:
        return ("label_f1",)

    def score(self, predictions: Sequence[str], references: References) -> Mapping[str, float]:
        predicted, expected = self.classes(predictions, references)
        predicted = np.where(predicted == NONE, 1 - expected, predicted)
        return {"label_f1": 100.0 * f1(predicted == 1, expected == 1)}


@dataclass(frozen=True)
class MacroF1(LabelMetric):
    """The mean of the F1 of each label, in percent; a label that neither side has counts as 0."""

    @property
    def names(self) -> tuple[str, ...]:
        return (f"mean_{len(self.labels)}class_f1",)

    def score(self, predictions: Sequence[str], references: References) -> Mapping[str, float]:
        predicted, expected = self.classes(predictions, references)
        each = [f1(predicted == label, expected == label) for label in range(len(self.labels))]
        return {self.names[0]: 100.0 * float(np.mean(each))}


@dataclass(frozen=True)
class GroupMatch(LabelMetric):
    """The percentage of groups of examples all of whose outputs are right, such as all answers to a question.

    A task gives the name of an example's group as "group" beside its references.
    """

    @property
    def names(self) -> tuple[str, ...]:
        return ("exact_match",)

    def score_examples(
        self, predictions: Sequence[str], references: References, more: Sequence[Mapping[str, str]]
    ) -> Mapping[str, float]:
        predicted, expected = self.classes(predictions, references)
        groups = [text_of(each, "group", self) for each in more]
        all_right = dict.fromkeys(groups, True)
        for group, right in zip(groups, (predicted == expected).tolist(), strict=True):
            all_right[group] &= right
        return {"exact_match": 100.0 * float(np.mean(list(all_right.values())))}


def text_of(more: Mapping[str, str], name: str, metric: Metric) -> str:
    """Return a text that a task gives beside the references. Raises ConfigError if it does not."""
    try:
        return more[name]
    except KeyError:
        needed = f'{type(metric).__name__} needs a text "{name}" beside the references of each example'
        raise ConfigError(f"{needed}: the task must give it.") from None


def f1(predicted: np.ndarray, expected: np.ndarray) -> float:
    """Compute F1 from flags of examples; 0 if neither side has any."""
    size = int(predicted.sum()) + int(expected.sum())
    return 2.0 * int((predicted & expected).sum()) / size if size else 0.0


# --- Numbers ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pearson(Metric):
    """Pearson's correlation with the first references as numbers, in percent; 0 where it is not defined.

    A text that is no number counts as -1. T5 gives NaN where it is not defined, for example for equal outputs.
    """

    @property
    def names(self) -> tuple[str, ...]:
        return ("pearson_corrcoef",)

    def score(self, predictions: Sequence[str], references: References) -> Mapping[str, float]:
        return {"pearson_corrcoef": 100.0 * correlation(*numbers(predictions, references))}


@dataclass(frozen=True)
class Spearman(Metric):
    """Spearman's rank correlation with the first references as numbers, in percent; as Pearson."""

    @property
    def names(self) -> tuple[str, ...]:
        return ("spearman_corrcoef",)

    def score(self, predictions: Sequence[str], references: References) -> Mapping[str, float]:
        from scipy.stats import rankdata

        ranks = (rankdata(side) for side in numbers(predictions, references))
        return {"spearman_corrcoef": 100.0 * correlation(*ranks)}


def numbers(predictions: Sequence[str], references: References) -> tuple[Float[np.ndarray, " n"], ...]:
    """Return predictions and first references as finite numbers."""
    sides = (predictions, [texts[0] for texts in references])
    return tuple(np.array([as_number(text) for text in side], np.float64) for side in sides)


def as_number(text: str) -> float:
    """Return the number that a text is, as Python's float reads it; NOT_A_NUMBER if it is none or not finite."""
    try:
        value = float(text)
    except ValueError:
        return NOT_A_NUMBER
    return value if np.isfinite(value) else NOT_A_NUMBER


def correlation(a: Float[np.ndarray, " n"], b: Float[np.ndarray, " n"]) -> float:
    """Compute Pearson's correlation; 0 if one side is constant."""
    a, b = a - a.mean(), b - b.mean()
    spread = np.linalg.norm(a) * np.linalg.norm(b)
    return float(a @ b / spread) if spread else 0.0
