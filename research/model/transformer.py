"""The encoder-decoder: layers, stacks and network, and its parameters as a plain nested dict.

Layers are stacked on a leading axis and scanned, so that compile time does not depend on depth.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jaxtyping import Bool, Float, Int, PRNGKeyArray

from research.config import DecoderOnly, Model, SharedLayers, require
from research.config.model import DROPOUTS
from research.config.parts import calling, is_shipped
from research.data.batch import Batch
from research.model import quantized
from research.model.attention import Attention, SelfAttention
from research.model.cache import Cache, Past, Projection, as_projection, as_stored
from research.model.language_model import LanguageModel
from research.model.layer import FeedForward, Keys, Layer, Norm, Stack, layer_keys, split_key
from research.model.mask import AttentionMask, beam_mask, cross_mask, encoder_mask, self_mask
from research.model.network import Network
from research.model.parameters import param_specs, table_of
from research.parallel.layout import RESIDUAL, constrain
from research.parallel.padding import cut
from research.parallel.rules import flatten, unflatten

Params = dict[str, Any]  # nested; the leaves are arrays

# Modules of a decoder layer that are the encoder's with SharedLayers. Tables of relative bias are not shared.
SHARED = ("self_attention_norm", "self_attention", "feed_forward_norm", "feed_forward")


class EncoderLayer(Layer):
    """Self-attention and feed-forward. A subclass may set other classes for these."""

    self_attention_class: Callable[[Model, Keys], SelfAttention] = SelfAttention
    feed_forward_class: Callable[[Model, Keys], FeedForward] = FeedForward

    def __init__(self, config: Model, keys: Keys) -> None:
        super().__init__(config)
        self.self_attention_norm = Norm(config)
        self.self_attention = self.self_attention_class(config, keys)
        self.feed_forward_norm = Norm(config)
        self.feed_forward = self.feed_forward_class(config, keys)

    def __call__(
        self,
        x: Float[Array, "b s d"],
        mask: AttentionMask | Bool[Array, "*_ s s"] | None,
        bias: Float[Array, "*_ h s s"] | None,
        dropout_key: PRNGKeyArray | None = None,
    ) -> Float[Array, "b s d"]:
        keys = split_key(dropout_key, 4)
        y = self.pre_norm(self.self_attention_norm, x)
        with jax.named_scope("self_attention"):
            attended = self.self_attention(y, *self.self_attention.project(y), mask, bias, keys[0])
        x = self.residual_and_norm(self.self_attention_norm, x, attended, keys[1])
        hidden = self.feed_forward(self.pre_norm(self.feed_forward_norm, x), keys[2])
        return self.residual_and_norm(self.feed_forward_norm, x, hidden, keys[3])


class DecoderLayer(Layer):
    """Self-attention, cross-attention and feed-forward. A subclass may set other classes for these."""

    self_attention_class: Callable[[Model, Keys], SelfAttention] = SelfAttention
    cross_attention_class: Callable[[Model, Keys], Attention] = Attention
    feed_forward_class: Callable[[Model, Keys], FeedForward] = FeedForward

    def __init__(self, config: Model, keys: Keys) -> None:
        super().__init__(config)
        self.self_attention_norm = Norm(config)
        self.self_attention = self.self_attention_class(config, keys)
        self.cross_attention_norm = Norm(config)
        self.cross_attention = self.cross_attention_class(config, keys)
        self.feed_forward_norm = Norm(config)
        self.feed_forward = self.feed_forward_class(config, keys)

    def __call__(
        self,
        x: Float[Array, "b t d"],
        cross_projection: Projection,
        self_mask: AttentionMask | Bool[Array, "*_ #t m"],
        cross_mask: AttentionMask | Bool[Array, "*_ #t s"] | None,
        bias: Float[Array, "*_ h #t m"] | None,
        dropout_key: PRNGKeyArray | None = None,
        past: Past | None = None,
    ) -> tuple[Float[Array, "b t d"], Projection]:
        """Apply all sublayers. Return the output, and the m keys and values of self-attention.

        These are the keys and values of `x`, or with `past` those of the whole cache after `x` was written into it.
        """
        keys = split_key(dropout_key, 6)
        y = self.pre_norm(self.self_attention_norm, x)
        with jax.named_scope("self_attention"):
            projection = self.self_attention.project(y)
            if past is not None:
                projection = past.write(projection)
            attended = self.self_attention(y, *projection, self_mask, bias, keys[0])
        x = self.residual_and_norm(self.self_attention_norm, x, attended, keys[1])
        y = self.pre_norm(self.cross_attention_norm, x)
        with jax.named_scope("cross_attention"):
            attended = self.cross_attention(y, *cross_projection, cross_mask, None, keys[2])
        x = self.residual_and_norm(self.cross_attention_norm, x, attended, keys[3])
        hidden = self.feed_forward(self.pre_norm(self.feed_forward_norm, x), keys[4])
        return self.residual_and_norm(self.feed_forward_norm, x, hidden, keys[5]), projection


class Encoder(Stack):
    def __init__(self, config: Model, keys: Keys, layer: type[EncoderLayer] = EncoderLayer) -> None:
        super().__init__(config, layer, config.encoder_layers, keys)

    @jax.named_scope("encoder")
    def __call__(
        self,
        x: Float[Array, "b s d"],
        segment_ids: Int[Array, "b s"] | None,
        positions: Int[Array, "b s"] | None,
        dropout_key: PRNGKeyArray | None,
    ) -> Float[Array, "b s d"]:
        self.check_length(x.shape[1])
        embedding_key, layers_key, norm_key = split_key(dropout_key, 3)
        mask = self_mask("encoder", x.shape[1], segment_ids, causally=False, packed=positions is not None)
        bias = self.self_bias(x, segment_ids, positions, bidirectional=True)
        positions = jnp.arange(x.shape[1]) if positions is None else positions

        def body(x: Array, layer: EncoderLayer, key: PRNGKeyArray | None) -> Array:
            return constrain(layer(x, mask, bias(layer), key), RESIDUAL)

        x = constrain(self.embed_positions(x, positions, embedding_key), RESIDUAL)
        return self.final_norm(self.scan(body, x, (layer_keys(layers_key, self.config.encoder_layers),)), norm_key)


class Decoder(Stack):
    def __init__(self, config: Model, keys: Keys, layer: type[DecoderLayer] = DecoderLayer) -> None:
        super().__init__(config, layer, config.decoder_layers, keys)

    @jax.named_scope("decoder")
    def __call__(
        self,
        x: Float[Array, "b t d"],
        encoded: Float[Array, "b s d"],
        segment_ids: Int[Array, "b t"] | None,
        positions: Int[Array, "b t"] | None,
        cross_mask: AttentionMask | Bool[Array, "b t s"] | None,
        dropout_key: PRNGKeyArray | None,
    ) -> Float[Array, "b t d"]:
        self.check_length(x.shape[1])
        embedding_key, layers_key, norm_key = split_key(dropout_key, 3)
        mask = self_mask("decoder", x.shape[1], segment_ids, causally=True, packed=positions is not None)
        bias = self.self_bias(x, segment_ids, positions, bidirectional=False)
        positions = jnp.arange(x.shape[1]) if positions is None else positions

        def body(x: Array, layer: DecoderLayer, key: PRNGKeyArray | None) -> Array:
            with jax.named_scope("cross_attention"):
                cross_projection = layer.cross_attention.project(encoded)
            return constrain(layer(x, cross_projection, mask, cross_mask, bias(layer), key)[0], RESIDUAL)

        x = constrain(self.embed_positions(x, positions, embedding_key), RESIDUAL)
        return self.final_norm(self.scan(body, x, (layer_keys(layers_key, self.config.decoder_layers),)), norm_key)

    @jax.named_scope("decoder")
    def step(
        self,
        x: Float[Array, "b n d"],
        cache: Cache,
        index: Int[Array, ""],
        beam_index: Int[Array, "b n c"] | None,
        cross_mask: Bool[Array, "b 1 s"] | None,
    ) -> tuple[Float[Array, "b n d"], Cache]:
        """Compute the next position of n hypotheses per row, and write its keys and values to the cache at `index`.

        Beam i attends, at cache slot c, to the entry of beam `beam_index[:, i, c]`, so that reordering beams moves no
        keys or values. None means that each hypothesis attends to its own entries.
        """
        hypotheses = x.shape[1]
        slots = jnp.repeat(jnp.arange(cache.own[0][0].shape[-1] // hypotheses), hypotheses)
        mask = (slots <= index)[None, :]
        if hypotheses > 1:
            mask = mask & beam_mask(hypotheses, slots, beam_index)
        bias = self.position_bias(index[None], slots, bidirectional=False)
        x, own = self.embed_positions(x, index[None]), []
        for layer, projection, cross_projection in zip(self.unstacked(), cache.own, cache.cross, strict=True):
            past = Past(projection, index * hypotheses)
            x, written = layer(x, as_projection(cross_projection), mask, cross_mask, bias(layer), past=past)
            own.append(as_stored(written))
        return self.final_norm(x), cache._replace(own=tuple(own))


class EncoderDecoder(Network):
    """Embeddings, encoder, decoder and head. A subclass may set other classes for the layers of either stack."""

    encoder_layer: type[EncoderLayer] = EncoderLayer
    decoder_layer: type[DecoderLayer] = DecoderLayer

    def add_stacks(self, config: Model, keys: Keys) -> None:
        self.encoder = Encoder(config, keys, self.encoder_layer)
        self.decoder = Decoder(config, keys, self.decoder_layer)

    def hidden(self, batch: Batch, dropout_key: PRNGKeyArray | None = None) -> Float[Array, "b t d"]:
        """Compute the decoder's output for every target. `dropout_key=None` disables dropout."""
        arrays: Any = jax.tree.map(jnp.asarray, batch)
        encoder_key, decoder_key = split_key(dropout_key, 2)
        encoded = self.encode(
            arrays.encoder_input_tokens, arrays.encoder_segment_ids, arrays.encoder_positions, encoder_key
        )
        return self.decode(
            arrays.decoder_input_tokens,
            encoded,
            arrays.decoder_segment_ids,
            arrays.decoder_positions,
            arrays.encoder_segment_ids,
            decoder_key,
        )

    def encode(
        self,
        tokens: Int[Array, "b s"],
        segment_ids: Int[Array, "b s"] | None = None,
        positions: Int[Array, "b s"] | None = None,
        dropout_key: PRNGKeyArray | None = None,
    ) -> Float[Array, "b s d"]:
        """Compute the encoder's output."""
        return self.encoder(self.embed_source(tokens), segment_ids, positions, dropout_key)

    def decode(
        self,
        tokens: Int[Array, "b t"],
        encoded: Float[Array, "b s d"],
        segment_ids: Int[Array, "b t"] | None = None,
        positions: Int[Array, "b t"] | None = None,
        encoder_segment_ids: Int[Array, "b s"] | None = None,
        dropout_key: PRNGKeyArray | None = None,
    ) -> Float[Array, "b t d"]:
        """Compute the decoder's output, the input of `logits`. `tokens` are targets shifted right."""
        mask = encoder_mask(tokens, segment_ids, encoder_segment_ids, packed=positions is not None)
        return self.decoder(self.embed(tokens), encoded, segment_ids, positions, mask, dropout_key)

    def new_cache(self, encoded: Float[Array, "b s d"], length: int, hypotheses: int = 1) -> Cache:
        """Make an empty cache for `length` positions, with the encoder's output projected for every layer."""
        self.decoder.check_length(length)
        cross = tuple(as_stored(layer.cross_attention.project(encoded)) for layer in self.decoder.unstacked())
        empty = jnp.zeros((len(encoded), length * hypotheses, self.config.heads, self.config.head_width), encoded.dtype)
        return Cache((as_stored((empty, empty)),) * self.config.decoder_layers, cross)

    def decode_step(
        self,
        tokens: Int[Array, "b n"],
        cache: Cache,
        index: Int[Array, ""],
        encoder_segment_ids: Int[Array, "b s"] | None = None,
        beam_index: Int[Array, "b n c"] | None = None,
    ) -> tuple[Float[Array, "b n v"], Cache]:
        """Compute the logits that follow `tokens`, of n hypotheses at position `index`, and the cache with them added.

        Beam i attends, at cache slot c, to the entry of beam `beam_index[:, i, c]`, so that reordering beams moves no
        keys or values. None means that each hypothesis attends to its own entries.
        """
        mask = cross_mask(tokens[:, :1], None, encoder_segment_ids)
        x, cache = self.decoder.step(self.embed(tokens), cache, index, beam_index, mask)
        return self.logits(x), cache


def build(config: Model, key: PRNGKeyArray) -> EncoderDecoder | LanguageModel:
    """Build the shipped network of a model, with random parameters."""
    match config.stacks:
        case DecoderOnly():
            return LanguageModel(config, key)
        case _:
            return EncoderDecoder(config, key)


def with_adapter(config: Model, key: PRNGKeyArray) -> Any:
    """Build the network of a model, with random parameters, and add what its adapter adds."""
    network = config.build(key)
    if config.adapter is not None:
        with calling(config.adapter, "add"):
            config.adapter.add(network, jax.random.fold_in(key, 2**20))
    return network


def initial_params(config: Model, key: PRNGKeyArray) -> Params:
    """Draw initial parameters in float32. They do not depend on the sharding of this function's outputs."""
    params = nnx.to_pure_dict(nnx.state(with_adapter(config, key)))
    match config.stacks:
        case SharedLayers():
            for name in SHARED:
                del params["decoder"]["layers"][name]
    return params


def whole(config: Model, params: Params) -> Params:
    """Add shared modules of the encoder's layers to the decoder's, as the same arrays, without copies."""
    match config.stacks:
        case SharedLayers():
            layers = params["decoder"]["layers"] | {name: params["encoder"]["layers"][name] for name in SHARED}
            return params | {"decoder": params["decoder"] | {"layers": layers}}
        case _:
            return params


def merged(config: Model, params: Params) -> tuple[Model, Params]:
    """Merge the adapter's parameters, if there is one, into the others.

    Raises:
        ConfigError: they cannot be merged.
    """
    plain, params = without_adapter(config, params)
    kind = type(plain.adapter).__name__
    require(plain.adapter is None, f"{kind} cannot be merged into weights: write the adapter alone, and keep its base.")
    return plain, params


def without_adapter(config: Model, params: Params) -> tuple[Model, Params]:
    """Merge the adapter's parameters into the others; return the model as it is if it has none that can be merged."""
    if config.adapter is None:
        return config, params
    with calling(config.adapter, "merged"):
        merged = config.adapter.merged(quantized.whole(params))
    return (config, params) if merged is None else (replace(config, adapter=None), merged)


def abstract_params(config: Model) -> Params:
    """Return shapes and dtypes of `initial_params`, without computing them."""
    return _abstract_params(without_dropout(config))


@cache
def _abstract_params(config: Model) -> Params:
    return jax.eval_shape(partial(initial_params, config), jax.eval_shape(jax.random.key, 0))


def own_rows(config: Model, params: Params) -> Params:
    """Cut off the rows of zeros that a mesh adds to parameters.

    Raises:
        ConfigError: a parameter has another shape than the model's.
    """
    flat, shapes, specs = flatten(params), flatten(abstract_params(config)), flatten(specs_of(config))
    paths = shapes.keys() & flat.keys()  # weights in int8 have no vocabulary
    own, shapes, specs = ({path: each[path] for path in paths} for each in (flat, shapes, specs))
    return unflatten(flat | cut(own, shapes, specs))


def specs_of(config: Model) -> Params:
    """Return a PartitionSpec for each parameter of the model."""
    return _specs_of(without_dropout(config))


@cache
def _specs_of(config: Model) -> Params:
    return param_specs(_abstract_params(config), table_of(config))


def without_dropout(config: Model) -> Model:
    """Return a shipped model without dropout, which has the same parameters; a model of a user as it is."""
    none: dict[str, Any] = dict.fromkeys(DROPOUTS, 0.0)
    return replace(config, **none) if is_shipped(type(config)) else config


@cache
def definition(config: Model) -> tuple[nnx.GraphDef, Any]:
    """Return the network's graph definition and the tree structure of its parameters."""
    graph, _ = nnx.split(nnx.eval_shape(partial(with_adapter, config), jax.eval_shape(jax.random.key, 0)))
    return graph, jax.tree.structure(abstract_params(config))


def bind(config: Model, params: Params) -> Any:
    """Make a network, an EncoderDecoder or LanguageModel, that holds these arrays, without copies.

    They may have any floating dtype; the network computes in `config.compute`. It does not see a mesh's rows of zeros.
    """
    graph, structure = definition(config)
    weights = quantized.as_weights(own_rows(config, params))
    # NNX matches leaves only by their order.
    require(
        jax.tree.structure(weights, is_leaf=quantized.is_quantized) == structure,
        "The parameters' names are not those of the model's configuration: pass the parameters of this model.",
    )
    return nnx.merge(graph, whole(config, weights))
