"""One step of decoding: the logits of the next token, the constraints on it, and what ends an output."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from research.config import Generation
from research.decode import logits
from research.decode.stop_strings import StopTable, completed
from research.model.cache import Cache

STAGES = (32, 64, 128, 256, 512, 1024)  # lengths of the cache, in tokens


class Hypotheses(NamedTuple):
    """The hypotheses of each row, best first; samples are in the order of their keys.

    Tokens exclude the start token and include EOS, then padding; t is `max_length`. Scores are log-probabilities in
    nats of the whole output, in beam search divided by the length penalty. Greedy decoding and sampling return zeros
    unless `scores=True`.
    """

    tokens: Int[Array, "b n t"]
    scores: Float[Array, "b n"]


class Step(NamedTuple):
    """One decoding step; its fields are constant throughout the loop."""

    network: Any  # an encoder-decoder, or a language model
    encoder_segment_ids: Int[Array, "b s"] | None
    generation: Generation
    prefix: Int[Array, "b p"] | None
    source: Int[Array, "b s"]  # the encoder's tokens, FREE at padding
    stops: StopTable | None = None

    def __call__(
        self,
        tokens: logits.Tokens,
        cache: Cache,
        position: Int[Array, ""],
        beam_index: Int[Array, "b n c"] | None = None,
    ) -> tuple[logits.Scores, Cache]:
        """Compute the logits of the token after `position`, and the updated cache."""
        last = jax.lax.dynamic_index_in_dim(tokens, position, axis=2, keepdims=False)
        return self.network.decode_step(last, cache, position, self.encoder_segment_ids, beam_index)

    def constrain(self, scores: logits.Scores, tokens: logits.Tokens, position: Int[Array, ""]) -> logits.Scores:
        return logits.constrain(scores, tokens, position + 1, self.generation, self.prefix, self.source)

    def is_free(self, position: Int[Array, ""]) -> Bool[Array, "*b"]:
        """Tell for each row whether the token after `position` is free, not forced by the prefix."""
        return jnp.array(True) if self.prefix is None else logits.forced_at(self.prefix, position) == logits.FREE

    def ends(
        self, tokens: Int[Array, "b m t"], chosen: Int[Array, "b m"], position: Int[Array, ""]
    ) -> Bool[Array, "b m"]:
        """Tell which of the tokens chosen after `position`, the last of `tokens`, end their hypotheses."""
        ends = jnp.isin(chosen, jnp.asarray(self.generation.ends))
        if self.stops is not None:
            ends |= completed(self.stops, tokens, position + 1)
        return ends & self.is_free(position)[..., None]

    def forced(self, rows: int, position: Int[Array, ""]) -> Int[Array, " b"]:
        """Count the tokens of each row that the prefix forces before `position`."""
        if self.prefix is None:
            return jnp.zeros(rows, jnp.int32)
        before = jnp.arange(self.prefix.shape[1]) < position
        return jnp.sum(before & (self.prefix != logits.FREE), axis=1, dtype=jnp.int32)

    def loop(self, state: Any, unfinished: Callable[[Any], Bool[Array, ""]], advance: Callable[[Any], Any]) -> Any:
        """Run `advance` while the state is `unfinished`; grow the cache when `position` reaches its end."""
        for length in _stages(self.generation.max_length):
            state = state._replace(cache=state.cache.padded(length, state.tokens.shape[1]))

            def in_stage(state: Any, length: int = length) -> Bool[Array, ""]:
                return (state.position < length) & unfinished(state)

            state = jax.lax.while_loop(in_stage, advance, state)
        return state


def _stages(length: int) -> Iterator[int]:
    yield from (stage for stage in STAGES if stage < length)
    yield length
