"""The parts: norms, feed-forward, dropout, relative positions."""

from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research import Model, Relative, RMSNorm
from research.model import layer
from research.model.layer import FeedForward, Norm, dropout, layer_keys, relative_bias, relative_bucket
from research.model.transformer import abstract_params, bind
from research.parallel.layout import platform

GOLDENS = Path(__file__).resolve().parent.parent / "goldens"
MODEL = Model(61, 24, 3, 5, 40, 2, 2, compute="float32")


def keys(count: int = 8):
    return iter(jax.random.split(jax.random.key(0), count))


def test_buckets_are_those_of_the_reference():
    golden = np.load(GOLDENS / "relative_bucket.npz")
    distance = jnp.asarray(golden["distance"])
    settings = [name for name in golden if "," in name]
    assert len(settings) == 10
    for setting in settings:
        buckets, max_distance, bidirectional = map(int, setting.split(","))
        ours = relative_bucket(distance, Relative(buckets, max_distance), bool(bidirectional))
        np.testing.assert_array_equal(ours, golden[setting], err_msg=setting)


def test_relative_bias_is_a_lookup_and_its_gradient_counts():
    table = jax.random.normal(jax.random.key(0), (8, 3))
    buckets = jax.random.randint(jax.random.key(1), (2, 5, 7), 0, 8)
    np.testing.assert_array_equal(relative_bias(table, buckets), jnp.moveaxis(table[buckets], -1, 1))
    gradient = jax.grad(lambda table: relative_bias(table, buckets).sum())(table)
    np.testing.assert_array_equal(gradient, np.bincount(buckets.ravel(), minlength=8)[:, None].repeat(3, axis=1))


def test_norm_has_its_epsilon_under_the_root_and_its_statistics_in_float32():
    norm = Norm(replace(MODEL, norm=RMSNorm(1e-2)))
    x = 0.1 * jax.random.normal(jax.random.key(0), (2, 3, 24))
    expected = np.asarray(x) / np.sqrt(np.mean(np.square(x), axis=-1, keepdims=True) + 1e-2)
    np.testing.assert_allclose(norm(x), expected, rtol=1e-6)
    # In bfloat16 a sum of 24 large squares would lose the small ones, and the mean would be off by percents.
    x = jnp.full((1, 1, 24), 1.0, jnp.bfloat16).at[0, 0, 0].set(24.0)
    norm = Norm(replace(MODEL, norm=RMSNorm(1e-6)))
    assert norm(x).dtype == jnp.bfloat16
    np.testing.assert_array_equal(norm(x), (x.astype(jnp.float32) / np.sqrt((24**2 + 23) / 24)).astype(jnp.bfloat16))


@pytest.mark.parametrize(("gated", "activation"), [(False, "relu"), (True, "gelu_tanh"), (True, "silu")])
def test_feed_forward_activates_the_gate(gated, activation):
    layer = FeedForward(replace(MODEL, gated=gated, activation=activation), keys())
    x = jax.random.normal(jax.random.key(1), (2, 3, 24))
    function = {
        "relu": lambda x: np.maximum(x, 0),
        "gelu_tanh": lambda x: 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))),
        "silu": lambda x: x / (1 + np.exp(-x)),
    }[activation]
    up, down = np.float64(layer.up.weight[...]), np.float64(layer.down.weight[...])
    x64 = np.float64(x)
    hidden = function(x64 @ np.float64(layer.gate.weight[...])) * (x64 @ up) if gated else function(x64 @ up)
    np.testing.assert_allclose(layer(x), hidden @ down, rtol=1e-4, atol=1e-5)
    assert hasattr(layer, "gate") == gated


def test_dropout_keeps_the_mean_and_drops_alike_along_the_length():
    x = jnp.ones((4, 5, 10_000))
    dropped = dropout(x, 0.2, jax.random.key(0), shared=True)
    assert set(np.unique(dropped)) == {0.0, 1.25}
    assert abs(dropped.mean() - 1) < 0.01
    np.testing.assert_array_equal(dropped, jnp.broadcast_to(dropped[:, :1], x.shape))
    assert not np.array_equal(dropped[0], dropped[1])
    assert dropout(x, 0.2, None, shared=True) is x
    assert dropout(x, 0.0, jax.random.key(0), shared=True) is x
    assert dropout(x.astype(jnp.bfloat16), 0.2, jax.random.key(0), shared=True).dtype == jnp.bfloat16


def test_dropout_that_is_not_shared_is_drawn_for_every_position():
    dropped = np.asarray(dropout(jnp.ones((4, 5, 10_000)), 0.2, jax.random.key(0), shared=False))
    assert set(np.unique(dropped)) == {0.0, 1.25}
    assert np.all(np.abs(dropped.mean(axis=-1) - 1) < 0.02)
    both = (dropped[:, :1] > 0) & (dropped[:, 1:] > 0)
    assert abs(both.mean() - 0.8**2) < 0.01  # as often as two independent draws


def test_every_layer_has_its_own_dropout_key():
    drawn = layer_keys(jax.random.key(0), 3)
    assert len(np.unique(jax.random.key_data(drawn), axis=0)) == 3
    assert layer_keys(None, 3) is None


# --- Layers a step of the scan ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("unroll", "platform", "sizes"), [
    *((None, "cpu", (1, 1, 1)), (None, "tpu", (1, 1, 1)), (None, "gpu", (3, 24, 24))),
    *((1, "gpu", (1, 1, 1)), (2, "cpu", (2, 2, 2)), (60, "gpu", (3, 24, 60))),
])  # fmt: skip
def test_a_gpu_unrolls_all_layers_unless_told_otherwise(monkeypatch, unroll, platform, sizes):
    monkeypatch.setattr(layer, "platform", lambda: platform)
    model = Model(61, 24, 3, 5, 40, 3, 3, unroll=unroll)
    assert tuple(layer.layers_per_step(model, count) for count in (3, 24, 60)) == sizes


def test_the_platform_is_the_meshes():
    with jax.set_mesh(jax.make_mesh((8,), ("data",))):
        assert platform() == "cpu"
    assert platform() == "cpu"


@pytest.mark.parametrize("remat", ["dots", "full"])
def test_what_is_computed_again_is_not_merged_where_no_loop_is_between(remat):
    """Common subexpressions of unrolled layers are those of both passes, and merging them would keep everything."""
    tokens = jax.ShapeDtypeStruct((2, 8), jnp.int32)
    for unroll, kept_apart in ((1, False), (2, False), (4, True), (9, True)):
        model = Model(61, 16, 2, 8, 32, 4, 1, remat=remat, unroll=unroll)
        encode = jax.make_jaxpr(lambda params, tokens, model=model: bind(model, params).encode(tokens))
        text = str(encode(abstract_params(model), tokens))
        assert f"prevent_cse={kept_apart}" in text
        assert f"prevent_cse={not kept_apart}" not in text
