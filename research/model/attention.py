"""Multi-head attention in two calls, so that decoding can put its cache between them; and the masks it takes."""

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jaxtyping import Bool, Float, Int, PRNGKeyArray

from research.config import Model, Relative
from research.model.layer import Keys, dropout, normal, product, relative_table


class Attention(nnx.Module):
    """T5's attention: the scores are not scaled (the query's initial values are), the softmax is in float32."""

    def __init__(self, config: Model, keys: Keys) -> None:
        d, h, k = config.width, config.heads, config.head_width
        query, key, value = jax.random.normal(next(keys), (3, d, h, k), jnp.float32)
        self.query = nnx.Param((d * k) ** -0.5 * query)
        self.key = nnx.Param(d**-0.5 * key)
        self.value = nnx.Param(d**-0.5 * value)
        self.output = normal(keys, (h, k, d), (h * k) ** -0.5)
        self.config = config

    def project(self, x: Float[Array, "b s d"]) -> tuple[Float[Array, "b s h k"], Float[Array, "b s h k"]]:
        """Keys and values of what is attended to."""
        return product("bsd,dhk->bshk", x, self.key), product("bsd,dhk->bshk", x, self.value)

    def attend(
        self,
        x: Float[Array, "b t d"],
        key: Float[Array, "b s h k"],
        value: Float[Array, "b s h k"],
        mask: Bool[Array, "*_ t s"] | None = None,
        bias: Float[Array, "*_ h t s"] | None = None,
        dropout_key: PRNGKeyArray | None = None,
    ) -> Float[Array, "b t d"]:
        """What x reads from keys and values. The mask, true where t may see s, and the bias may lack the batch axis."""
        query = product("btd,dhk->bthk", x, self.query)
        # The product leaves in the compute dtype, which halves its traffic; all that follows is float32.
        scores = jnp.einsum("bthk,bshk->bhts", query, key).astype(jnp.float32)
        if bias is not None:
            scores = scores + bias
        if mask is not None:
            # Finite, so that a row of padding that sees nothing gives a mean and not NaN.
            scores = jnp.where(mask[..., None, :, :], scores, jnp.finfo(jnp.float32).min)
        weights = dropout(jax.nn.softmax(scores, axis=-1).astype(value.dtype), self.config.dropout, dropout_key)
        return product("bthk,hkd->btd", jnp.einsum("bhts,bshk->bthk", weights, value), self.output)


class SelfAttention(Attention):
    """Attention that owns a table of relative biases where every layer has its own (umT5)."""

    def __init__(self, config: Model, keys: Keys) -> None:
        super().__init__(config, keys)
        match config.positions:
            case Relative(per_layer=True):
                self.relative_bias = relative_table(config, keys)


def same_segment(query_ids: Int[Array, "b t"], key_ids: Int[Array, "b s"]) -> Bool[Array, "b t s"]:
    """True within an example. Padding (segment 0) sees only padding, and no example sees it."""
    return query_ids[:, :, None] == key_ids[:, None, :]


def causal(length: int) -> Bool[Array, "t t"]:
    return jnp.tril(jnp.ones((length, length), bool))


def cross_mask(
    tokens: Int[Array, "b t"], segment_ids: Int[Array, "b t"] | None, encoder_segment_ids: Int[Array, "b s"] | None
) -> Bool[Array, "b t s"] | None:
    """Which target sees which source. Without segments the whole row is one example, number 1."""
    if encoder_segment_ids is None:
        return None
    return same_segment(jnp.ones_like(tokens) if segment_ids is None else segment_ids, encoder_segment_ids)
