"""Scores of ranked answers are those of t5 0.9.4's `rank_classification`: goldens of scripts/make_task_goldens.py."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from research.config import ConfigError
from research.config.task import Choices
from research.score import ranking

GOLDENS = json.loads((Path(__file__).parents[1] / "goldens" / "rank_classification.json").read_text())
SETS: dict[str, Any] = GOLDENS["sets"]


def choices_of(groups: list[dict[str, Any]]) -> list[Choices]:
    texts = [tuple(f"choice {number}" for number in range(len(group["scores"]))) for group in groups]
    return [Choices(own, tuple(group["right"]), group["weight"]) for own, group in zip(texts, groups, strict=True)]


@pytest.mark.parametrize("name", SETS)
def test_scores_are_t5_s(name: str) -> None:
    golden = SETS[name]
    assert len(golden["groups"]) >= 20
    scores = [
        np.divide(group["scores"], group["lengths"] if golden["by_token"] else 1).tolist() for group in golden["groups"]
    ]
    found = ranking.score(choices_of(golden["groups"]), scores)
    expected = {f"ranked_{name.replace('-', '_')}": value for name, value in golden["metrics"].items()}
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert found[key] == pytest.approx(value, rel=1e-12, abs=1e-10), key


def test_of_equal_likelihoods_in_float32_the_first_is_taken() -> None:
    assert ranking.best([-2.0, -1.0, -1.0]) == 1
    assert ranking.best([-1.0, -1.0 + 1e-9]) == 0
    assert ranking.best([-1.0, -1.0 + 1e-6]) == 1


def test_weights_that_leave_no_example_are_one_sentence() -> None:
    with pytest.raises(ConfigError, match="have a total weight of 0: give one of them a weight"):
        ranking.score([Choices(("a", "b"), (0,), 0.0)], [[-1.0, -2.0]])
