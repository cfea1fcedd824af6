"""Where rows of several corpora stand: exact counts, no drift, and every row found alone."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from research import Mixing
from research.data import mixing

Weights = st.lists(st.integers(1, 50), min_size=1, max_size=6).map(tuple)


@given(Weights)
def test_an_epoch_of_proportional_mixing_has_each_row_of_each_corpus_once(weights: tuple[int, ...]) -> None:
    total = sum(weights)
    for start in (0, total, 7 * total):
        corpus, ordinal = mixing.locate(np.arange(start, start + total), weights)
        found = sorted((c, o % weights[c]) for c, o in zip(corpus.tolist(), ordinal.tolist(), strict=True))
        assert found == [(c, row) for c, weight in enumerate(weights) for row in range(weight)]


@given(Weights)
def test_ordinals_count_on_from_nought(weights: tuple[int, ...]) -> None:
    corpus, ordinal = mixing.locate(np.arange(500), weights)
    for index in range(len(weights)):
        given_rows = ordinal[corpus == index]
        np.testing.assert_array_equal(given_rows, np.arange(len(given_rows)))


@example((2**28, 3, 2**27 + 1), 2**40 + 1)
@given(st.lists(st.integers(1, 2**28), min_size=1, max_size=6).map(tuple), st.integers(0, 2**40))
def test_counts_follow_the_weights_at_any_position(weights: tuple[int, ...], position: int) -> None:
    """Ordinals near a position are the counts there; Python's integers check them without overflow."""
    corpus, ordinal = mixing.locate(np.arange(position, position + 64), weights)
    assert corpus.min() >= 0
    for place, index, count in zip(range(position, position + 64), corpus.tolist(), ordinal.tolist(), strict=True):
        assert abs(count - place * weights[index] / sum(weights)) <= len(weights)


def test_corpora_are_interleaved_not_in_runs() -> None:
    corpus, _ = mixing.locate(np.arange(1200), (300, 100))
    for start in range(0, 1200, 100):
        assert np.sum(corpus[start : start + 100] == 1) == 25


def test_one_corpus_is_the_identity() -> None:
    positions = np.array([0, 5, 2**40])
    corpus, ordinal = mixing.locate(positions, (7,))
    assert corpus.tolist() == [0, 0, 0]
    assert ordinal.tolist() == positions.tolist()


def test_rates() -> None:
    assert mixing.weights((300, 100), Mixing()) == (300, 100)
    assert mixing.weights((300, 100), Mixing(limit=150)) == (150, 100)
    first, second = mixing.weights((400, 100), Mixing(temperature=2.0))
    assert first / second == pytest.approx(2)
    first, second = mixing.weights((10**6, 100), Mixing(temperature=2.0, limit=400))
    assert first / second == pytest.approx(2)
    first, second = mixing.weights((10**12, 10**11), Mixing())
    assert first / second == pytest.approx(10)
    assert first + second < mixing.LARGEST_TOTAL
    assert min(mixing.weights((10**12, 1), Mixing())) == 1
    equal = mixing.weights((10**6, 10), Mixing(temperature=1e6))
    assert equal[0] / equal[1] == pytest.approx(1, abs=1e-4)
