"""Beam search with Hugging Face's rules, of all hypotheses of a row together or group by group."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from research.config import GNMT, Beam, Power
from research.decode import logits
from research.decode.step import Hypotheses, Step
from research.model.cache import Cache

FAR = -1.0e9  # the score of an excluded hypothesis; finite, as in Hugging Face, so that sums stay comparable


class BeamGroup(NamedTuple):
    """A group of each row's hypotheses: live ones, and the best finished ones."""

    tokens: logits.Tokens  # of the live hypotheses
    scores: Float[Array, "b n"]  # their log-probabilities, minus diversity penalties
    ended_tokens: logits.Tokens
    ended_scores: Float[Array, "b n"]  # divided by the length penalty
    ended: Bool[Array, "b n"]  # which slots hold a finished hypothesis
    improvable: Bool[Array, " b"]  # whether a live hypothesis may still finish among the best


class BeamState(NamedTuple):
    """The loop state of beam search."""

    position: Int[Array, ""]  # tokens written after the start
    groups: tuple[BeamGroup, ...]
    beam_index: Int[Array, "b n t"]  # the hypothesis to read at each cache position
    cache: Cache

    @property
    def tokens(self) -> logits.Tokens:
        """Tokens of the live hypotheses of all groups."""
        return jnp.concatenate([group.tokens for group in self.groups], axis=1)


def beam_search(step: Step, tokens: logits.Tokens, cache: Cache, method: Beam) -> Hypotheses:
    """Run beam search with exactly the rules of Hugging Face.

    Groups take their turns at every step: each continues with its own best hypotheses, after a penalty for every live
    hypothesis of an earlier group that was given the same token (arXiv:1610.02424). The finished hypotheses of all
    groups are ranked together.
    """
    (rows, n, length), size = tokens.shape, method.beams // method.groups

    def advance(state: BeamState) -> BeamState:
        beam_index = jax.lax.dynamic_update_slice(
            state.beam_index, jnp.broadcast_to(jnp.arange(n)[:, None], (rows, n, 1)), (0, 0, state.position)
        )
        raw, cache = step(state.tokens, state.cache, state.position, beam_index)
        likelihood = jax.nn.log_softmax(raw)
        uses = jnp.zeros((rows, 1, raw.shape[-1]))  # live hypotheses that were given each token in this step
        groups, parents = [], []
        for first, group in zip(range(0, n, size), state.groups, strict=True):
            scores = likelihood[:, first : first + size] - (method.diversity_penalty * uses if first else 0.0)
            scores = step.constrain(scores, group.tokens, state.position)
            group, chosen, kept = _extended(group, scores, step, state.position, method)
            groups.append(group)
            parents.append(first + kept)
            uses = uses.at[jnp.arange(rows)[:, None], 0, chosen].add(1.0)
        return BeamState(
            position=state.position + 1,
            groups=tuple(groups),
            beam_index=_take(beam_index, jnp.concatenate(parents, axis=1)),
            cache=cache,
        )

    group = BeamGroup(
        tokens=tokens[:, :size],
        scores=jnp.full((rows, size), FAR).at[:, 0].set(0.0),  # otherwise all hypotheses would be equal
        ended_tokens=tokens[:, :size],
        ended_scores=jnp.full((rows, size), FAR),
        ended=jnp.zeros((rows, size), bool),
        improvable=jnp.ones(rows, bool),
    )
    state = BeamState(jnp.int32(0), (group,) * method.groups, jnp.zeros((rows, n, length - 1), jnp.int32), cache)
    state = step.loop(state, lambda state: jnp.any(jnp.stack([group.improvable for group in state.groups])), advance)
    return _best_of(state, step, method)


def _extended(
    group: BeamGroup, likelihood: logits.Scores, step: Step, position: Int[Array, ""], method: Beam
) -> tuple[BeamGroup, Int[Array, "b n"], Int[Array, "b n"]]:
    """Extend a group by a token; also return the tokens that its live hypotheses were given, and their parents.

    Of the 2 n best continuations of a row ((1 + e) n if e tokens end an output), the n best without EOS stay live; one
    with EOS is kept as finished if it is among the n best. Once a row is done by the rule of `method.stop`, no more
    hypotheses are added to it. Several groups follow the beam search of transformers before 4.50: a finished hypothesis
    is shown with the first EOS, the best continuation decides about `method.stop` even if it has EOS, and a group that
    is done counts as choosing padding.
    """
    generation, several, (rows, n, _) = step.generation, method.groups > 1, group.tokens.shape
    count = (1 + len(generation.ends)) * n
    scores, parents, chosen = _best_continuations(likelihood + group.scores[..., None], count)
    candidates = _with_last(_take(group.tokens, parents), chosen, position + 1)
    ends = step.ends(candidates, chosen, position)
    if several:
        candidates = _with_last(candidates, jnp.where(ends, generation.eos_token, chosen), position + 1)
    else:
        ends |= position + 1 == generation.max_length
    live_scores, kept = jax.lax.top_k(scores + ends * FAR, n)
    added = ends & (jnp.arange(count) < n)
    merged = _merged(group, candidates, scores, added, step, position + 1, method)

    forever = method.stop == "never" and _grows(method.length_penalty)
    reach = _lengths(step, rows, jnp.int32(generation.max_length) if forever else position + 1)
    attainable = (scores if several else live_scores)[:, :1] / _penalty(method.length_penalty, reach)
    worst = jnp.where(merged.ended, merged.ended_scores.min(axis=1, keepdims=True), FAR)
    improvable = group.improvable & jnp.any(attainable > worst, axis=1)
    if method.stop == "first":
        improvable &= ~jnp.all(merged.ended, axis=1)
    given = jnp.take_along_axis(chosen, kept, axis=1)
    if several:
        given = jnp.where(group.improvable[:, None], given, generation.pad_token)
    group = merged._replace(tokens=_take(candidates, kept), scores=live_scores, improvable=improvable)
    return group, given, jnp.take_along_axis(parents, kept, axis=1)


def _merged(
    group: BeamGroup,
    tokens: Int[Array, "b m t"],
    scores: Float[Array, "b m"],
    added: Bool[Array, "b m"],
    step: Step,
    position: Int[Array, ""],
    method: Beam,
) -> BeamGroup:
    """Return the group with the best of its finished hypotheses and those that are `added` before `position`."""
    ending = scores / _penalty(method.length_penalty, _lengths(step, len(scores), position))
    blocked = ~added | ~group.improvable[:, None]
    merged_scores = jnp.concatenate([group.ended_scores, ending + blocked * FAR], axis=1)
    ended_scores, best = jax.lax.top_k(merged_scores, group.ended.shape[1])
    return group._replace(
        ended_tokens=_take(jnp.concatenate([group.ended_tokens, tokens], axis=1), best),
        ended_scores=ended_scores,
        ended=jnp.take_along_axis(jnp.concatenate([group.ended, added], axis=1), best, axis=1),
    )


def _best_of(state: BeamState, step: Step, method: Beam) -> Hypotheses:
    """Return the best finished hypotheses; groups that are not done by then finish with their live ones."""
    outputs, groups = step.generation.outputs, list(state.groups)
    if len(groups) == 1:
        return Hypotheses(groups[0].ended_tokens[:, :outputs, 1:], groups[0].ended_scores[:, :outputs])
    groups = [
        _merged(group, group.tokens, group.scores, jnp.ones_like(group.ended), step, state.position, method)
        for group in groups
    ]
    scores, best = jax.lax.top_k(jnp.concatenate([group.ended_scores for group in groups], axis=1), outputs)
    return Hypotheses(_take(jnp.concatenate([group.ended_tokens for group in groups], axis=1), best)[..., 1:], scores)


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


def _lengths(step: Step, rows: int, position: Int[Array, ""]) -> Int[Array, "b 1"]:
    """Count the tokens before `position` that count: those that the prefix does not force, at least one."""
    return jnp.maximum(position - step.forced(rows, position), 1)[:, None]


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


def _with_last(tokens: Int[Array, "b m t"], last: Int[Array, "b m"], position: Int[Array, ""]) -> Int[Array, "b m t"]:
    return jax.lax.dynamic_update_slice(tokens, last[..., None], (0, 0, position))


def _take(values: Int[Array, "b n t"], hypotheses: Int[Array, "b m"]) -> Int[Array, "b m t"]:
    return jnp.take_along_axis(values, hypotheses[..., None], axis=1)
