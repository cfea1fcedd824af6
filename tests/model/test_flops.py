"""What a run costs is counted exactly."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research import (
    Adafactor,
    AdamW,
    Constant,
    DecoderOnly,
    Denoising,
    Experiment,
    Mesh,
    Model,
    PlainText,
    SharedLayers,
)
from research.data.batch import Batch
from research.model.family import preset
from research.model.flops import decode_flops, encode_flops, parameter_count, peak_flops, step_flops, train_flops
from research.model.transformer import abstract_params, bind
from research.parallel.hardware import PEAK_FLOPS
from research.parallel.mesh import make_mesh
from research.plan.memory import device_bytes, state_bytes
from research.train.state import abstract_state, state_shardings

TINY = Model(
    vocab_size=64,
    width=32,
    heads=8,
    head_width=4,
    feed_forward=48,
    encoder_layers=3,
    decoder_layers=2,
    compute="float32",
)
EXPERIMENT = Experiment(
    model=TINY,
    data=Denoising(corpora=(PlainText(train="unread"),)),
    optimizer=AdamW(schedule=Constant(peak=1e-3)),
    steps=10,
    batch_size=8,
)


def test_a_training_sequence_of_t5_v1_1_base_takes_425_944_203_264_flops():
    assert train_flops(preset("t5_v1_1/base"), 512, 114) == 425_944_203_264


@pytest.mark.parametrize(
    ("name", "target_length", "teraflops"),
    [
        ("t5_v1_1/small", 114, 0.1063),
        ("t5_v1_1/small", 128, 0.1099),
        ("t5_v1_1/base", 128, 0.4375),
        ("t5_v1_1/large", 114, 1.4678),
        ("t5_v1_1/large", 128, 1.5038),
        ("t5_v1_1/xl", 114, 5.3460),
        ("t5_v1_1/xl", 128, 5.4719),
        ("t5_v1_1/xxl", 114, 20.9004),
        ("t5_v1_1/xxl", 128, 21.3805),
    ],
)
def test_flops_of_a_training_sequence_of_512_tokens(name, target_length, teraflops):
    assert round(train_flops(preset(name), 512, target_length) / 1e12, 4) == teraflops


EVEN = replace(TINY, encoder_layers=3, decoder_layers=3)
SHARED, PREFIX = replace(EVEN, stacks=SharedLayers()), replace(EVEN, stacks=DecoderOnly())


@pytest.mark.parametrize("model", [TINY, replace(TINY, gated=False), SHARED], ids=["gated", "not gated", "shared"])
def test_flops_are_those_of_the_products_in_the_program(model):
    """Twice the multiply-adds of every matrix product in the model's own jaxpr, for the forward pass."""
    tokens, targets = np.zeros((1, 12), np.int32), np.zeros((1, 6), np.int32)
    jaxpr = jax.make_jaxpr(lambda params: bind(model, params)(Batch(tokens, targets, targets)))(abstract_params(model))
    bias = 2 * 32 * model.heads * (12 * 12 + 6 * 6)  # the tables of relative biases are looked up by a product
    assert _product_flops(jaxpr.jaxpr) - bias == train_flops(model, 12, 6) // 3


def test_flops_of_one_stack_are_those_of_the_products_in_the_program():
    tokens, targets = jnp.zeros((1, 12), jnp.int32), jnp.zeros((1, 6), jnp.int32)
    batch = Batch(tokens, targets, targets)
    jaxpr = jax.make_jaxpr(lambda params: bind(PREFIX, params)(batch))(abstract_params(PREFIX))
    bias = 2 * 32 * PREFIX.heads * (12 * 12 + 6 * (12 + 6))
    assert _product_flops(jaxpr.jaxpr) - bias == train_flops(PREFIX, 12, 6) // 3

    def advance(params, cache):
        return bind(PREFIX, params).decode_step(jnp.zeros((1, 1), jnp.int32), cache, jnp.int32(2))[0]

    def begin(params):
        module = bind(PREFIX, params)
        return module.new_cache(module.encode(tokens), 5)

    params = abstract_params(PREFIX)
    begun = _product_flops(jax.make_jaxpr(begin)(params).jaxpr)
    assert begun - 2 * 32 * PREFIX.heads * 12 * 12 == encode_flops(PREFIX, 12)
    advanced = _product_flops(jax.make_jaxpr(advance)(params, jax.eval_shape(begin, params)).jaxpr)
    assert advanced - 2 * 32 * PREFIX.heads * (12 + 5) == step_flops(PREFIX, 12, 5)


@pytest.mark.parametrize("hypotheses", [1, 3])
def test_flops_of_decoding_are_those_of_the_products_in_its_program(hypotheses):
    tokens = jax.ShapeDtypeStruct((1, 12), np.int32)

    def begin(params, tokens):
        module = bind(TINY, params)
        return module.new_cache(module.encode(tokens), 5, hypotheses)

    def advance(params, cache, tokens):
        return bind(TINY, params).decode_step(tokens, cache, jnp.int32(2))[0]

    params = abstract_params(TINY)
    begun = _product_flops(jax.make_jaxpr(begin)(params, tokens).jaxpr)
    assert begun - 2 * 32 * TINY.heads * 12 * 12 == encode_flops(TINY, 12)
    cache = jax.eval_shape(begin, params, tokens)
    last = jax.ShapeDtypeStruct((1, hypotheses), np.int32)
    places = 5 * hypotheses  # a program's step reads its whole cache
    advanced = _product_flops(jax.make_jaxpr(advance)(params, cache, last).jaxpr)
    assert advanced - 2 * 32 * TINY.heads * places == hypotheses * step_flops(TINY, 12, places)


def test_decoding_is_its_steps_and_what_is_done_once():
    steps = sum(step_flops(TINY, 12, places) for places in range(1, 8))
    assert decode_flops(TINY, 12, 7, 3) == encode_flops(TINY, 12) + 3 * steps


def _product_flops(jaxpr, times: int = 1) -> int:
    flops = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            left = equation.invars[0].aval.shape
            flops += times * 2 * np.prod([left[axis] for axis in contracted]) * np.prod(equation.outvars[0].aval.shape)
        repeats = times * equation.params["length"] if equation.primitive.name == "scan" else times
        for value in equation.params.values():
            for part in value if isinstance(value, tuple | list) else (value,):
                if hasattr(part, "eqns"):
                    flops += _product_flops(part, repeats)
    return int(flops)


def test_a_state_is_what_its_optimizer_keeps():
    count = parameter_count(abstract_params(TINY))
    assert state_bytes(EXPERIMENT) == 12 * count + 8  # AdamW: three arrays of float32, step and count
    factored = replace(EXPERIMENT, optimizer=Adafactor(schedule=Constant(peak=1e-3), min_factored=16))
    assert state_bytes(factored) < 6 * count
    frozen = replace(EXPERIMENT, optimizer=replace(EXPERIMENT.optimizer, frozen=("embedding",)))
    assert state_bytes(EXPERIMENT) - state_bytes(frozen) == 2 * 4 * TINY.vocab_size * TINY.width


@pytest.mark.parametrize("sizes", [Mesh(), Mesh(data=2, fsdp=2, tensor=2), Mesh(data=1, fsdp=8)], ids=str)
def test_a_device_holds_what_is_foreseen(sizes):
    mesh = make_mesh(sizes)
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), abstract_state(EXPERIMENT))
    state = jax.device_put(zeros, state_shardings(EXPERIMENT, mesh))
    held = sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(state))
    assert device_bytes(EXPERIMENT, mesh) == held


def test_peaks_are_known_or_none():
    assert PEAK_FLOPS["NVIDIA H200"] == 989.4e12
    assert peak_flops(jax.devices("cpu")[0]) is None
