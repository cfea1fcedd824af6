"""Scores of answers ranked by likelihood, as t5 0.9.4's `rank_classification` computes them, all from 0 to 100.

As there, likelihoods and probabilities are rounded to float32 before they are compared, and of equal ones the first
choice is taken.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float

from research.config import require
from research.config.task import Choices

Flags = Bool[np.ndarray, " n"]
Numbers = Float[np.ndarray, " n"]


def best(scores: Sequence[float]) -> int:
    """Return the number of the choice with the highest log-likelihood, the first of equal ones."""
    return int(np.argmax(np.asarray(scores, np.float32)))


def score(choices: Sequence[Choices], scores: Sequence[Sequence[float]]) -> dict[str, float]:
    """Score the choices of examples by their log-likelihoods: numbers by name.

    There is always the weighted accuracy: an example counts if its best choice is a right one. If all examples have the
    same number of choices and none has several right ones, there is F1: of the second of two choices, or the mean over
    the choices by their numbers. For two choices there are the areas under the ROC and the precision-recall curve of
    the second one, by its probability among the two. The area under the ROC curve is left out if it is not defined,
    since the second choice is right in all examples or in none.

    Raises:
        ConfigError: the weights of all examples are 0.
    """
    weights = np.array([each.weight for each in choices], np.float64)
    require(bool(weights.any()), "The examples of ranked answers have a total weight of 0: give one of them a weight.")
    chosen = np.array([best(each) for each in scores], np.int64)
    hits = [number in each.right for number, each in zip(chosen.tolist(), choices, strict=True)]
    numbers = {"ranked_accuracy": 100.0 * float(np.average(hits, weights=weights))}
    counts = {len(each.texts) for each in choices}
    if counts == {1} or len(counts) > 1 or any(len(each.right) > 1 for each in choices):
        return numbers
    (count,) = counts
    right = np.array([[number in each.right for number in range(count)] for each in choices])
    if count > 2:
        each_f1 = [weighted_f1(chosen == number, right[:, number], weights) for number in range(count)]
        return numbers | {f"ranked_mean_{count}class_f1": 100.0 * float(np.mean(each_f1))}
    second = probabilities(np.array(scores, np.float32))[:, 1]
    numbers["ranked_f1"] = 100.0 * weighted_f1(chosen == 1, right[:, 1], weights)
    if 0 < weights[right[:, 1]].sum() < weights.sum():
        numbers["ranked_auc_roc"] = 100.0 * area_under_roc(second, right[:, 1], weights)
    return numbers | {"ranked_auc_pr": 100.0 * average_precision(second, right[:, 1], weights)}


def probabilities(scores: Float[np.ndarray, "n c"]) -> Float[np.ndarray, "n c"]:
    """Return the probability of each choice among those of its example, in the dtype of the scores."""
    powers = np.exp(scores - scores.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def weighted_f1(predicted: Flags, expected: Flags, weights: Numbers) -> float:
    """Compute F1 from flags of weighted examples; 0 if neither side has any."""
    size = float(weights[predicted].sum() + weights[expected].sum())
    return 2.0 * float(weights[predicted & expected].sum()) / size if size else 0.0


# --- Areas under curves -----------------------------------------------------------------------------------------------


def area_under_roc(scores: Numbers, expected: Flags, weights: Numbers) -> float:
    """Compute the area under the curve of the true over the false positive rate, by trapezoids between its points."""
    true, false = at_thresholds(scores, expected, weights)
    return float(np.trapezoid(np.append(0.0, true), np.append(0.0, false)) / (true[-1] * false[-1]))


def average_precision(scores: Numbers, expected: Flags, weights: Numbers) -> float:
    """Compute the mean of the precision at each threshold, weighted by the recall that it adds; 0 without any hit."""
    true, false = at_thresholds(scores, expected, weights)
    taken = true + false
    precision = np.divide(true, taken, out=np.zeros_like(true), where=taken > 0)
    return float(np.diff(true, prepend=0.0) @ precision / true[-1]) if true[-1] else 0.0


def at_thresholds(
    scores: Numbers, expected: Flags, weights: Numbers
) -> tuple[Float[np.ndarray, " t"], Float[np.ndarray, " t"]]:
    """Return the weights of true and of false positives at each distinct score as a threshold, from the highest on."""
    order = np.argsort(-scores, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)
    true, false = (np.cumsum((weights * flags)[order])[ends] for flags in (expected, ~expected))
    return true, false
