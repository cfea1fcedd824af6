"""Data that is damaged, goes away, or is another than the run began with."""

import json
import shutil
from pathlib import Path

import pytest
from real_runs import STEPS, assert_as_if_nothing_had_happened, log, run

from research import TrainedSentencePiece
from research.data.tokenizer import train_sentencepiece

pytestmark = pytest.mark.slow


def test_changed_text_under_the_same_name_is_refused(folder: Path) -> None:
    shutil.copytree(folder / "whole", folder / "retold")
    original = (folder / "train.txt").read_text()
    try:
        (folder / "train.txt").write_text(original + "\n\none more document, of some length\n")
        assert run(folder, "retold", f"--config.steps={STEPS + 1}") == 2
    finally:
        (folder / "train.txt").write_text(original)
    assert "data.corpora was" in log(folder, "retold").splitlines()[-1]


def test_another_tokenizer_of_the_same_size_is_refused(folder: Path) -> None:
    models = [str(folder / f"{name}.model") for name in ("a", "b")]
    for model, text in zip(models, ("train", "held_out"), strict=True):
        train_sentencepiece([(folder / f"{text}.txt").read_text()], TrainedSentencePiece(pieces=330), model)
    shutil.copy(models[0], folder / "tokenizer.model")
    arguments = [f'--config.data.tokenizer=SentencePiece("{folder}/tokenizer.model")', "--config.steps=1"]
    assert run(folder, "renamed", *arguments) == 0, log(folder, "renamed")
    shutil.copy(models[1], folder / "tokenizer.model")
    assert run(folder, "renamed", *arguments[:1], "--config.steps=4") == 2
    assert "data.tokenizer was" in log(folder, "renamed").splitlines()[-1]


def test_rows_that_cannot_be_read_end_the_run_and_nothing_is_lost(folder: Path) -> None:
    """The error is one of the threads that make rows; it ends the run, and is the reason that it gives."""
    assert run(folder, "unreadable", faults={"UNREADABLE": "17"}) == 1
    result = json.loads((folder / "unreadable" / "RESULT.json").read_text())
    assert result["status"] == "failed"
    assert "Input/output error: 'the corpus'" in result["reason"]
    assert result["reason"] in log(folder, "unreadable")
    assert run(folder, "unreadable") == 0, log(folder, "unreadable")
    assert_as_if_nothing_had_happened(folder, "unreadable")
