"""The encoder-decoder, in the order of the drawing: layers, stacks, model; and its parameters as a plain nested dict.

Layers are stacked on a leading axis and scanned, so that compile time does not grow with depth.
"""

from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jaxtyping import Bool, Float, Int, PRNGKeyArray

from research.config import Model, Separate, Tied, require
from research.data.batch import Batch
from research.model.attention import Attention, SelfAttention, causal, cross_mask, same_segment
from research.model.layer import FeedForward, Keys, RMSNorm, Stack, constrain, dropout, layer_keys, normal, split_key

Params = dict[str, Any]  # nested; the leaves are arrays


class Cache(NamedTuple):
    """What decoding remembers: the decoder's own keys and values so far, and those of the encoder's output."""

    key: Float[Array, "l b c h k"]
    value: Float[Array, "l b c h k"]
    cross_key: Float[Array, "l b s h k"]
    cross_value: Float[Array, "l b s h k"]


class EncoderLayer(nnx.Module):
    def __init__(self, config: Model, keys: Keys) -> None:
        self.self_attention_norm = RMSNorm(config)
        self.self_attention = SelfAttention(config, keys)
        self.feed_forward_norm = RMSNorm(config)
        self.feed_forward = FeedForward(config, keys)
        self.rate = config.dropout

    def __call__(
        self,
        x: Float[Array, "b s d"],
        mask: Bool[Array, "*_ s s"] | None,
        bias: Float[Array, "*_ h s s"],
        dropout_key: PRNGKeyArray | None = None,
    ) -> Float[Array, "b s d"]:
        keys = split_key(dropout_key, 4)
        normed = self.self_attention_norm(x)
        attended = self.self_attention.attend(normed, *self.self_attention.project(normed), mask, bias, keys[0])
        x = x + dropout(attended, self.rate, keys[1])
        hidden = self.feed_forward(self.feed_forward_norm(x), keys[2])
        return x + dropout(hidden, self.rate, keys[3])


class DecoderLayer(nnx.Module):
    def __init__(self, config: Model, keys: Keys) -> None:
        self.self_attention_norm = RMSNorm(config)
        self.self_attention = SelfAttention(config, keys)
        self.cross_attention_norm = RMSNorm(config)
        self.cross_attention = Attention(config, keys)
        self.feed_forward_norm = RMSNorm(config)
        self.feed_forward = FeedForward(config, keys)
        self.rate = config.dropout

    def project_self(self, x: Float[Array, "b t d"]) -> tuple[Float[Array, "b t h k"], Float[Array, "b t h k"]]:
        return self.self_attention.project(self.self_attention_norm(x))

    def __call__(
        self,
        x: Float[Array, "b t d"],
        self_projection: tuple[Float[Array, "b c h k"], Float[Array, "b c h k"]],
        cross_projection: tuple[Float[Array, "b s h k"], Float[Array, "b s h k"]],
        self_mask: Bool[Array, "*_ t c"],
        cross_mask: Bool[Array, "b t s"] | None,
        bias: Float[Array, "*_ h t c"],
        dropout_key: PRNGKeyArray | None = None,
    ) -> Float[Array, "b t d"]:
        """x after self-attention, cross-attention and feed-forward; c is t, or when decoding the cache's length."""
        keys = split_key(dropout_key, 6)
        normed = self.self_attention_norm(x)
        attended = self.self_attention.attend(normed, *self_projection, self_mask, bias, keys[0])
        x = x + dropout(attended, self.rate, keys[1])
        normed = self.cross_attention_norm(x)
        attended = self.cross_attention.attend(normed, *cross_projection, cross_mask, None, keys[2])
        x = x + dropout(attended, self.rate, keys[3])
        hidden = self.feed_forward(self.feed_forward_norm(x), keys[4])
        return x + dropout(hidden, self.rate, keys[5])


class Encoder(Stack):
    def __init__(self, config: Model, keys: Keys) -> None:
        super().__init__(config, EncoderLayer, config.encoder_layers, keys)

    def __call__(
        self,
        x: Float[Array, "b s d"],
        segment_ids: Int[Array, "b s"] | None,
        positions: Int[Array, "b s"] | None,
        dropout_key: PRNGKeyArray | None,
    ) -> Float[Array, "b s d"]:
        embedding_key, layers_key, norm_key = split_key(dropout_key, 3)
        mask = None if segment_ids is None else same_segment(segment_ids, segment_ids)
        places = jnp.arange(x.shape[1]) if positions is None else positions
        bias = self.position_bias(places, places, bidirectional=True)

        def body(x: Array, layer: EncoderLayer, key: PRNGKeyArray | None) -> Array:
            return constrain(layer(x, mask, bias(layer), key))

        x = constrain(dropout(x, self.config.dropout, embedding_key))
        x = self.scan(body, x, (layer_keys(layers_key, self.config.encoder_layers),))
        return dropout(self.norm(x), self.config.dropout, norm_key)


class Decoder(Stack):
    def __init__(self, config: Model, keys: Keys) -> None:
        super().__init__(config, DecoderLayer, config.decoder_layers, keys)

    def __call__(
        self,
        x: Float[Array, "b t d"],
        encoded: Float[Array, "b s d"],
        segment_ids: Int[Array, "b t"] | None,
        positions: Int[Array, "b t"] | None,
        cross_mask: Bool[Array, "b t s"] | None,
        dropout_key: PRNGKeyArray | None,
    ) -> Float[Array, "b t d"]:
        embedding_key, layers_key, norm_key = split_key(dropout_key, 3)
        mask = causal(x.shape[1])
        if segment_ids is not None:
            mask = mask & same_segment(segment_ids, segment_ids)
        places = jnp.arange(x.shape[1]) if positions is None else positions
        bias = self.position_bias(places, places, bidirectional=False)

        def body(x: Array, layer: DecoderLayer, key: PRNGKeyArray | None) -> Array:
            cross_projection = layer.cross_attention.project(encoded)
            return constrain(layer(x, layer.project_self(x), cross_projection, mask, cross_mask, bias(layer), key))

        x = constrain(dropout(x, self.config.dropout, embedding_key))
        x = self.scan(body, x, (layer_keys(layers_key, self.config.decoder_layers),))
        return dropout(self.norm(x), self.config.dropout, norm_key)

    def step(
        self,
        x: Float[Array, "b 1 d"],
        cache: Cache,
        index: Int[Array, ""],
        cross_mask: Bool[Array, "b 1 s"] | None,
    ) -> tuple[Float[Array, "b 1 d"], Cache]:
        """One position: its keys and values go into the cache at `index`, and it sees what stands up to there."""
        places = jnp.arange(cache.key.shape[2])
        mask = (places <= index)[None, :]
        bias = self.position_bias(index[None], places, bidirectional=False)

        def body(carry: Any, layer: DecoderLayer, number: Array, cross_key: Array, cross_value: Array) -> Any:
            x, key, value = carry
            new_key, new_value = layer.project_self(x)
            # Carried whole and written one position at a time, so that the compiler can update the cache in place.
            place = (number, 0, index, 0, 0)
            key = jax.lax.dynamic_update_slice(key, new_key[None], place)
            value = jax.lax.dynamic_update_slice(value, new_value[None], place)
            x = layer(x, (key[number], value[number]), (cross_key, cross_value), mask, cross_mask, bias(layer))
            return constrain(x), key, value

        numbers = jnp.arange(self.config.decoder_layers)
        inputs = (numbers, cache.cross_key, cache.cross_value)
        x, key, value = self.scan(body, (x, cache.key, cache.value), inputs)
        return self.norm(x), cache._replace(key=key, value=value)


class EncoderDecoder(nnx.Module):
    """Owns the embedding, once; the stacks receive embedded arrays."""

    def __init__(self, config: Model, key: PRNGKeyArray) -> None:
        keys = iter(jax.random.split(key, 8))
        self.embedding = normal(keys, (config.vocab_size, config.width), 1.0)
        self.encoder = Encoder(config, keys)
        self.decoder = Decoder(config, keys)
        match config.head:
            case Separate():
                self.head = normal(keys, (config.width, config.vocab_size), config.width**-0.5)
        self.config = config

    def __call__(self, batch: Batch, dropout_key: PRNGKeyArray | None = None) -> Float[Array, "b t v"]:
        """Logits in float32 for every position of the decoder; dropout only where a key is given."""
        arrays: Any = jax.tree.map(jnp.asarray, batch)
        encoder_key, decoder_key = split_key(dropout_key, 2)
        encoded = self.encode(
            arrays.encoder_input_tokens, arrays.encoder_segment_ids, arrays.encoder_positions, encoder_key
        )
        x = self.decode(
            arrays.decoder_input_tokens,
            encoded,
            arrays.decoder_segment_ids,
            arrays.decoder_positions,
            arrays.encoder_segment_ids,
            decoder_key,
        )
        return self.logits(x)

    def encode(
        self,
        tokens: Int[Array, "b s"],
        segment_ids: Int[Array, "b s"] | None = None,
        positions: Int[Array, "b s"] | None = None,
        dropout_key: PRNGKeyArray | None = None,
    ) -> Float[Array, "b s d"]:
        return self.encoder(self.embed(tokens), segment_ids, positions, dropout_key)

    def decode(
        self,
        tokens: Int[Array, "b t"],
        encoded: Float[Array, "b s d"],
        segment_ids: Int[Array, "b t"] | None = None,
        positions: Int[Array, "b t"] | None = None,
        encoder_segment_ids: Int[Array, "b s"] | None = None,
        dropout_key: PRNGKeyArray | None = None,
    ) -> Float[Array, "b t d"]:
        """The decoder's output, to be given to `logits`. Tokens are the inputs, shifted right already."""
        mask = cross_mask(tokens, segment_ids, encoder_segment_ids)
        return self.decoder(self.embed(tokens), encoded, segment_ids, positions, mask, dropout_key)

    def logits(self, x: Float[Array, "b t d"]) -> Float[Array, "b t v"]:
        match self.config.head:
            case Separate():
                equation, head = "btd,dv->btv", self.head
            case Tied(scaled):
                x = x * self.config.width**-0.5 if scaled else x
                equation, head = "btd,vd->btv", self.embedding
        return jnp.einsum(equation, x, head[...].astype(x.dtype), preferred_element_type=jnp.float32)

    def new_cache(self, encoded: Float[Array, "b s d"], length: int) -> Cache:
        """An empty cache for `length` positions; the encoder's output is projected here, once, for every layer."""
        cross_key, cross_value = self.project_cross(encoded)
        layers, batch, _, *heads = cross_key.shape
        empty = jnp.zeros((layers, batch, length, *heads), cross_key.dtype)
        return Cache(empty, empty, cross_key, cross_value)

    def project_cross(
        self, encoded: Float[Array, "b s d"]
    ) -> tuple[Float[Array, "l b s h k"], Float[Array, "l b s h k"]]:
        return jax.vmap(lambda layer: layer.cross_attention.project(encoded))(self.decoder.layers)

    def decode_step(
        self,
        tokens: Int[Array, "b 1"],
        cache: Cache,
        index: Int[Array, ""],
        encoder_segment_ids: Int[Array, "b s"] | None = None,
    ) -> tuple[Float[Array, "b 1 v"], Cache]:
        """Logits of the position after `tokens`, which stand at `index`, and the cache with them in it."""
        x, cache = self.decoder.step(self.embed(tokens), cache, index, cross_mask(tokens, None, encoder_segment_ids))
        return self.logits(x), cache

    def embed(self, tokens: Int[Array, "b t"]) -> Float[Array, "b t d"]:
        return self.embedding[...][tokens].astype(self.config.compute)


def initial_params(config: Model, key: PRNGKeyArray) -> Params:
    """Parameters to train from, in float32; the same under any sharding of the function's outputs."""
    return nnx.to_pure_dict(nnx.state(EncoderDecoder(config, key)))


def abstract_params(config: Model) -> Params:
    """The shapes of `initial_params`, at no cost."""
    return jax.eval_shape(partial(initial_params, config), jax.eval_shape(jax.random.key, 0))


@cache
def definition(config: Model) -> tuple[nnx.GraphDef, Any]:
    graph, _ = nnx.split(nnx.eval_shape(partial(EncoderDecoder, config), jax.eval_shape(jax.random.key, 0)))
    return graph, jax.tree.structure(abstract_params(config))


def bind(config: Model, params: Params) -> EncoderDecoder:
    """The model that holds these very arrays, of any floating dtype; it computes in `config.compute`."""
    graph, structure = definition(config)
    # NNX would match the leaves by their order alone.
    require(
        jax.tree.structure(params) == structure, "The parameters' names are not those of the model's configuration."
    )
    return nnx.merge(graph, params)
