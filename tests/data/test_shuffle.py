"""The shuffle is a bijection for every size, another one for every epoch, and has no visible pattern."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from research.data.shuffle import Permutation, counter_generator


def permuted(size: int, seed: int = 0, epoch: int = 0) -> np.ndarray:
    return Permutation(size, (seed, 1), (epoch, 0))(np.arange(size))


@given(st.integers(1, 5000), st.integers(-(2**63), 2**63), st.integers(0, 2**40))
def test_every_number_comes_once(size: int, seed: int, epoch: int) -> None:
    np.testing.assert_array_equal(np.sort(permuted(size, seed, epoch)), np.arange(size))


@given(st.integers(2**31, 2**40))
def test_sizes_beyond_memory(size: int) -> None:
    numbers = np.arange(size - 1000, size)
    image = Permutation(size, (3, 1), (0, 0))(numbers)
    assert len(set(image.tolist())) == 1000
    assert image.min() >= 0
    assert image.max() < size
    assert image.max() - image.min() > size // 2


def test_a_position_is_found_alone() -> None:
    whole = permuted(1001)
    alone = [int(Permutation(1001, (0, 1), (0, 0))(np.array([place]))[0]) for place in range(0, 1001, 50)]
    assert alone == whole[::50].tolist()


def test_epochs_seeds_and_purposes_differ() -> None:
    orders = [
        Permutation(1000, key, position)(np.arange(1000))
        for key in ((0, 1), (1, 1), (0, 2))
        for position in ((0, 0), (1, 0), (0, 1))
    ]
    for index, order in enumerate(orders):
        for other in orders[:index]:
            assert np.mean(order == other) < 0.02


def test_the_order_stays_what_it_was() -> None:
    """Runs go on from checkpoints of earlier versions: if these change, raise FORMAT in pipeline.py and tokens.py."""
    assert permuted(10).tolist() == [1, 8, 4, 0, 7, 3, 9, 6, 2, 5]
    assert counter_generator((1, 2), (3, 4)).integers(0, 1000, 4).tolist() == [883, 95, 57, 964]


def test_places_are_uniform() -> None:
    """Chi-squared over (number, place) of many small permutations, and over coarse cells of a large one."""
    trials, size = 4000, 6
    counts = np.zeros((size, size))
    for epoch in range(trials):
        counts[np.arange(size), permuted(size, epoch=epoch)] += 1
    expected = trials / size
    assert ((counts - expected) ** 2 / expected).sum() < 25 + 5 * np.sqrt(2 * 25)  # 25 degrees of freedom

    size = 100_000
    cells = np.zeros((20, 20))
    np.add.at(cells, (np.arange(size) * 20 // size, permuted(size) * 20 // size), 1)
    expected = size / 400
    assert ((cells - expected) ** 2 / expected).sum() < 361 + 5 * np.sqrt(2 * 361)


def test_neighbours_are_torn_apart() -> None:
    order = permuted(10_007)
    steps = np.abs(np.diff(order))
    assert abs(steps.mean() / 10_007 - 1 / 3) < 0.01  # of two independent uniform places
    assert abs(np.corrcoef(order[:-1], order[1:])[0, 1]) < 0.05


def test_all_orders_of_three_appear() -> None:
    assert len({tuple(permuted(3, epoch=epoch)) for epoch in range(200)}) == 6


def test_streams_of_random_numbers_do_not_meet() -> None:
    draws = {
        counter_generator((seed, purpose), (epoch, block)).bytes(16)
        for seed in (-1, 0, 1)
        for purpose in (1, 2)
        for epoch in (0, 1)
        for block in (0, 1)
    }
    assert len(draws) == 24
