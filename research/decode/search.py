"""Decoding: from encoder input to decoder tokens, in one jitted function with an explicit cache.

The n hypotheses of a row have an axis of their own and share the keys and values projected from the encoder's output.
When beam search reorders hypotheses, no keys or values move: `beam_index` gives the hypothesis to read, for each
hypothesis and cache position. The cache grows in stages, with one loop for each stage, since attention costs its full
length.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, PRNGKeyArray

from research.config import Beam, DecoderOnly, Generation, Greedy, Model, Sampling, require
from research.data.batch import Batch
from research.decode import logits
from research.decode.beam import beam_search
from research.decode.prepare import own_tables, prepared
from research.decode.step import STAGES, Hypotheses, Step
from research.decode.stop_strings import StopTable
from research.model.cache import Cache
from research.model.transformer import Params, bind


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
    stops: StopTable | None = None,
) -> Hypotheses:
    """Decode each row as `generation` specifies, with the network that `prepared` returns.

    `start_tokens` [b] replaces `generation.start_token` if rows differ (mBART's languages). `prefix` forces the first
    tokens after the start token, except where it is `logits.FREE`; forced tokens count neither in scores nor in the
    length penalty. `keys` [b], one for each row, are for sampling: a row's samples depend only on its own key.
    `stops` is the table of `generation.stop_strings`, from `stop_table`.

    Raises:
        ConfigError: there are stop strings, but no table.
    """
    require(
        stops is not None or not generation.stop_strings,
        "generation.stop_strings needs a tokenizer, for the text of each token: use a Generator or research.load.",
    )
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
    step = Step(network, encoder_segment_ids, generation, prefix, source, stops)
    tokens = jnp.full(
        (len(encoder_input_tokens), hypotheses, generation.max_length + 1), generation.pad_token, jnp.int32
    )
    tokens = tokens.at[:, :, 0].set(start_tokens[:, None])
    match generation.method:
        case Beam():
            return beam_search(step, tokens, cache, generation.method)
        case Greedy():
            return _independent(step, tokens, cache, _most_probable, scores)
        case Sampling():
            assert keys is not None, "sampling needs a key for each row"
            return _independent(step, tokens, cache, partial(_drawn, generation.method, keys), scores)


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
        ended = state.ended | step.ends(written, chosen, state.position)
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
