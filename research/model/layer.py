"""The parts of the model. Arrays are named by their axes, here, in every signature and in every einsum:

b  batch            d  model width           v  vocabulary
t  target length    h  heads                 l  layers
s  source length    k  head width            n  buckets of relative position
c  cache length     f  feed-forward width

Where an array attends to itself, t is the length of the queries and s that of the keys.

Weights are cast to the dtype of what they multiply; norms, softmax and relative biases are computed in float32.

Initial values are T5's (arXiv:1910.10683): Mesh TensorFlow's standard deviations, as Hugging Face's `_init_weights`
lists them, and for a separate head T5X's (Hugging Face's 1 would start from a loss of hundreds). Norm scales are 1; all
else is normal with mean 0 and standard deviation

embedding  1                  query       (d k) ** -0.5, which stands in for a scaling of the scores
head       d ** -0.5          key, value  d ** -0.5            gate, up  d ** -0.5
relative bias  d ** -0.5      output      (h k) ** -0.5        down      f ** -0.5
"""

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array
from jax.sharding import PartitionSpec
from jaxtyping import Float, Int, PRNGKeyArray

from research.config import Model, Relative

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "relu": jax.nn.relu,
    "gelu_tanh": partial(jax.nn.gelu, approximate=True),
    "silu": jax.nn.silu,
}


# Modules take the random keys of their initial values from an iterator: keys split ahead, and matrices of one shape
# drawn together, halve the time that the whole takes to compile.
Keys = Iterator[PRNGKeyArray]


def normal(keys: Keys, shape: tuple[int, ...], deviation: float) -> nnx.Param:
    return nnx.Param(deviation * jax.random.normal(next(keys), shape, jnp.float32))


def product(equation: str, x: Array, weight: nnx.Param) -> Array:
    """einsum of an activation and a weight, in the activation's dtype."""
    return jnp.einsum(equation, x, weight[...].astype(x.dtype))


def split_key(key: PRNGKeyArray | None, count: int) -> Sequence[PRNGKeyArray | None]:
    """Keys for `count` places that may drop; no key means that nothing is dropped."""
    return [None] * count if key is None else list(jax.random.split(key, count))


def dropout(x: Float[Array, "*_ t x"], rate: float, key: PRNGKeyArray | None) -> Float[Array, "*_ t x"]:
    """Zeroes features, the same ones at every position of a row (axis t), as T5X does.

    Attention probabilities [b h t s] lose the same keys for every query.
    """
    if key is None or rate == 0.0:
        return x
    keep = jax.random.bernoulli(key, 1.0 - rate, (*x.shape[:-2], 1, x.shape[-1]))
    return jnp.where(keep, x / (1.0 - rate), 0.0).astype(x.dtype)


class RMSNorm(nnx.Module):
    """x / RMS(x) * scale, with neither mean nor bias (arXiv:1910.07467)."""

    def __init__(self, config: Model) -> None:
        self.scale = nnx.Param(jnp.ones(config.width, jnp.float32))
        self.epsilon = config.norm_epsilon

    def __call__(self, x: Float[Array, "b t d"]) -> Float[Array, "b t d"]:
        wide = x.astype(jnp.float32)
        variance = jnp.mean(jnp.square(wide), axis=-1, keepdims=True)
        return (wide * jax.lax.rsqrt(variance + self.epsilon) * self.scale[...]).astype(x.dtype)


class FeedForward(nnx.Module):
    """down(activation(up x)), or down(activation(gate x) * up x) where gated (arXiv:2002.05202)."""

    def __init__(self, config: Model, keys: Keys) -> None:
        d, f = config.width, config.feed_forward
        up, *gate = jax.random.normal(next(keys), (2 if config.gated else 1, d, f), jnp.float32)
        self.up = nnx.Param(d**-0.5 * up)
        if config.gated:
            self.gate = nnx.Param(d**-0.5 * gate[0])
        self.down = normal(keys, (f, d), f**-0.5)
        self.config = config

    def __call__(self, x: Float[Array, "b t d"], dropout_key: PRNGKeyArray | None = None) -> Float[Array, "b t d"]:
        activation = ACTIVATIONS[self.config.activation]
        hidden = product("btd,df->btf", x, self.up)
        activated = activation(product("btd,df->btf", x, self.gate) if self.config.gated else hidden)
        hidden = activated * hidden if self.config.gated else activated
        return product("btf,fd->btd", dropout(hidden, self.config.dropout, dropout_key), self.down)


def relative_table(config: Model, keys: Keys) -> nnx.Param:
    return normal(keys, (config.positions.buckets, config.heads), config.width**-0.5)


def bucket_table(buckets: int, max_distance: int) -> Int[np.ndarray, " distances"]:
    """The bucket of each distance 0 ... max_distance: half the buckets are exact, half grow with the logarithm.

    In NumPy's float32, once, so that no backend's logarithm can move a distance to the next bucket.
    """
    exact = buckets // 2
    distance = np.arange(max_distance + 1)
    ratio = np.maximum(distance, exact).astype(np.float32) / exact
    logarithmic = exact + (np.log(ratio) / math.log(max_distance / exact) * (buckets - exact)).astype(np.int32)
    return np.where(distance < exact, distance, np.minimum(logarithmic, buckets - 1)).astype(np.int32)


def relative_bucket(distance: Int[Array, "*_"], positions: Relative, bidirectional: bool) -> Int[Array, "*_"]:
    """The bucket of key position minus query position (arXiv:1910.10683, 2.1, and its Mesh TensorFlow code).

    Bidirectional, half the buckets are for keys to the right; else all are for keys to the left.
    """
    if not bidirectional:
        table = jnp.asarray(bucket_table(positions.buckets, positions.max_distance))
        return table[jnp.clip(-distance, 0, positions.max_distance)]
    half = positions.buckets // 2
    table = jnp.asarray(bucket_table(half, positions.max_distance))
    return table[jnp.minimum(jnp.abs(distance), positions.max_distance)] + jnp.where(distance > 0, half, 0)


def relative_bias(table: Float[Array, "n h"], buckets: Int[Array, "*b t s"]) -> Float[Array, "*b h t s"]:
    """What each head adds to its scores, in float32.

    A product with one-hot buckets, because the gradient of a lookup would be a scatter: slow where many indices
    collide, and summed in no fixed order on a GPU. The product is exact at the highest precision.
    """
    one_hot = jax.nn.one_hot(buckets, table.shape[0], dtype=jnp.float32)
    return jnp.einsum("nh,...tsn->...hts", table.astype(jnp.float32), one_hot, precision=jax.lax.Precision.HIGHEST)


class Stack(nnx.Module):
    """Layers, the norm after them and, where the layers share it, the table of relative biases."""

    def __init__(self, config: Model, layer: Callable[..., nnx.Module], count: int, keys: Keys) -> None:
        layer_keys = jax.random.split(next(keys), (count, 8))
        self.layers = jax.vmap(lambda keys: layer(config, iter(keys)))(layer_keys)
        self.norm = RMSNorm(config)
        match config.positions:
            case Relative(per_layer=False):
                self.relative_bias = relative_table(config, keys)
        self.config = config

    def position_bias(
        self, queries: Int[Array, "*b t"], keys: Int[Array, "*b s"], bidirectional: bool
    ) -> Callable[[Any], Float[Array, "*b h t s"]]:
        """A function from a layer to what its self-attention adds to its scores, computed once where it is shared."""
        distance = keys[..., None, :] - queries[..., :, None]
        buckets = relative_bucket(distance, self.config.positions, bidirectional)
        match self.config.positions:
            case Relative(per_layer=True):
                return lambda layer: relative_bias(layer.self_attention.relative_bias[...], buckets)
            case Relative():
                shared = relative_bias(self.relative_bias[...], buckets)
                return lambda layer: shared

    def scan(self, body: Callable[..., Any], carry: Any, inputs: Any) -> Any:
        """The carry after `body(carry, (layer, *inputs of that layer))` for every layer in turn."""

        def step(carry: Any, layer_and_inputs: Any) -> tuple[Any, None]:
            return body(carry, *layer_and_inputs), None

        match self.config.remat:
            case "dots":  # products with weights are kept; attention scores, far larger, are computed again
                policy = jax.checkpoint_policies.dots_with_no_batch_dims_saveable
                step = jax.checkpoint(step, policy=policy, prevent_cse=False)
            case "full":
                step = jax.checkpoint(step, prevent_cse=False)
        return jax.lax.scan(step, carry, (self.layers, *inputs), unroll=self.config.unroll)[0]


def layer_keys(key: PRNGKeyArray | None, count: int) -> Array | None:
    """A key a layer, along the first axis."""
    return None if key is None else jax.random.split(key, count)


def constrain(x: Float[Array, "b t d"]) -> Float[Array, "b t d"]:
    """The residual stream, divided over the batch axes of the mesh that is set; unchanged where none is."""
    if jax.sharding.get_abstract_mesh().empty:
        return x
    return jax.lax.with_sharding_constraint(x, PartitionSpec(("data", "fsdp"), None, None))
