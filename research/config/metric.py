"""The base of metrics, which score predicted texts against references."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from research.config.base import require
from research.config.parts import Part

EDIT_RATE = "edit_rate"  # ends the names of numbers that are better when lower and cannot choose checkpoints
References = Sequence[Sequence[str]]  # one or more texts for each prediction


@dataclass(frozen=True)
class Metric(Part):
    """A metric of predicted texts, with one or more numbers by name; higher is better.

    Lower is better for a number whose name ends in "edit_rate", as TER's: such a number cannot choose checkpoints.

    Subclass it in a frozen dataclass with `names` and either `score_example`, which is averaged over examples, or
    `score`, for a metric of all examples together. Scores must be deterministic. An exception, a missing number or a
    number that is not finite is an error with the metric's file and line; to find these early, two made-up predictions,
    one of them empty, are scored before training. `scripts.significance` needs `score_example`, with `score` its mean.

    For example, the share of a reference's words in the prediction (arXiv:2004.14373 calls such metrics coverage):

        @dataclass(frozen=True)
        class WordRecall(Metric):
            lowercase: bool = True

            @property
            def names(self) -> tuple[str, ...]:
                return ("word_recall",)

            def score_example(self, prediction: str, references: Sequence[str]) -> dict[str, float]:
                return {"word_recall": max(self._recall(prediction, reference) for reference in references)}

            def _recall(self, prediction: str, reference: str) -> float:
                words, expected = self._words(prediction), self._words(reference)
                return 100.0 * len(words & expected) / max(1, len(expected))

            def _words(self, text: str) -> set[str]:
                return set((text.lower() if self.lowercase else text).split())

    Use it in a file as `metrics=(WordRecall(),)`, or in an override as `metrics='[WordRecall()]'`.
    """

    @property
    @abstractmethod
    def names(self) -> tuple[str, ...]:
        """The names of the metric's numbers. They depend only on its fields; metrics of a task must share none."""

    def score_example(self, prediction: str, references: Sequence[str]) -> Mapping[str, float] | None:
        """Score one example: numbers by name, or None if the metric is of all examples together."""
        return None

    def score(self, predictions: Sequence[str], references: References) -> Mapping[str, float]:
        """Score all examples (at least one): numbers by name. By default, average `score_example`."""
        import numpy as np

        rows = [self.score_example(*pair) for pair in zip(predictions, references, strict=True)]
        return {name: float(np.mean([row[name] for row in rows if row is not None])) for name in self.names}

    def score_examples(
        self, predictions: Sequence[str], references: References, more: Sequence[Mapping[str, str]]
    ) -> Mapping[str, float]:
        """Score all examples with their "source", without a prefix, and what their task gives beside the references.

        By default this is not read.
        """
        return self.score(predictions, references)

    def signature(self, references: References) -> str:
        """Return the settings to publish with a number so that other numbers can be compared with it."""
        return f"{reference_count(references)}|{self!r}"

    def check_references(self, references: References, name: str) -> None:
        """Raise ConfigError if all outputs would score equally against the references of the examples `name`."""
        return None

    @property
    def is_mean(self) -> bool:
        """True if the numbers are means of `score_example`."""
        kind = type(self)
        whole = kind.score is not Metric.score or kind.score_examples is not Metric.score_examples
        return not whole and kind.score_example is not Metric.score_example


def lower_is_better(name: str) -> bool:
    """Tell by the end of its name whether a number is better when it is lower."""
    return name.endswith(("loss", EDIT_RATE))


def reference_count(references: References) -> str:
    """Return the number of references per example in sacreBLEU's format: "nrefs:1", or "nrefs:var"."""
    most, fewest = max(map(len, references)), min(map(len, references))
    return f"nrefs:{most if most == fewest else 'var'}"


def score_names(metrics: tuple[Metric, ...]) -> tuple[str, ...]:
    """Return the names of all numbers of the metrics. Raise ConfigError if two have the same name."""
    names = tuple(name for metric in metrics for name in metric.names)
    twice = sorted({name for name in names if names.count(name) > 1})
    require(not twice, f"metrics give {', '.join(twice)} twice: list each metric once.")
    return names
