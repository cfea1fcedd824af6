"""A stand-in for the directories of `Pretrained` that pages and docstrings name: each holds the quickstart's model."""

from dataclasses import fields
from pathlib import Path

import pytest

from research import Bytes
from research.config.load import open_experiment

QUICKSTART = Path(__file__).resolve().parents[2] / "experiments" / "quickstart.py"


@pytest.fixture
def any_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every path of `Pretrained` hold a model."""
    model = open_experiment(QUICKSTART).config.model
    stored = {field.name: getattr(model, field.name) for field in fields(model)} | {"tokenizer": Bytes()}
    monkeypatch.setattr("research.pretrained.find.stored_fields", lambda *_: stored)
