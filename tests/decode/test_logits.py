"""Rules of generation and sampling's cuts, each on scores small enough to say what must come out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research import Generation, Sampling
from research.decode import logits

SIZE = 8


def constrained(tokens: list[int], room: int = 6, prefix=None, source=None, scores=None, **settings) -> np.ndarray:
    """The scores of one hypothesis that has written these tokens, the start among them."""
    padded = jnp.asarray([[tokens + [0] * (room - len(tokens))]])
    scores = jnp.arange(1.0, SIZE + 1.0) if scores is None else jnp.asarray(scores)
    generation = Generation(max_length=room - 1, **settings)
    written = jnp.asarray(len(tokens))
    return np.asarray(logits.constrain(scores[None, None], padded, written, generation, prefix, source))[0, 0]


def banned(scores: np.ndarray) -> set[int]:
    return set(np.flatnonzero(scores == -np.inf).tolist())


def test_without_rules_scores_stay():
    np.testing.assert_array_equal(constrained([0, 3]), np.arange(1.0, SIZE + 1.0))


def test_repetition_penalty_moves_scores_of_what_is_there_towards_less():
    scores = np.array([2.0, -2.0, 3.0, -3.0, 1.0, 1.0, 1.0, 1.0], np.float32)
    found = constrained([0, 1, 2], scores=scores, repetition_penalty=2.0)
    np.testing.assert_array_equal(found, [1.0, -4.0, 1.5, -3.0, 1.0, 1.0, 1.0, 1.0])


@pytest.mark.parametrize(
    ("tokens", "size", "expected"),
    [
        ([0, 3, 4], 1, {0, 3, 4}),
        ([5, 3, 4, 3], 2, {4}),
        ([3, 3], 2, {3}),
        ([3, 4, 5, 3, 4], 3, {5}),
        ([3, 4, 5, 4], 3, set()),
        ([3, 3], 3, set()),  # one short of a run
        ([3], 2, set()),
    ],
)
def test_no_run_of_tokens_comes_twice(tokens, size, expected):
    assert banned(constrained(tokens, no_repeat_ngram=size)) == expected


def test_banned_sequences():
    sequences = ((3, 4), (6, 7), (3, 3, 5), (0, 3, 2))
    assert banned(constrained([0, 3], banned_sequences=sequences)) == {4, 2}
    assert banned(constrained([0, 3, 3], banned_sequences=sequences)) == {4, 5}
    assert banned(constrained([3], banned_sequences=sequences)) == {4}
    assert banned(constrained([0], banned_sequences=((0, 0, 0),))) == set()  # what follows is not there yet


def test_tokens_of_the_source():
    source = jnp.asarray([[3, 4, 5, logits.FREE]])
    assert banned(constrained([0, 4], source=source, no_source_ngram=1)) == {3, 4, 5}
    assert banned(constrained([0, 4], source=source, no_source_ngram=2)) == {5}
    assert banned(constrained([3, 4], source=source, no_source_ngram=3)) == {5}
    assert banned(constrained([0, 5], source=source, no_source_ngram=2)) == set()
    scores = np.array([1.0, 1.0, 1.0, 2.0, -2.0, 4.0, 1.0, 1.0], np.float32)
    found = constrained([0], scores=scores, source=source, source_reward=2.0)
    np.testing.assert_array_equal(found, [1.0, 1.0, 1.0, 4.0, -1.0, 8.0, 1.0, 1.0])


def test_tokens_that_end_an_output_and_first_tokens():
    assert banned(constrained([0, 3], min_length=2, eos_token=6, more_eos=(2,))) == {2, 6}
    assert banned(constrained([0], banned_first=(2, 5))) == {2, 5}
    assert banned(constrained([0, 3], banned_first=(2, 5))) == set()
    assert banned(constrained([0, 3], banned_first=(2, 5), forced_first=3)) == {2, 5}
    assert banned(constrained([0, 3, 3], banned_first=(2, 5), prefix=jnp.asarray([[3, 3]]))) == {2, 5}


def test_the_score_of_the_end_grows():
    scores = np.array([1.0, -2.0, 3.0, 1.0, 1.0, 1.0, 1.0, 1.0], np.float32)
    settings = dict(eos_token=1, more_eos=(2,), eos_growth=1.5, eos_growth_start=1, scores=scores)
    np.testing.assert_array_equal(constrained([0, 3], **settings), scores)
    np.testing.assert_allclose(constrained([0, 3, 3], **settings)[:3], [1.0, -1.0, 4.5])
    np.testing.assert_allclose(constrained([0, 3, 3, 3], **settings)[:3], [1.0, 0.5, 6.75])
    early = constrained([0, 3, 3], **settings | {"min_length": 4})
    assert banned(early) == {1, 2}


def test_banned_early_and_forced_tokens():
    assert banned(constrained([0, 3], banned=(2, 5))) == {2, 5}
    assert banned(constrained([0, 3], min_length=2, eos_token=6)) == {6}
    assert banned(constrained([0, 3, 3], min_length=2, eos_token=6)) == set()
    assert banned(constrained([0], forced_first=4)) == set(range(SIZE)) - {4}
    assert banned(constrained([0, 3], forced_first=4)) == set()
    assert banned(constrained([0, 3, 3, 3, 3], forced_last=1)) == set(range(SIZE)) - {1}
    assert banned(constrained([0, 3, 3, 3], forced_last=1)) == set()


def test_a_prefix_forces_and_leaves_free():
    prefix = jnp.asarray([[5, logits.FREE, 2]])
    assert banned(constrained([0], prefix=prefix)) == set(range(SIZE)) - {5}
    assert banned(constrained([0, 5], prefix=prefix)) == set()
    assert banned(constrained([0, 5, 1], prefix=prefix)) == set(range(SIZE)) - {2}
    assert banned(constrained([0, 5, 1, 2], prefix=prefix)) == set()


@pytest.mark.parametrize("size", [9, 300, 2 * 128 * 8, 5000])
def test_the_best_are_those_of_a_sort(size):
    scores = jax.random.permutation(jax.random.key(0), 2 * 3 * size).reshape(2, 3, size).astype(jnp.float32)
    for count in (1, 8):
        values, tokens = logits.best(scores, count)
        expected, places = jax.lax.top_k(scores, count)
        np.testing.assert_array_equal(values, expected)
        np.testing.assert_array_equal(tokens, places)


PROBABILITIES = np.array([0.02, 0.3, 0.08, 0.25, 0.05, 0.15, 0.05, 0.1])


@pytest.mark.parametrize(
    ("method", "kept"),
    [
        (Sampling(), range(8)),
        (Sampling(top_k=3), (1, 3, 5)),
        (Sampling(top_p=0.7), (1, 3, 5)),  # 0.3 + 0.25 + 0.15
        (Sampling(top_p=0.71), (1, 3, 5, 7)),
        (Sampling(min_p=0.3), (1, 3, 5, 7)),  # at least 0.09
        (Sampling(top_k=6, top_p=0.5, temperature=0.5), (1, 3)),
        (Sampling(temperature=2.0), range(8)),
        (Sampling(typical_p=0.3), (3, 5)),  # the information of 0.15 and 0.25 is nearest to the entropy, 1.79
        (Sampling(epsilon=0.09), (1, 3, 5, 7)),
        (Sampling(eta=0.3), (1, 3, 5, 7)),  # 0.3 ** 0.5 * exp(-entropy) is 0.09
    ],
)
def test_samples_have_the_distribution_that_the_cuts_leave(method, kept):
    """Frequencies of 20,000 draws within five standard errors of what was asked for."""
    draws = 20_000
    scores = jnp.broadcast_to(jnp.log(PROBABILITIES), (draws, 1, 8)).astype(jnp.float32)
    keys = jax.random.split(jax.random.key(1), (draws, 1))
    found = np.bincount(np.asarray(logits.draw(scores, keys, method)).ravel(), minlength=8) / draws
    expected = np.where(np.isin(np.arange(8), kept), PROBABILITIES ** (1 / method.temperature), 0.0)
    expected /= expected.sum()
    assert (np.abs(found - expected) <= 5 * np.sqrt(expected * (1 - expected) / draws)).all()


@pytest.mark.live
def test_live_cuts_keep_what_the_reference_keeps():
    torch = pytest.importorskip("torch")
    from transformers.generation import logits_process as reference

    scores = (
        np.random.default_rng(0).normal(size=(40, 1, 50)).astype(np.float32) * np.linspace(0.1, 4, 40)[:, None, None]
    )
    scores[:, :, 7] = -np.inf
    scores = scores.astype(np.float32)
    for method, warpers in (
        (Sampling(typical_p=0.4), [reference.TypicalLogitsWarper(0.4)]),
        (Sampling(typical_p=0.95), [reference.TypicalLogitsWarper(0.95)]),
        (Sampling(epsilon=0.02), [reference.EpsilonLogitsWarper(0.02)]),
        (Sampling(eta=0.05), [reference.EtaLogitsWarper(0.05)]),
        (
            Sampling(min_p=0.01, typical_p=0.9, epsilon=0.01, eta=0.03),
            [
                *(reference.MinPLogitsWarper(0.01), reference.TypicalLogitsWarper(0.9)),
                *(reference.EpsilonLogitsWarper(0.01), reference.EtaLogitsWarper(0.03)),
            ],
        ),
    ):
        expected = torch.from_numpy(scores[:, 0])
        for warper in warpers:
            expected = warper(None, expected)
        found = np.asarray(logits._cut(jnp.asarray(scores), method))[:, 0]
        np.testing.assert_array_equal(np.isfinite(found), np.isfinite(expected.numpy()))
