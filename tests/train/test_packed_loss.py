"""A packed row is as good as its examples alone: the same loss, gradients and logits, and none sees another."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research import Model
from research.data.batch import Batch
from research.data.packing.packing import PackedRows
from research.data.tasks.pairs import Pairs, Ragged
from research.model.family import preset
from research.model.loss import cross_entropy
from research.model.transformer import bind, initial_params
from research.parallel.rules import flatten

LENGTHS = ((5, 3), (2, 6), (7, 4), (3, 3), (4, 7), (6, 2), (1, 1), (3, 5))
WIDTHS = 12, 10
SMALL = {
    "width": 16, "heads": 2, "head_width": 8, "feed_forward": 32, "encoder_layers": 2, "decoder_layers": 2,
    "vocab_size": 64, "compute": "float32",
}  # fmt: skip


@pytest.fixture(params=["t5/small", "t5_v1_1/small", "umt5/small", "bart/base", "mbart/large", "marian/tiny"])
def model(request: pytest.FixtureRequest) -> Model:
    return preset(request.param, **SMALL)


@pytest.fixture
def packed(tmp_path, monkeypatch) -> Batch:
    monkeypatch.setenv("KINTSUGI_CACHE", str(tmp_path))
    draw = np.random.default_rng(0)
    sides = [
        Ragged(
            draw.integers(3, 60, sum(pair[side] for pair in LENGTHS)).astype(np.uint16),
            np.cumsum([0, *(pair[side] for pair in LENGTHS)], dtype=np.int64),
        )
        for side in (0, 1)
    ]
    rows = PackedRows(Pairs("made", *sides, (1, 1), 0, "made"), "made", *WIDTHS, False, 1)
    assert len(rows) <= len(LENGTHS) / 2
    return rows(np.arange(len(rows)), draw)


def places(batch: Batch) -> list[tuple[int, np.ndarray, np.ndarray]]:
    """For each example its row, and where in it its source and its target stand."""
    encoder, decoder = batch.encoder_segment_ids, batch.decoder_segment_ids
    return [
        (row, np.flatnonzero(encoder[row] == id), np.flatnonzero(decoder[row] == id))
        for row in range(len(decoder))
        for id in np.unique(decoder[row][decoder[row] > 0])
    ]


def one_a_row(batch: Batch) -> Batch:
    """The same examples, each in a row of its own with padding behind it and positions along the row."""
    found = places(batch)
    shape = {False: (len(found), WIDTHS[0]), True: (len(found), WIDTHS[1])}
    fields = {name: np.zeros(shape[name.startswith("decoder")], np.int32) for name in Batch._fields}
    for number, (row, source, target) in enumerate(found):
        for name, field in fields.items():
            where = target if name.startswith("decoder") else source
            field[number, : len(where)] = 1 if "segment" in name else getattr(batch, name)[row, where]
    fields["decoder_loss_weights"] = fields["decoder_loss_weights"].astype(np.float32)
    return Batch(**fields)._replace(encoder_positions=None, decoder_positions=None)


def params_of(model: Model):
    """Not as they start: biases that are zero, and norms that are one, would hide what is wrong."""
    params = initial_params(model, jax.random.key(0))
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    noisy = [leaf + 0.1 * jax.random.normal(key, leaf.shape) for leaf, key in zip(leaves, keys, strict=True)]
    return jax.tree.unflatten(tree, noisy)


@partial(jax.jit, static_argnums=1)
def logits_of(params, model: Model, batch: Batch):
    return bind(model, params)(batch, None)


@partial(jax.jit, static_argnums=1)
@jax.value_and_grad
def loss(params, model: Model, batch: Batch):
    logits = bind(model, params)(batch, None)
    return cross_entropy(logits, jnp.asarray(batch.decoder_target_tokens), jnp.asarray(batch.decoder_loss_weights)).loss


@pytest.mark.slow
def test_loss_and_gradients_are_those_of_the_examples_alone(model: Model, packed: Batch) -> None:
    params, alone = params_of(model), one_a_row(packed)
    assert alone.decoder_loss_weights.sum() == packed.decoder_loss_weights.sum()
    together, gradients = loss(params, model, packed)
    apart, expected = loss(params, model, alone)
    assert float(together) == pytest.approx(float(apart), rel=1e-6)
    wanted = flatten(expected)
    largest = {path: float(jnp.abs(leaf).max()) for path, leaf in wanted.items()}
    for path, gradient in flatten(gradients).items():
        scale = max(largest[path], 1e-3 * max(largest.values()))  # that of keys' biases is 0 but for rounding
        np.testing.assert_allclose(gradient, wanted[path], rtol=0, atol=1e-5 * scale, err_msg=path)


def test_logits_are_those_of_the_examples_alone(model: Model, packed: Batch) -> None:
    params, alone = params_of(model), one_a_row(packed)
    together, apart = logits_of(params, model, packed), logits_of(params, model, alone)
    for number, (row, _, target) in enumerate(places(packed)):
        np.testing.assert_allclose(together[row, target], apart[number, : len(target)], atol=1e-5, rtol=1e-5)


def test_an_example_never_sees_another(model: Model, packed: Batch) -> None:
    params = params_of(model)
    before = logits_of(params, model, packed)
    row, source, target = next(place for place in places(packed) if place[0] == 0)
    changed = packed._replace(
        encoder_input_tokens=packed.encoder_input_tokens.copy(), decoder_input_tokens=packed.decoder_input_tokens.copy()
    )
    changed.encoder_input_tokens[row, source] = 61
    changed.decoder_input_tokens[row, target] = 62
    after = logits_of(params, model, changed)
    others = np.setdiff1d(np.arange(WIDTHS[1]), target)
    assert (after[row, others] == before[row, others]).all()
    assert (after[1:] == before[1:]).all()
    assert (after[row, target] != before[row, target]).any()
