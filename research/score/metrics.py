"""Scoring of outputs against references with any metrics, and checks of the metrics before there are outputs."""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any, NamedTuple

from research.config import Metric, require, score_names
from research.config.metric import References
from research.config.parts import calling, expect

# Two made-up examples. The second output is empty, as from an untrained model, and has two references.
TRIAL: tuple[list[str], References] = ["two red birds", ""], [("two red birds",), ("a house", "a small house 1")]
ANY_TEXT: Mapping[str, str] = defaultdict(lambda: "1")  # what a task gives with each of them, by any name
SHOWN = 100  # characters of a value in an error message


class Score(NamedTuple):
    value: float
    signature: str  # settings to publish with the value, for comparison with other papers


def check(metrics: Sequence[Metric]) -> None:
    """Check metrics by scoring two made-up outputs, before there are real ones.

    Raises:
        ConfigError: a metric cannot be computed on this machine, raises, lacks a value for one of its names or returns
            one that is not finite; or two metrics have a name in common.
    """
    for metric in metrics:
        _check_names(metric)
    score_names(tuple(metrics))
    score_each(metrics, *TRIAL)
    score(metrics, *TRIAL, [ANY_TEXT, ANY_TEXT])


def _check_names(metric: Metric) -> None:
    with calling(metric, "names"):
        names = metric.names
    named = isinstance(names, tuple) and len(names) > 0 and all(isinstance(name, str) and name for name in names)
    expect(named, metric, "names", f"returned {names!r}: it must be a tuple of one or more names")
    kind = type(metric)
    methods = kind.score is not Metric.score, kind.score_examples is not Metric.score_examples
    defined = any(methods) or kind.score_example is not Metric.score_example
    expect(defined, metric, "score_example", "and score() are both missing: define one of them")


def check_references(metrics: Sequence[Metric], references: References, name: str) -> None:
    """Raise ConfigError if a metric finds nothing to score in the references of the examples called `name`.

    Without any reference there is nothing to check.
    """
    for metric in metrics if references else ():
        with calling(metric, "check_references"):
            metric.check_references(references, name)


def score(
    metrics: Sequence[Metric],
    predictions: Sequence[str],
    references: References,
    more: Sequence[Mapping[str, str]] | None = None,
) -> dict[str, Score]:
    """Compute every score, by name; `more` is what the task gives with each example beside the references.

    Raises:
        ConfigError: there is nothing to score, an example has no reference, or a metric does not return its scores.
    """
    _check_pairs(predictions, references)
    scores: dict[str, Score] = {}
    for metric in metrics:
        reads_more = type(metric).score_examples is not Metric.score_examples
        method = "score_example" if metric.is_mean else "score_examples" if reads_more else "score"
        with calling(metric, method):
            if reads_more:
                values = metric.score_examples(predictions, references, more or [{}] * len(predictions))
            else:
                values = metric.score(predictions, references)
        values = _checked(metric, method, values)
        with calling(metric, "signature"):
            signature = metric.signature(references)
        scores |= {name: Score(value, signature) for name, value in values.items()}
    return scores


def score_each(metrics: Sequence[Metric], predictions: Sequence[str], references: References) -> list[dict[str, float]]:
    """Compute the scores of each example with the metrics that define them; BLEU, for one, does not."""
    rows: list[dict[str, float]] = [{} for _ in predictions]
    for metric in metrics:
        for row, prediction, given in zip(rows, predictions, references, strict=True):
            with calling(metric, "score_example"):
                values = metric.score_example(prediction, given)
            if values is not None:
                row |= _checked(metric, "score_example", values)
    return rows


def _checked(metric: Metric, method: str, values: Any) -> dict[str, float]:
    """Return the scores in the order of the metric's names; raise ConfigError if one is missing or not finite."""
    if not isinstance(values, Mapping) or set(values) != set(metric.names):
        shown = f"returned {_shown(values)}: it must be a dictionary of numbers by the names {', '.join(metric.names)}"
        expect(False, metric, method, shown)
    for name, value in values.items():
        if not isinstance(value, Real) or not math.isfinite(value):
            expect(False, metric, method, f"gave {_shown(value)} as {name}: it must be a finite number")
    return {name: float(values[name]) for name in metric.names}


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


def _check_pairs(predictions: Sequence[str], references: References) -> None:
    require(len(predictions) > 0, "There is no prediction to score.")
    counts = len(predictions), len(references)
    require(counts[0] == counts[1], f"There are {counts[0]} predictions and {counts[1]} references: give one for each.")
    lacking = [number for number, given in enumerate(references, 1) if not given]
    require(not lacking, f"Example {lacking[0] if lacking else 0} has no reference to score against.")
