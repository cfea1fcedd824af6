"""Functions with derivative rules of their own, which choose the arrays that the backward pass keeps.

Differentiation keeps every intermediate value of a function, in float32 inside a norm or a loss. These rules keep the
function's input, and compute the rest again; a barrier stops compilers from keeping the rest after all. Each equals
plain differentiation up to rounding (tests/model/test_derivatives.py).
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float, Int

from research.parallel.layout import axis_size, constrain

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "relu": jax.nn.relu,
    "gelu": partial(jax.nn.gelu, approximate=False),
    "gelu_tanh": partial(jax.nn.gelu, approximate=True),
    "silu": jax.nn.silu,
}

PRODUCT = "product"  # the name of products' results for policies of jax.checkpoint

# --- Norms ------------------------------------------------------------------------------------------------------------


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def rms_norm(x: Float[Array, "*_ d"], scale: Float[Array, " d"], epsilon: float) -> Float[Array, "*_ d"]:
    """Divide by the root mean square over the last axis and multiply by `scale`, in float32. Keep x."""
    wide = x.astype(jnp.float32)
    inverse = jax.lax.rsqrt(jnp.mean(jnp.square(wide), axis=-1, keepdims=True) + epsilon)
    return (wide * inverse * scale).astype(x.dtype)


def _rms_norm_forward(x: Array, scale: Array, epsilon: float) -> tuple[Array, tuple[Array, ...]]:
    return rms_norm(x, scale, epsilon), (x, scale)


def _rms_norm_backward(epsilon: float, kept: tuple[Array, ...], gradient: Array) -> tuple[Array, Array]:
    x, scale = jax.lax.optimization_barrier(kept)
    wide, gradient = x.astype(jnp.float32), gradient.astype(jnp.float32)
    scaled = gradient * scale
    square, along = (jnp.mean(each, axis=-1, keepdims=True) for each in (jnp.square(wide), scaled * wide))
    inverse = jax.lax.rsqrt(square + epsilon)
    normed = wide * inverse
    of_x = inverse * (scaled - normed * (inverse * along))
    return of_x.astype(x.dtype), _sum_leading(gradient * normed)


rms_norm.defvjp(_rms_norm_forward, _rms_norm_backward)


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def layer_norm(
    x: Float[Array, "*_ d"], scale: Float[Array, " d"], bias: Float[Array, " d"], epsilon: float
) -> Float[Array, "*_ d"]:
    """Normalise mean and deviation over the last axis, scale and shift, in float32. Keep x."""
    normed, _ = _normed(x.astype(jnp.float32), epsilon)
    return (normed * scale + bias).astype(x.dtype)


def _normed(wide: Array, epsilon: float) -> tuple[Array, Array]:
    centred = wide - jnp.mean(wide, axis=-1, keepdims=True)
    inverse = jax.lax.rsqrt(jnp.mean(jnp.square(centred), axis=-1, keepdims=True) + epsilon)
    return centred * inverse, inverse


def _layer_norm_forward(x: Array, scale: Array, bias: Array, epsilon: float) -> tuple[Array, tuple[Array, ...]]:
    return layer_norm(x, scale, bias, epsilon), (x, scale)


def _layer_norm_backward(epsilon: float, kept: tuple[Array, ...], gradient: Array) -> tuple[Array, Array, Array]:
    x, scale = jax.lax.optimization_barrier(kept)
    normed, inverse = _normed(x.astype(jnp.float32), epsilon)
    gradient = gradient.astype(jnp.float32)
    scaled = gradient * scale
    along = jnp.mean(scaled * normed, axis=-1, keepdims=True)
    of_x = inverse * (scaled - jnp.mean(scaled, axis=-1, keepdims=True) - normed * along)
    return of_x.astype(x.dtype), _sum_leading(gradient * normed), _sum_leading(gradient)


layer_norm.defvjp(_layer_norm_forward, _layer_norm_backward)


def _sum_leading(x: Array) -> Array:
    return jnp.sum(x, axis=tuple(range(x.ndim - 1)))


# --- Activations ------------------------------------------------------------------------------------------------------


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def activate(name: str, up: Float[Array, "*_ f"]) -> Float[Array, "*_ f"]:
    """Apply an activation. Keep its input; of relu its output, which the next product keeps too."""
    return ACTIVATIONS[name](up)


def _activate_forward(name: str, up: Array) -> tuple[Array, Array]:
    y = ACTIVATIONS[name](up)
    return y, y if name == "relu" else up


def _activate_backward(name: str, kept: Array, gradient: Array) -> tuple[Array]:
    # relu of its own output has the derivative of relu
    return jax.vjp(ACTIVATIONS[name], jax.lax.optimization_barrier(kept))[1](gradient)


activate.defvjp(_activate_forward, _activate_backward)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def gate(name: str, gate: Float[Array, "*_ f"], up: Float[Array, "*_ f"]) -> Float[Array, "*_ f"]:
    """Multiply the activation of `gate` with `up`. Keep these two."""
    return _gated(name, gate, up)


def _gated(name: str, gate: Array, up: Array) -> Array:
    return ACTIVATIONS[name](gate) * up


def _gate_forward(name: str, gate: Array, up: Array) -> tuple[Array, tuple[Array, Array]]:
    return _gated(name, gate, up), (gate, up)


def _gate_backward(name: str, kept: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    return jax.vjp(partial(_gated, name), *jax.lax.optimization_barrier(kept))[1](gradient)


gate.defvjp(_gate_forward, _gate_backward)

# --- Softmax ----------------------------------------------------------------------------------------------------------


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def softmax(scores: Float[Array, "*_ s"], dtype: str) -> Float[Array, "*_ s"]:
    """Compute the softmax of float32 scores over the last axis, rounded to `dtype`. Keep the result."""
    return jax.nn.softmax(scores, axis=-1).astype(dtype)


def _softmax_forward(scores: Array, dtype: str) -> tuple[Array, Array]:
    weights = softmax(scores, dtype)
    return weights, weights


def _softmax_backward(dtype: str, kept: Array, gradient: Array) -> tuple[Array]:
    weights, gradient = jax.lax.optimization_barrier(kept).astype(jnp.float32), gradient.astype(jnp.float32)
    return (weights * (gradient - jnp.sum(weights * gradient, axis=-1, keepdims=True)),)


softmax.defvjp(_softmax_forward, _softmax_backward)

# --- Products with weights --------------------------------------------------------------------------------------------


def product(
    equation: str, x: Float[Array, "..."], weight: Float[Array, "..."], dtype: str | None = None
) -> Float[Array, "..."]:
    """Compute an einsum of an input and a weight, as `dtype` or in the dtype of the input.

    The gradient is rounded to the input's dtype first, so that both products of the backward pass have narrow operands.
    Their order is that of the einsums below: plain differentiation gives transposed results, which a CPU copies. The
    result has a name, because a policy of jax.checkpoint does not see products inside a rule.
    """
    return checkpoint_name(_product(equation, x, weight, dtype), PRODUCT)


@partial(jax.custom_vjp, nondiff_argnums=(0, 3))
def _product(equation: str, x: Array, weight: Array, dtype: str | None) -> Array:
    return jnp.einsum(equation, x, weight, preferred_element_type=dtype)


def _product_forward(equation: str, x: Array, weight: Array, dtype: str | None) -> tuple[Array, tuple[Array, Array]]:
    return _product(equation, x, weight, dtype), (x, weight)


def _product_backward(
    equation: str, dtype: str | None, kept: tuple[Array, Array], gradient: Array
) -> tuple[Array, Array]:
    x, weight = kept
    gradient = gradient.astype(x.dtype)
    reads, axes, writes = equation.replace("->", ",").split(",")
    of_x = jnp.einsum(f"{writes},{axes}->{reads}", gradient, weight)
    return of_x, _gradient_of_weight(reads, axes, writes, x, weight, gradient)


def _gradient_of_weight(reads: str, axes: str, writes: str, x: Array, weight: Array, gradient: Array) -> Array:
    """Sum the products of inputs and gradients over all tokens; over fsdp each device sums its part of the width d.

    A CPU copies the first operand to transpose it, so the input stands second where copying the gradient and the sum is
    less. A TPU scatters a sum along the first of two axes alone, and else gives every device the whole sum, twice the
    bytes.
    """
    by_side = {reads: x, writes: gradient}
    tokens, others = reads.rstrip(axes), axes.strip("d")
    width, other = f"{tokens}d", f"{tokens}{others}"
    fits = {width, other} == by_side.keys() and axes in (f"d{others}", f"{others}d") and others != "v"
    if axis_size("fsdp") == 1 or not fits:
        if gradient.size + weight.size <= x.size:
            turned = "".join(axis for axis in writes + reads if axis in axes)
            return jnp.einsum(f"{turned}->{axes}", jnp.einsum(f"{writes},{reads}->{turned}", gradient, x))
        return jnp.einsum(f"{reads},{writes}->{axes}", x, gradient)
    sizes = by_side[other].shape[len(tokens) :]
    flat = by_side[other].reshape(*x.shape[: len(tokens)], -1)
    summed = constrain(jnp.einsum(f"{width},{tokens}f->df", by_side[width], flat), PartitionSpec("fsdp", "tensor"))
    return jnp.moveaxis(summed.reshape(-1, *sizes), 0, axes.index("d"))


_product.defvjp(_product_forward, _product_backward)

# --- Loss -------------------------------------------------------------------------------------------------------------


@jax.custom_vjp
def logit_terms(
    logits: Float[Array, "*b v"], targets: Int[Array, "*b"]
) -> tuple[Float[Array, "*b"], Float[Array, "*b"], Float[Array, "*b"]]:
    """Compute log(sum(exp(logits))), the logits of the targets, and the sum of the logits, in float32.

    The gradient is computed in one pass: targets are compared with an iota, because the gradient of a lookup is a
    scatter. Keep the logits and the first result.
    """
    return _logit_terms_forward(logits, targets)[0]


def _logit_terms_forward(logits: Array, targets: Array) -> tuple[tuple[Array, Array, Array], tuple[Array, ...]]:
    wide = logits.astype(jnp.float32)
    log_z = jax.nn.logsumexp(wide, axis=-1)
    target = jnp.sum(jnp.where(_is_target(logits, targets), wide, 0.0), axis=-1)
    return (log_z, target, jnp.sum(wide, axis=-1)), (logits, targets, log_z)


def _logit_terms_backward(kept: tuple[Array, ...], gradients: tuple[Array, Array, Array]) -> tuple[Array, None]:
    logits, targets, log_z = kept
    of_log_z, of_target, of_sum = (gradient[..., None] for gradient in gradients)
    probability = jnp.exp(logits.astype(jnp.float32) - log_z[..., None])
    of_logits = probability * of_log_z + jnp.where(_is_target(logits, targets), of_target, 0.0) + of_sum
    return of_logits.astype(logits.dtype), None


def _is_target(logits: Array, targets: Array) -> Array:
    return jax.lax.broadcasted_iota(targets.dtype, logits.shape, logits.ndim - 1) == targets[..., None]


logit_terms.defvjp(_logit_terms_forward, _logit_terms_backward)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def divergence(logits: Float[Array, "*b v"], teacher: Float[Array, "*b v"], temperature: float) -> Float[Array, "*b"]:
    """Compute KL(teacher || student) of the two softmax(logits / temperature), in float32. The teacher has no gradient.

    Keep both logits.
    """
    student, teacher = (jax.nn.log_softmax(each.astype(jnp.float32) / temperature) for each in (logits, teacher))
    return jnp.sum(jnp.exp(teacher) * (teacher - student), axis=-1)


def _divergence_forward(logits: Array, teacher: Array, temperature: float) -> tuple[Array, tuple[Array, Array]]:
    return divergence(logits, teacher, temperature), (logits, teacher)


def _divergence_backward(temperature: float, kept: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    student, teacher = (
        jax.nn.softmax(each.astype(jnp.float32) / temperature) for each in jax.lax.optimization_barrier(kept)
    )
    of_logits = (student - teacher) * (gradient / temperature)[..., None]
    return of_logits.astype(kept[0].dtype), jnp.zeros_like(kept[1])


divergence.defvjp(_divergence_forward, _divergence_backward)
