"""Packing: every example in exactly one row, nothing lost or cut, and the fill that is told is the fill there is."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from research.data.batch import Batch
from research.data.packing.packing import PackedRows, pack
from research.data.tasks.pairs import Pairs, Ragged

PAD, START = 0, 999
EOS = (7, 8)  # what ends a source and a target here


def ragged(sequences: list[list[int]]) -> Ragged:
    offsets = np.cumsum([0, *map(len, sequences)], dtype=np.int64)
    return Ragged(np.array([id for ids in sequences for id in ids], np.uint16), offsets)


def pairs(lengths: list[tuple[int, int]], identity: str) -> Pairs:
    """Examples of the given lengths whose ids are all different but for their ends."""
    count = iter(range(10, 2**16))
    sides = [
        ragged([[next(count) for _ in range(pair[side] - 1)] + [EOS[side]] for pair in lengths]) for side in (0, 1)
    ]
    return Pairs("pairs", *sides, (1, 1), START, identity)


def examples_of(batch: Batch) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """The examples in a packed batch, each field of which must say the same of them."""
    found = []
    rows = [np.asarray(field) for field in batch]
    for source, inputs, target, weights, source_ids, source_places, target_ids, target_places in zip(
        *rows, strict=True
    ):
        for ids, places in ((source_ids, source_places), (target_ids, target_places)):
            real = ids[ids > 0]
            assert (ids[len(real) :] == 0).all()
            assert (np.diff(real) >= 0).all()
            for id in np.unique(real):
                assert places[ids == id].tolist() == list(range((ids == id).sum()))
        assert set(source_ids[source_ids > 0]) == set(target_ids[target_ids > 0])
        assert ((target_ids > 0) == weights).all()
        assert (source[source_ids == 0] == PAD).all()
        assert (target[target_ids == 0] == PAD).all()
        assert (inputs[target_ids == 0] == PAD).all()
        for id in np.unique(target_ids[target_ids > 0]):
            mine = target[target_ids == id].tolist()
            assert inputs[target_ids == id].tolist() == [START, *mine[:-1]]
            found.append((tuple(source[source_ids == id].tolist()), tuple(mine)))
    return found


def whole(packed: PackedRows) -> Batch:
    return packed(np.arange(len(packed)), np.random.default_rng(0))


def expected(made: Pairs) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    sides = [
        [tuple(side.tokens[start:stop].tolist()) for start, stop in zip(side.offsets, side.offsets[1:], strict=False)]
        for side in (made.sources, made.targets)
    ]
    return list(zip(*sides, strict=True))


lengths = st.lists(st.tuples(st.integers(1, 12), st.integers(1, 9)), min_size=1, max_size=60)


@given(lengths)
@settings(deadline=None)
def test_every_example_is_in_one_row_that_holds_it(pair_lengths: list[tuple[int, int]]) -> None:
    sources, targets = np.array(pair_lengths, np.int64).T
    plan = pack(sources, targets, 12, 9)
    assert sorted(plan.members.tolist()) == list(range(len(sources)))
    assert plan.offsets[0] == 0
    assert plan.offsets[-1] == len(sources)
    assert (np.diff(plan.offsets) > 0).all()
    for start, stop in zip(plan.offsets, plan.offsets[1:], strict=False):
        members = plan.members[start:stop]
        assert sources[members].sum() <= 12
        assert targets[members].sum() <= 9
    again = pack(sources, targets, 12, 9)
    assert (again.members == plan.members).all()


@pytest.mark.parametrize("seed", range(3))
def test_rows_hold_the_examples_whole(own_cache: object, seed: int) -> None:
    draw = np.random.default_rng(seed)
    made = pairs([(int(s), int(t)) for s, t in draw.integers(1, 13, (200, 2))], f"whole {seed}")
    packed = PackedRows(made, "digest", 24, 20, False, PAD)
    batch = whole(packed)
    assert sorted(examples_of(batch)) == sorted(expected(made))
    assert (packed.examples, packed.too_long) == (200, 0)
    assert batch.encoder_segment_ids is not None
    assert batch.decoder_segment_ids is not None
    counted = [float((ids == 0).mean()) for ids in (batch.encoder_segment_ids, batch.decoder_segment_ids)]
    assert packed.padding == pytest.approx(counted)
    assert f"({counted[0]:.1%} of the inputs, {counted[1]:.1%} of the targets)" in str(packed)
    assert (
        abs(packed.raw - int((batch.encoder_segment_ids > 0).sum() + batch.decoder_loss_weights.sum()) / packed.rows)
        < 1
    )


def test_any_rows_in_any_order(own_cache: object) -> None:
    packed = PackedRows(pairs([(3, 2), (5, 5), (2, 4), (7, 1)] * 10, "order"), "digest", 8, 6, False, PAD)
    packed.empty = 3
    everything = whole(packed)
    rows = np.array([len(packed) - 1, 0, 4, 4, packed.rows, 1])
    some = packed(rows, np.random.default_rng(1))
    for field, all_rows in zip(some, everything, strict=True):
        assert (field == all_rows[rows]).all()
    assert examples_of(packed(np.arange(packed.rows, len(packed)), np.random.default_rng(0))) == []
    assert everything.decoder_loss_weights is not None
    assert everything.decoder_loss_weights[-3:].sum() == 0


def test_long_examples_are_cut_before_their_end_or_left_out(own_cache: object) -> None:
    made = pairs([(3, 2), (9, 2), (2, 7), (6, 4)], "long")
    packed = PackedRows(made, "digest", 6, 4, False, PAD)

    def shortened(ids: tuple[int, ...], width: int) -> tuple[int, ...]:
        return ids if len(ids) <= width else ids[: width - 1] + ids[-1:]

    as_cut = [(shortened(source, 6), shortened(target, 4)) for source, target in expected(made)]
    assert packed.too_long == 2
    assert sorted(examples_of(whole(packed))) == sorted(as_cut)
    dropped = PackedRows(made, "digest", 6, 4, True, PAD)
    assert (dropped.examples, dropped.too_long) == (2, 2)
    assert sorted(examples_of(whole(dropped))) == sorted([expected(made)[0], expected(made)[3]])


def test_little_is_padding() -> None:
    draw = np.random.default_rng(0)
    sources = np.clip(draw.lognormal(2.6, 0.35, 20_000).astype(np.int64), 3, 64)
    targets = np.clip((sources * draw.lognormal(0, 0.2, 20_000)).astype(np.int64), 3, 64)
    rows = len(pack(sources, targets, 64, 64).offsets) - 1
    assert (sources.sum() + targets.sum()) / (rows * 128) > 0.95


def test_the_first_rows_are_like_all_of_them() -> None:
    rng = np.random.default_rng(0)
    sources = np.clip(rng.lognormal(4.5, 0.6, 6000), 5, 512).astype(np.int64)
    plan = pack(sources, np.clip(sources // 5, 2, 128), 512, 128)
    first = sources[plan.members[: plan.offsets[len(plan.offsets) // 5]]]
    assert abs(first.mean() / sources.mean() - 1) < 0.1
