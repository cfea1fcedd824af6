"""Processing of the next token's scores before one is chosen: generation constraints, top-k, top-p and min-p.

Scores are [b n v], for n hypotheses of each row: logits in greedy decoding and sampling, log-probabilities in beam
search. The constraints and their order are those of Hugging Face's `generate`. Tokens are [b n t], starting with the
start token; the first `written` of them are valid.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from research.config import Generation, Sampling

Scores = Float[Array, "b n v"]
Tokens = Int[Array, "b n t"]

BLOCK = 128  # number of scores in a block; block maxima are compared first
FREE = -1  # marks a position of a prefix that is not forced


def constrain(
    scores: Scores,
    tokens: Tokens,
    written: Int[Array, ""],
    generation: Generation,
    prefix: Int[Array, "b p"] | None = None,
) -> Scores:
    """Apply every constraint of `generation` to the scores; tokens that may not come next get -inf."""
    vocabulary = jnp.arange(scores.shape[-1])
    if generation.repetition_penalty != 1.0:
        penalty = generation.repetition_penalty
        penalised = jnp.where(scores < 0, scores * penalty, scores / penalty)
        scores = jnp.where(_marked(tokens, _positions(tokens) < written, scores), penalised, scores)
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
    """Return the `count` best scores of each hypothesis and their tokens, best first.

    Each of the best tokens is in one of the `count` blocks with the best maxima. Finding these blocks first reads the
    scores once, which is several times as fast as sorting.
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
    values, positions = jax.lax.top_k(jnp.take_along_axis(scores, tokens, axis=-1), count)
    return values, jnp.take_along_axis(tokens, positions, axis=-1)


def draw(logits: Scores, keys: Key[Array, "b n"], method: Sampling) -> Int[Array, "b n"]:
    """Draw a token for each hypothesis, with a separate key [b n] for each."""
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
    """Allow only `token`, with score 0, where `now` is true."""
    alone = jnp.where(jnp.arange(scores.shape[-1]) == token, 0.0, -jnp.inf)
    return jnp.where(now, alone, scores)


def _positions(tokens: Tokens) -> Int[Array, " t"]:
    return jnp.arange(tokens.shape[-1])


def _marked(tokens: Tokens, where: Bool[Array, "*_ t"], scores: Scores) -> Bool[Array, "b n v"]:
    """Mark the vocabulary entries that occur among the tokens at the positions `where`."""
    rows, hypotheses, size = scores.shape
    marked = jnp.where(where, tokens, size)  # `size` is out of bounds and so dropped
    row, hypothesis = jnp.arange(rows)[:, None, None], jnp.arange(hypotheses)[None, :, None]
    return jnp.zeros(scores.shape, bool).at[row, hypothesis, marked].set(True, mode="drop")


def _ends_of_repeats(tokens: Tokens, written: Int[Array, ""], size: int) -> Bool[Array, "b n t"]:
    """Mark the last position of every n-gram of `size` tokens that starts with the last size - 1 tokens written."""
    ends = jnp.broadcast_to((_positions(tokens) >= size - 1) & (_positions(tokens) < written), tokens.shape)
    for back in range(1, size):  # compare the token `back` before an end with the one `back` before the next token
        last = jax.lax.dynamic_index_in_dim(tokens, written - back, axis=2)
        ends &= jnp.roll(tokens, back, axis=2) == last
    return ends & (written >= size - 1)
