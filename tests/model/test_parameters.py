"""The table of parameters: what is derived from it equals the tables that it replaced, and a row is checked."""

import json
from dataclasses import dataclass, replace
from pathlib import Path

import jax
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec

from research import DecoderOnly, MaximalUpdate, Model, Relative, SharedLayers, Tied
from research.config import ConfigError
from research.config.optimizer import Parameter
from research.model import family
from research.model.parameters import param_specs, parameters, spec, state_specs, table_of
from research.model.transformer import abstract_params
from research.parallel.rules import flatten, match_once

MODEL = Model(64, 32, 8, 4, 48, 2, 2)
# Made of the three tables that there were: path -> PartitionSpec; l for layers, r and c for rows and columns of a
# matrix, . for no matrix; and the size of a model by which a matrix is wider in muP.
GOLDEN = json.loads((Path(__file__).parents[1] / "goldens" / "parameters.json").read_text())
SIDES = {"width": 2.0, "attention_width": 15.0, "feed_forward": 7.0}
MODELS = {
    **{name: family.preset(name) for name in family.PRESETS},
    "one stack": replace(MODEL, stacks=DecoderOnly()),
    "shared layers": replace(MODEL, stacks=SharedLayers()),
    "per-layer bias": replace(MODEL, positions=Relative(per_layer=True)),
    "source embedding": replace(MODEL, source_vocab_size=32),
}


def layout(parameter: Parameter) -> str:
    letters = ["l" if axis == "l" else "." for axis in parameter.axes]
    for i in parameter.rows:
        letters[i] = "r"
    for i in parameter.columns:
        letters[i] = "c"
    return "".join(letters)


@pytest.mark.parametrize("name", MODELS)
def test_sharding_factors_and_growth_are_those_of_the_golden(name: str) -> None:
    assert MODELS.keys() == GOLDEN["counts"].keys()
    model = MODELS[name]
    params = abstract_params(model)
    # The base has half of the width, a third of the heads, a fifth of each and a seventh of the feed-forward; sizes of
    # the model itself are multiplied, so that all are whole.
    grown = replace(model, width=2 * model.width, heads=3 * model.heads, head_width=5 * model.head_width)
    base = MaximalUpdate(model.width, model.heads, model.head_width, model.feed_forward)
    grown = replace(grown, feed_forward=7 * model.feed_forward, parametrization=base)
    known, specs = parameters(params, grown), flatten(param_specs(params))
    assert len(known) == GOLDEN["counts"][name]
    for path, parameter in known.items():
        split, expected, side = GOLDEN["parameters"][path]
        assert specs[path] == PartitionSpec(*(tuple(it) if isinstance(it, list) else it for it in split)), path
        assert layout(parameter) == expected, path
        assert parameter.growth == SIDES.get(side, 1.0), path


@pytest.mark.parametrize(
    "model",
    [MODEL, replace(MODEL, head=Tied(), gated=False), replace(MODEL, positions=Relative(per_layer=True))],
    ids=["v1.1", "v1.0", "per-layer bias"],
)
def test_specs_have_the_structure_of_the_parameters(model: Model) -> None:
    params = abstract_params(model)
    assert jax.tree.structure(param_specs(params)) == jax.tree.structure(params)
    assert all("l" in parameter.axes for path, parameter in parameters(params, model).items() if "layers" in path)


def test_a_parameter_without_a_row_or_with_two_is_an_error() -> None:
    with pytest.raises(ValueError, match="encoder/new/kernel matches 0 rows"):
        param_specs({"encoder": {"new": {"kernel": np.zeros(3)}}, "embedding": np.zeros((4, 2))})
    with pytest.raises(ValueError, match="head matches 2 rows"):
        match_once([("he.d", 1), ("head", 2)], ["head"])


# --- Rows of one's own ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Adapted(Model):
    """A model with a scale a head and a narrow matrix in each layer."""

    @property
    def parameters(self) -> tuple[tuple[str, str, str], ...]:
        return ((r"encoder/layers/scale", "lhk", ""), (r"encoder/layers/adapter", "lda", "d"))


OWN = {
    "embedding": np.zeros((64, 32)),
    "encoder": {"layers": {"scale": np.zeros((2, 8, 4)), "adapter": np.zeros((2, 32, 3))}},
}


def test_a_row_of_a_model_s_own_is_all_that_its_parameter_needs() -> None:
    model = Adapted(64, 32, 8, 4, 48, 2, 2, parametrization=MaximalUpdate(16, 8, 4, 48))
    assert flatten(param_specs(OWN, table_of(model))) == {
        "embedding": PartitionSpec(("tensor", "fsdp"), None),
        "encoder/layers/scale": PartitionSpec(None, "tensor", None),
        "encoder/layers/adapter": PartitionSpec(None, "fsdp", None),
    }
    known = parameters(OWN, model)
    assert [known[path].growth for path in ("encoder/layers/adapter", "encoder/layers/scale")] == [2.0, 1.0]
    assert (known["encoder/layers/adapter"].rows, known["encoder/layers/adapter"].columns) == ((1,), (2,))


def test_each_axis_of_the_mesh_splits_one_axis_of_a_parameter() -> None:
    assert spec("lhf", "h") == PartitionSpec(None, "tensor", None)
    assert spec("vdf", "d") == PartitionSpec(("tensor", "fsdp"), None, None)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (("encoder/layers/scale", "ldd", "d"), "has axes 'ldd' and reads 'd': letters differ"),
        (("encoder/layers/scale", "lhk", "d"), "has axes 'lhk' and reads 'd'"),
        (("encoder/layers/scale", "lh", ""), r"encoder/layers/scale has shape \(2, 8, 4\), .* the axes 'lh'"),
    ],
)
def test_a_row_that_does_not_fit_is_named(row: tuple[str, str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        param_specs({"encoder": {"layers": {"scale": np.zeros((2, 8, 4))}}}, (row,))


# --- The state of an optimizer ----------------------------------------------------------------------------------------


def test_statistics_are_split_as_their_parameters_along_the_axes_they_keep() -> None:
    params = {"encoder": {"layers": {"self_attention": {"query": {"weight": np.zeros((2, 32, 8, 4))}}}}}
    state = {
        "count": np.zeros(()),
        "mean": params,
        "row": {"encoder": {"layers": {"self_attention": {"query": {"weight": np.zeros((2, 32, 1, 1))}}}}},
        "column": {"encoder": {"layers": {"self_attention": {"query": {"weight": np.zeros((2, 1, 8, 4))}}}}},
    }
    query = "encoder/layers/self_attention/query/weight"
    assert flatten(state_specs(state, params)) == {
        "count": PartitionSpec(),
        f"mean/{query}": PartitionSpec(None, "fsdp", "tensor", None),
        f"row/{query}": PartitionSpec(None, "fsdp", None, None),
        f"column/{query}": PartitionSpec(None, None, "tensor", None),
    }


def test_any_state_of_optax_is_split_by_the_table() -> None:
    """Also where names of parameters end in one another's, and where a statistic has lost an axis."""
    params = abstract_params(replace(MODEL, source_vocab_size=48))
    transformation = optax.chain(optax.clip_by_global_norm(1.0), optax.lion(1e-3), optax.scale_by_factored_rms(True, 8))
    state = jax.eval_shape(transformation.init, params)
    specs = state_specs(state, params)
    assert jax.tree.structure(specs) == jax.tree.structure(state)
    assert specs[1][0].mu == param_specs(params)
    assert specs[1][0].count == PartitionSpec()
    assert specs[1][0].mu["source_embedding"] == PartitionSpec(("tensor", "fsdp"), None)
    assert specs[2].v_row["embedding"] == PartitionSpec()
