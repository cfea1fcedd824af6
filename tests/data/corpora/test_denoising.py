"""Corpora under several denoisers and in several languages: the right rows, whoever makes them and from wherever."""

import dataclasses
import itertools
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from research import (
    BART,
    UL2,
    BERTStyle,
    Bytes,
    Denoiser,
    Denoising,
    DropTokens,
    Mixing,
    Mixture,
    PlainText,
    PrefixLM,
    ReplaceSpans,
    SentencePiece,
    SpanCorruption,
    TextInfilling,
    TokenMasking,
    TrainedSentencePiece,
)
from research.config import ConfigError
from research.data import mixing
from research.data.batch import Batch, Shard
from research.data.corpora.denoising import corrupted_text
from research.data.corpora.documents import open_documents
from research.data.corpora.tokens import Recipe
from research.data.pipeline import Pipeline, prepare
from research.data.tokenizer import open_tokenizer
from research.decode.evaluate import replace_sentinels


def words(numbers: range) -> str:
    return "\n\n".join(" ".join(map(str, numbers[start : start + 20])) for start in range(0, len(numbers), 20))


@pytest.fixture(scope="session")
def texts(tmp_path_factory: pytest.TempPathFactory) -> tuple[PlainText, PlainText]:
    """Two small corpora; all of the first's words begin with 1, all of the second's with 2."""
    folder = tmp_path_factory.mktemp("texts")
    for name, first, count in (("a", 10_000, 4000), ("b", 20_000, 2000)):
        (folder / f"{name}.txt").write_text(words(range(first, first + count)))
        (folder / f"{name}_held_out.txt").write_text(words(range(first + 5000, first + 6500)))
    first, second = (PlainText(str(folder / f"{name}.txt"), str(folder / f"{name}_held_out.txt")) for name in "ab")
    return first, second


@pytest.fixture
def data(texts: tuple[PlainText, PlainText]) -> Denoising:
    return Denoising(texts, Bytes(), UL2(), input_length=128)


def take(pipeline: Pipeline, batches: int, start_row: int = 0, host: int = 0, hosts: int = 1) -> list[Batch]:
    return list(itertools.islice(pipeline.train(start_row, Shard(hosts, (host,))), batches))


def same(left: list[Batch], right: list[Batch]) -> bool:
    """Whether all fields of the rows are, however they are cut into batches."""
    for parts in zip(zip(*left, strict=True), zip(*right, strict=True), strict=True):
        fields = [None if side[0] is None else np.concatenate(side) for side in parts]
        if (fields[0] is None) != (fields[1] is None) or not np.array_equal(fields[0], fields[1]):
            return False
    return True


def beginnings(batches: list[Batch], tokenizer, length: int = 3) -> list[str]:
    return [tokenizer.decode(row[:length]) for batch in batches for row in batch.encoder_input_tokens]


EVERY = [
    UL2(),
    BART(),
    BART(TextInfilling(0.35), 0.6, rotate=0.5, sentence_ends=("0", "5")),
    BART(TokenMasking()),
    ReplaceSpans(),
    DropTokens(),
    BERTStyle(),
    Mixture((Denoiser(BART(), "a", 2), Denoiser(BERTStyle()))),
]


@pytest.mark.parametrize("objective", EVERY, ids=lambda each: str(each)[:60])
def test_rows_are_the_same_from_any_start_with_any_threads_and_on_any_hosts(data, objective):
    data = dataclasses.replace(data, objective=objective, tokenizer=Bytes(sentinels=120))
    pipeline = prepare(data, 0, 32)
    whole = take(pipeline, 12)
    assert same(take(prepare(dataclasses.replace(data, threads=4), 0, 96), 4), whole)
    for start in (1, 5, 11):
        assert same(take(pipeline, 12 - start, start * 32), whole[start:])
    parts = [take(pipeline, 12, 0, host, 4) for host in range(4)]
    assert same([part for batch in zip(*parts, strict=True) for part in batch], whole)
    assert not same(take(prepare(data, 1, 32), 12), whole)
    held_out = list(pipeline.held_out(64))
    assert same(list(prepare(data, 1, 16).held_out(64)), held_out)


def test_a_text_under_an_objective_is_never_broken_twice_in_the_same_way(texts):
    pipeline = prepare(Denoising(texts[:1], Bytes(), BART(), input_length=64), 0, 32)
    batches = take(pipeline, 3 * pipeline.train_rows // 32)
    targets = Counter(tuple(row) for batch in batches for row in batch.decoder_target_tokens.tolist())
    inputs = {tuple(row) for batch in batches for row in batch.encoder_input_tokens.tolist()}
    assert set(targets.values()) <= {2, 3}
    assert len(inputs) == sum(targets.values())


# --- Mixtures ---------------------------------------------------------------------------------------------------------


def test_ul2s_lengths_and_prefixes(data):
    pipeline = prepare(dataclasses.replace(data, input_length=515, tokenizer=Bytes(sentinels=128)), 0, 64)
    assert pipeline.inputs == 515
    assert pipeline.targets == 512
    rows = take(pipeline, 14)
    assert set(beginnings(rows, pipeline.tokenizer)) == {"[R]", "[X]", "[S]"}
    batch = rows[0]
    assert batch.encoder_input_tokens.shape == (64, 515)
    real = batch.decoder_loss_weights.sum(axis=1)
    assert {114, 100, 512, 92} <= set(real.tolist())  # T5's lengths at 512; prefix LM's vary
    np.testing.assert_array_equal(batch.decoder_segment_ids, batch.decoder_loss_weights)
    assert (batch.encoder_segment_ids[:, :3] == 1).all()


def test_denoisers_come_by_their_weights_and_corpora_by_theirs(data):
    denoisers = (Denoiser(SpanCorruption(), "A", 3), Denoiser(PrefixLM(), "B"), Denoiser(SpanCorruption(0.5), "C", 2))
    data = dataclasses.replace(data, objective=Mixture(denoisers), mixing=Mixing(temperature=1e9))
    pipeline = prepare(data, 0, 60)
    for batch in take(pipeline, 5):
        counts = Counter(beginnings([batch], pipeline.tokenizer, 1))
        assert all(abs(counts[name] - expected) <= 3 for name, expected in (("A", 30), ("B", 10), ("C", 20)))
        shown = [pipeline.tokenizer.text(row) for row in batch.encoder_input_tokens]
        first = sum(text.count("1") > text.count("2") for text in shown)
        assert abs(first - 30) <= 6


def test_held_out_rows_are_of_all_denoisers(data):
    pipeline = prepare(data, 0, 32)
    prefixes = Counter(beginnings(list(pipeline.held_out(10**6)), pipeline.tokenizer))
    assert set(prefixes) == {"[R]", "[X]", "[S]"}
    assert prefixes["[X]"] > prefixes["[R]"] > prefixes["[S]"]


def test_every_text_comes_once_an_epoch_under_each_denoiser_and_counts_once(texts):
    objectives = (BERTStyle(0.15, 0.0), PrefixLM(0.5))
    data = Denoising(texts[:1], Bytes(), Mixture(tuple(map(Denoiser, objectives))), input_length=64)
    pipeline = prepare(data, 0, 1)
    alone = [prepare(dataclasses.replace(data, objective=each), 0, 1) for each in objectives]
    assert pipeline.train_rows == sum(each.train_rows for each in alone)
    tokens = len(Recipe(open_documents(texts[0], "train"), pipeline.tokenizer).stream().tokens)
    assert tokens - 64 <= pipeline.train_tokens <= tokens


def test_a_language_without_spaces_must_be_one_of_a_corpus(data):
    objective = BART(TextInfilling(), unspaced=("ja",))
    with pytest.raises(ConfigError, match=r"objective\.unspaced names ja: no corpus has this language"):
        prepare(dataclasses.replace(data, objective=objective), seed=0, batch_size=8)


def test_a_rare_denoiser_leaves_all_batches_alike(data):
    """Most blocks have no row of it, and are compiled for as those that have."""
    rare = Mixture((Denoiser(SpanCorruption(), weight=200), Denoiser(PrefixLM())))
    pipeline = prepare(dataclasses.replace(data, objective=rare), seed=0, batch_size=96)
    (shape,) = pipeline.batch_shapes
    for batch in itertools.islice(pipeline.train(), 12):
        assert [field is None for field in batch] == [field is None for field in shape]
        assert batch.encoder_segment_ids.shape == batch.encoder_input_tokens.shape


@given(
    st.lists(st.integers(1, 2**31 - 1), min_size=1, max_size=8).map(tuple),
    st.lists(st.integers(1, 50), min_size=1, max_size=8).map(tuple),
)
def test_products_of_weights_are_exact_among_denoisers(outer, inner):
    found = mixing.cross_weights(outer, inner)
    assert sum(found) < mixing.LARGEST_TOTAL
    of_one = np.array(found).reshape(len(outer), len(inner))
    assert all(row[0] * share == row[place] * inner[0] for row in of_one.tolist() for place, share in enumerate(inner))
    if sum(outer) * sum(inner) < 2**30:
        assert found == tuple(a * b for a in outer for b in inner)


def test_byt5s_long_spans_need_no_sentinels_of_their_own(texts):
    data = Denoising(texts, Bytes(sentinels=0), SpanCorruption(0.15, 20.0), input_length=1024)
    pipeline = prepare(data, 0, 4)
    assert (pipeline.raw, pipeline.inputs, pipeline.targets) == (1193, 1024, 189)
    assert take(pipeline, 1)[0].encoder_input_tokens.max() == 258


# --- Languages --------------------------------------------------------------------------------------------------------


@pytest.fixture
def multilingual(texts: tuple[PlainText, PlainText]) -> Denoising:
    """As mBART: two languages, lines as sentences, a vocabulary of their own."""
    first, second = (
        dataclasses.replace(text, language=code) for text, code in zip(texts, ("en_XX", "ro_RO"), strict=True)
    )
    return Denoising(
        (first, second),
        TrainedSentencePiece(pieces=320, sentinels=0, languages=("en_XX", "ro_RO")),
        BART(TextInfilling(0.35), sentence_ends=()),
        input_length=64,
        eos_after_lines=True,
    )


def test_rows_are_of_one_language_which_ends_them_and_starts_the_decoder(multilingual):
    pipeline = prepare(multilingual, 0, 48)
    tokenizer = pipeline.tokenizer
    assert tokenizer.mask_id == tokenizer.size - 1 == 322
    seen = set()
    for batch in take(pipeline, 3):
        targets, lengths = batch.decoder_target_tokens, batch.encoder_segment_ids.sum(axis=1)
        assert batch.decoder_loss_weights is None
        assert (targets[:, -2] == tokenizer.eos_id).all()
        np.testing.assert_array_equal(targets[:, -1], batch.decoder_input_tokens[:, 0])
        np.testing.assert_array_equal(targets[:, -1], batch.encoder_input_tokens[np.arange(48), lengths - 1])
        for row in targets:
            shown = tokenizer.text(row)
            own = {"en_XX": "1", "ro_RO": "2"}[tokenizer.languages[row[-1] - 320]]
            assert {word[0] for word in shown.split() if len(word) == 5} == {own}
            seen.add(own)
        masked = (batch.encoder_input_tokens == tokenizer.mask_id).any(axis=1)
        assert masked.mean() > 0.9  # a row's only span may have become a random token
    assert seen == {"1", "2"}


def test_lines_become_sentences_ended_by_eos(tmp_path: Path):
    (tmp_path / "text").write_text("one line\r\n another  \x0c\u2028third\n\nthe next document\n")
    documents = open_documents(PlainText(str(tmp_path / "text"), str(tmp_path / "text")), "train")
    tokenizer = open_tokenizer(Bytes())
    plain = Recipe(documents, tokenizer).stream().tokens.tolist()
    lines = Recipe(documents, tokenizer, eos_after_lines=True).stream().tokens.tolist()
    assert tokenizer.eos_id not in plain
    parts = tokenizer.decode([ord("|") + 3 if id == tokenizer.eos_id else id for id in lines]).split("|")
    assert sorted(parts) == ["", " another  \x0c\u2028third", "one line", "the next document"]
    assert Recipe(documents, tokenizer).stream().tokens.tolist() == plain


def test_the_fingerprint_names_what_changed(data, multilingual):
    def changed(before: Denoising, **fields) -> set[str]:
        prints = [prepare(each, 0, 8).fingerprint for each in (before, dataclasses.replace(before, **fields))]
        assert prints[0].keys() == prints[1].keys()
        return {name for name in prints[0] if prints[0][name] != prints[1][name]}

    heavier = Mixture((dataclasses.replace(UL2().components()[0], weight=2), *UL2().components()[1:]))
    assert changed(data, objective=heavier) == {"data.objective"}
    assert changed(data, objective=BART()) == {"data.objective"}
    assert changed(data, eos_after_lines=True) == {"data.corpora"}
    swapped = tuple(
        dataclasses.replace(each, language=code)
        for each, code in zip(multilingual.corpora, ("ro_RO", "en_XX"), strict=True)
    )
    assert changed(multilingual, corpora=swapped) == {"data.corpora"}


def test_a_vocabulary_with_languages_reopens_as_it_was(multilingual, tmp_path: Path):
    tokenizer = prepare(multilingual, 0, 8).tokenizer
    saved = tokenizer.save(tmp_path / "v.model")
    assert saved == SentencePiece(str(tmp_path / "v.model"), 0, ("en_XX", "ro_RO"))
    again = open_tokenizer(saved)
    assert (again.digest, again.mask_id, again.language_ids) == (
        tokenizer.digest,
        tokenizer.mask_id,
        tokenizer.language_ids,
    )
    assert open_tokenizer(SentencePiece(saved.path, 0)).digest != tokenizer.digest
    assert tokenizer.source(["1"], "ro_RO")[0][-2:] == [1, 321]
    assert tokenizer.start_id("en_XX") == 320
    assert tokenizer.decode([320, tokenizer.mask_id, 1]).strip() == "<mask>"
    with_sentinels = open_tokenizer(SentencePiece(saved.path, 5, ("en_XX",)))
    assert (with_sentinels.mask_id, with_sentinels.sentinel_ids.tolist()) == (321, [326, 325, 324, 323, 322])


# --- Refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"tokenizer": TrainedSentencePiece(320)}, "A corpus has language 'en_XX' and another 'ro_RO': .* none"),
        ({"tokenizer": TrainedSentencePiece(320, languages=("en_XX",))}, "'ro_RO': data.tokenizer.languages has en_XX"),
        ({"tokenizer": Bytes()}, "The language is 'en_XX': this tokenizer has no language codes"),
        ({"input_length": 2}, "input_length is 2: 2 special tokens and one of text need at least 3"),
        ({"objective": BART(sentence_ends=("no token",))}, "sentence_ends has 'no token'"),
        ({"objective": SpanCorruption()}, "SpanCorruption, which adds only EOS to a row"),
    ],
)
def test_what_does_not_fit_together_is_refused_in_one_sentence(multilingual, changes, said):
    with pytest.raises(ConfigError, match=said) as error:
        prepare(dataclasses.replace(multilingual, **changes), 0, 8)
    assert "\n" not in str(error.value)


def test_a_corpus_without_a_language_is_refused_where_text_has_one(multilingual, texts):
    with pytest.raises(ConfigError, match=r"A corpus has language None: data\.tokenizer.languages has en_XX, ro_RO"):
        prepare(dataclasses.replace(multilingual, corpora=texts), 0, 8)


def test_what_is_known_before_is_refused_before_a_corpus_is_looked_for(multilingual):
    nowhere = PlainText("nowhere", language="xx")
    with pytest.raises(ConfigError, match="A corpus has language 'xx'"):
        prepare(dataclasses.replace(multilingual, corpora=(nowhere,)), 0, 8)
    with pytest.raises(ConfigError, match=r"needs up to 1\d\d sentinels"):
        prepare(Denoising((PlainText("nowhere"),), Bytes(), ReplaceSpans(0.5)), 0, 8)


def test_a_text_of_ones_own_is_corrupted_as_a_row() -> None:
    tokenizer = open_tokenizer(Bytes())
    data = Denoising((PlainText("absent"),), Bytes(), input_length=48)
    text = "def main(arguments: list[str]) -> int:"
    batch, left_out = corrupted_text(data, tokenizer, text, start_token=7, seed=3)
    whole = replace_sentinels(batch.encoder_input_tokens[0], batch.decoder_target_tokens[0], tokenizer)
    spelled = re.sub(r"[\[\]\s]", "", whole)
    assert spelled == re.sub(r"[\[\]\s]", "", text[: len(text) - left_out])
    assert whole.count("[") > 1
    assert left_out <= 1
    assert batch.decoder_input_tokens[0, 0] == 7
    again = corrupted_text(data, tokenizer, text, start_token=None, seed=4)[0]
    assert again.encoder_input_tokens.tolist() != batch.encoder_input_tokens.tolist()
    with pytest.raises(ConfigError, match=r"The text has 60 tokens, and a row has at most 5\d: give a shorter one"):
        corrupted_text(data, tokenizer, "x" * 60, None, 0)
    with pytest.raises(ConfigError, match="The text has 1 tokens, too few for the objective: give a longer one"):
        corrupted_text(data, tokenizer, "x", None, 0)
