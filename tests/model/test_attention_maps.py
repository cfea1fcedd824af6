"""Attention weights of a layer: what the layer itself used, and what Hugging Face's PyTorch models show."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from parity import assert_close, read
from parity import golden as stored

from research import DecoderOnly, SharedLayers
from research.config import ConfigError
from research.data.batch import Batch
from research.model.attention_maps import attention_map
from research.model.transformer import bind, initial_params

PARTS = ("encoder", "decoder", "cross")


def golden(variant: str):
    model, params, expected = stored(variant)
    return model, jax.tree.map(jnp.asarray, params), expected


def batch_of(expected) -> Batch:
    return Batch(*(expected[f"{name}_tokens"] for name in ("encoder_input", "decoder_input", "decoder_target")))


def rows_of(expected, padded: bool) -> Batch:
    """All rows with their padding, or the first, which has none."""
    if padded:
        masks = {f"{side}_segment_ids": expected[f"{side}_mask"].astype(np.int32) for side in ("encoder", "decoder")}
        return batch_of(expected)._replace(**masks)
    return jax.tree.map(lambda rows: rows[:1], batch_of(expected))


@pytest.mark.slow
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("variant", ["t5", "umt5", "mbart"])
def test_the_first_layer_by_hand(variant, padded):
    """From the embeddings: the norm, the projections and the bias of the layer, then a softmax in NumPy."""
    model, params, expected = golden(variant)
    batch = rows_of(expected, padded)
    network = bind(model, params)
    layer, tokens = network.encoder.unstacked()[0], jnp.asarray(batch.encoder_input_tokens)
    positions = jnp.arange(tokens.shape[1])
    x = network.encoder.embed_positions(network.embed_source(tokens), positions)
    x = layer.pre_norm(layer.self_attention_norm, x)
    key, _ = layer.self_attention.project(x)
    query = layer.self_attention.query(x) * (model.head_width**-0.5 if model.scaled_scores else 1.0)
    scores = np.einsum("bthk,bshk->bhts", np.float64(query), np.float64(key))
    bias = network.encoder.position_bias(positions, positions, bidirectional=True)(layer)
    scores += 0 if bias is None else np.float64(bias)
    if padded:
        scores[np.broadcast_to((expected["encoder_mask"] == 0)[:, None, None], scores.shape)] = -np.inf
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    found = np.asarray(attention_map(model, params, batch, "encoder", 0))
    real = expected["encoder_mask"][: len(tokens)] == 1
    np.testing.assert_allclose(found.swapaxes(1, 2)[real], weights.swapaxes(1, 2)[real], atol=1e-5)


def test_layers_differ_count_from_the_end_and_do_not_change_the_model():
    model, params, expected = golden("t5")
    batch = rows_of(expected, padded=False)
    before = np.asarray(bind(model, params)(batch))
    for part, count in (("encoder", 3), ("decoder", 2), ("cross", 2)):
        maps = [np.asarray(attention_map(model, params, batch, part, layer)) for layer in range(count)]
        assert all(np.abs(first - second).max() > 1e-2 for first, second in pairwise(maps))
        np.testing.assert_array_equal(attention_map(model, params, batch, part, -1), maps[-1])
    assert not np.triu(np.asarray(attention_map(model, params, batch, "decoder", 0))[0, 0], 1).any()
    np.testing.assert_array_equal(bind(model, params)(batch), before)


@pytest.mark.parametrize("remat", ["none", "dots", "full"])
def test_what_training_keeps_changes_nothing(remat):
    model, params, expected = golden("bart")
    batch = rows_of(expected, padded=False)
    found = attention_map(replace(model, remat=remat, unroll=2), params, batch, "cross", 1)
    np.testing.assert_array_equal(found, attention_map(model, params, batch, "cross", 1))


def test_one_stack_and_shared_layers():
    model = replace(golden("t5")[0], encoder_layers=2, decoder_layers=2)
    batch = rows_of(golden("t5")[2], padded=False)
    s, t = batch.widths
    shared = replace(model, stacks=SharedLayers())
    params = initial_params(shared, jax.random.key(0))
    assert attention_map(shared, params, batch, "cross", 1).shape == (1, 3, t, s)
    one = replace(model, stacks=DecoderOnly())
    params = initial_params(one, jax.random.key(0))
    assert attention_map(one, params, batch, "encoder", 1).shape == (1, 3, s, s)
    targets = np.asarray(attention_map(one, params, batch, "decoder", 1))
    assert targets.shape == (1, 3, t, s + t)
    np.testing.assert_allclose(targets.sum(-1), 1, rtol=1e-5)
    assert not np.triu(targets[0, 0, :, s:], 1).any()
    with pytest.raises(ConfigError, match="This model has no cross attention"):
        attention_map(one, params, batch, "cross", 0)


@pytest.mark.parametrize(
    ("part", "layer", "sentence"),
    [
        ("encoder", 3, "layer is 3: there are 3, from 0 to 2."),
        ("cross", -3, "layer is -3: there are 2, from 0 to 1."),
    ],
)
def test_a_layer_that_there_is_not(part, layer, sentence):
    model, params, expected = golden("t5")
    with pytest.raises(ConfigError, match=sentence):
        attention_map(model, params, rows_of(expected, padded=False), part, layer)


@pytest.mark.live
@pytest.mark.parametrize("variant", ["t5", "bart"])
def test_live_parity_of_every_layer(variant, tmp_path: Path):
    torch = pytest.importorskip("torch")
    goldens = pytest.importorskip("scripts.make_goldens")
    reference = goldens.build(goldens.VARIANTS[variant], seed=3)
    reference.save_pretrained(tmp_path)
    inputs = goldens.example(seed=3, padded=False, rows=2)
    with torch.no_grad():
        theirs = reference(
            input_ids=torch.from_numpy(inputs["encoder_input_tokens"]),
            decoder_input_ids=torch.from_numpy(inputs["decoder_input_tokens"]),
            output_attentions=True,
            use_cache=False,
        )
    shown = zip(PARTS, (theirs.encoder_attentions, theirs.decoder_attentions, theirs.cross_attentions), strict=True)
    model, params = read(tmp_path)
    for part, layers in shown:
        for number, layer in enumerate(layers):
            found = attention_map(model, params, batch_of(inputs), part, number)
            assert_close(found, layer.numpy(), 1e-5, f"{part} {number}")
