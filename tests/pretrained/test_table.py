"""Tables read both ways, onto meshes and with parts left out; on foreign names of every kind."""

from dataclasses import replace

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from research import LayerNorm, Learned, Model
from research.config import ConfigError
from research.model.transformer import abstract_params
from research.pretrained.table import (
    HEADS_BIAS,
    HEADS_IN,
    HEADS_OUT,
    ONE_ROW,
    TRANSPOSED,
    Alias,
    FixedTensor,
    Row,
    Transform,
    fill_params,
    foreign_tensors,
)

MODEL = Model(
    64, 32, 4, 5, 40, 4, 2, biases=True, norm=LayerNorm(), positions=Learned(6), gated=False, logits_bias=True
)
QKV = {"q": "query", "k": "key", "v": "value"}
LAST_AXIS = Transform(lambda array, model: np.moveaxis(array, -1, 0), lambda array, model: np.moveaxis(array, 0, -1))

# A layer a tensor, all layers of a stack in one, layers counted from 1, names with and without a stack.
ROWS = [
    Row("{stack}.l{layer}.self.{part}", "{stack}/layers/self_attention/{part}/weight", HEADS_OUT, QKV, first=1),
    Row("{stack}.l{layer}.self.{part}.b", "{stack}/layers/self_attention/{part}/bias", HEADS_BIAS, QKV, first=1),
    Row("cross.{part}.{layer}", "decoder/layers/cross_attention/{part}/weight", HEADS_OUT, QKV),
    Row("cross.{part}.{layer}.b", "decoder/layers/cross_attention/{part}/bias", HEADS_BIAS, QKV),
    Row("{stack}.self.o.{layer}", "{stack}/layers/self_attention/output/weight", HEADS_IN),
    Row("{stack}.self.o.{layer}.b", "{stack}/layers/self_attention/output/bias"),
    Row("cross.o.{layer}", "decoder/layers/cross_attention/output/weight", HEADS_IN),
    Row("cross.o.{layer}.b", "decoder/layers/cross_attention/output/bias"),
    *(
        Row(f"{{stack}}.norms.{kind}.{leaf}", f"{{stack}}/layers/{kind}_norm/{leaf}", LAST_AXIS)
        for kind in ("self_attention", "cross_attention", "feed_forward")
        for leaf in ("scale", "bias")
    ),
    Row("{stack}.fc.{part}.{layer}", "{stack}/layers/feed_forward/{part}/weight", TRANSPOSED, {"1": "up", "2": "down"}),
    Row("{stack}.fc.{part}.{layer}.b", "{stack}/layers/feed_forward/{part}/bias", parts={"1": "up", "2": "down"}),
    Row("{stack}.norm.{part}", "{stack}/norm/{part}", parts={"w": "scale", "b": "bias"}),
    Row("{stack}.places", "{stack}/position_embedding"),
    Row("embed", "embedding"),
    Row("head", "head", TRANSPOSED),
    Row("bias", "logits_bias", ONE_ROW),
    Alias("again", "embed", written=True),
    Alias("{stack}.unused.{layer}", None),
    FixedTensor("waves", (1, 2), lambda: np.float32([[0.5, 1]]), written=True),
]


def drawn(model: Model = MODEL):
    generator = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: generator.normal(size=leaf.shape).astype(np.float32), abstract_params(model))


def written(model: Model = MODEL):
    return dict(foreign_tensors(drawn(model), ROWS, model))


def same(first, second) -> bool:
    return jax.tree.all(jax.tree.map(np.array_equal, first, second))


def test_what_is_written_reads_back_bit_for_bit():
    tensors = written()
    assert same(fill_params(tensors, ROWS, MODEL, "it"), drawn())
    assert {
        "encoder.l1.self.q": (20, 32),
        "encoder.l4.self.v.b": (20,),
        "decoder.self.o.1": (32, 20),
        "encoder.norms.feed_forward.scale": (32, 4),
        "cross.k.0": (20, 32),
        "bias": (1, 64),
        "again": (64, 32),
        "waves": (1, 2),
    }.items() <= {name: array.shape for name, array in tensors.items()}.items()
    assert all(array.flags.c_contiguous and array.dtype == np.float32 for array in tensors.values())


def test_a_head_is_a_run_of_rows():
    """Head 1 of the query of layer 2 is rows 5 to 9 of its matrix and of its bias."""
    params, tensors = drawn(), written()
    query = params["encoder"]["layers"]["self_attention"]["query"]
    np.testing.assert_array_equal(tensors["encoder.l3.self.q"][5:10].T, query["weight"][2, :, 1])
    np.testing.assert_array_equal(tensors["encoder.l3.self.q.b"][5:10], query["bias"][2, 1])
    output = params["encoder"]["layers"]["self_attention"]["output"]
    np.testing.assert_array_equal(tensors["encoder.self.o.2"][:, 5:10].T, output["weight"][2, 1])


def test_a_parameter_that_no_row_or_two_rows_know_is_not_written():
    with pytest.raises(ConfigError, match=r"embedding matches 0 rows"):
        list(foreign_tensors(drawn(), [row for row in ROWS if row.foreign != "embed"], MODEL))
    with pytest.raises(ConfigError, match=r"embedding matches 2 rows"):
        list(foreign_tensors(drawn(), [*ROWS, Row("more", "embedding")], MODEL))


def test_everything_wrong_is_reported_at_once():
    tensors = written()
    tensors |= {"encoder.l5.self.q": tensors["encoder.l1.self.q"], "encoder.l0.self.q": tensors["encoder.l1.self.q"]}
    tensors |= {"encoder.norms.cross_attention.scale": np.ones((32, 4), np.float32)}
    tensors |= {"encoder.norms.feed_forward.bias": np.ones((32, 3), np.float32)}
    tensors |= {"again": tensors["embed"] + 1, "waves": np.zeros((1, 2)), "cross.o.01": tensors["cross.o.1"]}
    del tensors["cross.v.1"]
    with pytest.raises(ConfigError) as error:
        fill_params(tensors, ROWS, MODEL, "it")
    for part in (
        "it does not hold the weights of this model: ",
        "encoder.l5.self.q is for encoder/layers/self_attention/query/weight of layer 4, which the model does not have",
        "encoder.l0.self.q is for encoder/layers/self_attention/query/weight of layer -1, which the model",
        "encoder.norms.cross_attention.scale is for encoder/layers/cross_attention_norm/scale, which the model does",
        "encoder.norms.feed_forward.bias has shape (32, 3), which does not fit encoder/layers/feed_forward_norm/bias",
        "again differs from embed",
        "waves does not have the values that the configuration implies",
        "cross.o.01 is for decoder/layers/cross_attention/output/weight of layer 1, which is already filled",
        "nothing fills decoder/layers/cross_attention/value/weight of layer 1",
    ):
        assert part in str(error.value)


def test_fresh_parameters_are_left_out_and_their_tensors_not_read():
    """So that an embedding of another vocabulary can be trained anew."""
    tensors, other = written(), replace(MODEL, vocab_size=80)
    with pytest.raises(ConfigError, match=r"embed has shape .* which does not fit embedding"):
        fill_params(tensors, ROWS, other, "it")
    found = fill_params(
        tensors, ROWS, other, "it", fresh=("embedding|head|logits_bias", r"encoder/.*_attention_norm/.*")
    )
    found, whole = flatten_dict(found, sep="/"), flatten_dict(drawn(), sep="/")
    norms = {f"encoder/layers/self_attention_norm/{leaf}" for leaf in ("scale", "bias")}
    assert whole.keys() - found.keys() == {"embedding", "head", "logits_bias"} | norms
    assert all(np.array_equal(array, whole[path]) for path, array in found.items())
    for name in ("embed", "again", "bias", "head"):
        del tensors[name]
    fill_params(tensors, ROWS, other, "it", fresh=("embedding|head|logits_bias",))
    with pytest.raises(ConfigError, match="init_fresh: 'embed' matches no parameter; there are decoder/"):
        fill_params(tensors, ROWS, MODEL, "it", fresh=("embed",))


@pytest.mark.parametrize("layers", [None, "fsdp"])
def test_onto_a_mesh(layers):
    """Every device gets its own shard, of the layers too, wherever the other axes are divided."""
    mesh = jax.make_mesh((2, 4), ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)

    def sharding(path, leaf):
        if leaf.ndim == 1:
            return NamedSharding(mesh, P())
        stacked = "layers" in jax.tree_util.keystr(path) and leaf.shape[0] == 4 and layers
        return NamedSharding(mesh, P(layers, "data") if stacked else P(None, *[None] * (leaf.ndim - 2), None))

    shardings = jax.tree_util.tree_map_with_path(sharding, abstract_params(MODEL))
    params = fill_params(written(), ROWS, MODEL, "it", shardings)
    assert same(params, drawn())
    assert jax.tree.all(jax.tree.map(lambda leaf, sharding: leaf.sharding == sharding, params, shardings))
    query = params["encoder"]["layers"]["self_attention"]["query"]["weight"]
    assert query.addressable_shards[0].data.shape == ((1, 16, 4, 5) if layers else (4, 32, 4, 5))
    assert same(dict(foreign_tensors(params, ROWS, MODEL)), written())
