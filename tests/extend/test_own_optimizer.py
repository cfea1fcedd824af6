"""Lion from an experiment's file: it trains, resumes to the bit, is evaluated, and its state is split by the table."""

from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec
from tiny_run import experiment, held_out_losses

from research import Cosine, Experiment, Mesh
from research.config.load import open_experiment
from research.parallel.mesh import make_mesh
from research.parallel.rules import flatten
from research.storage.checkpoint import Checkpoints
from research.train.loop import train
from research.train.state import abstract_state, new_state

pytestmark = pytest.mark.slow  # trains

ROOT = Path(__file__).resolve().parents[2]


def lion(folder: Path, **changes) -> Experiment:
    """The file's optimizer in the smallest run, on 4 x 2 devices."""
    optimizer = open_experiment(ROOT / "experiments/extend/own_optimizer.py").config.optimizer
    optimizer = replace(optimizer, schedule=Cosine(peak=1e-2, final=1e-2))
    return experiment(folder, optimizer=optimizer, mesh=Mesh(data=1, fsdp=4, tensor=2), **changes)


def state_of(config: Experiment, run: Path) -> dict[str, np.ndarray]:
    state = abstract_state(config, make_mesh(config.mesh))
    checkpoints = Checkpoints(run / "checkpoints", config.checkpoint)
    try:
        return jax.tree.map(np.asarray, flatten(checkpoints.restore(config.steps, state)))
    finally:
        checkpoints.close()


def test_lion_trains_resumes_to_the_bit_and_is_evaluated(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("KINTSUGI_CACHE", str(tmp_path / "cache"))
    assert train(lion(tmp_path, steps=2), tmp_path / "stopped") == 0
    assert train(lion(tmp_path, steps=4), tmp_path / "stopped") == 0
    assert train(lion(tmp_path, steps=4), tmp_path / "whole") == 0
    losses = held_out_losses(tmp_path / "stopped")
    assert losses == held_out_losses(tmp_path / "whole")
    assert losses[-1] < losses[0]
    stopped, whole = (state_of(lion(tmp_path, steps=4), tmp_path / name) for name in ("stopped", "whole"))
    assert stopped.keys() == whole.keys()
    for path, leaf in whole.items():
        np.testing.assert_array_equal(leaf, stopped[path], err_msg=path)
    assert int(whole["opt_state/0/count"]) == 4


def test_its_momentum_is_split_as_the_parameters_are(tmp_path: Path) -> None:
    config = lion(tmp_path)
    state = new_state(config, make_mesh(config.mesh), jax.random.key(0))
    params, momentum = flatten(state.params), flatten(state.opt_state[0].mu)
    assert momentum.keys() == params.keys()
    for path, leaf in momentum.items():
        assert leaf.sharding == params[path].sharding, path
    query = momentum["encoder/layers/self_attention/query/weight"]  # [l d h k]
    assert query.sharding.spec == PartitionSpec(None, "fsdp", "tensor", None)
    assert query.addressable_shards[0].data.shape == (1, 4, 1, 8)
