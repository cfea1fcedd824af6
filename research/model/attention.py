"""Multi-head attention in two calls, so that decoding can put its cache between them; and the masks it takes."""

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jaxtyping import Bool, Float, Int, PRNGKeyArray

from research.config import FanIn, Model, Relative
from research.model.layer import Dense, Keys, draw, dropout, relative_table
from research.model.parametrization import score_scale
from research.parallel.layout import gather_length


def attention_weights(
    query: Float[Array, "b t h k"],
    key: Float[Array, "b s h k"],
    mask: Bool[Array, "*_ #t s"] | None,
    bias: Float[Array, "*_ h #t s"] | None,
) -> Float[Array, "b h t s"]:
    """Softmax of the scores over the keys, in float32."""
    # The product leaves in the compute dtype, which halves its traffic; all that follows is float32.
    scores = jnp.einsum("bthk,bshk->bhts", query, key).astype(jnp.float32)
    if bias is not None:
        scores = scores + bias
    if mask is not None:
        # Finite, so that a row of padding that sees nothing gives a mean and not NaN.
        scores = jnp.where(mask[..., None, :, :], scores, jnp.finfo(jnp.float32).min)
    return jax.nn.softmax(scores, axis=-1)


class Attention(nnx.Module):
    """Multi-head attention; its softmax is in float32. T5 does not scale the scores but the query's initial values."""

    weights = staticmethod(attention_weights)  # research/model/attention_maps.py listens here

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
        """Compute the queries, scaled as the scores are to be."""
        return self.query(x) * score_scale(self.config)

    def project(self, x: Float[Array, "b s d"]) -> tuple[Float[Array, "b s h k"], Float[Array, "b s h k"]]:
        """Keys and values of what is attended to, at all of its length on every device."""
        return gather_length(self.key(x)), gather_length(self.value(x))

    def attend(
        self,
        x: Float[Array, "b t d"],
        key: Float[Array, "b s h k"],
        value: Float[Array, "b s h k"],
        mask: Bool[Array, "*_ #t s"] | None = None,
        bias: Float[Array, "*_ h #t s"] | None = None,
        dropout_key: PRNGKeyArray | None = None,
    ) -> Float[Array, "b t d"]:
        """What x reads from keys and values. The mask, true where t may see s, and the bias may lack the batch axis."""
        query = self.queries(x)
        weights = self.weights(query, key, mask, bias).astype(value.dtype)
        weights = dropout(weights, self.config.attention_dropout, dropout_key, shared=self.config.shared_dropout)
        # In this order each product is [t s] by [s k]; in the other one, beam search on a CPU takes 1.4 times as long.
        return self.output(jnp.einsum("bshk,bhts->bthk", value, weights))


class SelfAttention(Attention):
    """Attention that owns a table of relative biases where every layer has its own (umT5)."""

    def __init__(self, config: Model, keys: Keys) -> None:
        super().__init__(config, keys)
        match config.positions:
            case Relative(per_layer=True) as positions:
                self.relative_bias = relative_table(config, keys, positions)


def same_segment(query_ids: Int[Array, "b t"], key_ids: Int[Array, "b s"]) -> Bool[Array, "b t s"]:
    """True within an example. Padding (segment 0) sees only padding, and no example sees it."""
    return query_ids[:, :, None] == key_ids[:, None, :]


def causal(length: int) -> Bool[Array, "t t"]:
    return jnp.tril(jnp.ones((length, length), bool))


def ancestors(hypotheses: int, places: Int[Array, " m"], ancestry: Int[Array, "b n c"] | None) -> Bool[Array, "*_ n m"]:
    """Which of the m = c * n keys and values, n a place, each of n hypotheses descends from; None: from its own."""
    own = jnp.arange(hypotheses)
    writer = jnp.tile(own, len(places) // hypotheses)
    return (own[:, None] if ancestry is None else ancestry[..., places]) == writer


def cross_mask(
    tokens: Int[Array, "b t"], segment_ids: Int[Array, "b t"] | None, encoder_segment_ids: Int[Array, "b s"] | None
) -> Bool[Array, "b t s"] | None:
    """Which target sees which source. Without segments the whole row is one example, number 1."""
    if encoder_segment_ids is None:
        return None
    return same_segment(jnp.ones_like(tokens) if segment_ids is None else segment_ids, encoder_segment_ids)
