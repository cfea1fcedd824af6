"""One stack that reads inputs and targets as one row: T5's language model and prefix LM, to compare with.

Inputs see all inputs, or what is before them where they are causal; targets see the inputs and what is before them. So
the keys and values of the inputs do not depend on the targets, and stand in the cache where an encoder-decoder has
those of its encoder's output. Dropout is drawn for inputs and targets apart, also where it is alike at every position.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Int, PRNGKeyArray

from research.config import DecoderOnly, Model
from research.data.batch import Batch
from research.model.attention import SelfAttention, ancestors, causal, cross_mask, same_segment
from research.model.cache import Cache, Past, Projection, as_projection, as_stored
from research.model.layer import FeedForward, Keys, Layer, Norm, Stack, layer_keys, split_key
from research.model.network import Network
from research.parallel.layout import RESIDUAL, constrain


class PrefixLayer(Layer):
    """An encoder's layer, whose queries may see other keys and values before their own."""

    def __init__(self, config: Model, keys: Keys) -> None:
        super().__init__(config)
        self.self_attention_norm = Norm(config)
        self.self_attention = SelfAttention(config, keys)
        self.feed_forward_norm = Norm(config)
        self.feed_forward = FeedForward(config, keys)

    def __call__(
        self,
        x: Float[Array, "b t d"],
        before: Projection | None,
        mask: Bool[Array, "*_ #t m"] | None,
        bias: Float[Array, "*_ h #t m"] | None,
        dropout_key: PRNGKeyArray | None = None,
        past: Past | None = None,
    ) -> tuple[Float[Array, "b t d"], Projection]:
        """x after self-attention and feed-forward, and its own keys and values; decoding writes them among the past."""
        keys = split_key(dropout_key, 4)
        y = self.before(self.self_attention_norm, x)
        with jax.named_scope("self_attention"):
            own = self.self_attention.project(y)
            if past is not None:
                own = past.write(own)
            key, value = own if before is None else (jnp.concatenate(pair, 1) for pair in zip(before, own, strict=True))
            attended = self.self_attention.attend(y, key, value, mask, bias, keys[0])
        x = self.after(self.self_attention_norm, x, attended, keys[1])
        hidden = self.feed_forward(self.before(self.feed_forward_norm, x), keys[2])
        return self.after(self.feed_forward_norm, x, hidden, keys[3]), own


class LanguageModel(Network):
    """Takes what an encoder-decoder takes; what `encode` gives is a layer's keys and values of the inputs each."""

    def add_stacks(self, config: Model, keys: Keys) -> None:
        self.decoder = Stack(config, PrefixLayer, config.decoder_layers, keys)

    @property
    def bidirectional(self) -> bool:
        return isinstance(self.config.stacks, DecoderOnly) and not self.config.stacks.causal

    def __call__(self, batch: Batch, dropout_key: PRNGKeyArray | None = None) -> Float[Array, "b t v"]:
        """Logits in float32 for every target; dropout only where a key is given."""
        arrays: Any = jax.tree.map(jnp.asarray, batch)
        source, target = arrays.encoder_input_tokens, arrays.decoder_input_tokens
        self.decoder.check_length(source.shape[1] + target.shape[1])
        keys = split_key(dropout_key, 5)
        places = places_of(source, arrays.encoder_segment_ids, arrays.encoder_positions)
        mask, bias = self.among_inputs(source, arrays.encoder_segment_ids, places)
        segments = arrays.decoder_segment_ids, arrays.encoder_segment_ids
        own_places = self.target_places(target, source.shape[1], arrays.decoder_positions, *segments)
        own_mask, own_bias = self.of_targets(target, places, own_places, *segments)

        def body(
            rows: tuple[Array, Array], layer: PrefixLayer, key: PRNGKeyArray | None, own_key: PRNGKeyArray | None
        ) -> tuple[Array, Array]:
            x, projection = layer(rows[0], None, mask, bias(layer), key)
            y, _ = layer(rows[1], projection, own_mask, own_bias(layer), own_key)
            return constrain(x, RESIDUAL), constrain(y, RESIDUAL)

        x = constrain(self.decoder.enter(self.embed_source(source), places, keys[0]), RESIDUAL)
        y = constrain(self.decoder.enter(self.embed(target), own_places, keys[1]), RESIDUAL)
        drawn = [layer_keys(key, self.config.decoder_layers) for key in keys[2:4]]
        _, y = self.decoder.scan(body, (x, y), drawn)
        return self.logits(self.decoder.leave(y, keys[4]))

    def encode(
        self,
        tokens: Int[Array, "b s"],
        segment_ids: Int[Array, "b s"] | None = None,
        positions: Int[Array, "b s"] | None = None,
    ) -> list[Projection]:
        places = places_of(tokens, segment_ids, positions)
        mask, bias = self.among_inputs(tokens, segment_ids, places)
        x, found = self.decoder.enter(self.embed_source(tokens), places), []
        for layer in self.decoder.unstacked():
            x, projection = layer(x, None, mask, bias(layer))
            found.append(projection)
        return found

    def decode(
        self,
        tokens: Int[Array, "b t"],
        encoded: Sequence[Projection],
        segment_ids: Int[Array, "b t"] | None = None,
        positions: Int[Array, "b t"] | None = None,
        encoder_segment_ids: Int[Array, "b s"] | None = None,
    ) -> Float[Array, "b t d"]:
        """What `logits` takes. Tokens are the targets, shifted right already; inputs stand at places 0, 1, 2 ..."""
        inputs = encoded[0][0].shape[1]
        self.decoder.check_length(inputs + tokens.shape[1])
        places = self.target_places(tokens, inputs, positions, segment_ids, encoder_segment_ids)
        mask, bias = self.of_targets(tokens, jnp.arange(inputs), places, segment_ids, encoder_segment_ids)
        x = self.decoder.enter(self.embed(tokens), places)
        for layer, projection in zip(self.decoder.unstacked(), encoded, strict=True):
            x, _ = layer(x, projection, mask, bias(layer))
        return self.decoder.leave(x)

    def new_cache(self, encoded: Sequence[Projection], length: int, hypotheses: int = 1) -> Cache:
        """An empty cache for `length` positions after the inputs."""
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
        ancestry: Int[Array, "b n c"] | None = None,
        layers: list[PrefixLayer] | None = None,
    ) -> tuple[Float[Array, "b n v"], Cache]:
        """As an encoder-decoder's."""
        hypotheses = tokens.shape[1]
        inputs = cache.cross[0][0].shape[-1]
        written = jnp.repeat(jnp.arange(cache.own[0][0].shape[-1] // hypotheses), hypotheses)
        mask = (written <= index)[None, :]
        if hypotheses > 1:
            mask = mask & ancestors(hypotheses, written, ancestry)
        offset = self.target_places(tokens[:, :1], inputs, None, None, encoder_segment_ids)
        seen = cross_mask(tokens[:, :1], None, encoder_segment_ids)
        mask = joined(jnp.ones((1, inputs), bool) if seen is None else seen, mask)
        places = joined(jnp.arange(inputs), offset + written)
        bias = self.decoder.position_bias(offset + index, places, self.bidirectional)
        x, own = self.decoder.enter(self.embed(tokens), offset + index), []
        layers = self.decoder.unstacked() if layers is None else layers
        for layer, projection, before in zip(layers, cache.own, cache.cross, strict=True):
            past = Past(projection, index * hypotheses)
            x, now = layer(x, as_projection(before), mask, bias(layer), past=past)
            own.append(as_stored(now))
        return self.logits(self.decoder.leave(x)), cache._replace(own=tuple(own))

    def unstacked(self) -> list[PrefixLayer]:
        """The layers of decoding, one by one, which a loop should ask for once."""
        return self.decoder.unstacked()

    # --- Places, masks and biases -------------------------------------------------------------------------------------

    def target_places(
        self,
        tokens: Int[Array, "b t"],
        inputs: int,
        positions: Int[Array, "b t"] | None,
        segment_ids: Int[Array, "b t"] | None,
        encoder_segment_ids: Int[Array, "b s"] | None,
    ) -> Int[Array, "*_ t"]:
        """After the inputs of the same example, of which padding is none."""
        places = places_of(tokens, segment_ids, positions)
        seen = cross_mask(tokens, segment_ids, encoder_segment_ids)
        return places + (inputs if seen is None else jnp.sum(seen, axis=-1))

    def among_inputs(
        self, tokens: Int[Array, "b s"], segment_ids: Int[Array, "b s"] | None, places: Int[Array, "*_ s"]
    ) -> tuple[Bool[Array, "*_ s s"] | None, Any]:
        mask = None if segment_ids is None else same_segment(segment_ids, segment_ids)
        if not self.bidirectional:
            before = causal(tokens.shape[1])
            mask = before if mask is None else mask & before
        return mask, self.decoder.position_bias(places, places, self.bidirectional, rows=len(tokens))

    def of_targets(
        self,
        tokens: Int[Array, "b t"],
        input_places: Int[Array, "*_ s"],
        places: Int[Array, "*_ t"],
        segment_ids: Int[Array, "b t"] | None,
        encoder_segment_ids: Int[Array, "b s"] | None,
    ) -> tuple[Bool[Array, "*_ t m"], Any]:
        """Over the inputs and the targets together."""
        own = causal(tokens.shape[1])
        if segment_ids is not None:
            own = own & same_segment(segment_ids, segment_ids)
        seen = cross_mask(tokens, segment_ids, encoder_segment_ids)
        if seen is None:
            seen = jnp.ones((tokens.shape[1], input_places.shape[-1]), bool)
        keys = joined(input_places, places)
        return joined(seen, own), self.decoder.position_bias(places, keys, self.bidirectional, rows=len(tokens))


def places_of(
    tokens: Int[Array, "b t"], segment_ids: Int[Array, "b t"] | None, positions: Int[Array, "b t"] | None
) -> Int[Array, "*_ t"]:
    """The position of each token in its own example."""
    if positions is not None:
        return positions
    if segment_ids is None:
        return jnp.arange(tokens.shape[1])
    return jnp.sum(same_segment(segment_ids, segment_ids) & causal(tokens.shape[1]), axis=-1) - 1


def joined(first: Array, second: Array) -> Array:
    """One after the other along the last axis, of as many rows as either has."""
    axes = max(first.ndim, second.ndim)
    parts = [part.reshape((1,) * (axes - part.ndim) + part.shape) for part in (first, second)]
    others = jnp.broadcast_shapes(*(part.shape[:-1] for part in parts))
    return jnp.concatenate([jnp.broadcast_to(part, (*others, part.shape[-1])) for part in parts], axis=-1)
