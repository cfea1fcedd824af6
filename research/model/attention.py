"""Multi-head attention. Projection and attention are two calls, so that decoding can insert its cache."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jaxtyping import Bool, Float, PRNGKeyArray

from research.config import FanIn, Model, Relative
from research.model import attention_backends
from research.model.attention_backends import AttentionFacts, BackendChoice
from research.model.blocked_attention import blocked_attention
from research.model.cudnn_attention import cudnn_attention
from research.model.derivatives import softmax
from research.model.layer import Dense, Keys, draw, drop, dropout, relative_table
from research.model.mask import AttentionMask, as_array
from research.model.pallas_attention import pallas_attention
from research.model.parametrization import score_scale
from research.parallel.layout import each_row, gather_length


def attention_weights(
    query: Float[Array, "b t h k"],
    key: Float[Array, "b s h k"],
    mask: Bool[Array, "*_ #t s"] | None,
    bias: Float[Array, "*_ h #t s"] | None,
) -> Float[Array, "b h t s"]:
    """Compute the softmax of the scores over the keys in float32, and round it to the dtype of the queries."""
    # The product is written in the compute dtype, which halves its memory traffic; the rest is float32.
    scores = jnp.einsum("bthk,bshk->bhts", query, key).astype(jnp.float32)
    if bias is not None:
        scores = scores + bias
    if mask is not None:
        # Finite, so that a fully masked row (padding) gives a mean and not NaN.
        scores = jnp.where(mask[..., None, :, :], scores, jnp.finfo(jnp.float32).min)
    return softmax(scores, query.dtype.name)


def reference_attention(
    query: Float[Array, "b t h k"],
    key: Float[Array, "b s h k"],
    value: Float[Array, "b s h k"],
    mask: Bool[Array, "*_ #t s"] | None,
    bias: Float[Array, "*_ h #t s"] | None,
    drop: Callable[[Array], Array],
    weights: Callable[..., Array] = attention_weights,
) -> Float[Array, "b t h k"]:
    """Compute the values' means, weighted by the attention weights after dropout."""
    dropped = drop(weights(query, key, mask, bias).astype(value.dtype))
    # This operand order gives products of [t s] by [s k]; the other makes beam search on a CPU 1.4 times slower.
    return jnp.einsum("bshk,bhts->bthk", value, dropped)


def drop_keys(value: Float[Array, "b s h k"], rate: float, key: PRNGKeyArray) -> Float[Array, "b s h k"]:
    """Set random values to zero and scale the others, which drops the same attention weights for every query (T5X).

    The keys that are dropped are those of `dropout` of the weights [b h t s], shared by the queries.
    """
    b, s, h, _ = value.shape
    keep = jax.random.bernoulli(key, 1.0 - rate, (b, h, 1, s)).transpose(0, 3, 1, 2)
    return drop(value, rate, keep)


class Attention(nnx.Module):
    """Multi-head attention, with its softmax in float32. T5 scales the query's initial values instead of the scores.

    A subclass may override `queries` and `project`, or `attend` with its own formula. A backend other than the
    reference serves only classes without their own `attend` and `weights`.
    """

    weights = staticmethod(attention_weights)  # replaced by research/model/attention_maps.py

    def __init__(self, config: Model, keys: Keys) -> None:
        d, h, k = config.width, config.heads, config.head_width
        query, key, value = draw(config, keys, (3, d, h, k), "d", "hk", gain=0.5**0.5)
        match config.initial:
            case FanIn():
                query = query * config.base.head_width**-0.5
        self.query = Dense(config, "btd,dhk->bthk", query)
        self.key = Dense(config, "bsd,dhk->bshk", key)
        self.value = Dense(config, "bsd,dhk->bshk", value)
        self.output = Dense(config, "bthk,hkd->btd", draw(config, keys, (h, k, d), "hk", "d"))
        self.config = config

    def queries(self, x: Float[Array, "b t d"]) -> Float[Array, "b t h k"]:
        """Compute the queries, multiplied by the scale of the scores."""
        return self.query(x) * score_scale(self.config)

    def project(self, x: Float[Array, "b s d"]) -> tuple[Float[Array, "b s h k"], Float[Array, "b s h k"]]:
        """Compute keys and values of `x`, gathered to full length on every device."""
        return gather_length(self.key(x)), gather_length(self.value(x))

    def __call__(
        self,
        x: Float[Array, "b t d"],
        key: Float[Array, "b s h k"],
        value: Float[Array, "b s h k"],
        mask: AttentionMask | Bool[Array, "*_ #t s"] | None = None,
        bias: Float[Array, "*_ h #t s"] | None = None,
        dropout_key: PRNGKeyArray | None = None,
    ) -> Float[Array, "b t d"]:
        """Attend from `x` to keys and values, by the backend that serves this call best.

        A bias of as many parts as the mesh divides the batch into is shared by the rows of each part.
        """
        config = self.config
        if not isinstance(mask, AttentionMask):  # a decoding step
            return self.attend(x, key, value, mask, each_row(bias, len(x)), dropout_key)
        if config.attention_dropout == 0.0:
            dropout_key = None
        if dropout_key is not None and config.shared_dropout and not self.own_formula:
            value, dropout_key = drop_keys(value, config.attention_dropout, dropout_key), None
        choice = self.choose(x, key, mask, bias, dropout_key is not None)
        attention_backends.record(mask.part, choice)
        drawn = config.attention_dropout, dropout_key
        match choice.backend:
            case "reference":
                return self.attend(x, key, value, mask.array, each_row(bias, len(x)), dropout_key)
            case "cudnn":
                return self.output(cudnn_attention(self.queries(x), key, value, mask, bias))
            case "pallas":
                return self.output(pallas_attention(self.queries(x), key, value, mask, bias, *drawn))
            case "blocked":
                return self.output(
                    blocked_attention(reference_attention, self.queries(x), key, value, mask, bias, *drawn)
                )

    @property
    def own_formula(self) -> bool:
        """True for a subclass that computes attention by itself, which only the reference serves."""
        return type(self).attend is not Attention.attend or self.weights is not attention_weights

    def choose(
        self,
        x: Float[Array, "b t d"],
        key: Float[Array, "b s h k"],
        mask: AttentionMask,
        bias: Float[Array, "*_ h #t s"] | None,
        dropped: bool,
    ) -> BackendChoice:
        """Choose the backend of a call."""
        if self.own_formula:
            return BackendChoice("reference", f"{type(self).__name__} has its own formula")
        facts = AttentionFacts.of(x.dtype, x.shape[1], key.shape, mask, bias, dropped)
        return attention_backends.choose(self.config.attention, facts)

    def attend(
        self,
        x: Float[Array, "b t d"],
        key: Float[Array, "b s h k"],
        value: Float[Array, "b s h k"],
        mask: AttentionMask | Bool[Array, "*_ #t s"] | None = None,
        bias: Float[Array, "*_ h #t s"] | None = None,
        dropout_key: PRNGKeyArray | None = None,
    ) -> Float[Array, "b t d"]:
        """Attend by the plain formula. `mask` is true if t may see s; mask and bias may lack the batch axis."""
        config = self.config
        drop = partial(dropout, rate=config.attention_dropout, key=dropout_key, shared=config.shared_dropout)
        query, bias = self.queries(x), each_row(bias, len(x))
        return self.output(reference_attention(query, key, value, as_array(mask), bias, drop, self.weights))


class SelfAttention(Attention):
    """Self-attention, with a table of relative biases if every layer has its own (umT5)."""

    def __init__(self, config: Model, keys: Keys) -> None:
        super().__init__(config, keys)
        match config.positions:
            case Relative(per_layer=True) as positions:
                self.relative_bias = relative_table(config, keys, positions)
