"""The network that decodes computes what the model computes, and is made once for many calls."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research import DecoderOnly, Generation, Model, Relative, Tied
from research.decode.prepare import FusedSelfAttention, own_tables, prepared
from research.decode.search import decode, decode_prepared
from research.model.transformer import bind, initial_params

MODEL = Model(27, 16, 2, 8, 32, 3, 3, positions=Relative(buckets=4, max_distance=6), compute="float32")
TOKENS = np.random.default_rng(0).integers(2, 24, (3, 7), dtype=np.int32)


@pytest.mark.parametrize("platform", ["cpu", "gpu"])
@pytest.mark.parametrize("compute", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    "changes", [{}, {"head": Tied(True), "scaled_embedding": True, "biases": True}, {"stacks": DecoderOnly()}], ids=str
)
def test_the_prepared_network_computes_the_same_logits(changes, compute, platform, monkeypatch):
    monkeypatch.setattr("research.decode.prepare.platform", lambda: platform)
    prepared.clear_cache()
    model = replace(MODEL, compute=compute, **changes)
    params = initial_params(model, jax.random.key(0))

    def step(network):
        cache, each = network.new_cache(network.encode(jnp.asarray(TOKENS)), 4), []
        for position in range(3):  # with one position, queries and keys would not matter
            scores, cache = network.decode_step(jnp.full((3, 1), 5 + position), cache, jnp.int32(position))
            each.append(scores)
        return jnp.stack(each)

    network = prepared(model, params)
    prepared.clear_cache()
    assert isinstance(network.decoder.layers[0].self_attention, FusedSelfAttention) == (platform == "gpu")
    expected = jax.jit(lambda params: step(bind(model, params)))(params)
    tolerance = 1e-5 if compute == "float32" else 3e-2
    np.testing.assert_allclose(
        jax.jit(lambda network: step(own_tables(network)))(network), expected, rtol=tolerance, atol=tolerance
    )
    rows = network.embedding[...].shape[0] if isinstance(model.head, Tied) else network.head[...].shape[1]
    assert rows == 27, "rows up to a multiple of 8 are added in the program that decodes"
    widths = {leaf.dtype for leaf in jax.tree.leaves(network.decoder.layers) if leaf.ndim > 1}
    assert widths == {jnp.dtype(compute)}


def test_calls_share_a_prepared_network():
    params = initial_params(MODEL, jax.random.key(0))
    generation = Generation(max_length=5)
    network = prepared(MODEL, params)
    found = decode_prepared(network, jnp.asarray(TOKENS), generation=generation)
    np.testing.assert_array_equal(found.tokens, decode(MODEL, params, TOKENS, generation=generation).tokens)
    kept = sum(leaf.size for leaf in jax.tree.leaves(network))
    assert kept == sum(leaf.size for leaf in jax.tree.leaves(params)), "every parameter once: no stacked layers besides"
