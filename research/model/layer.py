"""The parts of the model. Axes have one letter, the same in every signature and einsum:

b  batch            d  model width           v  vocabulary
t  target length    h  heads                 l  layers
s  source length    k  head width            n  buckets of relative position
c  cache length     f  feed-forward width

In self-attention, t is the length of the queries and s the length of the keys.

Weights are cast to the dtype of their input; norms, softmax and relative biases are computed in float32.

`config.initial` chooses the initial values. `FanIn` is T5's (arXiv:1910.10683): Mesh TensorFlow's standard deviations,
as listed in Hugging Face's `_init_weights`, and for an untied head T5X's (with Hugging Face's 1 the loss would start in
the hundreds). Norm scales are 1 and biases 0; all else is normal with mean 0 and standard deviation

embedding  1                  query       (d k) ** -0.5, instead of scaling the scores
head       d ** -0.5          key, value  d ** -0.5            gate, up  d ** -0.5
relative bias  d ** -0.5      output      (h k) ** -0.5        down      f ** -0.5

With muP, d, h, k and f are the base model's, and hidden matrices are scaled by its rule
(research/model/parametrization.py). `Normal` uses one standard deviation for all of these (BART's is 0.02). `Xavier`
uses d ** -0.5 for tables and heads, and draws matrices from a uniform distribution of standard deviation
(2 / (fan-in + fan-out)) ** 0.5, times 0.5 ** 0.5 for query, key and value (fairseq 0.12.2).
"""

import itertools
import math
import operator
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array
from jaxtyping import Bool, Float, Int, PRNGKeyArray

from research import config as schema
from research.config import FanIn, Learned, Model, Normal, Relative, Sinusoidal, Xavier, require
from research.model.derivatives import PRODUCT, activate, gate, layer_norm, product, rms_norm
from research.model.parametrization import features, growth
from research.model.quantized import Quantized, quantized_product
from research.parallel.layout import batch_parts, own_copies, platform

UNROLLED = 24  # layers that are unrolled at most, if model.unroll is None

# Modules take the random keys of their initial values from an iterator. Splitting keys in advance, and drawing matrices
# of one shape together, halves the compile time of initialisation.
Keys = Iterator[PRNGKeyArray]


def draw(config: Model, keys: Keys, shape: Sequence[int], reads: str, writes: str, gain: float = 1.0) -> Array:
    """Draw initial values of matrices that map the axes `reads` to the axes `writes`; `gain` is for `Xavier`."""
    base, scale = config.base, growth(config, reads) ** -0.5
    match config.initial:
        case Xavier():
            bound = gain * math.sqrt(6 / (features(base, reads) + features(base, writes))) * scale
            return jax.random.uniform(next(keys), shape, jnp.float32, -bound, bound)
        case _:
            return scale * draw_table(config, keys, shape, features(base, reads))


def draw_table(config: Model, keys: Keys, shape: Sequence[int], fan_in: int) -> Array:
    """Draw normal initial values of a table; with `FanIn`, their standard deviation is fan_in ** -0.5."""
    match config.initial:
        case FanIn():
            deviation = fan_in**-0.5
        case Normal(deviation=deviation):
            pass
        case Xavier():
            deviation = config.base.width**-0.5
    return deviation * jax.random.normal(next(keys), shape, jnp.float32)


class Dense(nnx.Module):
    """An einsum of an input and a weight, in the dtype of the input, plus a bias if `config.biases`."""

    def __init__(self, config: Model, equation: str, weight: Float[Array, "..."]) -> None:
        self.weight = nnx.Param(weight)
        self.equation, self.biased, self.shared_dropout = equation, config.biases, config.shared_dropout
        self.adapter: Any = nnx.data(None)  # a module that computes the output from `project` and the input
        if self.biased:
            _, axes, output = equation.replace("->", ",").split(",")
            shape = [size for axis, size in zip(axes, weight.shape, strict=True) if axis in output]
            self.bias = nnx.Param(jnp.zeros(shape, jnp.float32))

    def __call__(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        return self.project(x) if self.adapter is None else self.adapter(self.project, x)

    def project(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        """Compute the output without an adapter."""
        weight = self.weight[...]
        if isinstance(weight, Quantized):
            y = quantized_product(self.equation, x, weight)
        else:
            y = product(self.equation, x, weight.astype(x.dtype))
        return y + self.bias[...].astype(x.dtype) if self.biased else y


_keys: list[Iterator[PRNGKeyArray]] = []  # of the layers that are being traced


@contextmanager
def keys_of_adapters(inputs: Sequence[Any]) -> Iterator[None]:
    """Let adapters draw from the first random key among a layer's inputs, if there is one, inside a `with` block."""
    key = next(
        (each for each in inputs if isinstance(each, Array) and jnp.issubdtype(each.dtype, jax.dtypes.prng_key)), None
    )
    # Far from the numbers below 8 that `split_key` gives to the layer's own dropouts.
    _keys.append(iter(()) if key is None else (jax.random.fold_in(key, number) for number in itertools.count(2**20)))
    try:
        yield
    finally:
        _keys.pop()


def drawn_key() -> PRNGKeyArray | None:
    """Return a key for the dropout of an adapter, another at each call; None disables dropout."""
    return next(_keys[-1], None) if _keys else None


def split_key(key: PRNGKeyArray | None, count: int) -> Sequence[PRNGKeyArray | None]:
    """Split a key for `count` dropouts. None, which disables dropout, gives Nones."""
    return [None] * count if key is None else list(jax.random.split(key, count))


def dropout(
    x: Float[Array, "*_ t x"], rate: float, key: PRNGKeyArray | None, *, shared: bool
) -> Float[Array, "*_ t x"]:
    """Set random features to zero; with `shared`, the same features at every position of a row (axis t), as in T5X.

    Shared dropout of attention probabilities [b h t s] drops the same keys for every query.
    """
    if key is None or rate == 0.0:
        return x
    return drop(x, rate, jax.random.bernoulli(key, 1.0 - rate, (*x.shape[:-2], 1, x.shape[-1]) if shared else x.shape))


def drop(x: Float[Array, "*_ t x"], rate: float, keep: Bool[Array, "*_ #t #x"]) -> Float[Array, "*_ t x"]:
    """Set features to zero where `keep` is false, and scale the others to keep their mean."""
    return jnp.where(keep, x / (1.0 - rate), 0.0).astype(x.dtype)


class Norm(nnx.Module):
    """RMS or layer normalisation over the width, in float32."""

    def __init__(self, config: Model) -> None:
        self.scale = nnx.Param(jnp.ones(config.width, jnp.float32))
        match config.norm:
            case schema.LayerNorm():
                self.bias = nnx.Param(jnp.zeros(config.width, jnp.float32))
        self.config = config.norm

    @jax.named_scope("norm")
    def __call__(self, x: Float[Array, "b t d"]) -> Float[Array, "b t d"]:
        match self.config:
            case schema.RMSNorm(epsilon=epsilon):
                return rms_norm(x, self.scale[...], epsilon)
            case schema.LayerNorm(epsilon=epsilon):
                return layer_norm(x, self.scale[...], self.bias[...], epsilon)


class FeedForward(nnx.Module):
    """The feed-forward: down(activation(up x)), or if gated down(activation(gate x) * up x) (arXiv:2002.05202)."""

    def __init__(self, config: Model, keys: Keys) -> None:
        d, f = config.width, config.feed_forward
        up, *gate = draw(config, keys, (2 if config.gated else 1, d, f), "d", "f")
        self.up = Dense(config, "btd,df->btf", up)
        if config.gated:
            self.gate = Dense(config, "btd,df->btf", gate[0])
        self.down = Dense(config, "btf,fd->btd", draw(config, keys, (f, d), "f", "d"))
        self.config = config

    @jax.named_scope("feed_forward")
    def __call__(self, x: Float[Array, "b t d"], dropout_key: PRNGKeyArray | None = None) -> Float[Array, "b t d"]:
        config = self.config
        if config.gated:
            hidden = gate(config.activation, self.gate(x), self.up(x))
        else:
            hidden = activate(config.activation, self.up(x))
        return self.down(dropout(hidden, config.activation_dropout, dropout_key, shared=config.shared_dropout))


def relative_table(config: Model, keys: Keys, positions: Relative) -> nnx.Param:
    """Draw a table of relative biases, [n h]."""
    return nnx.Param(draw_table(config, keys, (positions.buckets, config.heads), config.base.width))


def sinusoids(positions: Sinusoidal, width: int) -> Float[np.ndarray, "n d"]:
    """Compute sines and cosines of every position (arXiv:1706.03762, 3.5) in float64."""
    half = width // 2
    steps = max(half - 1, 1) if positions.last_included else half
    frequency = 10_000.0 ** (-np.arange(half) / steps)
    angle = (positions.first + np.arange(positions.length))[:, None] * frequency
    return np.concatenate([np.sin(angle), np.cos(angle)], axis=1).astype(np.float32)


def bucket_table(buckets: int, max_distance: int) -> Int[np.ndarray, " distances"]:
    """Compute the bucket of each distance 0 ... max_distance: half the buckets are exact, half logarithmic.

    Computed once in NumPy's float32, because the logarithms of backends differ and could change a bucket.
    """
    exact = buckets // 2
    distance = np.arange(max_distance + 1)
    ratio = np.maximum(distance, exact).astype(np.float32) / exact
    logarithmic = exact + (np.log(ratio) / math.log(max_distance / exact) * (buckets - exact)).astype(np.int32)
    return np.where(distance < exact, distance, np.minimum(logarithmic, buckets - 1)).astype(np.int32)


def relative_bucket(distance: Int[Array, "*_"], positions: Relative, bidirectional: bool) -> Int[Array, "*_"]:
    """Return the bucket of key position minus query position (arXiv:1910.10683, 2.1, and its Mesh TensorFlow code).

    If `bidirectional`, half the buckets are for keys to the right; otherwise all are for keys to the left.
    """
    if not bidirectional:
        table = jnp.asarray(bucket_table(positions.buckets, positions.max_distance))
        return table[jnp.clip(-distance, 0, positions.max_distance)]
    half = positions.buckets // 2
    table = jnp.asarray(bucket_table(half, positions.max_distance))
    return table[jnp.minimum(jnp.abs(distance), positions.max_distance)] + jnp.where(distance > 0, half, 0)


@jax.named_scope("relative_bias")
def relative_bias(table: Float[Array, "n h"], buckets: Int[Array, "*b t s"]) -> Float[Array, "*b h t s"]:
    """Compute the bias that each head adds to its scores, in float32.

    A product with one-hot buckets replaces a lookup, because the gradient of a lookup is a scatter: slow when many
    indices collide, and summed in no fixed order on a GPU. The product is exact at the highest precision.
    """
    one_hot = jax.nn.one_hot(buckets, table.shape[0], dtype=jnp.float32)
    return jnp.einsum("nh,...tsn->...hts", table.astype(jnp.float32), one_hot, precision=jax.lax.Precision.HIGHEST)


class Layer(nnx.Module):
    """The base of layers. It places a sublayer's norm before the sublayer or after the residual addition."""

    def __init__(self, config: Model) -> None:
        self.config = config

    def pre_norm(self, norm: Norm, x: Float[Array, "b t d"]) -> Float[Array, "b t d"]:
        """Return the sublayer's input: the residual stream, normalised if norms come first."""
        return norm(x) if self.config.norm_first else x

    def residual_and_norm(
        self, norm: Norm, x: Float[Array, "b t d"], y: Float[Array, "b t d"], dropout_key: PRNGKeyArray | None
    ) -> Float[Array, "b t d"]:
        """Add a sublayer's output y, after dropout, to the residual stream x; normalise the sum if norms come last."""
        x = x + dropout(y, self.config.dropout, dropout_key, shared=self.config.shared_dropout)
        return x if self.config.norm_first else norm(x)


class Stack(nnx.Module):
    """A stack of layers, with its positions, and its norms of embeddings and output."""

    def __init__(self, config: Model, layer: Callable[..., nnx.Module], count: int, keys: Keys) -> None:
        layer_keys = jax.random.split(next(keys), (count, 8))
        self.layers = jax.vmap(lambda keys: layer(config, iter(keys)))(layer_keys)
        if config.embedding_norm:
            self.embedding_norm = Norm(config)
        if config.norm_first:
            self.norm = Norm(config)
        match config.positions:
            case Relative(per_layer=False) as positions:
                self.relative_bias = relative_table(config, keys, positions)
            case Learned(length, offset):
                self.position_embedding = nnx.Param(draw_table(config, keys, (length + offset, config.width), 1))
        self.config = config

    @jax.named_scope("embedding")
    def embed_positions(
        self, x: Float[Array, "b t d"], positions: Int[Array, "*_ #t"], dropout_key: PRNGKeyArray | None = None
    ) -> Float[Array, "b t d"]:
        """Compute the first layer's input: add positions to embeddings, normalise if configured, apply dropout."""
        match self.config.positions:
            case Learned(offset=offset):
                x = x + self.position_embedding[...][positions + offset].astype(x.dtype)
            case Sinusoidal() as waves:
                x = x + jnp.asarray(sinusoids(waves, self.config.width))[positions].astype(x.dtype)
        if self.config.embedding_norm:
            x = self.embedding_norm(x)
        return dropout(x, self.config.dropout, dropout_key, shared=self.config.shared_dropout)

    def final_norm(self, x: Float[Array, "b t d"], dropout_key: PRNGKeyArray | None = None) -> Float[Array, "b t d"]:
        """Compute the stack's output: normalise the last layer's output if norms come first, and apply dropout."""
        x = self.norm(x) if self.config.norm_first else x
        return dropout(x, self.config.output_dropout, dropout_key, shared=self.config.shared_dropout)

    def self_bias(
        self,
        x: Float[Array, "b t d"],
        segment_ids: Int[Array, "b t"] | None,
        positions: Int[Array, "b t"] | None,
        bidirectional: bool,
    ) -> Callable[[Any], Float[Array, "*_ h t t"] | None]:
        """Return the `position_bias` of every token of x and every other.

        Packed rows share it: the positions of an example count up along the row, and no token sees another example.
        """
        if positions is None or segment_ids is not None:
            positions = jnp.arange(x.shape[1])
        return self.position_bias(positions, positions, bidirectional, rows=len(x))

    def position_bias(
        self, queries: Int[Array, "*b t"], keys: Int[Array, "*b s"], bidirectional: bool, rows: int = 1
    ) -> Callable[[Any], Float[Array, "*_ h t s"] | None]:
        """Return a function from a layer to its self-attention's bias. A bias that layers share is computed once.

        `rows` is the batch size. Each part of the batch on the mesh has its own copy of the bias, [parts h t s].
        """
        match self.config.positions:
            case Relative(per_layer=per_layer) as positions:
                buckets = relative_bucket(keys[..., None, :] - queries[..., :, None], positions, bidirectional)
                parts = batch_parts(rows) if buckets.ndim == 2 else 1

                def bias(table: Array) -> Array:
                    if parts == 1:
                        return relative_bias(table, buckets)
                    return jax.vmap(relative_bias, (0, None))(own_copies(table, parts), buckets)

                if per_layer:
                    return lambda layer: bias(layer.self_attention.relative_bias[...])
                shared = bias(self.relative_bias[...])
                return lambda layer: shared
        return lambda layer: None

    def check_length(self, tokens: int) -> None:
        """Raise ConfigError if a row of so many tokens is longer than the model's positions."""
        longest = self.config.longest
        require(
            longest is None or tokens <= longest, f"A row has {tokens} tokens, but model.positions.length is {longest}."
        )

    def unstacked(self) -> list[Any]:
        """Return the layers as a list, for decoding, because a scan would copy every weight at every step."""
        if isinstance(self.layers, nnx.List):  # made by research/decode/prepare.py
            return list(self.layers)
        count = len(jax.tree.leaves(self.layers)[0])
        return [jax.tree.map(operator.itemgetter(index), self.layers) for index in range(count)]

    def scan(self, body: Callable[..., Any], carry: Any, inputs: Any) -> Any:
        """Scan `body(carry, layer, *inputs of that layer)` over the layers in order, and return the last carry."""

        count = len(jax.tree.leaves(self.layers)[0])
        unroll = layers_per_step(self.config, count)

        def step(carry: Any, layer_and_inputs: Any) -> tuple[Any, None]:
            with keys_of_adapters(layer_and_inputs[1:]):
                return body(carry, *layer_and_inputs), None

        # Without a loop between the passes, the compiler would merge what is computed again with what was computed.
        checkpoint = partial(jax.checkpoint, prevent_cse=unroll >= count > 1)
        match self.config.remat:
            case "dots":  # keep products with weights; recompute attention scores, which are far larger
                policies = jax.checkpoint_policies
                kept = policies.dots_with_no_batch_dims_saveable, policies.save_only_these_names(PRODUCT)
                step = checkpoint(step, policy=policies.save_from_both_policies(*kept))
            case "full":
                step = checkpoint(step)
        return jax.lax.scan(step, carry, (self.layers, *inputs), unroll=unroll)[0]


def layers_per_step(config: Model, count: int) -> int:
    """Return the layers of one step of the scan over `count` layers, on the mesh that is set.

    A scan keeps what the backward pass needs in stacks, which a GPU fills with zeros, writes and copies. Unrolled
    layers need none of these, and take the longer to compile the more there are.
    """
    if config.unroll is not None:
        return min(config.unroll, count)
    return min(count, UNROLLED) if platform() == "gpu" else 1


def layer_keys(key: PRNGKeyArray | None, count: int) -> Array | None:
    """Split a key into one per layer, along the first axis."""
    return None if key is None else jax.random.split(key, count)
