"""Rules of generation and sampling's cuts, each on scores small enough to say what must come out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research import Generation, Sampling
from research.decode import logits

SIZE = 8


def constrained(tokens: list[int], room: int = 6, prefix=None, scores=None, **settings) -> np.ndarray:
    """The scores of one hypothesis that has written these tokens, the start among them."""
    padded = jnp.asarray([[tokens + [0] * (room - len(tokens))]])
    scores = jnp.arange(1.0, SIZE + 1.0) if scores is None else jnp.asarray(scores)
    generation = Generation(max_length=room - 1, **settings)
    written = jnp.asarray(len(tokens))
    return np.asarray(logits.constrain(scores[None, None], padded, written, generation, prefix))[0, 0]


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
