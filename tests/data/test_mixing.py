"""Where rows of several corpora stand: exact counts, no drift, and every row found alone."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from research import Mixing
from research.config import ConfigError
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


def test_rates_in_place_of_sizes() -> None:
    halves = mixing.weights((300, 100, 7), Mixing(rates=(1.0, 0.5, 0.5)))
    assert np.array(halves) / sum(halves) == pytest.approx([0.5, 0.25, 0.25])
    assert mixing.weights((1, 2, 3), Mixing(rates=(1.0, 0.5, 0.5))) == halves
    first, second = mixing.weights((5, 5), Mixing(2.0, limit=400, rates=(1e6, 100.0)))
    assert first / second == pytest.approx(2)
    first, second = mixing.row_weights((400, 100), (100, 50), Mixing(rates=(1.0, 1.0)))
    assert first / second == pytest.approx((100 / 400) / (50 / 100))
    with pytest.raises(ConfigError, match=r"data\.mixing\.rates has 1 numbers: it must have 2, one for each corpus or"):
        mixing.weights((5, 5), Mixing(rates=(1.0,)))
    with pytest.raises(ConfigError, match=r"mixing\.rates is \(1\.0, 0\.0\): each must be above 0 and finite"):
        Mixing(rates=(1.0, 0.0))


def test_runs_that_are_older_than_rates_keep_their_fingerprint() -> None:
    assert repr(Mixing()) == "Mixing(temperature=1.0, limit=None)"
    assert repr(Mixing(2.0, 3)) == "Mixing(temperature=2.0, limit=3)"
    assert repr(Mixing(rates=(1.0, 2.5))) == "Mixing(temperature=1.0, limit=None, rates=(1.0, 2.5))"
    assert eval(repr(Mixing(2.0, 3, (4.0,)))) == Mixing(2.0, 3, (4.0,))


GOLDENS: dict[str, Any] = json.loads((Path(__file__).parents[1] / "goldens" / "more_tasks.json").read_text())


@pytest.mark.parametrize("case", GOLDENS["mixing_rate_num_examples"])
def test_rates_are_seqio_s(case: dict[str, Any]) -> None:
    """Of examples: mixing_rate_num_examples, with an artificial limit and temperatures, of which mT5's is 1 / 0.3."""
    limit, temperature, scale = case["maximum"], case["temperature"], case["scale"]
    counts, expected = tuple(case["examples"]), np.array(case["rates"])
    given = tuple(count * scale for count in counts) if scale != 1 else ()
    weights = np.array(mixing.weights(counts, Mixing(temperature, limit, given)))
    assert weights / weights.sum() == pytest.approx(expected / expected.sum(), abs=1e-8)
