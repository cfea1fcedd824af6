"""BART's denoising does to a block of rows what fairseq's does to one row at a time."""

import math
from collections import Counter
from collections.abc import Callable
from itertools import permutations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from research import BART, Bytes, TextInfilling, TokenDeletion, TokenMasking
from research.config import ConfigError
from research.data.batch import Batch
from research.data.objective import sentences, words
from research.data.objective.choice import random_subsets
from research.data.tokenizer import Tokenizer, open_tokenizer

BYTES = open_tokenizer(Bytes(sentinels=20))
MASK = int(BYTES.sentinel_ids[0])
TOKENS = 48  # of a row in most tests


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def rows_of_text(tokenizer: Tokenizer, rows: int, length: int, seed: int = 7) -> np.ndarray:
    return rng(seed).choice(tokenizer.text_ids, (rows, length)).astype(np.uint16)


def broken(tokens: np.ndarray, config: BART, tokenizer: Tokenizer, seed: int = 0) -> Batch:
    frame = tokenizer.special_tokens(None)
    num_special_tokens = sum(map(len, frame))
    lengths = config.lengths(tokens.shape[1] + num_special_tokens, num_special_tokens)
    config.check(lengths, tokenizer)
    batch = config.corrupt(tokens, lengths, tokenizer, rng(seed))
    assert batch.widths == (lengths.inputs, lengths.targets)
    return batch


def inputs_of(batch: Batch, tokenizer: Tokenizer) -> list[list[int]]:
    """What the encoder reads of each row, without special tokens and padding."""
    before, after = tokenizer.special_tokens(None)
    rows = []
    for row, tokens in enumerate(batch.encoder_input_tokens.tolist()):
        real = len(tokens) if batch.encoder_segment_ids is None else int(batch.encoder_segment_ids[row].sum())
        assert tokens[: len(before)] == before
        assert tokens[real - len(after) : real] == after
        assert set(tokens[real:]) <= {tokenizer.pad_id}
        rows.append(tokens[len(before) : real - len(after)])
    return rows


# --- The reference: a row at a time, as fairseq's denoising_dataset.py does it ----------------------------------------


def reference(tokens: list[int], config: BART, tokenizer: Tokenizer, generator: np.random.Generator) -> list[int]:
    row = list(tokens)
    if config.permute_sentences:
        ends = {tokenizer.eos_id} | {id for end in config.sentence_ends for id in tokenizer.encode(end)}
        row = permuted(row, ends, config.permute_sentences, generator)
    if config.corruption is not None:
        row = hidden(row, config.corruption, tokenizer, generator)
    if generator.random() < config.rotate:
        offset = int(generator.integers(0, len(row) + 1))
        row = row[offset:] + row[:offset]
    return row


def permuted(row: list[int], ends: set[int], share: float, generator: np.random.Generator) -> list[int]:
    stop = [token in ends for token in row[:-1]] + [True]
    bounds = [place + 1 for place in range(len(row)) if stop[place] and not (place and stop[place - 1])]
    parts = [row[start:end] for start, end in zip([0, *bounds], bounds, strict=False)]
    moved = math.ceil(len(parts) * 2 * share / 2)
    places = generator.permutation(len(parts))[:moved]
    order = np.arange(len(parts))
    order[places] = places[generator.permutation(moved)]
    return [token for part in order for token in parts[part]] + row[bounds[-1] :]


def hidden(row: list[int], corruption: words.Corruption, tokenizer: Tokenizer, generator: np.random.Generator):
    starts = [place for place in range(len(row)) if not corruption.whole_words or tokenizer.word_starts[row[place]]]
    budget = math.ceil(np.float32(len(starts)) * np.float32(corruption.noise_density))
    if not budget:
        return row
    lengths, empty = [1] * budget, 0
    if isinstance(corruption, TextInfilling):
        drawn = spans(budget, corruption.poisson_mean, generator)
        lengths = [length for length in drawn if length]
        empty = len(drawn) - len(lengths)
    mask = tokenizer.sentinel_ids[0] if tokenizer.mask_id is None else tokenizer.mask_id
    random_tokens = getattr(corruption, "random_tokens", 0.0)

    def one() -> int:
        return int(generator.choice(tokenizer.text_ids)) if generator.random() < random_tokens else int(mask)

    replaced, gone = list(row), set()
    for length, number in zip(lengths, generator.permutation(len(starts)), strict=False):
        begin, end = starts[number], ([*starts, *[len(row)] * length])[number + length]
        replaced[begin] = one()
        gone |= set(range(begin + (not isinstance(corruption, TokenDeletion)), end))
    left = [token for place, token in enumerate(replaced) if place not in gone]
    places = generator.permutation(len(left) + empty)[:empty]
    new = [int(mask)] * empty
    for place in range(math.ceil(empty * random_tokens)):
        new[place] = int(generator.choice(tokenizer.text_ids))
    inserted, rest = dict(zip(places.tolist(), new, strict=True)), iter(left)
    return [inserted[place] if place in inserted else next(rest) for place in range(len(left) + empty)]


def spans(budget: int, mean: float, generator: np.random.Generator) -> list[int]:
    drawn: list[int] = []
    while sum(drawn) < budget:
        drawn.append(int(generator.poisson(mean)))
    drawn[-1] -= sum(drawn) - budget
    return drawn


# --- Distribution -----------------------------------------------------------------------------------------------------


def homogeneous(ours: list[int], theirs: list[int]) -> float:
    """p of the chi-square test that two samples of counts come from one distribution; rare values share a cell."""
    low, high = np.quantile([*ours, *theirs], [0.01, 0.99])
    counts = [Counter(np.clip(sample, low, high).tolist()) for sample in (ours, theirs)]
    cells = sorted(counts[0] | counts[1])
    return stats.chi2_contingency([[count[cell] for cell in cells] for count in counts]).pvalue if len(cells) > 1 else 1


MEASURES: dict[str, Callable[[list[int], list[int], int], int]] = {
    "length": lambda row, raw, mask: len(row),
    "masks": lambda row, raw, mask: row.count(mask),
    "first mask": lambda row, raw, mask: ([*row, mask]).index(mask),
    "longest run of masks": lambda row, raw, mask: max(
        map(len, "".join("M" if token == mask else " " for token in row).split()), default=0
    ),
    "in place": lambda row, raw, mask: sum(left == right for left, right in zip(row, raw, strict=False)) // 2,
    "in place from the end": lambda row, raw, mask: (
        sum(a == b for a, b in zip(row[::-1], raw[::-1], strict=False)) // 2
    ),
    "new": lambda row, raw, mask: len({*row} - {*raw}),
    "first token": lambda row, raw, mask: ([*raw, row[0]]).index(row[0]) // 4,
}
EVERY = [
    BART(TextInfilling(), 0.0),
    BART(TextInfilling(0.5, 2.0, random_tokens=0.5), 0.0),
    BART(TextInfilling(whole_words=False), 0.0),
    BART(TokenMasking(), 0.0),
    BART(TokenMasking(0.4, 0.3, whole_words=True), 0.0),
    BART(TokenDeletion(), 0.0),
    BART(TokenDeletion(whole_words=True), 0.0),
    BART(None, 1.0),
    BART(None, 0.5),
    BART(None, 0.0, rotate=0.5),
    BART(TextInfilling(), 1.0),
    BART(TextInfilling(), 0.6, rotate=0.3),
    BART(TokenDeletion(), 1.0, rotate=1.0),
]


@pytest.mark.parametrize("config", EVERY, ids=str)
@pytest.mark.parametrize("family", ["byt5", "bart"])
def test_rows_are_distributed_as_by_the_reference(families, family, config):
    """One row of text, many times over, in which every token differs but the ends of sentences."""
    tokenizer = families[family]
    mask = int(tokenizer.sentinel_ids[0]) if tokenizer.mask_id is None else tokenizer.mask_id
    (stop,) = tokenizer.encode(".")
    others = np.setdiff1d(tokenizer.text_ids, [stop])
    chosen = rng(1).permutation(others)[:TOKENS]
    for place in (5, 6, 13, 20, 21, 30, 41):
        chosen[place] = stop
    count = 2500
    batch = broken(np.tile(chosen.astype(np.uint16), (count, 1)), config, tokenizer, seed=2)
    ours, generator = inputs_of(batch, tokenizer), rng(3)
    theirs = [reference(chosen.tolist(), config, tokenizer, generator) for _ in range(count)]
    for name, measure in MEASURES.items():
        left, right = ([measure(row, chosen.tolist(), mask) for row in sample] for sample in (ours, theirs))
        assert homogeneous(left, right) > 1e-4, name
    assert (batch.decoder_target_tokens[:, len(tokenizer.special_tokens(None)[0]) :][:, :TOKENS] == chosen).all()


def test_span_lengths_are_poissons_and_add_up_to_the_budget():
    budgets = np.array([150] * 3000)
    count, lengths, empty = words.span_lengths(budgets, 3.5, rng(4))
    assert count.sum() == len(lengths)
    np.testing.assert_array_equal(np.add.reduceat(lengths, np.cumsum(count) - count), budgets)
    generator = rng(5)
    theirs = [spans(150, 3.5, generator) for _ in range(3000)]
    assert homogeneous(empty.tolist(), [row.count(0) for row in theirs]) > 1e-3
    assert homogeneous(lengths[::5].tolist(), [length for row in theirs for length in row if length][::5]) > 1e-3
    assert (lengths > 0).all()


def test_the_poisson_distribution_is_cut_off_where_fairseqs_is():
    table = words.poisson_table(3.5)
    probabilities = stats.poisson.pmf(np.arange(len(table)), 3.5)
    assert probabilities[-1] < 1e-7 <= probabilities[-2]
    np.testing.assert_allclose(np.diff(table, prepend=0), probabilities / probabilities.sum(), atol=1e-12)


@pytest.mark.parametrize(("size", "count"), [(5, 2), (4, 4), (6, 1), (3, 0)])
def test_every_subset_is_equally_likely_beside_rows_of_other_sizes(size, count):
    rows = 20_000
    sizes, counts = np.tile([size, 9, 2], rows), np.tile([count, 7, 0], rows)
    drawn = random_subsets(sizes, counts, 10, rng(6))
    np.testing.assert_array_equal(drawn.sum(axis=1), counts)
    assert not drawn[np.arange(10) >= sizes[:, None]].any()
    found = Counter(map(tuple, drawn[::3, :size].tolist()))
    assert len(found) == math.comb(size, count)
    assert len(found) == 1 or stats.chisquare(list(found.values())).pvalue > 1e-3


@pytest.mark.parametrize(("size", "moved"), [(4, 4), (4, 2), (3, 1), (1, 1)])
def test_every_order_of_the_moved_is_equally_likely(size, moved):
    """Of n, m change places: an order is as likely as the number of choices of m that leave the others in place."""
    drawn = sentences.random_orders(np.full(30_000, size), np.full(30_000, moved), 6, rng(7))
    assert (drawn[:, size:] == np.arange(size, 6)).all()
    found = Counter(map(tuple, drawn[:, :size].tolist()))
    likely = {
        order: math.comb(fixed, size - moved) / (math.comb(size, moved) * math.factorial(moved))
        for order in product(range(size), repeat=size)
        if len(set(order)) == size
        and (fixed := sum(place == number for place, number in enumerate(order))) >= size - moved
    }
    assert set(found) == set(likely)
    if len(likely) > 1:
        expected = [30_000 * likely[order] for order in likely]
        assert stats.chisquare([found[order] for order in likely], expected).pvalue > 1e-3


# --- What must hold of every row --------------------------------------------------------------------------------------


densities = st.sampled_from([0.15, 0.3, 0.35, 0.5]) | st.floats(0.01, 0.99)
corruptions = st.one_of(
    st.none(),
    st.builds(TokenMasking, densities, st.sampled_from([0.0, 0.1, 1.0]), st.booleans()),
    st.builds(TokenDeletion, densities, st.booleans()),
    st.builds(TextInfilling, densities, st.floats(2, 16), st.sampled_from([0.0, 0.1, 1.0]), st.booleans()),
)
configs = st.builds(BART, corruptions, st.sampled_from([0.0, 0.3, 1.0]), st.sampled_from([0.0, 0.5, 1.0]))


@settings(deadline=None, max_examples=200)
@given(config=configs, length=st.integers(1, 80), rows=st.integers(1, 5), seed=st.integers(0, 2**32 - 1))
def test_the_target_is_the_whole_row_and_nothing_is_made_up(families, config, length, rows, seed):
    tokenizer = families["bart"]
    tokens = rows_of_text(tokenizer, rows, length, seed)
    batch = broken(tokens, config, tokenizer, seed)
    np.testing.assert_array_equal(batch.decoder_target_tokens[:, 1:-1], tokens)
    assert (batch.decoder_target_tokens[:, [0, -1]] == [tokenizer.bos_id, tokenizer.eos_id]).all()
    assert (batch.decoder_input_tokens[:, 0] == tokenizer.start_id()).all()
    np.testing.assert_array_equal(batch.decoder_input_tokens[:, 1:], batch.decoder_target_tokens[:, :-1])
    assert batch.decoder_loss_weights is batch.decoder_segment_ids is None
    random_tokens = getattr(config.corruption, "random_tokens", 0.0)
    for row, raw in zip(inputs_of(batch, tokenizer), tokens.tolist(), strict=True):
        assert len(row) <= len(raw)
        shown = Counter(token for token in row if token != tokenizer.mask_id)
        if random_tokens == 0:
            assert shown <= Counter(raw)
        if config.corruption is None:
            assert shown == Counter(raw)


@settings(deadline=None, max_examples=100)
@given(density=densities, length=st.integers(1, 80), seed=st.integers(0, 2**32 - 1))
def test_budgets_are_exact(density, length, seed):
    tokens = rows_of_text(BYTES, 3, length, seed)
    budget = math.ceil(np.float32(length) * np.float32(density))
    masked = inputs_of(broken(tokens, BART(TokenMasking(density, 0.0), 0.0), BYTES, seed), BYTES)
    deleted = inputs_of(broken(tokens, BART(TokenDeletion(density), 0.0), BYTES, seed), BYTES)
    for raw, with_masks, shorter in zip(tokens.tolist(), masked, deleted, strict=True):
        assert [token == MASK for token in with_masks].count(True) == budget
        assert all(token in (raw[place], MASK) for place, token in enumerate(with_masks))
        assert len(shorter) == length - budget
        rest = iter(raw)
        assert all(token in rest for token in shorter)  # in their order


@settings(deadline=None, max_examples=100)
@given(density=densities, seed=st.integers(0, 2**32 - 1))
def test_infilling_keeps_the_order_and_hides_no_more_than_its_budget(density, seed):
    length = 200
    tokens = np.stack([rng(seed).permutation(BYTES.text_ids)[:length]] * 4).astype(np.uint16)
    config = BART(TextInfilling(density, 3.5, random_tokens=0.0), 0.0)
    for raw, row in zip(tokens.tolist(), inputs_of(broken(tokens, config, BYTES, seed), BYTES), strict=True):
        shown = [token for token in row if token != MASK]
        places = [raw.index(token) for token in shown]
        assert places == sorted(places)
        assert length - len(shown) <= math.ceil(np.float32(length) * np.float32(density))
        assert row.count(MASK) >= 1


def test_whole_words_are_hidden_as_a_whole(families):
    """A word, that is, a start and what follows up to the next one, is shown in full or not at all."""
    tokenizer = families["bart"]
    tokens = rows_of_text(tokenizer, 200, 60)
    for corruption in (TextInfilling(random_tokens=0.0), TokenDeletion(whole_words=True), TokenMasking(0.3, 0.0, True)):
        batch = broken(tokens, BART(corruption, 0.0), tokenizer)
        for raw, row in zip(tokens.tolist(), inputs_of(batch, tokenizer), strict=True):
            starts = tokenizer.word_starts[raw].tolist()
            of_words = Counter(
                tuple(raw[begin : ([*starts, True]).index(True, begin + 1)])
                for begin, is_start in enumerate(starts)
                if is_start
            )
            first = starts.index(True)
            assert row[:first] == raw[:first] or tokenizer.mask_id in row[: first + 1]  # an insertion may come before
            shown = [token for token in row if token != tokenizer.mask_id][first:]
            begins = [place for place, token in enumerate(shown) if tokenizer.word_starts[token]]
            assert begins[:1] in ([0], [])
            assert Counter(tuple(shown[a:b]) for a, b in zip(begins, [*begins[1:], None], strict=True)) <= of_words


def test_only_words_count_towards_the_budget(families):
    tokenizer = families["bart"]
    starts = np.flatnonzero(tokenizer.word_starts & np.isin(np.arange(tokenizer.size), tokenizer.text_ids))
    others = np.setdiff1d(tokenizer.text_ids, starts)
    row = np.tile([starts[5], *others[:9]], 4)  # four words of ten tokens
    batch = broken(np.tile(row, (50, 1)).astype(np.uint16), BART(TokenDeletion(0.3, whole_words=True), 0.0), tokenizer)
    assert {len(row) for row in inputs_of(batch, tokenizer)} == {20}  # ceil(4 * 0.3) words
    none = np.tile(others[:9], (3, 1)).astype(np.uint16)
    assert inputs_of(broken(none, BART(TextInfilling(), 0.0), tokenizer), tokenizer) == none.tolist()


def test_languages_without_spaces_have_a_word_in_each_token(families):
    tokenizer = families["cc25"]
    config = BART(TokenDeletion(0.3, whole_words=True), 0.0, unspaced=("zh_CN",))
    others = np.flatnonzero(~tokenizer.word_starts)[:60]
    tokens = np.tile(others, (20, 1)).astype(np.uint16)
    lengths = config.lengths(62, num_special_tokens=2)
    for language, left in (("zh_CN", 42), ("en_XX", 60)):
        batch = config.corrupt(tokens, lengths, tokenizer, rng(), language)
        assert (batch.encoder_segment_ids.sum(axis=1) == left + 2).all()
        assert (batch.decoder_target_tokens[:, -1] == tokenizer.language_id(language)).all()


def test_sentences_stay_whole_and_what_ends_none_stays_in_place():
    end, text = BYTES.encode("."), BYTES.encode("abcdefghijkl")
    a, b, c = text[:4] + end, text[4:7] + end + end, text[7:12] + end
    row = np.array([a + b + c + end], np.uint16).repeat(500, axis=0)
    is_end = sentences.sentence_ends((".",), BYTES)
    found = Counter(map(tuple, sentences.permute_sentences(row, is_end, 1.0, rng()).tolist()))
    parts = [a, b[:-1], end + c]  # a second full stop begins the next sentence
    assert set(found) == {(*first, *second, *third, *end) for first, second, third in permutations(parts)}
    assert stats.chisquare(list(found.values())).pvalue > 1e-3


def test_eos_inside_a_row_ends_a_sentence_and_may_be_hidden():
    text = BYTES.encode("abcdefgh")
    row = np.array([[*text[:4], BYTES.eos_id, *text[4:], BYTES.eos_id]] * 300, np.uint16)
    batch = broken(row, BART(None, 1.0, sentence_ends=()), BYTES)
    halves = (row[0, :5].tolist(), row[0, 5:].tolist())
    # The row's last token is an end by itself, as fairseq's forced one; EOS before it makes no difference here.
    assert {tuple(row) for row in inputs_of(batch, BYTES)} == {(*halves[0], *halves[1]), (*halves[1], *halves[0])}
    deleted = inputs_of(broken(row, BART(TokenDeletion(0.5), 0.0), BYTES), BYTES)
    assert any(BYTES.eos_id not in row for row in deleted)


def test_rotation_keeps_the_cycle():
    tokens = np.tile(np.arange(10, 20, dtype=np.uint16), (2000, 1))
    rows = inputs_of(broken(tokens, BART(None, 0.0, rotate=1.0), BYTES), BYTES)
    for row in rows:
        begin = row[0] - 10
        assert row == [10 + (begin + place) % 10 for place in range(10)]
    counts = np.bincount([row[0] - 10 for row in rows])
    assert stats.chisquare(counts, 2000 / 11 * np.array([2, *[1] * 9])).pvalue > 1e-3
    still = sum(row[0] == 10 for row in inputs_of(broken(tokens, BART(None, 0.0, rotate=0.25), BYTES), BYTES))
    assert still == pytest.approx(2000 * (0.75 + 0.25 * 2 / 11), abs=80)


def test_rows_of_ordinary_length_never_lack_room_for_an_insertion(families):
    for tokenizer, length, least in ((families["bart"], 510, 40), (BYTES, 511, 60), (BYTES, 127, 5)):
        batch = broken(rows_of_text(tokenizer, 4000, length), BART(), tokenizer)
        assert max(map(len, inputs_of(batch, tokenizer))) <= length - least


def test_an_insertion_without_room_is_left_out():
    """A row of two words: the first span may be empty, and the second may hide nothing but its word."""
    tokens = np.tile(rows_of_text(BYTES, 1, 2), (5000, 1))
    rows = inputs_of(broken(tokens, BART(TextInfilling(0.5, 2.0), 0.0), BYTES), BYTES)
    assert set(map(len, rows)) == {2}
    drawn = [len(spans(1, 2.0, generator)) for generator in [rng(1)] for _ in range(1000)]
    assert max(drawn) > 2


def test_only_what_varies_is_padded():
    padded = {
        config: broken(rows_of_text(BYTES, 4, 40), config, BYTES).encoder_segment_ids is not None for config in EVERY
    }
    assert {config for config, has in padded.items() if has} == {
        config for config in EVERY
        if isinstance(config.corruption, TextInfilling) or getattr(config.corruption, "whole_words", False)
    }  # fmt: skip
    assert broken(rows_of_text(BYTES, 4, 40), BART(TokenDeletion(0.3), 0.0), BYTES).widths == (29, 41)


def test_the_generator_decides_everything_and_rows_differ():
    tokens = np.tile(rows_of_text(BYTES, 1, 100), (64, 1))
    first, again, other = (broken(tokens, BART(rotate=0.5), BYTES, seed).encoder_input_tokens for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any(axis=1).all()
    assert len(np.unique(first, axis=0)) == 64


def test_ids_of_any_unsigned_width_give_the_same_int32_batch():
    tokens = rows_of_text(BYTES, 5, 60)
    narrow, wide = (broken(tokens.astype(kind), BART(), BYTES) for kind in (np.uint16, np.uint32))
    for left, right in zip(narrow[:3], wide[:3], strict=True):
        assert left.dtype == right.dtype == np.int32
        np.testing.assert_array_equal(left, right)


def test_text_that_was_given_is_not_changed():
    tokens = rows_of_text(BYTES, 8, 60)
    before = tokens.copy()
    for config in EVERY:
        broken(tokens, config, BYTES)
    np.testing.assert_array_equal(tokens, before)


def test_what_the_tokenizer_lacks_is_refused(families):
    def check(config: BART, tokenizer: Tokenizer) -> None:
        config.check(config.lengths(64), tokenizer)

    with pytest.raises(ConfigError, match=r"needs a mask or a sentinel"):
        check(BART(), families["marian"])
    check(BART(TokenDeletion(), 0.0), families["marian"])
    with pytest.raises(ConfigError, match=r"sentence_ends has '。': it must be a single token"):
        check(BART(sentence_ends=(".", "。")), BYTES)
    with pytest.raises(ConfigError, match=r"input_length is 2: 2 special tokens and one of text need at least 3"):
        BART().lengths(2, num_special_tokens=2)


def test_the_noise_stays_what_it_was():
    """Runs go on from checkpoints of earlier versions: where this changes, raise FORMAT in data/pipeline.py."""
    text = "One two. Three four five. Six."
    tokens = np.array([BYTES.encode(text)] * 2, np.uint16)

    def shown(config: BART) -> list[str]:
        rows = inputs_of(broken(tokens, config, BYTES, seed=5), BYTES)
        return [BYTES.decode(row).replace("<extra_id_0>", "_") for row in rows]

    assert shown(BART(TextInfilling(), 1.0, rotate=0.5)) == GOLDEN[0]
    assert shown(BART(TokenMasking(), 0.0)) == GOLDEN[1]
    assert shown(BART(TokenDeletion(), 0.0)) == GOLDEN[2]


GOLDEN = [
    ["_Six.One two. Zur five.", "_One tw_hree_our five. S"],
    ["O_e two. T__�e fo_r five.__i__", "O_e tw_. �hree_fo_r five____x."],
    ["Oe two. Te for five.i", "Oe tw. hreefor fivex."],
]
