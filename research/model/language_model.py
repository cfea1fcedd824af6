"""The decoder-only model, for comparison: T5's language model and prefix LM. One row has the inputs and the targets.

Inputs attend to all inputs, or if causal to earlier inputs; targets attend to all inputs and earlier targets. The keys
and values of the inputs therefore do not depend on the targets; the cache holds them in place of those of an encoder's
output. Dropout masks of inputs and targets are drawn separately, even if they are shared by all positions.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Int, PRNGKeyArray

from research.config import DecoderOnly, Model
from research.data.batch import Batch
from research.model.attention import SelfAttention
from research.model.cache import Cache, Past, Projection, as_projection, as_stored
from research.model.layer import FeedForward, Keys, Layer, Norm, Stack, layer_keys, split_key
from research.model.mask import AttentionMask, beam_mask, causal, cross_mask, same_segment, self_mask
from research.model.network import Network
from research.parallel.layout import RESIDUAL, constrain


class PrefixLayer(Layer):
    """An encoder layer. Its queries may attend to other keys and values in addition to their own."""

    def __init__(self, config: Model, keys: Keys) -> None:
        super().__init__(config)
        self.self_attention_norm = Norm(config)
        self.self_attention = SelfAttention(config, keys)
        self.feed_forward_norm = Norm(config)
        self.feed_forward = FeedForward(config, keys)

    def __call__(
        self,
        x: Float[Array, "b t d"],
        prefix: Projection | None,
        mask: AttentionMask | Bool[Array, "*_ #t m"] | None,
        bias: Float[Array, "*_ h #t m"] | None,
        dropout_key: PRNGKeyArray | None = None,
        past: Past | None = None,
    ) -> tuple[Float[Array, "b t d"], Projection]:
        """Apply self-attention and feed-forward. Return the output, and the keys and values of `x`.

        Queries attend to the keys and values `prefix`, then to those of `x`. With `past`, the latter are written into
        the cache, and all of the cache is attended to and returned.
        """
        keys = split_key(dropout_key, 4)
        y = self.pre_norm(self.self_attention_norm, x)
        with jax.named_scope("self_attention"):
            own = self.self_attention.project(y)
            if past is not None:
                own = past.write(own)
            key, value = own if prefix is None else (jnp.concatenate(pair, 1) for pair in zip(prefix, own, strict=True))
            attended = self.self_attention(y, key, value, mask, bias, keys[0])
        x = self.residual_and_norm(self.self_attention_norm, x, attended, keys[1])
        hidden = self.feed_forward(self.pre_norm(self.feed_forward_norm, x), keys[2])
        return self.residual_and_norm(self.feed_forward_norm, x, hidden, keys[3]), own


class LanguageModel(Network):
    """The decoder-only network, with the methods of EncoderDecoder. `encode` returns each layer's keys and values."""

    def add_stacks(self, config: Model, keys: Keys) -> None:
        self.decoder = Stack(config, PrefixLayer, config.decoder_layers, keys)

    @property
    def bidirectional(self) -> bool:
        """Tell whether inputs attend to later inputs (prefix LM)."""
        return isinstance(self.config.stacks, DecoderOnly) and not self.config.stacks.causal

    def hidden(self, batch: Batch, dropout_key: PRNGKeyArray | None = None) -> Float[Array, "b t d"]:
        """Compute the stack's output for every target. `dropout_key=None` disables dropout."""
        arrays: Any = jax.tree.map(jnp.asarray, batch)
        source, target = arrays.encoder_input_tokens, arrays.decoder_input_tokens
        self.decoder.check_length(source.shape[1] + target.shape[1])
        keys = split_key(dropout_key, 5)
        positions = example_positions(source, arrays.encoder_segment_ids, arrays.encoder_positions)
        mask, bias = self.input_mask_and_bias(source, arrays.encoder_segment_ids, positions)
        segments = arrays.decoder_segment_ids, arrays.encoder_segment_ids
        own_positions = self.target_positions(target, source.shape[1], arrays.decoder_positions, *segments)
        own_mask, own_bias = self.target_mask_and_bias(target, positions, own_positions, *segments)

        def body(
            rows: tuple[Array, Array], layer: PrefixLayer, key: PRNGKeyArray | None, own_key: PRNGKeyArray | None
        ) -> tuple[Array, Array]:
            x, projection = layer(rows[0], None, mask, bias(layer), key)
            y, _ = layer(rows[1], projection, own_mask, own_bias(layer), own_key)
            return constrain(x, RESIDUAL), constrain(y, RESIDUAL)

        x = constrain(self.decoder.embed_positions(self.embed_source(source), positions, keys[0]), RESIDUAL)
        y = constrain(self.decoder.embed_positions(self.embed(target), own_positions, keys[1]), RESIDUAL)
        drawn = [layer_keys(key, self.config.decoder_layers) for key in keys[2:4]]
        _, y = self.decoder.scan(body, (x, y), drawn)
        return self.decoder.final_norm(y, keys[4])

    def encode(
        self,
        tokens: Int[Array, "b s"],
        segment_ids: Int[Array, "b s"] | None = None,
        positions: Int[Array, "b s"] | None = None,
    ) -> list[Projection]:
        """Compute the inputs' keys and values of each layer."""
        positions = example_positions(tokens, segment_ids, positions)
        mask, bias = self.input_mask_and_bias(tokens, segment_ids, positions)
        x, projections = self.decoder.embed_positions(self.embed_source(tokens), positions), []
        for layer in self.decoder.unstacked():
            x, projection = layer(x, None, mask, bias(layer))
            projections.append(projection)
        return projections

    def decode(
        self,
        tokens: Int[Array, "b t"],
        encoded: Sequence[Projection],
        segment_ids: Int[Array, "b t"] | None = None,
        positions: Int[Array, "b t"] | None = None,
        encoder_segment_ids: Int[Array, "b s"] | None = None,
    ) -> Float[Array, "b t d"]:
        """Compute the input of `logits`. `tokens` are targets shifted right; inputs have positions 0, 1, 2 ..."""
        inputs = encoded[0][0].shape[1]
        self.decoder.check_length(inputs + tokens.shape[1])
        positions = self.target_positions(tokens, inputs, positions, segment_ids, encoder_segment_ids)
        mask, bias = self.target_mask_and_bias(tokens, jnp.arange(inputs), positions, segment_ids, encoder_segment_ids)
        x = self.decoder.embed_positions(self.embed(tokens), positions)
        for layer, projection in zip(self.decoder.unstacked(), encoded, strict=True):
            x, _ = layer(x, projection, mask, bias(layer))
        return self.decoder.final_norm(x)

    def new_cache(self, encoded: Sequence[Projection], length: int, hypotheses: int = 1) -> Cache:
        """Make an empty cache for `length` positions after the inputs."""
        key = encoded[0][0]
        self.decoder.check_length(key.shape[1] + length)
        empty = jnp.zeros((len(key), length * hypotheses, *key.shape[2:]), key.dtype)
        return Cache((as_stored((empty, empty)),) * self.config.decoder_layers, tuple(map(as_stored, encoded)))

    def decode_step(
        self,
        tokens: Int[Array, "b n"],
        cache: Cache,
        index: Int[Array, ""],
        encoder_segment_ids: Int[Array, "b s"] | None = None,
        beam_index: Int[Array, "b n c"] | None = None,
    ) -> tuple[Float[Array, "b n v"], Cache]:
        """Compute the logits that follow `tokens`, and the new cache: see EncoderDecoder.decode_step."""
        hypotheses = tokens.shape[1]
        inputs = cache.cross[0][0].shape[-1]
        slots = jnp.repeat(jnp.arange(cache.own[0][0].shape[-1] // hypotheses), hypotheses)
        mask = (slots <= index)[None, :]
        if hypotheses > 1:
            mask = mask & beam_mask(hypotheses, slots, beam_index)
        offset = self.target_positions(tokens[:, :1], inputs, None, None, encoder_segment_ids)
        seen = cross_mask(tokens[:, :1], None, encoder_segment_ids)
        mask = concatenate_last(jnp.ones((1, inputs), bool) if seen is None else seen, mask)
        positions = concatenate_last(jnp.arange(inputs), offset + slots)
        bias = self.decoder.position_bias(offset + index, positions, self.bidirectional)
        x, own = self.decoder.embed_positions(self.embed(tokens), offset + index), []
        for layer, projection, prefix in zip(self.decoder.unstacked(), cache.own, cache.cross, strict=True):
            past = Past(projection, index * hypotheses)
            x, written = layer(x, as_projection(prefix), mask, bias(layer), past=past)
            own.append(as_stored(written))
        return self.logits(self.decoder.final_norm(x)), cache._replace(own=tuple(own))

    # --- Positions, masks and biases ----------------------------------------------------------------------------------

    def target_positions(
        self,
        tokens: Int[Array, "b t"],
        inputs: int,
        positions: Int[Array, "b t"] | None,
        segment_ids: Int[Array, "b t"] | None,
        encoder_segment_ids: Int[Array, "b s"] | None,
    ) -> Int[Array, "*_ t"]:
        """Number the targets after the inputs of the same example; padding does not count as an input."""
        positions = example_positions(tokens, segment_ids, positions)
        seen = cross_mask(tokens, segment_ids, encoder_segment_ids)
        return positions + (inputs if seen is None else jnp.sum(seen, axis=-1))

    def input_mask_and_bias(
        self, tokens: Int[Array, "b s"], segment_ids: Int[Array, "b s"] | None, positions: Int[Array, "*_ s"]
    ) -> tuple[AttentionMask, Any]:
        """Return the mask and the bias from inputs to inputs."""
        packed = positions.ndim == 2
        mask = self_mask("encoder", tokens.shape[1], segment_ids, causally=not self.bidirectional, packed=packed)
        return mask, self.decoder.position_bias(positions, positions, self.bidirectional, rows=len(tokens))

    def target_mask_and_bias(
        self,
        tokens: Int[Array, "b t"],
        input_positions: Int[Array, "*_ s"],
        positions: Int[Array, "*_ t"],
        segment_ids: Int[Array, "b t"] | None,
        encoder_segment_ids: Int[Array, "b s"] | None,
    ) -> tuple[AttentionMask, Any]:
        """Return the mask and the bias from targets to inputs and targets."""
        own = causal(tokens.shape[1])
        if segment_ids is not None:
            own = own & same_segment(segment_ids, segment_ids)
        seen = cross_mask(tokens, segment_ids, encoder_segment_ids)
        if seen is None:
            seen = jnp.ones((tokens.shape[1], input_positions.shape[-1]), bool)
        keys = concatenate_last(input_positions, positions)
        bias = self.decoder.position_bias(positions, keys, self.bidirectional, rows=len(tokens))
        return AttentionMask("decoder", concatenate_last(seen, own), structured=False), bias


def example_positions(
    tokens: Int[Array, "b t"], segment_ids: Int[Array, "b t"] | None, positions: Int[Array, "b t"] | None
) -> Int[Array, "*_ t"]:
    """Return the position of each token in its example: `positions` if given, else counted."""
    if positions is not None:
        return positions
    if segment_ids is None:
        return jnp.arange(tokens.shape[1])
    return jnp.sum(same_segment(segment_ids, segment_ids) & causal(tokens.shape[1]), axis=-1) - 1


def concatenate_last(first: Array, second: Array) -> Array:
    """Concatenate along the last axis, after broadcasting the other axes."""
    axes = max(first.ndim, second.ndim)
    parts = [part.reshape((1,) * (axes - part.ndim) + part.shape) for part in (first, second)]
    others = jnp.broadcast_shapes(*(part.shape[:-1] for part in parts))
    return jnp.concatenate([jnp.broadcast_to(part, (*others, part.shape[-1])) for part in parts], axis=-1)
