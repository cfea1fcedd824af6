"""The parts of every model around its stacks: embeddings and head."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, PRNGKeyArray

from research.config import Model, Tied, UntiedHead
from research.data.batch import Batch
from research.model.derivatives import product
from research.model.layer import Keys, draw_table
from research.model.parametrization import embedding_scale, head_scale


class Network(nnx.Module):
    """The base of networks. It owns the embeddings and the head; stacks receive embedded arrays."""

    def __init__(self, config: Model, key: PRNGKeyArray) -> None:
        keys = iter(jax.random.split(key, 8))
        embedding = draw_table(config, keys, (config.vocab_size, config.width), 1)
        self.embedding = nnx.Param(without_row(embedding, config.zero_token))
        self.add_stacks(config, keys)
        match config.head:
            case UntiedHead():
                self.head = nnx.Param(draw_table(config, keys, (config.width, config.vocab_size), config.base.width))
        if config.logits_bias:
            self.logits_bias = nnx.Param(jnp.zeros(config.vocab_size, jnp.float32))
        if config.source_vocab_size is not None:
            self.source_embedding = nnx.Param(draw_table(config, keys, (config.source_vocab_size, config.width), 1))
        self.config = config
        self.adapter: Any = nnx.data(None)  # a module that makes the source's embeddings from its ids and these

    def add_stacks(self, config: Model, keys: Keys) -> None:
        """Create the stacks as attributes."""
        raise NotImplementedError

    def __call__(self, batch: Batch, dropout_key: PRNGKeyArray | None = None) -> Float[Array, "b t v"]:
        """Compute logits in float32 for every target. `dropout_key=None` disables dropout."""
        return self.logits(self.hidden(batch, dropout_key))

    def hidden(self, batch: Batch, dropout_key: PRNGKeyArray | None = None) -> Float[Array, "b t d"]:
        """Compute the input of `logits` for every target."""
        raise NotImplementedError

    @jax.named_scope("logits")
    def logits(self, x: Float[Array, "b t d"]) -> Float[Array, "b t v"]:
        """Compute logits in float32 from the output of `decode`."""
        x = x * head_scale(self.config)
        match self.config.head:
            case UntiedHead():
                equation, head = "btd,dv->btv", self.head
            case Tied():
                equation, head = "btd,vd->btv", self.embedding
        logits = product(equation, x, head[...].astype(x.dtype), "float32")
        if logits.shape[-1] != self.config.vocab_size:  # in decoding the table may end in rows of zeros
            logits = logits[..., : self.config.vocab_size]
        if isinstance(self.config.head, Tied) and self.config.zero_token is not None:
            # The row is zero already; this also stops its gradient.
            logits = jnp.where(jnp.arange(logits.shape[-1]) == self.config.zero_token, 0.0, logits)
        return logits + self.logits_bias[...] if self.config.logits_bias else logits

    def embed_source(self, tokens: Int[Array, "b s"]) -> Float[Array, "b s d"]:
        """Embed the encoder's tokens, with its own table if it has one."""
        own = self.config.source_vocab_size is not None
        x = self._look_up(self.source_embedding, tokens) if own else self.embed(tokens)
        return x if self.adapter is None else self.adapter(tokens, x)

    def embed(self, tokens: Int[Array, "b t"]) -> Float[Array, "b t d"]:
        """Embed the decoder's tokens."""
        x = self._look_up(self.embedding, tokens)
        zero = self.config.zero_token
        return x if zero is None else jnp.where((tokens == zero)[..., None], 0, x)

    @jax.named_scope("embedding")
    def _look_up(self, embedding: nnx.Param, tokens: Int[Array, "b t"]) -> Float[Array, "b t d"]:
        table = embedding[...]
        x = table[jnp.minimum(tokens, len(table) - 1)].astype(self.config.compute)  # the zero token may have no row
        if self.config.pad_token is not None:
            x = jnp.where((tokens == self.config.pad_token)[..., None], jax.lax.stop_gradient(x), x)
        scale = embedding_scale(self.config)
        return x if scale == 1.0 else x * scale


def without_row(table: Float[Array, "v d"], row: int | None) -> Float[Array, "v d"]:
    """Set a row of a table to zero; return the table unchanged if `row` is None or out of range."""
    return table if row is None else jnp.where(jnp.arange(len(table))[:, None] == row, 0.0, table)
