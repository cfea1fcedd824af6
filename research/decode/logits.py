"""Processing of the next token's scores before one is chosen: generation constraints and sampling's cuts.

Scores are [b n v], for n hypotheses of each row: logits in greedy decoding and sampling, log-probabilities in beam
search. The constraints and their order are those of Hugging Face's `generate`. Tokens are [b n t], starting with the
start token; the first `written` of them are valid.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from research.config import Beam, Generation, Sampling

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
    source: Int[Array, "b s"] | None = None,
) -> Scores:
    """Apply every constraint of `generation` to the scores; tokens that may not come next get -inf.

    `source` holds the encoder's tokens, with FREE in place of padding.
    """
    if source is not None:
        scores = _favour_source(scores, source, generation.source_reward)
    scores = _penalise_repetition(scores, tokens, written, generation.repetition_penalty)
    scores = _ban(scores, tokens, written, generation, source)
    if generation.forced_first is not None:
        scores = _only(generation.forced_first, written == 1, scores)
    if generation.forced_last is not None:
        scores = _only(generation.forced_last, written == generation.max_length, scores)
    prompt = jnp.zeros((), jnp.int32) if prefix is None else prompt_lengths(prefix)[:, None, None]
    if generation.eos_growth != 1.0:
        steps = written - 1 - generation.eos_growth_start - prompt
        growth = jnp.abs(scores) * (generation.eos_growth ** steps.astype(jnp.float32) - 1)
        grows = (steps > 0) & jnp.isfinite(scores) & _among(generation.ends, scores)
        scores = jnp.where(grows, scores + growth, scores)
    if generation.banned_first:
        first = jnp.maximum(prompt, int(generation.forced_first is not None))
        scores = jnp.where((written - 1 == first) & _among(generation.banned_first, scores), -jnp.inf, scores)
    if generation.renormalize and isinstance(generation.method, Beam):
        scores = jax.nn.log_softmax(scores)
    if prefix is not None:
        forced = forced_at(prefix, written - 1)[:, None, None]
        scores = _only(forced, forced != FREE, scores)
    return scores


def prompt_lengths(prefix: Int[Array, "b p"]) -> Int[Array, " b"]:
    """Return the number of tokens of a prefix before its first free position."""
    return jnp.cumprod(prefix != FREE, axis=1, dtype=jnp.int32).sum(axis=1)


def forced_at(prefix: Int[Array, "b p"], position: Int[Array, ""]) -> Int[Array, " b"]:
    """Return the token that a prefix forces at a position, or FREE."""
    length = prefix.shape[1]
    forced = jax.lax.dynamic_index_in_dim(prefix, jnp.minimum(position, length - 1), axis=1, keepdims=False)
    return jnp.where(position < length, forced, FREE)


def _favour_source(scores: Scores, source: Int[Array, "b s"], reward: float) -> Scores:
    if reward == 1.0:
        return scores
    favoured = jnp.where(scores < 0, scores / reward, scores * reward)
    return jnp.where(_marked(source[:, None], (source != FREE)[:, None], scores), favoured, scores)


def _penalise_repetition(scores: Scores, tokens: Tokens, written: Int[Array, ""], penalty: float) -> Scores:
    if penalty == 1.0:
        return scores
    penalised = jnp.where(scores < 0, scores * penalty, scores / penalty)
    return jnp.where(_marked(tokens, _positions(tokens) < written, scores), penalised, scores)


def _ban(
    scores: Scores, tokens: Tokens, written: Int[Array, ""], generation: Generation, source: Int[Array, "b s"] | None
) -> Scores:
    """Give -inf to tokens that complete a banned n-gram or sequence, to banned tokens, and to EOS before min_length."""
    if size := generation.no_repeat_ngram:
        valid = jnp.broadcast_to(_positions(tokens) < written, tokens.shape)
        scores = jnp.where(
            _marked(tokens, _ends_of_ngrams(tokens, valid, tokens, written, size), scores), -jnp.inf, scores
        )
    if (size := generation.no_source_ngram) and source is not None:
        text = jnp.broadcast_to(source[:, None], (*scores.shape[:2], source.shape[1]))
        scores = jnp.where(
            _marked(text, _ends_of_ngrams(text, text != FREE, tokens, written, size), scores), -jnp.inf, scores
        )
    if generation.banned:
        scores = jnp.where(_among(generation.banned, scores), -jnp.inf, scores)
    for size in sorted({len(sequence) for sequence in generation.banned_sequences}):
        sequences = jnp.asarray([sequence for sequence in generation.banned_sequences if len(sequence) == size])
        last = jax.lax.dynamic_slice_in_dim(tokens, written - (size - 1), size - 1, axis=2)
        matches = jnp.all(last[:, :, None] == sequences[:, :-1], axis=-1) & (written >= size - 1)
        completed = jnp.zeros(scores.shape, bool).at[:, :, sequences[:, -1]].max(matches)
        scores = jnp.where(completed, -jnp.inf, scores)
    if generation.min_length:
        early = written - 1 < generation.min_length
        scores = jnp.where(early & _among(generation.ends, scores), -jnp.inf, scores)
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
        return _categorical(keys, _cut(logits, method)).astype(jnp.int32)
    logits, candidates = best(logits, kept)
    if method.top_p < 1.0:
        probabilities = jax.nn.softmax(logits, axis=-1)
        better = jnp.cumsum(probabilities, axis=-1) - probabilities
        logits = jnp.where(better < method.top_p, logits, -jnp.inf)
    choice = _categorical(keys, _cut(logits, method))
    return jnp.take_along_axis(candidates, choice[..., None], axis=-1)[..., 0]


def _cut(logits: Scores, method: Sampling) -> Scores:
    """Give -inf to the tokens that min_p, typical_p, epsilon and eta exclude; the most probable one always remains."""
    if method.min_p:
        least = logits.max(axis=-1, keepdims=True) + jnp.log(method.min_p)
        logits = jnp.where(logits < least, -jnp.inf, logits)
    if method.typical_p < 1.0:
        logits = jnp.where(_is_typical(logits, method.typical_p), logits, -jnp.inf)
    if method.epsilon:
        least = jnp.full((), method.epsilon)
        logits = _without_improbable(logits, least)
    if method.eta:
        entropy = _entropy(jax.nn.log_softmax(logits))
        logits = _without_improbable(logits, jnp.minimum(method.eta, method.eta**0.5 * jnp.exp(-entropy)))
    return logits


def _is_typical(logits: Scores, mass: float) -> Bool[Array, "b n v"]:
    """Mark the tokens whose information is nearest to the entropy, the fewest with a total probability of `mass`."""
    likelihood = jax.nn.log_softmax(logits)
    distances = jnp.abs(-likelihood - _entropy(likelihood))
    order = jnp.argsort(distances, axis=-1)
    total = jnp.cumsum(jnp.take_along_axis(jnp.exp(likelihood), order, axis=-1), axis=-1)
    last = jnp.minimum(jnp.sum(total < mass, axis=-1, keepdims=True), logits.shape[-1] - 1)
    return distances <= jnp.take_along_axis(distances, jnp.take_along_axis(order, last, axis=-1), axis=-1)


def _entropy(likelihood: Scores) -> Float[Array, "b n 1"]:
    terms = jnp.where(jnp.isfinite(likelihood), jnp.exp(likelihood) * likelihood, 0.0)
    return -terms.sum(axis=-1, keepdims=True)


def _without_improbable(logits: Scores, least: Float[Array, "..."]) -> Scores:
    """Give -inf to tokens below a probability, except the most probable one."""
    best = logits == logits.max(axis=-1, keepdims=True)
    return jnp.where(best | (jax.nn.softmax(logits) >= least), logits, -jnp.inf)


def _categorical(keys: Key[Array, "b n"], logits: Scores) -> Int[Array, "b n"]:
    return jax.vmap(jax.vmap(jax.random.categorical))(keys, logits)


def _only(token: int | Int[Array, "b 1 1"], now: Bool[Array, "..."], scores: Scores) -> Scores:
    """Allow only `token`, with score 0, where `now` is true."""
    alone = jnp.where(jnp.arange(scores.shape[-1]) == token, 0.0, -jnp.inf)
    return jnp.where(now, alone, scores)


def _positions(tokens: Tokens) -> Int[Array, " t"]:
    return jnp.arange(tokens.shape[-1])


def _among(listed: tuple[int, ...], scores: Scores) -> Bool[Array, " v"]:
    return jnp.isin(jnp.arange(scores.shape[-1]), jnp.asarray(listed))


def _marked(tokens: Int[Array, "b _ s"], where: Bool[Array, "*_ s"], scores: Scores) -> Bool[Array, "b n v"]:
    """Mark the vocabulary entries that occur among the tokens at the positions `where`."""
    rows, hypotheses, size = scores.shape
    marked = jnp.where(where, tokens, size)  # `size` is out of bounds and so dropped
    row, hypothesis = jnp.arange(rows)[:, None, None], jnp.arange(hypotheses)[None, :, None]
    return jnp.zeros(scores.shape, bool).at[row, hypothesis, marked].set(True, mode="drop")


def _ends_of_ngrams(
    text: Int[Array, "b n s"], valid: Bool[Array, "b n s"], tokens: Tokens, written: Int[Array, ""], size: int
) -> Bool[Array, "b n s"]:
    """Mark the last position of every n-gram of `size` tokens in a text that starts with the last size - 1 written."""
    ends = valid & (_positions(text) >= size - 1)
    for back in range(1, size):  # compare the token `back` before an end with the one `back` before the next token
        last = jax.lax.dynamic_index_in_dim(tokens, written - back, axis=2)
        ends &= jnp.roll(text, back, axis=2) == last
    return ends & (written >= size - 1)
