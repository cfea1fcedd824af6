"""Decoding: from encoder input to decoder tokens, in one jitted function with an explicit cache.

The n hypotheses of a row have an axis of their own and share the keys and values projected from the encoder's output.
When beam search reorders hypotheses, no keys or values move: `beam_index` gives the hypothesis to read, for each
hypothesis and cache position. The cache grows in stages, with one loop for each stage, since attention costs its full
length.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, PRNGKeyArray

from research.config import GNMT, Beam, DecoderOnly, Generation, Greedy, Model, Power, Sampling
from research.data.batch import Batch
from research.decode import logits
from research.decode.prepare import own_tables, prepared
from research.model.cache import Cache
from research.model.transformer import Params, bind

STAGES = (32, 64, 128, 256, 512, 1024)  # lengths of the cache, in tokens
FAR = -1.0e9  # the score of an excluded hypothesis; finite, as in Hugging Face, so that sums stay comparable


class Hypotheses(NamedTuple):
    """The hypotheses of each row, best first; samples are in the order of their keys.

    Tokens exclude the start token and include EOS, then padding; t is `max_length`. Scores are log-probabilities in
    nats of the whole output, in beam search divided by the length penalty. Greedy decoding and sampling return zeros
    unless `scores=True`.
    """

    tokens: Int[Array, "b n t"]
    scores: Float[Array, "b n"]


@partial(jax.jit, static_argnames=("model", "generation", "scores"))
def decode(model: Model, params: Params, *inputs: Any, **settings: Any) -> Hypotheses:
    """Decode each row as `generation` specifies: see `decode_prepared`, which spares repeated calls the preparation."""
    return decode_prepared(prepared(model, params), *inputs, **settings)


@partial(jax.jit, static_argnames=("generation", "scores"))
def decode_prepared(
    network: Any,
    encoder_input_tokens: Int[Array, "b s"],
    encoder_segment_ids: Int[Array, "b s"] | None = None,
    *,
    generation: Generation,
    start_tokens: Int[Array, " b"] | None = None,
    prefix: Int[Array, "b p"] | None = None,
    keys: Key[Array, " b"] | None = None,
    scores: bool = False,
) -> Hypotheses:
    """Decode each row as `generation` specifies, with the network that `prepared` returns.

    `start_tokens` [b] replaces `generation.start_token` if rows differ (mBART's languages). `prefix` forces the first
    tokens after the start token, except where it is `logits.FREE`; forced tokens count neither in scores nor in the
    length penalty. `keys` [b], one for each row, are for sampling: a row's samples depend only on its own key.
    """
    network = own_tables(network)
    encoded = network.encode(encoder_input_tokens, encoder_segment_ids)
    hypotheses = generation.method.beams if isinstance(generation.method, Beam) else generation.outputs
    before = encoder_input_tokens.shape[1] if isinstance(network.config.stacks, DecoderOnly) else 0
    network.decoder.check_length(before + generation.max_length)
    cache = network.new_cache(encoded, min(generation.max_length, STAGES[0]), hypotheses)
    if start_tokens is None:
        start_tokens = jnp.full(len(encoder_input_tokens), generation.start_token, jnp.int32)
    source = encoder_input_tokens
    if encoder_segment_ids is not None:
        source = jnp.where(encoder_segment_ids > 0, source, logits.FREE)
    step = Step(network, encoder_segment_ids, generation, prefix, source)
    tokens = jnp.full(
        (len(encoder_input_tokens), hypotheses, generation.max_length + 1), generation.pad_token, jnp.int32
    )
    tokens = tokens.at[:, :, 0].set(start_tokens[:, None])
    match generation.method:
        case Beam():
            return _beam(step, tokens, cache, generation.method)
        case Greedy():
            return _independent(step, tokens, cache, _most_probable, scores)
        case Sampling():
            assert keys is not None, "sampling needs a key for each row"
            return _independent(step, tokens, cache, partial(_drawn, generation.method, keys), scores)


class Step(NamedTuple):
    """One decoding step; its fields are constant throughout the loop."""

    network: Any  # an encoder-decoder, or a language model
    encoder_segment_ids: Int[Array, "b s"] | None
    generation: Generation
    prefix: Int[Array, "b p"] | None
    source: Int[Array, "b s"]  # the encoder's tokens, FREE at padding

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

    def ends(self, chosen: Int[Array, "b m"], position: Int[Array, ""]) -> Bool[Array, "b m"]:
        """Tell which of the tokens chosen after `position` end their hypotheses."""
        ends = jnp.isin(chosen, jnp.asarray(self.generation.ends))
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


# --- Greedy and sampling ----------------------------------------------------------------------------------------------


class SampleState(NamedTuple):
    """The loop state of greedy decoding and sampling, with independent hypotheses."""

    position: Int[Array, ""]  # tokens written after the start
    tokens: logits.Tokens
    scores: Float[Array, "b n"]
    ended: Bool[Array, "b n"]
    cache: Cache


Choose = Callable[[logits.Scores, Int[Array, ""]], Int[Array, "b n"]]


def _independent(step: Step, tokens: logits.Tokens, cache: Cache, choose: Choose, scored: bool) -> Hypotheses:
    """Extend each hypothesis independently; `choose` maps constrained logits and the position to the next tokens."""
    generation, rows = step.generation, tokens.shape[:2]

    def advance(state: SampleState) -> SampleState:
        raw, cache = step(state.tokens, state.cache, state.position)
        chosen = choose(step.constrain(raw, state.tokens, state.position), state.position)
        chosen = jnp.where(state.ended, generation.pad_token, chosen).astype(jnp.int32)
        scores = state.scores
        if scored:
            likelihood = jnp.take_along_axis(raw, chosen[..., None], axis=-1)[..., 0] - jax.nn.logsumexp(raw, axis=-1)
            counts = ~state.ended & step.is_free(state.position)[..., None]
            scores = scores + jnp.where(counts, likelihood, 0.0)
        written = jax.lax.dynamic_update_slice(state.tokens, chosen[..., None], (0, 0, state.position + 1))
        ended = state.ended | step.ends(chosen, state.position)
        return SampleState(state.position + 1, written, scores, ended, cache)

    state = SampleState(jnp.int32(0), tokens, jnp.zeros(rows), jnp.zeros(rows, bool), cache)
    state = step.loop(state, lambda state: ~jnp.all(state.ended), advance)
    return Hypotheses(state.tokens[..., 1:], state.scores)


def _most_probable(scores: logits.Scores, position: Int[Array, ""]) -> Int[Array, "b n"]:
    return logits.best(scores, 1)[1][..., 0]


def _drawn(
    method: Sampling, keys: Key[Array, " b"], scores: logits.Scores, position: Int[Array, ""]
) -> Int[Array, "b n"]:
    """Draw each token with a key derived from the row, the hypothesis and the position."""

    def key(row: PRNGKeyArray, hypothesis: Int[Array, ""]) -> PRNGKeyArray:
        return jax.random.fold_in(jax.random.fold_in(row, hypothesis), position)

    each = jax.vmap(jax.vmap(key, (None, 0)), (0, None))(keys, jnp.arange(scores.shape[1]))
    return logits.draw(scores, each, method)


# --- Beam search ------------------------------------------------------------------------------------------------------


class BeamState(NamedTuple):
    """The loop state of beam search: live hypotheses of each row, and the best finished ones."""

    position: Int[Array, ""]
    tokens: logits.Tokens  # of the live hypotheses
    scores: Float[Array, "b n"]  # their log-probabilities
    beam_index: Int[Array, "b n t"]  # the hypothesis to read at each cache position
    ended_tokens: logits.Tokens
    ended_scores: Float[Array, "b n"]  # divided by the length penalty
    ended: Bool[Array, "b n"]  # which slots hold a finished hypothesis
    improvable: Bool[Array, " b"]  # whether a live hypothesis may still finish among the best
    cache: Cache


def _beam(step: Step, tokens: logits.Tokens, cache: Cache, method: Beam) -> Hypotheses:
    """Run beam search with exactly the rules of Hugging Face.

    Of the 2 n best continuations of a row ((1 + e) n if e tokens end an output), the n best without EOS stay live; one
    with EOS is kept as finished if it is among the n best. Once a row is done by the rule of `method.stop`, no more
    hypotheses are added to it.
    """
    generation, (rows, n, length) = step.generation, tokens.shape
    count = (1 + len(generation.ends)) * n

    def unfinished(state: BeamState) -> Bool[Array, ""]:
        improvable = jnp.any(state.improvable)
        return improvable & ~jnp.all(state.ended) if method.stop == "first" else improvable

    def advance(state: BeamState) -> BeamState:
        beam_index = jax.lax.dynamic_update_slice(
            state.beam_index, jnp.broadcast_to(jnp.arange(n)[:, None], (rows, n, 1)), (0, 0, state.position)
        )
        raw, cache = step(state.tokens, state.cache, state.position, beam_index)
        likelihood = step.constrain(jax.nn.log_softmax(raw), state.tokens, state.position)
        scores, parents, chosen = _best_continuations(likelihood + state.scores[..., None], count)
        candidates = jax.lax.dynamic_update_slice(
            _take(state.tokens, parents), chosen[..., None], (0, 0, state.position + 1)
        )
        # Tokens that count, including this one.
        written = jnp.maximum(state.position + 1 - step.forced(rows, state.position + 1), 1)[:, None]
        ends = step.ends(chosen, state.position) | (state.position + 1 == generation.max_length)

        live_scores, kept = jax.lax.top_k(scores + ends * FAR, n)
        ending = scores / _penalty(method.length_penalty, written)
        blocked = ~ends | (jnp.arange(count) >= n) | ~state.improvable[:, None]
        if method.stop == "first":
            blocked |= jnp.all(state.ended, axis=1, keepdims=True)
        merged_scores = jnp.concatenate([state.ended_scores, ending + blocked * FAR], axis=1)
        ended_scores, best = jax.lax.top_k(merged_scores, n)
        merged_tokens = jnp.concatenate([state.ended_tokens, candidates], axis=1)
        merged_ended = jnp.concatenate([state.ended, ends & (jnp.arange(count) < n)], axis=1)
        ended = jnp.take_along_axis(merged_ended, best, axis=1)

        longest = method.stop == "never" and _grows(method.length_penalty)
        reach = (
            (generation.max_length - step.forced(rows, jnp.int32(generation.max_length)))[:, None]
            if longest
            else written
        )
        attainable = live_scores[:, :1] / _penalty(method.length_penalty, reach)
        worst = jnp.where(ended, ended_scores.min(axis=1, keepdims=True), FAR)
        return BeamState(
            position=state.position + 1,
            tokens=_take(candidates, kept),
            scores=live_scores,
            beam_index=_take(beam_index, jnp.take_along_axis(parents, kept, axis=1)),
            ended_tokens=_take(merged_tokens, best),
            ended_scores=ended_scores,
            ended=ended,
            improvable=state.improvable & jnp.any(attainable > worst, axis=1),
            cache=cache,
        )

    state = BeamState(
        position=jnp.int32(0),
        tokens=tokens,
        scores=jnp.full((rows, n), FAR).at[:, 0].set(0.0),  # otherwise all hypotheses would be equal
        beam_index=jnp.zeros((rows, n, length - 1), jnp.int32),
        ended_tokens=tokens,
        ended_scores=jnp.full((rows, n), FAR),
        ended=jnp.zeros((rows, n), bool),
        improvable=jnp.ones(rows, bool),
        cache=cache,
    )
    state = step.loop(state, unfinished, advance)
    outputs = generation.outputs
    return Hypotheses(state.ended_tokens[:, :outputs, 1:], state.ended_scores[:, :outputs])


def _best_continuations(
    scores: logits.Scores, count: int
) -> tuple[Float[Array, "b m"], Int[Array, "b m"], Int[Array, "b m"]]:
    """Select the best continuations over all hypotheses of a row: their scores, parent hypotheses and tokens.

    The selection is first within each hypothesis, then across them.
    """
    rows, _, size = scores.shape
    within, tokens = logits.best(scores, min(count, size))
    best, positions = jax.lax.top_k(within.reshape(rows, -1), count)
    return best, positions // within.shape[-1], jnp.take_along_axis(tokens.reshape(rows, -1), positions, axis=1)


def _penalty(penalty: Power | GNMT, length: Int[Array, "..."]) -> Float[Array, "..."]:
    match penalty:
        case Power(exponent):
            return length.astype(jnp.float32) ** exponent
        case GNMT(alpha):
            return ((5.0 + length) / 6.0) ** alpha


def _grows(penalty: Power | GNMT) -> bool:
    """Return True if a fixed log-probability scores better at a greater length."""
    match penalty:
        case Power(exponent):
            return exponent > 0
        case GNMT(alpha):
            return alpha > 0


def _take(values: Int[Array, "b n t"], hypotheses: Int[Array, "b m"]) -> Int[Array, "b m t"]:
    return jnp.take_along_axis(values, hypotheses[..., None], axis=1)


# --- Scoring ----------------------------------------------------------------------------------------------------------


@partial(jax.jit, static_argnames="model")
def forward(model: Model, params: Params, batch: Batch) -> Float[Array, "b t v"]:
    """Compute the logits of every target token given those before it, in float32."""
    return bind(model, params)(batch)


@partial(jax.jit, static_argnames=("model",))
def score(
    model: Model,
    params: Params,
    encoder_input_tokens: Int[Array, "b s"],
    decoder_input_tokens: Int[Array, "b t"],
    decoder_target_tokens: Int[Array, "b t"],
    encoder_segment_ids: Int[Array, "b s"] | None = None,
    decoder_segment_ids: Int[Array, "b t"] | None = None,
) -> Float[Array, "b t"]:
    """Compute the log-probability in nats of every target token given those before it; 0 for padding."""
    network = bind(model, params)
    encoded = network.encode(encoder_input_tokens, encoder_segment_ids)
    x = network.decode(decoder_input_tokens, encoded, decoder_segment_ids, encoder_segment_ids=encoder_segment_ids)
    likelihood = jax.nn.log_softmax(network.logits(x))
    scores = jnp.take_along_axis(likelihood, decoder_target_tokens[..., None], axis=-1)[..., 0]
    return scores if decoder_segment_ids is None else jnp.where(decoder_segment_ids > 0, scores, 0.0)
