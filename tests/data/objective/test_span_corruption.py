"""Span corruption: T5's lengths, T5's distribution, and nothing lost between inputs and targets."""

from collections import Counter
from itertools import pairwise, product

import numpy as np
import pytest
from hypothesis import assume, given, reject, settings
from hypothesis import strategies as st
from scipy import stats

from research import Bytes, Lengths, SpanCorruption
from research.config import ConfigError
from research.data.objective import span_corruption
from research.data.tokenizer import Tokenizer, open_tokenizer

BYTES = open_tokenizer(Bytes(sentinels=259))


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def raw_tokens(rows: int, lengths: Lengths, dtype=np.uint16) -> np.ndarray:
    return rng(7).integers(3, BYTES.pieces, (rows, lengths.raw)).astype(dtype)


def merge(inputs: list[int], targets: list[int], tokenizer: Tokenizer) -> list[int]:
    """The raw tokens that a row of inputs and targets stands for."""
    sentinels = set(tokenizer.sentinel_ids.tolist())
    spans: dict[int, list[int]] = {}
    assert inputs[-1] == targets[-1] == tokenizer.eos_id
    for token in targets[:-1]:
        if token in sentinels:
            spans[token] = span = []
        else:
            span.append(token)
    assert [token for token in inputs if token in sentinels] == list(spans)
    return [token for shown in inputs[:-1] for token in spans.get(shown, [shown])]


# --- Lengths ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("inputs", "density", "mean_span", "raw", "targets"),
    [
        (512, 0.15, 3, 568, 114),
        (512, 0.10, 3, 548, 74),
        (512, 0.25, 3, 614, 206),
        (512, 0.50, 3, 766, 512),
        (512, 0.15, 2, 552, 126),
        (512, 0.15, 5, 581, 105),
        (512, 0.15, 10, 591, 99),
        (1024, 0.15, 3, 1137, 229),
        (1024, 0.15, 20, 1193, 189),
        (256, 0.15, 3, 284, 58),
        (128, 0.15, 3, 141, 29),
    ],
)
def test_lengths_are_t5s(inputs, density, mean_span, raw, targets):
    found = SpanCorruption(density, float(mean_span)).lengths(inputs)
    assert (found.raw, found.inputs, found.targets) == (raw, inputs, targets)


def test_the_baseline_has_85_noise_tokens_in_28_spans():
    assert SpanCorruption().lengths(512) == Lengths(568, 512, 114, noise_tokens=85, spans=28)


def t5_lengths(input_length: int, density: float, mean_span: float) -> tuple[int, int]:
    """T5's random_spans_helper, told step by step: (raw, targets)."""

    def inputs_and_targets(raw: int) -> tuple[int, int]:
        noise = round(raw * density)
        spans = round(noise / mean_span)
        return raw - noise + spans + 1, noise + spans + 1

    raw = input_length - 1
    while inputs_and_targets(raw + 1)[0] <= input_length:
        raw += 1
    inputs, targets = inputs_and_targets(raw)
    return (raw - 1, targets - 1) if density == 0.5 and targets > inputs else (raw, targets)


def test_rounding_is_that_of_t5_s_helper_and_not_of_its_mask():
    """In float32, 28.5 noise tokens are more: what the docstring says of T5."""
    found = SpanCorruption(0.15, 3.0).counts(190)
    assert (found.noise_tokens, found.spans) == (28, 9)
    noise = np.round(np.float32(190) * np.float32(0.15))
    assert (noise, np.round(noise / np.float32(3))) == (29, 10)


densities = st.sampled_from([0.1, 0.15, 0.25, 0.5]) | st.floats(0.02, 0.95)
mean_spans = st.sampled_from([1.0, 2.0, 3.0, 20.0]) | st.floats(1, 20)


@settings(deadline=None, max_examples=300)
@given(st.integers(300, 700), densities, mean_spans)
def test_lengths_are_those_of_the_stepwise_search(input_length, density, mean_span):
    try:
        found = SpanCorruption(density, mean_span).lengths(input_length)
    except ConfigError:
        reject()
    raw, targets = t5_lengths(input_length, density, mean_span)
    assume(round(round(raw * density) / mean_span) > 0)  # the helper may count none; the mask makes one
    assert found.raw == raw
    lost = density == 0.5 and found.inputs == input_length - 1  # the span that went with the raw token
    assert found.inputs == input_length - lost
    assert found.targets == targets - lost


def test_a_density_of_one_half_makes_targets_no_longer_than_inputs():
    for input_length in range(3, 600):
        found = SpanCorruption(0.5, 3.0).lengths(input_length)
        assert found.targets <= found.inputs
        assert found.inputs in (input_length, input_length - 1)


def test_lengths_that_nothing_solves_are_refused():
    with pytest.raises(ConfigError, match=r"noise spans a row but keeps .* tokens .* lower noise_density \(0.9\)"):
        SpanCorruption(0.9, 1.0).lengths(512)
    with pytest.raises(ConfigError, match=r"input_length is 2: .* at least 3"):
        SpanCorruption().lengths(2)


def test_the_mean_span_length_that_a_refusal_names_is_enough():
    with pytest.raises(ConfigError) as refusal:
        SpanCorruption(0.9, 1.0).lengths(512)
    named = float(str(refusal.value).split("about ")[1].split(" or more")[0])
    assert SpanCorruption(0.9, named * 1.05).lengths(512).inputs == 512


# --- Corruption -------------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=200)
@given(st.integers(3, 250), densities, mean_spans, st.integers(1, 5), st.integers(0, 2**32 - 1))
def test_merging_inputs_and_targets_restores_the_raw_tokens(input_length, density, mean_span, rows, seed):
    config = SpanCorruption(density, mean_span)
    try:
        lengths = config.lengths(input_length)
        config.check(lengths, BYTES)
    except ConfigError:
        reject()
    tokens = raw_tokens(rows, lengths)
    batch = config.corrupt(tokens, lengths, BYTES, rng(seed))
    assert batch.encoder_input_tokens.shape == (rows, lengths.inputs)
    assert batch.decoder_target_tokens.shape == (rows, lengths.targets)
    for raw, inputs, targets in zip(tokens, batch.encoder_input_tokens, batch.decoder_target_tokens, strict=True):
        assert merge(inputs.tolist(), targets.tolist(), BYTES) == raw.tolist()


def baseline(rows: int = 256, seed: int = 0):
    lengths = SpanCorruption().lengths(512)
    tokens = raw_tokens(rows, lengths)
    return tokens, lengths, SpanCorruption().corrupt(tokens, lengths, BYTES, rng(seed))


def test_every_row_has_exactly_the_counted_noise_tokens_and_spans():
    _, lengths, batch = baseline()
    sentinels = BYTES.sentinel_ids[: lengths.spans]
    for tokens in (batch.encoder_input_tokens, batch.decoder_target_tokens):
        is_sentinel = np.isin(tokens, BYTES.sentinel_ids)
        assert (is_sentinel.sum(axis=1) == lengths.spans).all()
        np.testing.assert_array_equal(tokens[is_sentinel].reshape(-1, lengths.spans), np.tile(sentinels, (256, 1)))
    assert (np.diff(sentinels.astype(int)) == -1).all()
    assert sentinels[0] == BYTES.size - 1
    assert lengths.targets - 1 - lengths.spans == lengths.noise_tokens


def test_rows_start_with_kept_tokens_and_end_with_noise():
    lengths = SpanCorruption().lengths(512)
    starts, is_noise = span_corruption.random_spans(500, lengths, rng())
    assert not is_noise[:, 0].any()
    assert is_noise[:, -1].all()
    assert (is_noise.sum(axis=1) == lengths.noise_tokens).all()
    assert (np.diff(is_noise.astype(np.int8), axis=1) == 1).sum(axis=1).tolist() == [lengths.spans] * 500
    np.testing.assert_array_equal(starts[:, 0], np.arange(500) * lengths.raw)


def test_targets_begin_with_the_first_sentinel_and_close_with_none():
    tokens, _, batch = baseline()
    assert (batch.decoder_target_tokens[:, 0] == BYTES.size - 1).all()
    np.testing.assert_array_equal(batch.decoder_target_tokens[:, -2], tokens[:, -1])
    assert (batch.encoder_input_tokens[:, 0] == tokens[:, 0]).all()


def test_there_is_no_padding_and_the_batch_says_so():
    _, _, batch = baseline()
    assert (batch.encoder_input_tokens != BYTES.pad_id).all()
    assert (batch.decoder_target_tokens != BYTES.pad_id).all()
    assert batch[3:] == (None,) * 5


def test_the_decoder_reads_the_targets_one_step_late():
    _, _, batch = baseline()
    assert (batch.decoder_input_tokens[:, 0] == BYTES.pad_id).all()
    np.testing.assert_array_equal(batch.decoder_input_tokens[:, 1:], batch.decoder_target_tokens[:, :-1])


def test_a_hand_worked_row():
    tokens = np.array([[11, 12, 13, 14, 15, 16, 17]], np.uint16)
    is_noise = np.array([[False, False, True, False, False, True, True]])
    starts = np.array([[0, 2, 3, 5]])
    sentinels = np.array([99, 98], np.uint32)
    inputs = span_corruption.hide(tokens, is_noise, starts[:, 1::2], sentinels, eos_id=1)
    targets = span_corruption.hide(tokens, ~is_noise, starts[:, 0::2], sentinels, eos_id=1)
    assert inputs.tolist() == [[11, 12, 99, 14, 15, 98, 1]]
    assert targets.tolist() == [[99, 13, 98, 16, 17, 1]]


def test_ids_of_any_unsigned_width_give_the_same_int32_batch():
    tokens, lengths, narrow = baseline()
    wide = SpanCorruption().corrupt(tokens.astype(np.uint32), lengths, BYTES, rng())
    for left, right in zip(narrow[:3], wide[:3], strict=True):
        assert left.dtype == right.dtype == np.int32
        np.testing.assert_array_equal(left, right)


def test_the_generator_decides_everything_and_rows_differ():
    _, lengths, first = baseline(seed=1)
    again, other = baseline(seed=1)[2], baseline(seed=2)[2]
    np.testing.assert_array_equal(first.encoder_input_tokens, again.encoder_input_tokens)
    assert (first.encoder_input_tokens != other.encoder_input_tokens).any()
    _, is_noise = span_corruption.random_spans(256, lengths, rng())
    assert len(np.unique(is_noise, axis=0)) == 256


def test_the_noise_stays_what_it_was():
    """Runs go on from checkpoints of earlier versions: where this changes, raise FORMAT in data/pipeline.py."""
    config = SpanCorruption(0.3, 2.0)
    lengths = config.lengths(12)
    tokens = np.arange(10, 10 + 2 * lengths.raw, dtype=np.uint16).reshape(2, lengths.raw)
    batch = config.corrupt(tokens, lengths, open_tokenizer(Bytes(sentinels=100)), rng(0))
    assert batch.decoder_target_tokens.tolist() == [[358, 16, 357, 20, 21, 22, 1], [358, 26, 357, 33, 34, 35, 1]]


def test_without_sentinels_of_their_own_the_highest_bytes_serve():
    tokenizer = open_tokenizer(Bytes(sentinels=0))
    config = SpanCorruption(0.15, 20.0)
    lengths = config.lengths(1024)
    tokens = rng().integers(3, 200, (4, lengths.raw)).astype(np.uint16)
    batch = config.corrupt(tokens, lengths, tokenizer, rng())
    inputs = batch.encoder_input_tokens
    assert inputs[inputs >= 200].reshape(4, -1).tolist() == [list(range(258, 258 - lengths.spans, -1))] * 4


def test_running_out_of_sentinels_is_refused_before_anything_is_drawn():
    few = open_tokenizer(Bytes(sentinels=27))
    lengths = SpanCorruption().lengths(512)
    generator = rng()
    before = generator.bit_generator.state
    with pytest.raises(ConfigError, match=r"28 noise spans .* has 27 sentinels: give it 28"):
        SpanCorruption().corrupt(raw_tokens(2, lengths), lengths, few, generator)
    assert generator.bit_generator.state == before


def test_tokens_too_narrow_for_the_sentinels_are_refused():
    lengths = SpanCorruption().lengths(512)
    with pytest.raises(TypeError, match="uint8 tokens cannot hold the sentinels"):
        SpanCorruption().corrupt(raw_tokens(2, lengths, np.uint8), lengths, BYTES, rng())


# --- Distribution -----------------------------------------------------------------------------------------------------


def t5_noise_mask(length: int, noise_tokens: int, spans: int, generator: np.random.Generator) -> np.ndarray:
    """T5's random_spans_noise_mask for one row, told step by step."""

    def segment_lengths(items: int) -> np.ndarray:
        opens = generator.permutation(np.arange(items - 1) < spans - 1)
        segment = np.cumsum(np.concatenate([[False], opens]))
        return np.bincount(segment)

    noise, kept = segment_lengths(noise_tokens), segment_lengths(length - noise_tokens)
    starts = np.cumsum(np.stack([kept, noise], axis=1).reshape(-1))[:-1]
    indicator = np.zeros(length, int)
    indicator[starts] = 1
    return np.cumsum(indicator) % 2 == 1


def run_lengths(mask: np.ndarray) -> np.ndarray:
    """Lengths of the alternating runs of one row."""
    return np.diff(np.flatnonzero(np.diff(mask.astype(np.int8), prepend=2, append=2)))


def homogeneous(ours: np.ndarray, theirs: np.ndarray) -> float:
    """p of the chi-square test that two samples of counts come from one distribution; rare values share a cell."""
    top = int(np.quantile(np.concatenate([ours, theirs]), 0.99))
    table = np.stack([np.bincount(np.minimum(sample, top), minlength=top + 1) for sample in (ours, theirs)])
    return stats.chi2_contingency(table[:, table.sum(axis=0) > 0]).pvalue


@pytest.fixture(scope="module")
def segments() -> tuple[np.ndarray, np.ndarray]:
    """Segment lengths [rows, 2 * spans] of T5's baseline rows, ours and brute force."""
    lengths, rows = SpanCorruption().lengths(512), 4000
    ours = span_corruption.random_spans(rows, lengths, rng(3))[1]
    generator = rng(4)
    theirs = [t5_noise_mask(lengths.raw, lengths.noise_tokens, lengths.spans, generator) for _ in range(rows)]
    return np.stack([run_lengths(row) for row in ours]), np.stack([run_lengths(row) for row in theirs])


@pytest.mark.parametrize("segment", [0, 1, 2, 27, 28, 54, 55])
def test_segment_lengths_are_distributed_as_by_brute_force(segments, segment):
    ours, theirs = segments
    assert homogeneous(ours[:, segment], theirs[:, segment]) > 1e-3


def test_all_span_lengths_together_are_distributed_as_by_brute_force(segments):
    ours, theirs = segments
    assert homogeneous(ours[::8, 1::2].ravel(), theirs[::8, 1::2].ravel()) > 1e-3
    assert homogeneous(ours[::8, 0::2].ravel(), theirs[::8, 0::2].ravel()) > 1e-3


def test_noise_is_as_likely_at_every_position_as_by_brute_force(segments):
    ours, theirs = (np.cumsum(sample, axis=1)[:, 26] for sample in segments)  # where the 14th noise span begins
    assert homogeneous(ours // 8, theirs // 8) > 1e-3


def all_compositions(total: int, parts: int) -> list[tuple[int, ...]]:
    return [sizes for sizes in product(range(1, total + 1), repeat=parts) if sum(sizes) == total]


@pytest.mark.parametrize(("total", "parts"), [(7, 3), (6, 5), (5, 2), (8, 4)])
def test_every_composition_is_equally_likely(total, parts):
    expected = all_compositions(total, parts)
    drawn = span_corruption.random_compositions(np.full(20_000, total), parts, rng(5))
    counted = Counter(map(tuple, drawn.tolist()))
    assert set(counted) == set(expected)
    assert stats.chisquare([counted[sizes] for sizes in expected]).pvalue > 1e-3


def test_every_noise_mask_of_a_tiny_row_is_equally_likely():
    lengths = Lengths(raw=9, inputs=8, targets=7, noise_tokens=4, spans=2)
    _, is_noise = span_corruption.random_spans(30_000, lengths, rng(6))
    counted = Counter(tuple(run_lengths(row)) for row in is_noise)
    expected = [(k, n, 5 - k, 4 - n) for k, n in product(range(1, 5), range(1, 4))]
    assert set(counted) == set(expected)
    assert stats.chisquare([counted[mask] for mask in expected]).pvalue > 1e-3


def test_compositions_with_one_part_or_only_ones():
    assert span_corruption.random_compositions(np.array([4, 9]), 1, rng()).tolist() == [[4], [9]]
    assert span_corruption.random_compositions(np.array([3, 3]), 3, rng()).tolist() == [[1, 1, 1], [1, 1, 1]]


def test_rows_are_independent():
    drawn = span_corruption.random_compositions(np.full(40_000, 4), 2, rng(8))[:, 0]
    table = np.zeros((4, 4), int)
    for left, right in pairwise(drawn.tolist()):
        table[left, right] += 1
    assert stats.chi2_contingency(table[1:, 1:]).pvalue > 1e-3
