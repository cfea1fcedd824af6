"""Whole models: loss and gradients by every backend are those of the reference, in float32."""

from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research import DecoderOnly, Learned, Model, Relative
from research.data.batch import Batch
from research.model import attention_backends
from research.model import cudnn_attention as cudnn
from research.model import pallas_attention as pallas
from research.model.attention_backends import recorded
from research.model.loss import cross_entropy
from research.model.transformer import bind, initial_params
from research.parallel.rules import flatten

MODEL = Model(61, 24, 2, 8, 40, 2, 2, compute="float32")
ROWS, S, T = 4, 10, 6


def segments(length: int, *rows: tuple[int, ...]) -> np.ndarray:
    made = [np.repeat(np.arange(1, len(row) + 1), row) for row in rows]
    return np.stack([np.pad(row, (0, length - len(row))) for row in made]).astype(np.int32)


def batch_of(packed: bool) -> Batch:
    """Rows with padding, of one example each or of several."""
    draw = np.random.default_rng(0)
    source = segments(S, (4, 6), (3, 2, 2), (10,), (1, 1)) if packed else segments(S, (10,), (7,), (1,), (4,))
    target = segments(T, (3, 3), (2, 1, 1), (6,), (1, 2)) if packed else segments(T, (6,), (4,), (2,), (1,))
    tokens = [draw.integers(1, 61, shape).astype(np.int32) for shape in ((ROWS, S), (ROWS, T), (ROWS, T))]
    batch = Batch(*tokens, (target > 0).astype(np.float32), source, None, target)
    if not packed:
        return batch
    places = [
        np.int32([[np.sum(row[:place] == row[place]) for place in range(len(row))] for row in ids])
        for ids in (source, target)
    ]
    return batch._replace(encoder_positions=places[0], decoder_positions=places[1])


def loss_and_gradients(model: Model, batch: Batch, dropped: bool) -> tuple[jax.Array, dict[str, jax.Array]]:
    params = jax.tree.map(lambda leaf: leaf + 0.1, initial_params(model, jax.random.key(0)))
    key = jax.random.key(3) if dropped else None

    @jax.jit
    @partial(jax.value_and_grad, has_aux=False)
    def loss(params: Any) -> jax.Array:
        logits = bind(model, params)(batch, key)
        targets, weights = jnp.asarray(batch.decoder_target_tokens), jnp.asarray(batch.decoder_loss_weights)
        return cross_entropy(logits, targets, weights).loss

    value, gradients = loss(params)
    return value, flatten(gradients)


MODELS = {
    "relative, padded": (MODEL, False, False),
    "relative for each layer, packed": (replace(MODEL, positions=Relative(per_layer=True)), True, False),
    "learned, packed, dropout": (
        replace(MODEL, positions=Learned(16), dropout=0.1, attention_dropout=0.2, remat="dots"),
        *(True, True),
    ),
    "decoder only, padded": (replace(MODEL, stacks=DecoderOnly()), False, False),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_loss_and_gradients_are_those_of_the_reference(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, packed, dropped = MODELS[name]
    batch = batch_of(packed)
    value, expected = loss_and_gradients(replace(model, attention="reference"), batch, dropped)
    largest = max(float(jnp.abs(gradient).max()) for gradient in expected.values())
    monkeypatch.setattr(cudnn, "IMPLEMENTATION", "xla")
    monkeypatch.setattr(pallas, "INTERPRET", True)
    for kernels in ("cudnn", "pallas"):  # a CPU cannot run those of GPUs
        monkeypatch.setitem(attention_backends.OBSTACLES, kernels, lambda facts: iter(()))
    for backend in (
        "blocked",
        *(["pallas"] * ("only" not in name)),
        *(["cudnn"] * (not packed and "only" not in name)),
    ):
        with recorded() as record:
            found, gradients = loss_and_gradients(replace(model, attention=backend), batch, dropped)
        assert {choice.backend for choices in record.values() for choice in choices} == {backend}
        assert float(found) == pytest.approx(float(value), rel=1e-6)
        for path, gradient in expected.items():
            np.testing.assert_allclose(gradients[path], gradient, rtol=0, atol=3e-6 * largest, err_msg=path)
