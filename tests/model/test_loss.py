"""The loss equals the definition, in value and in gradient, and its sums add up."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.model.derivatives import product
from research.model.loss import Sums, cross_entropy

Z_LOSS, SMOOTHING = 1e-2, 0.1


def example(batch: int = 3, length: int = 5, vocabulary: int = 17, seed: int = 0) -> tuple:
    random = np.random.default_rng(seed)
    logits = jnp.asarray(random.normal(size=(batch, length, vocabulary)) * 4, jnp.float32)
    targets = jnp.asarray(random.integers(0, vocabulary, (batch, length)), jnp.int32)
    weights = jnp.asarray(random.integers(0, 3, (batch, length)), jnp.float32)
    return logits, targets, weights


def naive_loss(logits, targets, weights, z_loss, label_smoothing, smoothing="t5x"):
    """The definitions, with soft targets written out."""
    size = logits.shape[-1]
    log_probabilities = jax.nn.log_softmax(logits)
    nll = -jnp.take_along_axis(log_probabilities, targets[..., None], -1)[..., 0]
    e = label_smoothing
    match smoothing:
        case "t5x":  # t5x/losses.py: cross_entropy_with_logits of soft targets, minus the normalizing constant
            off = e / (size - 1)
            soft = jnp.where(jax.nn.one_hot(targets, size) > 0, 1 - e, off)
            constant = -((1 - e) * np.log(1 - e) + (size - 1) * off * np.log(off + 1e-20))
            per_token = -jnp.sum(soft * log_probabilities, -1) - constant
        case "fairseq":  # fairseq/criterions/label_smoothed_cross_entropy.py: label_smoothed_nll_loss
            eps_i = e / (size - 1)
            per_token = (1 - e - eps_i) * nll + eps_i * -jnp.sum(log_probabilities, -1)
        case "marian":  # marian/src/layers/loss.h: (1 - e) * ce + e * mean of -log p over the vocabulary
            per_token = (1 - e) * nll + e * -jnp.mean(log_probabilities, -1)
    log_z = jnp.log(jnp.sum(jnp.exp(logits), -1))
    return jnp.sum((per_token + z_loss * log_z**2) * weights)


@pytest.mark.parametrize("smoothing", ["t5x", "fairseq", "marian"])
@pytest.mark.parametrize("z_loss", [0.0, Z_LOSS])
@pytest.mark.parametrize("label_smoothing", [0.0, SMOOTHING])
def test_value_and_gradient_equal_the_definition(z_loss, label_smoothing, smoothing):
    logits, targets, weights = example()
    settings = {"label_smoothing": label_smoothing, "smoothing": smoothing}

    def ours(logits):
        return cross_entropy(logits, targets, weights, z_loss=z_loss, **settings).loss

    value, gradient = jax.value_and_grad(ours)(logits)
    expected, expected_gradient = jax.value_and_grad(naive_loss)(logits, targets, weights, z_loss, **settings)
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    np.testing.assert_allclose(gradient, expected_gradient, rtol=1e-5, atol=1e-6)


def test_the_three_smoothings_relate_as_documented():
    """T5X's and fairseq's differ by a constant a token; Marian's with e is fairseq's with e * (v - 1) / v."""
    logits, targets, weights = example()

    def value_and_gradient(smoothing, e):
        return jax.value_and_grad(
            lambda x: cross_entropy(x, targets, weights, label_smoothing=e, smoothing=smoothing).loss
        )(logits)

    (t5x, t5x_gradient), (fairseq, fairseq_gradient) = (
        value_and_gradient(name, SMOOTHING) for name in ("t5x", "fairseq")
    )
    np.testing.assert_allclose(t5x_gradient, fairseq_gradient, rtol=1e-6, atol=1e-7)
    off = SMOOTHING / 16
    entropy = -((1 - SMOOTHING) * np.log(1 - SMOOTHING) + SMOOTHING * np.log(off))
    np.testing.assert_allclose(fairseq - t5x, entropy * weights.sum(), rtol=1e-5)
    marian, marian_gradient = value_and_gradient("marian", SMOOTHING)
    assert abs(marian - fairseq) > 0.01
    equal, equal_gradient = value_and_gradient("fairseq", SMOOTHING * 16 / 17)
    np.testing.assert_allclose(marian, equal, rtol=1e-5)
    np.testing.assert_allclose(marian_gradient, equal_gradient, rtol=1e-5, atol=1e-6)


def test_gradient_of_the_z_loss_is_two_z_log_z():
    """A token's gradient sums to 2 * z_loss * log Z, since softmax minus one-hot sums to 0."""
    logits, targets, _ = example()
    gradient = jax.grad(lambda logits: cross_entropy(logits, targets, z_loss=Z_LOSS).loss)(logits)
    log_z = jax.nn.logsumexp(logits, -1)
    np.testing.assert_allclose(gradient.sum(-1), 2 * Z_LOSS * log_z, rtol=1e-5, atol=1e-6)


def test_every_sum_is_differentiable():
    """Not the loss alone: what is summed may be minimised too."""
    logits, targets, weights = example()
    for field, expected in (
        ("nll", lambda x: naive_loss(x, targets, weights, 0.0, 0.0)),
        ("z_loss", lambda x: Z_LOSS * jnp.sum(weights * jax.nn.logsumexp(x, -1) ** 2)),
    ):
        ours = jax.grad(lambda x, field=field: getattr(cross_entropy(x, targets, weights, z_loss=Z_LOSS), field))(
            logits
        )
        np.testing.assert_allclose(ours, jax.grad(expected)(logits), rtol=1e-5, atol=1e-6)


def test_no_weights_are_weights_of_one():
    logits, targets, _ = example()
    ones = jnp.ones(targets.shape)
    for left, right in zip(cross_entropy(logits, targets), cross_entropy(logits, targets, ones), strict=True):
        np.testing.assert_array_equal(left, right)


def test_a_token_of_weight_0_has_no_influence():
    logits, targets, weights = example()
    changed = jnp.where(weights[..., None] == 0, -3 * logits, logits)
    for left, right in zip(
        cross_entropy(logits, targets, weights, z_loss=Z_LOSS),
        cross_entropy(changed, targets, weights, z_loss=Z_LOSS),
        strict=True,
    ):
        np.testing.assert_array_equal(left, right)


def test_sums_of_parts_are_the_sums_of_the_whole():
    logits, targets, weights = example(batch=4)
    settings = {"z_loss": Z_LOSS, "label_smoothing": SMOOTHING}
    whole = cross_entropy(logits, targets, weights, **settings)
    parts = [cross_entropy(logits[i : i + 1], targets[i : i + 1], weights[i : i + 1], **settings) for i in range(4)]
    for field, expected in zip(Sums._fields, whole, strict=True):
        np.testing.assert_allclose(sum(getattr(part, field) for part in parts), expected, rtol=1e-5)


def test_a_certain_model_has_loss_0_and_is_all_correct():
    _, targets, _ = example()
    certain = 100.0 * jax.nn.one_hot(targets, 17)
    sums = cross_entropy(certain, targets)
    assert float(sums.loss) == 0.0
    assert float(sums.correct) == float(sums.weight) == targets.size
    # With smoothing the perfect model is the smoothed distribution itself.
    smoothed = jnp.log(jnp.where(certain > 0, 1 - SMOOTHING, SMOOTHING / 16))
    np.testing.assert_allclose(cross_entropy(smoothed, targets, label_smoothing=SMOOTHING).loss, 0.0, atol=1e-5)


def test_large_logits_neither_overflow_nor_vanish():
    logits, targets, weights = example()
    value, gradient = jax.value_and_grad(lambda x: cross_entropy(x, targets, weights).loss)(logits + 1e4)
    assert np.isfinite(value)
    assert np.all(np.isfinite(gradient))
    assert np.abs(gradient).max() > 0.1


def test_half_precision_logits_are_reduced_in_float32():
    logits, targets, weights = example()
    half = logits.astype(jnp.bfloat16)
    for left, right in zip(
        cross_entropy(half, targets, weights), cross_entropy(half.astype(jnp.float32), targets, weights), strict=True
    ):
        assert left.dtype == jnp.float32
        np.testing.assert_array_equal(left, right)


def test_the_vocabulary_is_held_twice_at_most():
    """Logits and their gradient are all that a step stores of their size: no one-hot targets."""
    rows, length, width, vocabulary = 8, 64, 32, 4096

    def loss(head, x, targets):
        return cross_entropy(product("btd,dv->btv", x, head), targets, z_loss=Z_LOSS).loss

    shapes = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((width, vocabulary), (rows, length, width))]
    targets = jax.ShapeDtypeStruct((rows, length), jnp.int32)
    memory = jax.jit(jax.grad(loss, (0, 1))).lower(*shapes, targets).compile().memory_analysis()
    assert memory.temp_size_in_bytes < 2.1 * rows * length * vocabulary * 4
