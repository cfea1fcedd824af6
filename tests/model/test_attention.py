"""Attention against a plain loop, and the masks."""

import jax
import jax.numpy as jnp
import numpy as np

from research import Model
from research.model.attention import Attention
from research.model.mask import causal, cross_mask, same_segment

MODEL = Model(61, 24, 3, 5, 40, 2, 2, compute="float32")
X = jax.random.normal(jax.random.key(1), (2, 4, 24))
Y = jax.random.normal(jax.random.key(2), (2, 6, 24))
MASK = jax.random.bernoulli(jax.random.key(3), 0.6, (2, 4, 6)).at[..., 0].set(True)
BIAS = jax.random.normal(jax.random.key(4), (3, 4, 6))


def attention() -> Attention:
    return Attention(MODEL, iter(jax.random.split(jax.random.key(0), 2)))


def plain(layer: Attention) -> np.ndarray:
    """Unscaled scores plus bias, masked, softmax, weighted sum: one head of one row at a time, in float64."""
    query, key, value, output = (np.float64(w.weight[...]) for w in (layer.query, layer.key, layer.value, layer.output))
    result = np.zeros(X.shape)
    for b in range(2):
        for h in range(3):
            scores = (X[b] @ query[:, h]) @ (Y[b] @ key[:, h]).T + BIAS[h]
            weights = np.exp(scores) * MASK[b]
            weights /= weights.sum(axis=-1, keepdims=True)
            result[b] += weights @ (Y[b] @ value[:, h]) @ output[h]
    return result


def test_attend_is_the_formula():
    layer = attention()
    np.testing.assert_allclose(layer.attend(X, *layer.project(Y), MASK, BIAS), plain(layer), rtol=1e-4, atol=1e-5)


def test_the_softmax_of_half_precision_is_in_float32():
    """One key among 2,000 equal ones: weights summed in bfloat16 would stop growing at 256."""
    layer = attention()
    layer.value.weight[...] = jnp.ones_like(layer.value.weight[...])
    layer.output.weight[...] = jnp.full_like(layer.output.weight[...], 1 / 15)
    x = jnp.zeros((1, 1, 24), jnp.bfloat16)
    keys = jnp.full((1, 2000, 24), 1 / 24, jnp.bfloat16)
    attended = layer.attend(x, *layer.project(keys))
    assert attended.dtype == jnp.bfloat16
    np.testing.assert_allclose(attended.astype(jnp.float32), 1.0, rtol=1e-2)


def test_a_row_that_sees_nothing_is_finite_and_so_is_its_gradient():
    layer = attention()

    def total(x):
        return layer.attend(x, *layer.project(Y), jnp.zeros((2, 4, 6), bool)).sum()

    value, gradient = jax.value_and_grad(total)(X)
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()


def test_masks():
    segments = jnp.array([[1, 1, 2, 0]])
    np.testing.assert_array_equal(
        same_segment(segments, segments)[0],
        np.array([[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]], bool),
    )
    np.testing.assert_array_equal(causal(3), np.array([[1, 0, 0], [1, 1, 0], [1, 1, 1]], bool))
    tokens = jnp.zeros((1, 2), jnp.int32)
    assert cross_mask(tokens, None, None) is None
    assert cross_mask(tokens, jnp.ones_like(tokens), None) is None
    np.testing.assert_array_equal(cross_mask(tokens, None, segments)[0], np.array([[1, 1, 0, 0]] * 2, bool))
    np.testing.assert_array_equal(
        cross_mask(tokens, jnp.array([[2, 0]]), segments)[0], np.array([[0, 0, 1, 0], [0, 0, 0, 1]], bool)
    )
