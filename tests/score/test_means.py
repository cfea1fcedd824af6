"""Means over languages of an evaluation's scores."""

import json
from pathlib import Path

import pytest

from research import language_means
from research.config import ConfigError


def test_each_language_counts_once(tmp_path: Path) -> None:
    scores = {"xnli/ar/xnli (test)": 60.0, "xnli/de/xnli (test)": 70.0, "mlqa/de/mlqa/de (test)": 50.0}
    results = {name: {"examples": 3, "scores": {"f1": value, "em": value / 2}} for name, value in scores.items()}
    file = tmp_path / "scores.json"
    file.write_text(json.dumps({"results": results}))
    assert language_means(file) == {"xnli/f1": 65.0, "xnli/em": 32.5, "mlqa/f1": 50.0, "mlqa/em": 25.0}
    file.write_text(json.dumps({"results": {"squad": {"scores": {"f1": 1.0}}}}))
    with pytest.raises(ConfigError, match=r"has no task that is named by a benchmark and a language, such as xnli/de"):
        language_means(file)
