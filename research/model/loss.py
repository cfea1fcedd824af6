"""Masked cross entropy over the vocabulary, with z-loss and label smoothing, as sums and counts.

Sums and counts, not means, so that micro-batches, devices and evaluation batches add up and are divided once.

Logits [b t v] are the largest array of a step. Where those of a device exceed `LARGEST` bytes,
`cross_entropy_in_chunks` computes them and their gradients for a few rows at a time, so that they never exist as a
whole.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float, Int

from research.config import Distil
from research.model.derivatives import divergence, logit_terms
from research.parallel.layout import BATCH_AXES, axis_size, batch_parts, constrain

PARTS = (*BATCH_AXES, "sequence")  # the axes of the mesh that split tokens
LARGEST = 2**31  # bytes of a device's float32 logits that are computed at once, unless one row has more


class Sums(NamedTuple):
    """Weighted sums over the target tokens of a batch. Divide by `weight` for means; add to combine batches."""

    loss: Float[Array, ""]  # what training minimises: smoothed cross entropy plus z-loss, in nats
    nll: Float[Array, ""]  # -log p(target), in nats; comparable between runs
    z_loss: Float[Array, ""]  # the z-loss inside `loss`
    correct: Float[Array, ""]  # targets of the highest probability, ties included
    weight: Float[Array, ""]  # target tokens
    divergence: Float[Array, ""] | float = 0.0  # KL(teacher || student) at the temperature of distillation, in nats


class Teacher(NamedTuple):
    """A teacher's head, and the input of it for every target."""

    logits: Callable[[Array], Array]
    x: Array  # [b t d]
    distil: Distil


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
    log_z, target_logit, total = logit_terms(logits, targets)
    nll = log_z - target_logit
    z_term = z_loss * jnp.square(log_z)
    loss = nll + z_term
    if label_smoothing:
        size = logits.shape[-1]
        off = label_smoothing / (size if smoothing == "marian" else size - 1)
        on = 1.0 - off * (size - 1)
        entropy = -(on * math.log(on) + off * (size - 1) * math.log(off)) if smoothing == "t5x" else 0.0
        loss = log_z - (on - off) * target_logit - off * total - entropy + z_term
    correct = (target_logit == jnp.max(logits, axis=-1).astype(jnp.float32)).astype(jnp.float32)
    ones = jnp.ones_like(nll)
    weights = ones if weights is None else weights.astype(jnp.float32)
    sums = (jnp.sum(term * weights) for term in (loss, nll, z_term, correct, ones))
    return Sums._make((*sums, jnp.zeros((), jnp.float32)))


def distilled(
    sums: Sums,
    logits: Float[Array, "b t v"],
    teacher: Float[Array, "b t v"],
    weights: Float[Array, "b t"] | None,
    distil: Distil,
) -> Sums:
    """Mix the divergence from a teacher into the loss, by the formula of `Distil`."""
    found = divergence(logits, jax.lax.stop_gradient(teacher), distil.temperature)
    total = jnp.sum(found if weights is None else found * weights.astype(jnp.float32))
    loss = (1 - distil.alpha) * sums.loss + distil.alpha * distil.temperature**2 * total
    return sums._replace(loss=loss, divergence=total)


def chunks(shape: tuple[int, int], vocabulary: int) -> int:
    """Return the least number of equal chunks of a device's rows whose logits have at most `LARGEST` bytes."""
    rows, length = shape[0] // batch_parts(shape[0]), shape[1] / axis_size("sequence")
    row = 4 * length * vocabulary / axis_size("tensor")
    counts = [count for count in range(1, rows + 1) if rows % count == 0]
    return next((count for count in counts if rows // count * row <= LARGEST), counts[-1])


def cross_entropy_in_chunks(
    logits: Callable[[Array], Array],
    x: Float[Array, "b t d"],
    targets: Int[Array, "b t"],
    weights: Float[Array, "b t"] | None,
    count: int,
    teacher: Teacher | None = None,
    **settings: Any,
) -> Sums:
    """Compute `cross_entropy(logits(x), targets, weights, **settings)` in `count` chunks of every device's rows.

    With a teacher, compute `distilled` of it.

    Only `loss` has a gradient, with respect to x and the parameters inside `logits`. It is computed together with the
    loss, which is linear in it, so that no product is computed twice.
    """
    weights = jnp.ones(targets.shape, jnp.float32) if weights is None else weights
    x, *given = [_split(each, count) for each in (x, targets, weights, *([] if teacher is None else [teacher.x]))]
    function, parameters = jax.closure_convert(logits, jax.ShapeDtypeStruct(x.shape[2:], x.dtype))
    guide, fixed = (None, []) if teacher is None else _with_constants(teacher.logits, given[2])
    sums = partial(_sums, function, guide, None if teacher is None else teacher.distil, settings)
    found = _sums_in_chunks(sums, x, (*given,), parameters, jax.lax.stop_gradient(fixed))
    return Sums._make((found.loss, *map(jax.lax.stop_gradient, found[1:])))


def _with_constants(function: Callable[[Array], Array], rows: Array) -> tuple[Callable[..., Array], list[Array]]:
    """Turn the arrays that a function of chunks of rows closes over into arguments after the first."""
    closed = jax.make_jaxpr(function)(jax.ShapeDtypeStruct(rows.shape[2:], rows.dtype))
    return lambda x, *constants: jax.core.eval_jaxpr(closed.jaxpr, constants, x)[0], closed.consts


def _sums(
    function: Callable[..., Array],
    guide: Callable[..., Array] | None,
    distil: Distil | None,
    settings: Any,
    parameters: Sequence[Array],
    x: Array,
    given: tuple[Array, ...],
    fixed: Sequence[Array],
) -> tuple[Array, Sums]:
    logits = constrain(function(x, *parameters), PartitionSpec(None, None, "tensor"))
    targets, weights, *of_teacher = given
    with jax.named_scope("loss"):
        sums = cross_entropy(logits, targets, weights, **settings)
    if guide is not None and distil is not None:
        taught = constrain(guide(*of_teacher, *fixed), PartitionSpec(None, None, "tensor"))
        with jax.named_scope("loss"):
            sums = distilled(sums, logits, taught, weights, distil)
    return sums.loss, sums


def _split(rows: Array, count: int) -> Array:
    """Split [b t ...] into [count, parts, b', t', ...]: a chunk has rows of every part of the mesh."""
    batch, sequence = batch_parts(len(rows)), axis_size("sequence")
    split = rows.reshape(batch, count, -1, sequence, rows.shape[1] // sequence, *rows.shape[2:])
    moved = jnp.moveaxis(split, (0, 3), (1, 2))
    return constrain(moved.reshape(count, batch * sequence, *moved.shape[3:]), PartitionSpec(None, PARTS))


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _sums_in_chunks(
    sums: Any, x: Array, given: tuple[Array, ...], parameters: Sequence[Array], fixed: Sequence[Array]
) -> Sums:
    parameters, fixed = (_own_copies(each, x.shape[1]) for each in (parameters, fixed))

    def add(total: Sums, chunk: tuple[Any, ...]) -> tuple[Sums, None]:
        _, found = _over_parts(sums)(parameters, *chunk, fixed)
        return jax.tree.map(lambda before, new: before + jnp.sum(new), total, found), None

    return jax.lax.scan(add, zero_sums(), (x, given))[0]


def _sums_and_gradients(
    sums: Any, x: Array, given: tuple[Array, ...], parameters: Sequence[Array], fixed: Sequence[Array]
) -> tuple[Sums, tuple[Array, list[Array]]]:
    """Compute the sums, and what the backward pass only has to multiply: the gradients of x and the parameters."""
    copies, fixed = (_own_copies(each, x.shape[1]) for each in (parameters, fixed))
    gradient = _over_parts(jax.grad(sums, argnums=(0, 1), has_aux=True))

    def add(total: tuple[Sums, list[Array]], chunk: tuple[Any, ...]) -> tuple[tuple[Sums, list[Array]], Array]:
        (of_parameters, of_x), found = gradient(copies, *chunk, fixed)
        added = jax.tree.map(lambda before, new: before + jnp.sum(new), total[0], found)
        return (added, [before + new for before, new in zip(total[1], of_parameters, strict=True)]), of_x

    zeros = [jnp.zeros_like(copy, jnp.float32) for copy in copies]
    (total, of_copies), of_x = jax.lax.scan(add, (zero_sums(), zeros), (x, given))
    of_parameters = [jnp.sum(of, axis=0).astype(each.dtype) for of, each in zip(of_copies, parameters, strict=True)]
    return total, (of_x, of_parameters)


def _scaled(sums: Any, kept: tuple[Array, list[Array]], gradients: Sums) -> tuple[Array, None, list[Array], None]:
    of_x, of_parameters = jax.tree.map(lambda each: (gradients.loss * each).astype(each.dtype), kept)
    return of_x, None, of_parameters, None


_sums_in_chunks.defvjp(_sums_and_gradients, _scaled)


def zero_sums() -> Sums:
    """Return the sums of no tokens."""
    return Sums(*[jnp.zeros((), jnp.float32)] * len(Sums._fields))


def _over_parts(function: Callable[..., Any]) -> Callable[..., Any]:
    return jax.vmap(function, spmd_axis_name=None if jax.sharding.get_abstract_mesh().empty else PARTS)


def _own_copies(parameters: Sequence[Array], parts: int) -> list[Array]:
    """Copy parameters for each part of the tokens, to gather them, and to sum their gradients over parts, only once."""
    free = PartitionSpec.UNCONSTRAINED
    return [
        constrain(jnp.broadcast_to(each, (parts, *each.shape)), PartitionSpec(PARTS, *[free] * each.ndim))
        for each in parameters
    ]
