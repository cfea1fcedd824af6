"""The form in which parameters are kept that an adapter does not train: in float32, bfloat16, or int8.

In int8 the weight of a projection is two arrays, `weight/int8` and `weight/scale`, in the place of the weight in the
tree of parameters: whatever maps over paths or leaves treats them like other parameters. Integers are in -127 ... 127,
and the weight is integer * scale, with a scale for each layer and each feature that the projection writes: the largest
absolute value / 127. A projection makes the weight in the dtype of its input where it multiplies with it, in the
forward and again in the backward pass, so that only the weights of one product are alive. Biases, tables and heads are
kept in bfloat16, as with `frozen="bfloat16"`.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float

from research.config import Model, require
from research.config.adapter import WEIGHT
from research.model.derivatives import PRODUCT
from research.model.parameters import INT8, SCALE, param_specs, table_of
from research.parallel.rules import Tree, flatten, match_once, shardings, unflatten

# Norms, relative biases and logits are computed in float32, so their parameters are not rounded. In a step, embeddings
# are cast after the lookup: its gradient adds up the rows of equal tokens, and sums of thousands need float32.
IN_FLOAT32 = ("norm/scale", "norm/bias", "relative_bias", "logits_bias")
PRECISE = (*IN_FLOAT32, "embedding")
INTEGERS = (f"{WEIGHT}/{INT8}", f"{WEIGHT}/{SCALE}")  # which are cast where they are used


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Quantized:
    """A weight in int8, in the place of an array: values times a scale, which has size 1 along the axes read."""

    values: Any  # int8; and the scale float32. JAX makes trees of other things than arrays too
    scale: Any

    def __getitem__(self, whole: Any) -> "Quantized":
        assert whole is Ellipsis
        return self

    def astype(self, dtype: Any) -> Array:
        """Compute the weight."""
        return (self.values.astype(jnp.float32) * self.scale).astype(dtype)


def quantize(weight: Float[Array, "..."], read: tuple[int, ...]) -> Quantized:
    """Round a weight to the nearest integers times a scale, one for each feature along the axes that are not read."""
    weight = weight.astype(jnp.float32)
    scale = jnp.max(jnp.abs(weight), axis=read, keepdims=True) / 127
    scale = jnp.where(scale == 0, 1.0, scale)  # not divided by: all values are 0
    return Quantized(jnp.clip(jnp.round(weight / scale), -127, 127).astype(jnp.int8), scale)


def quantized_product(equation: str, x: Float[Array, "..."], weight: Quantized) -> Float[Array, "..."]:
    """Compute an einsum of an input and a weight in int8, in the dtype of the input; the weight has no gradient."""
    return checkpoint_name(_product(equation, x, weight), PRODUCT)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _product(equation: str, x: Array, weight: Quantized) -> Array:
    return jnp.einsum(equation, x, weight.astype(x.dtype))


def _product_forward(equation: str, x: Array, weight: Quantized) -> tuple[Array, Quantized]:
    return _product(equation, x, weight), weight


def _product_backward(equation: str, weight: Quantized, gradient: Array) -> tuple[Array, None]:
    reads, axes, writes = equation.replace("->", ",").split(",")
    # Else the compiler would keep the weight of the forward pass.
    weight, gradient = jax.lax.optimization_barrier((weight, gradient))
    return jnp.einsum(f"{writes},{axes}->{reads}", gradient, weight.astype(gradient.dtype)), None


_product.defvjp(_product_forward, _product_backward)

# --- Trees ------------------------------------------------------------------------------------------------------------


def kept(model: Model, params: Tree) -> dict[str, Any]:
    """Convert the parameters that the adapter does not train to what it keeps; others, and converted ones, stay."""
    return unflatten({path: _kept(model, path, leaf) for path, leaf in flatten(params).items()})


def keep(model: Model, mesh: jax.sharding.Mesh, params: Tree) -> dict[str, Any]:
    """Convert parameters on a mesh, as `kept`, one after another.

    Raises:
        ConfigError: a weight is not finite.
    """
    return unflatten({path: keep_one(model, mesh, path, leaf) for path, leaf in flatten(params).items()})


def keep_one(model: Model, mesh: jax.sharding.Mesh, path: str, leaf: Any) -> Any:
    """Convert the parameter at a path on a mesh, as `keep`."""
    if not _changes(model, path):
        return leaf
    convert = partial(_kept, model, path)
    places = shardings(mesh, param_specs({path: jax.eval_shape(convert, leaf)}, table_of(model)))
    result = jax.jit(convert, out_shardings=_at(places, path))(leaf)
    if isinstance(result, dict):
        require(
            bool(_are_finite(result[SCALE])),
            f'{path} has values that are not finite, which model.adapter.frozen="int8" cannot represent.',
        )
    return result


@jax.jit
def _are_finite(values: Array) -> Array:
    return jnp.all(jnp.isfinite(values))


def cast(params: Tree, dtype: str, exact: tuple[str, ...]) -> Tree:
    """Cast parameters to a dtype, except those whose paths end with one of `exact`."""
    flat = flatten(params)
    return unflatten({path: leaf if path.endswith(exact) else leaf.astype(dtype) for path, leaf in flat.items()})


def whole(params: Tree) -> Tree:
    """Replace the pairs of arrays of weights in int8 by the weights in float32."""
    return jax.tree.map(
        lambda leaf: leaf.astype(jnp.float32) if isinstance(leaf, Quantized) else leaf,
        as_weights(params),
        is_leaf=is_quantized,
    )


def as_weights(params: Tree) -> Tree:
    """Replace the pairs of arrays of weights in int8 by objects that networks read like arrays."""
    if not isinstance(params, dict):
        return params
    if params.keys() == {INT8, SCALE}:
        return Quantized(params[INT8], params[SCALE])
    return {name: as_weights(child) for name, child in params.items()}


def is_quantized(node: Any) -> bool:
    return isinstance(node, Quantized)


def _changes(model: Model, path: str) -> bool:
    """Tell whether the parameter at a path is kept otherwise than in float32."""
    adapter = model.adapter
    exact = path.endswith((*IN_FLOAT32, *INTEGERS))
    return adapter is not None and adapter.frozen != "float32" and not exact and not adapter.trains(path)


def _kept(model: Model, path: str, leaf: Any) -> Any:
    if not _changes(model, path):
        return leaf
    axes, reads = match_once([(row, (axes, reads)) for row, axes, reads in table_of(model)], [path])[path]
    assert model.adapter is not None
    if model.adapter.frozen == "int8" and path.endswith(WEIGHT) and reads:
        pair = quantize(leaf, tuple(axes.index(axis) for axis in reads))
        return {INT8: pair.values, SCALE: pair.scale}
    return leaf.astype(jnp.bfloat16)


def _at(tree: Tree, path: str) -> Tree:
    for name in path.split("/"):
        tree = tree[name]
    return tree
