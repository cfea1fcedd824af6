"""Only the loss is better when lower; what is not finite, or not valid, is never the best, but counts."""

import math

import pytest

from research.storage.best import Best


def after(name: str, *values: float, valid: bool = True) -> Best:
    best = Best(name)
    for step, value in enumerate(values, 1):
        best = best.after(step, {name: value, "other": 0.0}, valid)
    return best


@pytest.mark.parametrize(
    ("name", "values", "expected"),
    [
        ("held_out_loss", (3.0, 2.0, 2.5), Best("held_out_loss", 2.0, 2, 1)),
        ("bleu", (3.0, 2.0, 2.5), Best("bleu", 3.0, 1, 2)),
        ("bleu", (0.0, 0.0, 0.0), Best("bleu", 0.0, 1, 2)),  # of equals the first
        ("held_out_loss", (math.nan, 5.0, -math.inf), Best("held_out_loss", 5.0, 2, 1)),
        ("held_out_loss", (math.nan,), Best("held_out_loss", None, 0, 1)),
    ],
)
def test_the_best_of_some_evaluations(name: str, values: tuple[float, ...], expected: Best) -> None:
    assert after(name, *values) == expected


def test_patience_counts_what_comes_after_the_best() -> None:
    best = after("bleu", 1.0, 2.0, 1.0, 1.0)
    assert [best.exhausts(patience) for patience in (1, 2, 3, None)] == [True, True, False, False]
    assert after("bleu", 1.0, valid=False) == Best("bleu", None, 0, 1)
