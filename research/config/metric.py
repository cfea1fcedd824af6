"""The base of metrics: measures of written texts against references."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from research.config.base import require
from research.config.parts import Part

References = Sequence[Sequence[str]]  # one or more texts for each prediction


@dataclass(frozen=True)
class Metric(Part):
    """A measure of written texts, as one or more numbers by name; higher is better.

    Subclass it in a frozen dataclass with `names` and either `score_example`, whose means over all examples are the
    numbers, or `score`, for what is measured of all examples together. The same texts must give the same numbers. An
    exception, a missing number and a number that is not finite are errors that name the metric's file and line; two
    made-up predictions, one of them empty, are scored before training. `scripts.significance` needs `score_example`,
    and that `score` is its mean.

    This one is the share of a reference's words that were written (arXiv:2004.14373 calls such measures coverage):

        @dataclass(frozen=True)
        class WordRecall(Metric):
            lowercase: bool = True

            @property
            def names(self) -> tuple[str, ...]:
                return ("word_recall",)

            def score_example(self, prediction: str, references: Sequence[str]) -> dict[str, float]:
                return {"word_recall": max(self._recall(prediction, reference) for reference in references)}

            def _recall(self, prediction: str, reference: str) -> float:
                words, wanted = self._words(prediction), self._words(reference)
                return 100.0 * len(words & wanted) / max(1, len(wanted))

            def _words(self, text: str) -> set[str]:
                return set((text.lower() if self.lowercase else text).split())

    It is used by name, in a file as `metrics=(WordRecall(),)` and in an override as `metrics='[WordRecall()]'`.
    """

    @property
    @abstractmethod
    def names(self) -> tuple[str, ...]:
        """The names of its numbers, which follow from its fields: two metrics of a task share none."""

    def score_example(self, prediction: str, references: Sequence[str]) -> Mapping[str, float] | None:
        """Numbers of one example by name; None where the metric is of all examples together."""
        return None

    def score(self, predictions: Sequence[str], references: References) -> Mapping[str, float]:
        """Numbers of all examples by name: here the means over examples. There is at least one example."""
        import numpy as np

        rows = [self.score_example(*pair) for pair in zip(predictions, references, strict=True)]
        return {name: float(np.mean([row[name] for row in rows if row is not None])) for name in self.names}

    def signature(self, references: References) -> str:
        """Everything that a number must be published with, so that another can be compared with it."""
        return f"{reference_count(references)}|{self!r}"

    def check_references(self, references: References, name: str) -> None:
        """Raise ConfigError where every output would score alike against the references of the examples `name`."""
        return None

    @property
    def is_mean(self) -> bool:
        """Tell whether the numbers are the means of those of `score_example`."""
        kind = type(self)
        return kind.score is Metric.score and kind.score_example is not Metric.score_example


def reference_count(references: References) -> str:
    """The number of references an example as a signature has it, as in sacreBLEU: "nrefs:1", or "nrefs:var"."""
    most, fewest = max(map(len, references)), min(map(len, references))
    return f"nrefs:{most if most == fewest else 'var'}"


def score_names(metrics: tuple[Metric, ...]) -> tuple[str, ...]:
    """The names of all numbers that the metrics give. Raises ConfigError where two give the same."""
    names = tuple(name for metric in metrics for name in metric.names)
    twice = sorted({name for name in names if names.count(name) > 1})
    require(not twice, f"metrics give {', '.join(twice)} twice: name each kind once.")
    return names
