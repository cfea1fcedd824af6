"""What becomes of the scores of the next token before one is chosen: rules of generation, and sampling's cuts.

Scores are [b n v], of n hypotheses a row: logits where tokens are chosen greedily or drawn, log-probabilities in beam
search, as in Hugging Face's `generate`, whose rules these are, in its order. Tokens are [b n t], the start token first;
`written` of them, from the left, are there.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from research.config import Generation, Sampling

Scores = Float[Array, "b n v"]
Tokens = Int[Array, "b n t"]

BLOCK = 128  # scores whose maximum is looked at first
FREE = -1  # where a prefix leaves the choice of a token


def constrain(
    scores: Scores,
    tokens: Tokens,
    written: Int[Array, ""],
    generation: Generation,
    prefix: Int[Array, "b p"] | None = None,
) -> Scores:
    """The scores under every rule of the generation; what may not come next is -inf."""
    vocabulary = jnp.arange(scores.shape[-1])
    if generation.repetition_penalty != 1.0:
        penalty = generation.repetition_penalty
        penalised = jnp.where(scores < 0, scores * penalty, scores / penalty)
        scores = jnp.where(_marked(tokens, _places(tokens) < written, scores), penalised, scores)
    if generation.no_repeat_ngram:
        repeats = _ends_of_repeats(tokens, written, generation.no_repeat_ngram)
        scores = jnp.where(_marked(tokens, repeats, scores), -jnp.inf, scores)
    if generation.banned:
        scores = jnp.where(jnp.isin(vocabulary, jnp.asarray(generation.banned)), -jnp.inf, scores)
    if generation.min_length:
        early = written - 1 < generation.min_length
        scores = jnp.where(early & (vocabulary == generation.eos_token), -jnp.inf, scores)
    if generation.forced_first is not None:
        scores = _only(generation.forced_first, written == 1, scores)
    if generation.forced_last is not None:
        scores = _only(generation.forced_last, written == generation.max_length, scores)
    if prefix is not None:
        padded = jnp.pad(prefix, ((0, 0), (0, tokens.shape[-1] - prefix.shape[-1])), constant_values=FREE)
        forced = jax.lax.dynamic_index_in_dim(padded, written - 1, axis=1, keepdims=False)[:, None, None]
        scores = _only(forced, forced != FREE, scores)
    return scores


def best(scores: Scores, count: int) -> tuple[Float[Array, "b n k"], Int[Array, "b n k"]]:
    """The `count` best scores of each hypothesis and their tokens, best first.

    A token among the best stands in one of the `count` blocks whose maxima are the best: finding those first reads the
    scores once, several times as fast as sorting.
    """
    whole = scores.shape[-1] // BLOCK * BLOCK
    if whole < 2 * count * BLOCK:
        values, tokens = jax.lax.top_k(scores, count)
        return values, tokens
    maxima = scores[..., :whole].reshape(*scores.shape[:-1], -1, BLOCK).max(axis=-1)
    _, blocks = jax.lax.top_k(maxima, count)
    tokens = (blocks[..., None] * BLOCK + jnp.arange(BLOCK)).reshape(*blocks.shape[:-1], -1)
    rest = jnp.broadcast_to(jnp.arange(whole, scores.shape[-1]), (*blocks.shape[:-1], scores.shape[-1] - whole))
    tokens = jnp.concatenate([tokens, rest], axis=-1)
    values, places = jax.lax.top_k(jnp.take_along_axis(scores, tokens, axis=-1), count)
    return values, jnp.take_along_axis(tokens, places, axis=-1)


def draw(logits: Scores, keys: Key[Array, "b n"], method: Sampling) -> Int[Array, "b n"]:
    """A token for each hypothesis, each drawn with a key [b n] of its own."""
    logits = logits / method.temperature
    size = logits.shape[-1]
    kept = min(method.top_k or size, size)
    if kept == size and method.top_p == 1.0:  # no need to sort
        return _categorical(keys, _without_improbable(logits, method.min_p)).astype(jnp.int32)
    logits, candidates = best(logits, kept)
    if method.top_p < 1.0:
        probabilities = jax.nn.softmax(logits, axis=-1)
        better = jnp.cumsum(probabilities, axis=-1) - probabilities
        logits = jnp.where(better < method.top_p, logits, -jnp.inf)
    choice = _categorical(keys, _without_improbable(logits, method.min_p))
    return jnp.take_along_axis(candidates, choice[..., None], axis=-1)[..., 0]


def _without_improbable(logits: Scores, min_p: float) -> Scores:
    if not min_p:
        return logits
    return jnp.where(logits < logits.max(axis=-1, keepdims=True) + jnp.log(min_p), -jnp.inf, logits)


def _categorical(keys: Key[Array, "b n"], logits: Scores) -> Int[Array, "b n"]:
    return jax.vmap(jax.vmap(jax.random.categorical))(keys, logits)


def _only(token: int | Int[Array, "b 1 1"], now: Bool[Array, "..."], scores: Scores) -> Scores:
    """The token as the one choice, with score 0, where `now`."""
    alone = jnp.where(jnp.arange(scores.shape[-1]) == token, 0.0, -jnp.inf)
    return jnp.where(now, alone, scores)


def _places(tokens: Tokens) -> Int[Array, " t"]:
    return jnp.arange(tokens.shape[-1])


def _marked(tokens: Tokens, where: Bool[Array, "*_ t"], scores: Scores) -> Bool[Array, "b n v"]:
    """Which of the vocabulary stands among the tokens at the places `where`."""
    rows, hypotheses, size = scores.shape
    found = jnp.where(where, tokens, size)  # out of bounds, so dropped
    row, hypothesis = jnp.arange(rows)[:, None, None], jnp.arange(hypotheses)[None, :, None]
    return jnp.zeros(scores.shape, bool).at[row, hypothesis, found].set(True, mode="drop")


def _ends_of_repeats(tokens: Tokens, written: Int[Array, ""], size: int) -> Bool[Array, "b n t"]:
    """Where a run of `size` tokens ends whose first size - 1 are the last ones written."""
    ends = jnp.broadcast_to((_places(tokens) >= size - 1) & (_places(tokens) < written), tokens.shape)
    for back in range(1, size):  # the token `back` before an end against the one `back` before the next
        last = jax.lax.dynamic_index_in_dim(tokens, written - back, axis=2)
        ends &= jnp.roll(tokens, back, axis=2) == last
    return ends & (written >= size - 1)
