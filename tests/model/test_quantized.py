"""A base kept in int8 computes what a base of the integers times their scales computes, to the bit."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_run
from test_adapters import ALL, BASE, batch_of, with_model

from research import IA3, LoRA, Mesh, Only
from research.config import ConfigError
from research.model.parameters import param_specs, table_of
from research.model.quantized import keep, kept, quantize, whole
from research.model.transformer import abstract_params, initial_params
from research.parallel.mesh import make_mesh
from research.parallel.rules import flatten, merge, shardings, unflatten
from research.plan.memory import device_bytes
from research.train.state import abstract_state, new_state, saved, with_base
from research.train.step import summed_loss, train_step

ONE, SPLIT = Mesh(1), Mesh(data=2, fsdp=2, tensor=2)


@pytest.fixture
def experiment(tmp_path):
    return tiny_run.experiment(tmp_path, model=BASE)


def mesh_of(sizes):
    return make_mesh(sizes, jax.devices()[: 1 if sizes == ONE else 8])


def random_params(model):
    """Initial parameters, moved so that no adapter is without effect."""
    return jax.tree.map(lambda leaf: leaf + 0.05, initial_params(model, jax.random.key(0)))


def test_a_value_is_within_half_a_step_of_the_original():
    weight = jnp.asarray(np.random.default_rng(0).normal(size=(3, 16, 2, 8)), jnp.float32)
    weight = weight.at[1, :, 0, 3].set(0.0).at[2].multiply(1e3)
    pair = jax.jit(quantize, static_argnums=1)(weight, (1,))
    assert pair.values.dtype == jnp.int8
    assert pair.scale.shape == (3, 1, 2, 8)
    back = pair.astype("float32")
    assert bool(jnp.all(jnp.abs(back - weight) <= 0.5000001 * pair.scale))
    assert not back[1, :, 0, 3].any()
    largest = jnp.max(jnp.abs(pair.values.astype(jnp.int32)), axis=1)
    assert jnp.array_equal(largest, jnp.full((3, 2, 8), 127).at[1, 0, 3].set(0))


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{"unroll": 2}, {"remat": "full"}, {"remat": "dots", "biases": True}])
@pytest.mark.parametrize("sizes", [ONE, SPLIT])
def test_loss_and_gradients_are_those_of_the_dequantized_base(experiment, sizes, changes):
    adapter = LoRA(rank=2, targets=ALL, dropout=0.0)
    wide, narrow = (
        with_model(experiment, replace(adapter, frozen=frozen), dropout=0.0, **changes)
        for frozen in ("float32", "int8")
    )
    base, batch, mesh = random_params(wide.model), batch_of(experiment), mesh_of(sizes)
    integers = kept(narrow.model, base)
    replaced = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), whole(integers))
    assert not np.array_equal(
        flatten(replaced)["decoder/layers/cross_attention/key/weight"],
        base["decoder"]["layers"]["cross_attention"]["key"]["weight"],
    )
    results = []
    for each, params in ((wide, replaced), (narrow, integers)):
        specs = shardings(mesh, param_specs(params, table_of(each.model)))
        flat = flatten(jax.device_put(params, specs))
        trained = {path: leaf for path, leaf in flat.items() if "adapter" in path}
        frozen = {path: leaf for path, leaf in flat.items() if path not in trained}

        def loss(trained, frozen, each=each):
            return summed_loss(each, unflatten(trained | frozen), batch, None).loss

        with jax.set_mesh(mesh):
            results.append(jax.jit(jax.value_and_grad(loss))(trained, frozen))
    (one, gradients), (other, same) = results
    assert one == other
    for path, gradient in gradients.items():
        assert gradient.any(), path
        np.testing.assert_array_equal(same[path], gradient, err_msg=path)


@pytest.mark.parametrize(
    "adapter", [LoRA(rank=2, frozen="int8"), IA3(frozen="int8"), Only((r"query", "scale"), frozen="int8")]
)
def test_what_is_trained_is_not_quantized_and_a_checkpoint_holds_no_integers(experiment, adapter):
    experiment = with_model(experiment, adapter)
    state = abstract_state(experiment)
    flat, own = flatten(state.params), flatten(saved(experiment, state).params)
    assert own.keys() == {path for path in flatten(abstract_params(experiment.model)) if adapter.trains(path)}
    assert all(leaf.dtype == "float32" for leaf in own.values())
    integers = {path.removesuffix("/int8") for path in flat if path.endswith("/int8")}
    matrices = {path for path in flatten(abstract_params(BASE)) if path.endswith("weight")}
    assert integers == {path for path in matrices if not adapter.trains(path)}
    assert flat["embedding"].dtype == "bfloat16"
    assert flat["encoder/norm/scale"].dtype == "float32"


def test_a_step_trains_the_adapter_alone_and_a_restored_state_is_the_same(experiment):
    """The state of a mesh is what the checkpoint and the base give, and its bytes are the planned ones."""
    experiment, mesh = with_model(experiment, LoRA(rank=2, frozen="int8")), mesh_of(SPLIT)
    given = jax.device_put(
        base := random_params(experiment.model),
        shardings(mesh, param_specs(base, table_of(experiment.model))),
    )
    state = new_state(experiment, mesh, jax.random.key(0), given)
    assert jax.tree.map(lambda leaf: leaf.sharding, state) == jax.tree.map(
        lambda leaf: leaf.sharding, abstract_state(experiment, mesh)
    )
    held = sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(state))
    assert held == device_bytes(experiment, mesh)
    before = flatten(state.params)
    with jax.set_mesh(mesh):
        after, metrics = jax.jit(lambda state: train_step(experiment, state, batch_of(experiment), jax.random.key(1)))(
            state
        )
    assert metrics.skipped == 0
    changed = {path for path, leaf in flatten(after.params).items() if not np.array_equal(leaf, before[path])}
    assert changed == {path for path in before if "adapter" in path}
    again = with_base(experiment, mesh, saved(experiment, state), initial := random_params(experiment.model))
    assert flatten(again.params).keys() == before.keys()
    assert all(np.array_equal(leaf, before[path]) for path, leaf in flatten(again.params).items()), initial.keys()


def test_weights_that_are_not_finite_are_refused(experiment):
    model = replace(BASE, adapter=LoRA(rank=2, frozen="int8"))
    params = initial_params(model, jax.random.key(0))
    path = "decoder/layers/feed_forward/up/weight"
    for value in (jnp.nan, jnp.inf):
        wrong = merge(params, unflatten({path: flatten(params)[path].at[1, 3, 4].set(value)}))
        with pytest.raises(ConfigError, match=rf"{path} has values that are not finite, which model\.adapter\.frozen"):
            keep(model, mesh_of(ONE), wrong)
