"""Data that is damaged, goes away, or is another than the run began with."""

import shutil
from pathlib import Path

import pytest
from real_runs import STEPS, log, run

from research.config import TrainedSentencePiece
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
