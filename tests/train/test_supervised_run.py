"""Training on tasks, packed and in buckets: each shape is compiled once, and a run goes on where it stopped."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny_run import held_out_losses, supervised

from research import Buckets, Experiment, Packed
from research.data.batch import Batch
from research.train import run as launch
from research.train.loop import train


@pytest.mark.slow
@pytest.mark.parametrize(("batching", "shapes"), [(Packed(), 1), (Buckets((12, 24)), 2)])
def test_a_run_goes_on_and_compiles_each_shape_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batching: Packed | Buckets, shapes: int
) -> None:
    monkeypatch.setenv("KINTSUGI_CACHE", str(tmp_path / "cache"))
    compiled: list[tuple[str, tuple[int, ...]]] = []

    def count(name: str, compile: Callable[..., Any]) -> None:
        def counted(config: Experiment, mesh: Any, batch: Batch) -> Any:
            compiled.append((name, batch.encoder_input_tokens.shape))
            return compile(config, mesh, batch)

        monkeypatch.setattr(launch, name, counted)

    for name in ("compile_train_step", "compile_eval_step"):
        count(name, getattr(launch, name))
    config = supervised(tmp_path, batching)
    assert train(config, tmp_path / "whole") == 0
    assert len(compiled) == len(set(compiled)) == 2 * shapes
    assert train(dataclasses.replace(config, steps=2), tmp_path / "parts") == 0
    assert train(config, tmp_path / "parts") == 0
    assert held_out_losses(tmp_path / "parts") == held_out_losses(tmp_path / "whole")
    assert len(held_out_losses(tmp_path / "whole")) >= 4
