"""Multi-head attention and its masks. Projection and attention are two calls, so that decoding can insert its cache."""

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
    """Compute the softmax of the scores over the keys, in float32."""
    # The product is written in the compute dtype, which halves its memory traffic; the rest is float32.
    scores = jnp.einsum("bthk,bshk->bhts", query, key).astype(jnp.float32)
    if bias is not None:
        scores = scores + bias
    if mask is not None:
        # Finite, so that a fully masked row (padding) gives a mean and not NaN.
        scores = jnp.where(mask[..., None, :, :], scores, jnp.finfo(jnp.float32).min)
    return jax.nn.softmax(scores, axis=-1)


class Attention(nnx.Module):
    """Multi-head attention, with its softmax in float32. T5 scales the query's initial values instead of the scores."""

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

    def attend(
        self,
        x: Float[Array, "b t d"],
        key: Float[Array, "b s h k"],
        value: Float[Array, "b s h k"],
        mask: Bool[Array, "*_ #t s"] | None = None,
        bias: Float[Array, "*_ h #t s"] | None = None,
        dropout_key: PRNGKeyArray | None = None,
    ) -> Float[Array, "b t d"]:
        """Attend from `x` to keys and values. `mask` is true if t may see s; mask and bias may lack the batch axis."""
        query = self.queries(x)
        weights = self.weights(query, key, mask, bias).astype(value.dtype)
        weights = dropout(weights, self.config.attention_dropout, dropout_key, shared=self.config.shared_dropout)
        # This operand order gives products of [t s] by [s k]; the other makes beam search on a CPU 1.4 times slower.
        return self.output(jnp.einsum("bshk,bhts->bthk", value, weights))


class SelfAttention(Attention):
    """Self-attention, with a table of relative biases if every layer has its own (umT5)."""

    def __init__(self, config: Model, keys: Keys) -> None:
        super().__init__(config, keys)
        match config.positions:
            case Relative(per_layer=True) as positions:
                self.relative_bias = relative_table(config, keys, positions)


def same_segment(query_ids: Int[Array, "b t"], key_ids: Int[Array, "b s"]) -> Bool[Array, "b t s"]:
    """Build the mask that is true within an example. Padding (segment 0) sees only padding; no example sees padding."""
    return query_ids[:, :, None] == key_ids[:, None, :]


def causal(length: int) -> Bool[Array, "t t"]:
    """Build the mask that is true for a position and all before it."""
    return jnp.tril(jnp.ones((length, length), bool))


def beam_mask(beams: int, slots: Int[Array, " m"], beam_index: Int[Array, "b n c"] | None) -> Bool[Array, "*_ n m"]:
    """Build the mask of the m = c * n cached keys and values, n a slot, that each of n beams attends to.

    Beam i attends, at cache slot c, to the entry of beam `beam_index[:, i, c]`; None means to its own entries.
    `slots` is the slot of each of the m entries.
    """
    own = jnp.arange(beams)
    writer = jnp.tile(own, len(slots) // beams)
    return (own[:, None] if beam_index is None else beam_index[..., slots]) == writer


def cross_mask(
    tokens: Int[Array, "b t"], segment_ids: Int[Array, "b t"] | None, encoder_segment_ids: Int[Array, "b s"] | None
) -> Bool[Array, "b t s"] | None:
    """Build the mask of the sources that each target sees. Without segments a row is one example, of segment 1."""
    if encoder_segment_ids is None:
        return None
    return same_segment(jnp.ones_like(tokens) if segment_ids is None else segment_ids, encoder_segment_ids)
