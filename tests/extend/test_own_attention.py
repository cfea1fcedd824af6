"""A model of a user's own: trained, resumed to the bit, evaluated elsewhere; its parameter is learned and split."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from extended_run import ROOT, copied, evaluated, losses, trained
from jax.sharding import PartitionSpec

from research import Mesh
from research.config.load import open_experiment
from research.model.transformer import abstract_params, bind, initial_params
from research.parallel.mesh import make_mesh
from research.parallel.rules import flatten
from research.pretrained.find import find
from research.train.state import state_shardings

pytestmark = pytest.mark.slow  # trains

PATH = "encoder/layers/self_attention/query_scale"


def test_it_trains_resumes_to_the_bit_and_is_evaluated_elsewhere(tmp_path, monkeypatch):
    monkeypatch.setenv("KINTSUGI_CACHE", str(tmp_path / "cache"))
    file = copied("own_attention", tmp_path)
    assert trained(file, tmp_path / "stopped", 2) == 0
    assert trained(file, tmp_path / "stopped", 4) == 0
    assert trained(file, tmp_path / "whole", 4) == 0
    assert losses(tmp_path / "stopped") == losses(tmp_path / "whole")
    evaluated(tmp_path / "stopped", tmp_path)
    found = find(tmp_path / "stopped")
    assert type(found.model).__name__ == "QKNorm"
    scale = flatten(found.params())[PATH]
    assert scale.shape == (1, 2)
    assert not np.array_equal(scale, np.ones_like(scale))  # it was learned


def test_its_scale_reaches_the_logits_and_is_split_over_heads():
    config = open_experiment(ROOT / "experiments/extend/own_attention.py").config
    params = initial_params(config.model, jax.random.key(0))
    assert flatten(abstract_params(config.model))[PATH].shape == (1, 2)
    network = bind(config.model, params)
    tokens = jnp.arange(1, 9)[None]

    def encoded(scale: float):
        changed = dict(params) | {"encoder": jax.tree.map(lambda leaf: leaf, params["encoder"])}
        changed["encoder"]["layers"]["self_attention"]["query_scale"] = jnp.full((1, 2), scale, jnp.float32)
        return bind(config.model, changed).encode(tokens)

    np.testing.assert_array_equal(encoded(1.0), network.encode(tokens))
    assert not np.allclose(encoded(1.0), encoded(3.0))
    split = dataclasses.replace(config, mesh=Mesh(data=4, tensor=2))
    places = flatten(state_shardings(split, make_mesh(split.mesh)).params)
    assert places[PATH].spec == PartitionSpec(None, "tensor")


def test_a_parameter_without_a_row_is_refused_by_name(monkeypatch):
    config = open_experiment(ROOT / "experiments/extend/own_attention.py").config
    monkeypatch.setattr(type(config.model), "parameters", ())
    mesh = make_mesh(config.mesh)
    model = dataclasses.replace(config.model, vocab_size=config.model.vocab_size + 1)  # whose table no test has cached
    with pytest.raises(ValueError, match=f"{PATH} matches 0 rows"):
        state_shardings(dataclasses.replace(config, model=model), mesh)
