"""T5's other objectives: nothing lost, T5's rates, and rows for which there is no room as rare as is said."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from research import (
    BERTStyle,
    Bytes,
    Deshuffling,
    DropTokens,
    LanguageModelling,
    Lengths,
    MASSStyle,
    Objective,
    PrefixLM,
    ReplaceSpans,
)
from research.config import ConfigError
from research.data.batch import Batch
from research.data.objective import iid, replace_spans
from research.data.tokenizer import Tokenizer, open_tokenizer

BYTES = open_tokenizer(Bytes(sentinels=259))
MASK = int(BYTES.sentinel_ids[0])
EVERY = [
    ReplaceSpans(),
    ReplaceSpans(0.5),
    DropTokens(),
    BERTStyle(),
    BERTStyle(0.3, 0.5),
    MASSStyle(),
    Deshuffling(),
    PrefixLM(),
    PrefixLM(0.25),
    LanguageModelling(),
]


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def made(config: Objective, rows: int = 50, input_length: int = 64, tokenizer: Tokenizer = BYTES, seed: int = 0):
    frame = tokenizer.special_tokens(None)
    lengths = config.lengths(input_length, sum(map(len, frame)))
    config.check(lengths, tokenizer)
    tokens = rng(7).choice(tokenizer.text_ids, (rows, lengths.raw)).astype(np.uint16)
    batch = config.corrupt(tokens, lengths, tokenizer, rng(seed))
    assert batch.widths == (lengths.inputs, lengths.targets)
    return tokens, batch


def texts(tokens: np.ndarray, real: np.ndarray | None, tokenizer: Tokenizer = BYTES) -> list[list[int]]:
    """Rows without special tokens and padding."""
    before, after = tokenizer.special_tokens(None)
    ends = [tokens.shape[1]] * len(tokens) if real is None else (real > 0).sum(axis=1).tolist()
    for row, end in zip(tokens.tolist(), ends, strict=True):
        assert row[: len(before)] == before
        assert row[end - len(after) : end] == after
        assert set(row[end:]) <= {tokenizer.pad_id}
    return [row[len(before) : end - len(after)] for row, end in zip(tokens.tolist(), ends, strict=True)]


def sides(batch: Batch, tokenizer: Tokenizer = BYTES) -> list[tuple[list[int], list[int]]]:
    inputs = texts(batch.encoder_input_tokens, batch.encoder_segment_ids, tokenizer)
    return list(zip(inputs, texts(batch.decoder_target_tokens, batch.decoder_loss_weights, tokenizer), strict=True))


# --- Every one of them ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", EVERY, ids=str)
@pytest.mark.parametrize("family", ["t5", "bart", "byt5"])
def test_frames_padding_and_the_decoders_input(families, family, config):
    tokenizer = families[family]
    if isinstance(config, ReplaceSpans) and family == "bart":
        with pytest.raises(ConfigError, match="the tokenizer has 0"):
            made(config, tokenizer=tokenizer)
        return
    _, batch = made(config, tokenizer=tokenizer)
    assert sides(batch, tokenizer)
    assert (batch.decoder_input_tokens[:, 0] == tokenizer.start_id()).all()
    real = batch.decoder_loss_weights
    counted = np.ones(batch.decoder_target_tokens.shape, bool) if real is None else real > 0
    np.testing.assert_array_equal(
        batch.decoder_input_tokens[:, 1:][counted[:, 1:]], batch.decoder_target_tokens[:, :-1][counted[:, 1:]]
    )
    assert (batch.decoder_input_tokens[~counted] == tokenizer.pad_id).all()
    if real is not None:
        np.testing.assert_array_equal(batch.decoder_segment_ids, real)
        assert (np.diff(real, axis=1) <= 0).all()
    assert all(field is None or field.dtype in (np.int32, np.float32) for field in batch)


@pytest.mark.parametrize("config", EVERY, ids=str)
def test_the_generator_decides_everything(config):
    first, again, other = (made(config, seed=seed)[1] for seed in (1, 1, 2))
    for left, right in zip(first, again, strict=True):
        np.testing.assert_array_equal(left, right)
    same = (first.encoder_input_tokens == other.encoder_input_tokens).all()
    assert same == isinstance(config, LanguageModelling)


@settings(deadline=None, max_examples=200)
@given(
    config=st.one_of(
        st.builds(ReplaceSpans, st.floats(0.02, 0.98)), st.builds(DropTokens, st.floats(0.02, 0.98)),
        st.builds(BERTStyle, st.floats(0.02, 0.98), st.just(0.0)), st.builds(PrefixLM, st.floats(0.01, 0.5)),
        st.just(Deshuffling()), st.just(LanguageModelling()),
    ),
    input_length=st.integers(2, 150),
    seed=st.integers(0, 2**32 - 1),
)  # fmt: skip
def test_what_is_removed_is_what_the_target_accounts_for(config, input_length, seed):
    tokens, batch = made(config, 3, input_length, seed=seed)
    for raw, (inputs, targets) in zip(tokens.tolist(), sides(batch), strict=True):
        match config:
            case ReplaceSpans():
                assert merged(inputs, targets) == raw
            case DropTokens():
                assert in_order(inputs, raw)
                assert in_order(targets, raw)
                assert Counter(inputs) + Counter(targets) == Counter(raw)
            case BERTStyle():
                assert targets == raw
                assert all(shown in (token, MASK) for shown, token in zip(inputs, raw, strict=True))
            case PrefixLM():
                assert inputs + targets == raw
                assert inputs
                assert targets
            case Deshuffling():
                assert targets == raw
                assert Counter(inputs) == Counter(raw)
            case LanguageModelling():
                assert (inputs, targets) == ([], raw)


def in_order(part: list[int], raw: list[int]) -> bool:
    rest = iter(raw)
    return all(token in rest for token in part)


def merged(inputs: list[int], targets: list[int]) -> list[int]:
    """The raw row, noise and kept runs taken in turns from the targets and the inputs."""
    sentinels = BYTES.sentinel_ids.tolist()
    kept, noise = runs(inputs, sentinels), runs(targets, sentinels)
    starts_with_noise = inputs[0] == sentinels[0]
    first, second = (noise, kept) if starts_with_noise else (kept, noise)
    raw = []
    for place in range(max(len(first), len(second))):
        raw += [token for side in (first, second) if place < len(side) for token in side[place]]
    return raw


def runs(tokens: list[int], sentinels: list[int]) -> list[list[int]]:
    """What stands between sentinels, which must come in their order."""
    parts: list[list[int]] = [[]]
    for token in tokens:
        if token in sentinels:
            assert token == sentinels[len(parts) - 1]
            parts.append([])
        else:
            parts[-1].append(token)
    return [part for part in parts if part]


# --- Rates ------------------------------------------------------------------------------------------------------------


def test_each_token_is_noise_by_a_draw_of_its_own():
    for config in (MASSStyle(0.15), BERTStyle(0.15, 0.0)):
        _, batch = made(config, 4000)
        is_noise = batch.encoder_input_tokens[:, :-1] == MASK
        raw = is_noise.shape[1]
        assert is_noise.mean() == pytest.approx(0.15, abs=0.003)
        np.testing.assert_allclose(is_noise.mean(axis=0), 0.15, atol=0.03)
        counts = np.bincount(is_noise.sum(axis=1), minlength=raw + 1)
        expected = stats.binom.pmf(np.arange(raw + 1), raw, 0.15) * len(is_noise)
        likely = expected > 5
        found, wanted = counts[likely], expected[likely]
        assert stats.chisquare(found, wanted * found.sum() / wanted.sum()).pvalue > 1e-3
        pairs = stats.contingency.crosstab(is_noise[:, :-1].ravel(), is_noise[:, 1:].ravel()).count
        assert stats.chi2_contingency(pairs).pvalue > 1e-3


def test_bert_style_noise_is_nine_masks_to_a_random_token_of_text():
    tokens, batch = made(BERTStyle(0.5, 0.1), 2000)
    shown = batch.encoder_input_tokens[:, :-1]
    assert (shown == MASK).mean() == pytest.approx(0.45, abs=0.005)
    new = shown[(shown != MASK) & (shown != tokens)]
    assert len(new) / shown.size == pytest.approx(0.05 * (1 - 1 / len(BYTES.text_ids)), abs=0.003)
    assert set(new.tolist()) == set(BYTES.text_ids.tolist())


def test_deshuffled_rows_are_in_any_order():
    tokens = np.tile(np.arange(10, 13, dtype=np.uint16), (12_000, 1))
    batch = Deshuffling().corrupt(tokens, Lengths(3, 4, 4), BYTES, rng())
    found = Counter(map(tuple, batch.encoder_input_tokens[:, :3].tolist()))
    assert len(found) == 6
    assert stats.chisquare(list(found.values())).pvalue > 1e-3


@pytest.mark.parametrize(("density", "shortest"), [(0.5, 1), (0.25, 32), (0.1, 50)])
def test_prefixes_end_anywhere_in_their_range(density, shortest):
    _, batch = made(PrefixLM(density), 20_000)
    counts = Counter(len(inputs) for inputs, _ in sides(batch))
    assert sorted(counts) == list(range(shortest, 64))
    assert stats.chisquare(list(counts.values())).pvalue > 1e-3
    written = np.mean([64 - length for length in counts.elements()])
    assert written == pytest.approx((1 + 64 - shortest) / 2, rel=0.02)


@pytest.mark.parametrize(
    ("config", "lengths"),
    [
        (PrefixLM(0.5), (512, 512, 512)),
        (PrefixLM(0.25), (512, 512, 257)),
        (LanguageModelling(), (511, 1, 512)),
        (BERTStyle(), (511, 512, 512)),
        (Deshuffling(), (511, 512, 512)),
        (DropTokens(0.15), (511, 479, 130)),
        (ReplaceSpans(0.10), (511, 512, 178)),
        (ReplaceSpans(0.15), (511, 512, 230)),
        (ReplaceSpans(0.25), (511, 509, 315)),
        (ReplaceSpans(0.50), (511, 452, 452)),
    ],
    ids=str,
)
def test_lengths_at_512(config, lengths):
    found = config.lengths(512)
    assert (found.raw, found.inputs, found.targets) == lengths


# --- Rows for which there is no room ----------------------------------------------------------------------------------


@pytest.mark.parametrize("gain", [iid.starts_span, iid.is_kept, iid.is_shown])
@pytest.mark.parametrize("density", [0.15, 0.7])
def test_tails_are_those_of_all_rows_there_are(gain, density):
    length = 8
    masks = np.array([list(np.binary_repr(number, length)) for number in range(2**length)]) == "1"
    likely = np.where(masks, density, 1 - density).prod(axis=1)
    counts = [sum(gain(before, now) for before, now in zip([None, *row], row, strict=False)) for row in masks.tolist()]
    expected = [sum(likely[np.array(counts) > count]) for count in range(length + 1)]
    np.testing.assert_allclose(iid.tail(length, density, gain), expected, atol=1e-12)


def test_tails_keep_their_precision_where_they_are_small():
    found = iid.tail(511, 0.15, iid.is_kept)
    np.testing.assert_allclose(found[400:500], stats.binom.sf(np.arange(400, 500), 511, 0.85), rtol=1e-6)
    room = iid.most(511, 0.15, iid.is_kept)
    assert stats.binom.sf(room, 511, 0.85) <= 1e-9 < stats.binom.sf(room - 1, 511, 0.85)


def test_too_few_sentinels_are_refused_by_their_probability():
    hundred = open_tokenizer(Bytes(sentinels=100))
    lengths = ReplaceSpans().lengths(512)
    ReplaceSpans().check(lengths, hundred)
    assert iid.tail(511, 0.15, iid.starts_span)[100] == pytest.approx(1e-7, rel=10)
    for density in (0.25, 0.5):
        with pytest.raises(ConfigError, match=r"needs up to 1\d\d sentinels .* has 100: give it 1\d\d") as refusal:
            ReplaceSpans(density).check(ReplaceSpans(density).lengths(512), hundred)
        needed = int(str(refusal.value).split("give it ")[1].split(",")[0])
        enough = open_tokenizer(Bytes(sentinels=needed))
        ReplaceSpans(density).check(ReplaceSpans(density).lengths(512), enough)


def test_rows_that_do_not_fit_are_drawn_anew():
    tokens = rng(7).choice(BYTES.text_ids, (500, 63)).astype(np.uint16)
    batch = DropTokens(0.5).corrupt(tokens, Lengths(63, 34, 36), BYTES, rng())
    lengths = Counter(len(inputs) for inputs, _ in sides(batch))
    assert set(lengths) <= set(range(28, 34))  # 35 dropped at most, 33 kept at most
    few = open_tokenizer(Bytes(sentinels=8))
    batch = ReplaceSpans(0.15).corrupt(tokens, Lengths(63, 64, 64), few, rng())
    spans = np.isin(batch.encoder_input_tokens, few.sentinel_ids).sum(axis=1)
    assert spans.max() == 8
    for raw, (inputs, targets) in zip(tokens[:50].tolist(), sides(batch)[:50], strict=True):
        assert len(raw) >= len(inputs) - spans.max()
        assert targets


# --- T5's own -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("noise", "inputs", "targets"),
    [
        ("..##.#.", "ab0e1g", "0cd1f2"),
        ("#..#", "0bc1", "a0d"),
        (".###", "a0", "0bcd"),
        ("####", "0", "abcd"),
        ("....", "abcd", "0"),
    ],
)
def test_spans_are_replaced_as_by_t5(noise, inputs, targets):
    """noise_span_to_unique_sentinel and nonnoise_span_to_unique_sentinel, by hand; digits stand for sentinels."""
    is_noise = np.array([[mark == "#" for mark in noise]])
    tokens = np.array([[ord(letter) for letter in "abcdefg"[: len(noise)]]], np.uint16)
    sentinels = np.array([ord(digit) for digit in "0123"], np.uint32)
    shown = ["".join(map(chr, replace_spans.hide(tokens, mask, sentinels).tokens)) for mask in (is_noise, ~is_noise)]
    assert shown == [inputs, targets]


def test_the_noise_stays_what_it_was():
    """Runs go on from checkpoints of earlier versions: where this changes, raise FORMAT in data/pipeline.py."""
    tokens = np.array([BYTES.encode("Thank you for inviting me")], np.uint16)

    def shown(config: Objective) -> tuple[str, str]:
        raw = config.lengths(24).raw
        batch = config.corrupt(tokens[:, :raw], config.lengths(24), BYTES, rng(3))
        ((inputs, targets),) = sides(batch)
        return tuple(BYTES.decode(side).replace("extra_id_", "") for side in (inputs, targets))

    assert {type(config).__name__: shown(config) for config in GOLDEN_OF} == GOLDEN


GOLDEN_OF = [ReplaceSpans(0.3), DropTokens(0.3), BERTStyle(0.3, 0.5), MASSStyle(0.3), Deshuffling(), PrefixLM()]
GOLDEN = {
    "ReplaceSpans": ("T<0> yo<1>for <2>vi<3>ng ", "<0>hank<1>u <2>in<3>ti<4>"),
    "DropTokens": ("T yofor ving ", "hanku inti"),
    "BERTStyle": ("T<0>EN<0> yo<0>�for <0><0>vi<0><0>ng ", "Thank you for inviting "),
    "MASSStyle": ("T<0><0><0><0> yo<0><0>for <0><0>vi<0><0>ng ", "Thank you for inviting "),
    "Deshuffling": (" irtTnnnu yhfao viko gi", "Thank you for inviting "),
    "PrefixLM": ("Thank you for invit", "ing m"),
}
