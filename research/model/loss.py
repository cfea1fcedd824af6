"""Masked cross entropy over the vocabulary, with z-loss and label smoothing, as sums and counts.

Sums and counts, not means, so that micro-batches, devices and evaluation batches add up and are divided once.
"""

import math
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


class Sums(NamedTuple):
    """Weighted sums over the target tokens of a batch. Divide by `weight` for means; add to combine batches."""

    loss: Float[Array, ""]  # what training minimises: smoothed cross entropy plus z-loss, in nats
    nll: Float[Array, ""]  # -log p(target), in nats; comparable between runs
    z_loss: Float[Array, ""]  # the z-loss inside `loss`
    correct: Float[Array, ""]  # targets of the highest probability, ties included
    weight: Float[Array, ""]  # target tokens


def cross_entropy(
    logits: Float[Array, "b t v"],
    targets: Int[Array, "b t"],
    weights: Float[Array, "b t"] | None = None,
    *,
    z_loss: float = 0.0,
    label_smoothing: float = 0.0,
    smoothing: Literal["t5x", "fairseq", "marian"] = "t5x",
) -> Sums:
    """Compute the sums over all target tokens, in float32; `weights=None` counts every token once.

    z-loss adds z_loss * log(Z)^2, with Z the softmax's denominator, to every token's loss, against drift of the logits
    (Mesh TensorFlow's and T5X's; described in PaLM, arXiv:2204.02311, section 5).

    Label smoothing by e replaces the target with a softened distribution over v tokens:

        t5x      1 - e for the target and e / (v - 1) for every other token; the entropy of this distribution is
                 subtracted, so that a perfect model has loss 0
        fairseq  as t5x, without subtracting the entropy
        marian   1 - e for the target, plus e / v for every token including the target

    The gradients of t5x and fairseq are equal; the loss values of all three differ.
    """
    logits = logits.astype(jnp.float32)
    log_z = jax.nn.logsumexp(logits, axis=-1)
    target_logit = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    nll = log_z - target_logit
    z_term = z_loss * jnp.square(log_z)
    loss = nll + z_term
    if label_smoothing:
        size = logits.shape[-1]
        off = label_smoothing / (size if smoothing == "marian" else size - 1)
        on = 1.0 - off * (size - 1)
        entropy = -(on * math.log(on) + off * (size - 1) * math.log(off)) if smoothing == "t5x" else 0.0
        loss = log_z - (on - off) * target_logit - off * logits.sum(-1) - entropy + z_term
    correct = (target_logit == jnp.max(logits, axis=-1)).astype(jnp.float32)
    ones = jnp.ones_like(nll)
    weights = ones if weights is None else weights.astype(jnp.float32)
    return Sums(*(jnp.sum(term * weights) for term in (loss, nll, z_term, correct, ones)))
