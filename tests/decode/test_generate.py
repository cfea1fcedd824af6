"""Text in, text out: whatever the batches, every line has the outputs that it would have alone."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
from vocabularies import sentencepiece_model, sentences, t5_model, write_bpe, write_marian

from research import (
    Beam,
    ByteLevelBPE,
    Generation,
    LayerNorm,
    Learned,
    Marian,
    MBart,
    Model,
    Relative,
    Sampling,
    SentencePiece,
    Sinusoidal,
    Tied,
)
from research.config import ConfigError
from research.data.tokenizer import open_tokenizer
from research.decode import generate
from research.decode import search as decoding
from research.decode.generate import Generator, Hypothesis
from research.model.transformer import initial_params
from research.pretrained.rows import check_vocabulary

POSITIONS = 24
LINES = [
    "the house",
    "",
    " ".join(sentences(3, seed=7))[:60],
    "Grüße",
    "   ",
    "a river and a mountain of the winter",
    "der Fußgänger 模型",
]
SPOKEN = [number for number, line in enumerate(LINES) if line.strip()]


def tiny(vocab_size: int, **changes) -> Model:
    return Model(vocab_size, 16, 2, 8, 24, 1, 1, compute="float32", **changes)


def generator_of(tokenizer, languages=(None, None), model: Model | None = None, **settings) -> Generator:
    """With weights so large that what is written depends on the line."""
    model = model or tiny(tokenizer.target_size, positions=Relative(buckets=4, max_distance=8))
    params = jax.tree.map(lambda leaf: 3 * leaf, initial_params(model, jax.random.key(0)))
    start = tokenizer.start_id(languages[1])
    forced = tokenizer.forced_first(languages[1])
    said = Generation(start, tokenizer.eos_id, tokenizer.pad_id, forced_first=forced, max_length=9)
    options = {"batch_size": 4} | settings
    return Generator(model, params, tokenizer, options.pop("generation", said), languages, **options)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("vocabularies")
    for name, model in (("t5", t5_model()), ("mbart", sentencepiece_model())):
        (folder / f"{name}.model").write_bytes(model)
    for name in ("bart", "marian"):
        (folder / name).mkdir()
    write_bpe(folder / "bart")
    write_marian(folder / "marian", separate=False)
    return folder


@pytest.fixture(scope="module")
def t5(folder) -> Generator:
    return generator_of(open_tokenizer(SentencePiece(str(folder / "t5.model"))))


@pytest.fixture(scope="module")
def bart(folder) -> Generator:
    tokenizer = open_tokenizer(ByteLevelBPE(str(folder / "bart")))
    options = dict(gated=False, biases=True, norm=LayerNorm(), norm_first=False, embedding_norm=True, head=Tied(False))
    return generator_of(tokenizer, model=tiny(tokenizer.size, positions=Learned(POSITIONS), **options))


@pytest.fixture(scope="module")
def marian(folder) -> Generator:
    tokenizer = open_tokenizer(Marian(str(folder / "marian")))
    model = tiny(tokenizer.size, positions=Sinusoidal(POSITIONS), zero_token=tokenizer.pad_id, scaled_embedding=True)
    return generator_of(tokenizer, (">>deu<<", None), model)


@pytest.fixture(scope="module")
def mbart(folder) -> Generator:
    tokenizer = open_tokenizer(MBart(str(folder / "mbart.model"), "50"))
    languages = ("en_XX", "de_DE")
    return generator_of(tokenizer, languages, tiny(tokenizer.size, positions=Learned(POSITIONS), scaled_embedding=True))


def collected(batches: Iterable[dict]) -> dict:
    """All batches together, no number twice."""
    found: dict = {}
    for batch in batches:
        assert not found.keys() & batch.keys()
        found |= batch
    return found


def outputs(generator: Generator, lines: list[str] = LINES) -> dict[int, list[Hypothesis]]:
    return collected(generator.run(generator.prepare(lines)[0]))


def test_every_line_has_its_outputs_under_its_own_number(t5):
    found = outputs(t5)
    assert sorted(found) == list(range(len(LINES)))
    for number in SPOKEN:
        assert found[number] == outputs(t5, [LINES[number]])[0]
    assert len({found[number][0].text for number in SPOKEN}) > 2  # or any order would do


def test_lines_that_are_done_are_skipped(t5):
    framed, _ = t5.prepare(LINES)
    assert collected(t5.run(framed, frozenset({0, 1, 2}))).keys() == {3, 4, 5, 6}


def test_an_empty_line_is_noted_and_gives_as_many_empty_outputs_as_asked(t5):
    asked = replace(t5, generation=replace(t5.generation, method=Sampling(), outputs=2))
    framed, notes = asked.prepare(LINES)
    assert str(notes) == "2 lines are empty and give empty outputs (the first is number 2)"
    first = next(iter(asked.run(framed)))
    assert first == {number: [Hypothesis("", [], 0.0)] * 2 for number in (1, 4)}
    with pytest.raises(ConfigError, match=r"^Line 2 is empty\.$"):
        asked.prepare(LINES, strict=True)
    assert str(asked.prepare(["a"])[1]) == ""


@pytest.mark.parametrize(
    ("name", "before", "after"),
    [("bart", ["<s>"], ["</s>"]), ("marian", [">>deu<<"], ["</s>"]), ("mbart", ["en_XX"], ["</s>"])],
)
def test_a_line_beyond_the_positions_is_cut_inside_its_frame_and_noted(request, name, before, after):
    generator = request.getfixturevalue(name)
    tokenizer = generator.tokenizer
    controls = {"<s>": tokenizer.bos_id, "</s>": tokenizer.eos_id, **tokenizer.language_ids}
    lines = ["a river", " ".join(sentences(4, seed=1)), " ".join(sentences(4, seed=2))]
    framed, notes = generator.prepare(lines)
    assert str(notes) == "2 lines are longer than the model's positions and were truncated (the first is number 2)"
    assert [len(ids) for ids in framed[1:]] == [POSITIONS, POSITIONS]
    whole = tokenizer.encode_batch(lines)
    for ids, uncut in zip(framed[1:], whole[1:], strict=True):
        inside = uncut[: POSITIONS - len(before) - len(after)]
        assert ids == [*(controls[name] for name in before), *inside, *(controls[name] for name in after)]
    assert outputs(generator, lines).keys() == {0, 1, 2}
    with pytest.raises(ConfigError, match=rf"^Line 2 has \d+ tokens, but the model has {POSITIONS} positions\.$"):
        generator.prepare(lines, strict=True)


def test_an_end_that_the_limit_sets_is_not_an_output_s_own(t5):
    settings = replace(t5.generation, max_length=3)
    eos = settings.eos_token
    for tokens, own, forced in (([5, 6, 7], True, True), ([5, 6, eos], False, True), ([5, eos], False, False)):
        assert replace(t5, generation=settings).unfinished(tokens) == own
        assert replace(t5, generation=replace(settings, forced_last=eos)).unfinished(tokens) == forced
    assert not t5.unfinished([])  # of an empty line


def test_distances_have_no_limit(t5):
    framed, notes = t5.prepare([" ".join(sentences(9, seed=1))], strict=True)
    assert len(framed[0]) > POSITIONS
    assert str(notes) == ""


def test_samples_follow_from_the_seed_and_the_number_alone(t5):
    asked = replace(t5, generation=replace(t5.generation, method=Sampling(temperature=2.0), outputs=3), seed=5)
    found = outputs(asked)
    assert outputs(replace(asked, batch_size=2)) == found
    others = [LINES[3] if number == 3 else "entirely other lines" for number in range(len(LINES))]
    assert outputs(asked, others)[3] == found[3]
    assert outputs(asked, [LINES[3]] * 4)[0] != found[3]
    assert outputs(replace(asked, seed=6)) != found
    assert len({tuple(one.tokens) for one in found[3]}) > 1


@pytest.mark.parametrize("name", ["t5", "mbart"])
def test_scores_of_what_is_written_are_those_of_the_same_tokens_given(request, name):
    """By the decoder over its cache, and in one pass over the pair."""
    generator = replace(request.getfixturevalue(name), scores=True)
    found = outputs(generator)
    pairs = [
        (generator.tokenizer.source([LINES[number]], generator.languages[0])[0], found[number]) for number in SPOKEN
    ]
    assert any(hypothesis.tokens[-1] != generator.tokenizer.eos_id for _, (hypothesis,) in pairs)
    given = generator._score([(source, hypothesis.tokens) for source, (hypothesis,) in pairs[:4]])
    for (_, (hypothesis,)), scores in zip(pairs, given, strict=False):
        assert len(scores) == len(hypothesis.tokens)
        assert hypothesis.score < -0.1
        np.testing.assert_allclose(sum(scores), hypothesis.score, rtol=1e-5)


def test_pairs_are_scored_under_their_numbers_with_eos(t5):
    pairs = [(line, target) for line, target in zip(LINES, reversed(LINES), strict=True)]
    found = collected(t5.score_pairs(pairs))
    assert sorted(found) == list(range(len(pairs)))
    for number, (_, target) in enumerate(pairs):
        assert len(found[number]) == len(t5.tokenizer.target([target])[0])
    for number in (0, 5):
        alone = collected(t5.score_pairs([pairs[number]]))[0]
        np.testing.assert_allclose(found[number], alone, rtol=1e-5)
    assert collected(t5.score_pairs(pairs, frozenset({1, 2}))).keys() == {0, 3, 4, 5, 6}


def test_a_pair_beyond_the_positions_is_refused(bart):
    pairs = [("a", "b"), ("a", " ".join(sentences(4, seed=1)))]
    with pytest.raises(ConfigError, match=rf"^Pair 2 has \d+ tokens, but the model has {POSITIONS} positions\.$"):
        list(bart.score_pairs(pairs))


def test_beams_come_best_first(t5):
    asked = replace(t5, generation=replace(t5.generation, method=Beam(4), outputs=3), scores=True)
    for number, found in outputs(asked).items():
        assert len(found) == 3
        if number in SPOKEN:
            scores = [one.score for one in found]
            assert scores == sorted(scores, reverse=True)
            assert len({tuple(one.tokens) for one in found}) == 3


def test_lengths_double_so_that_few_shapes_are_compiled(t5, monkeypatch):
    shapes = set()

    def remember(network, tokens, segments, **options):
        shapes.add(tokens.shape)
        row = np.zeros((len(tokens), 1, 1), np.int32)
        return decoding.Hypotheses(row, row[..., 0].astype(np.float32))

    monkeypatch.setattr(generate, "decode_prepared", remember)
    lines = [" ".join(["river"] * count) for count in range(1, 100)]
    framed, _ = t5.prepare(lines)
    assert collected(t5.run(framed)).keys() == set(range(99))
    lengths = sorted({length for _, length in shapes})
    assert {rows for rows, _ in shapes} == {4}
    assert lengths == [16 * 2**power for power in range(len(lengths))]
    assert lengths[-1] < 2 * max(map(len, framed))


def test_a_vocabulary_that_does_not_fit_is_one_sentence(t5, folder):
    size = t5.tokenizer.size
    check_vocabulary(t5.model, t5.tokenizer)
    with pytest.raises(ConfigError) as error:
        check_vocabulary(replace(t5.model, vocab_size=size - 1), t5.tokenizer)
    assert str(error.value) == f"The tokenizer has {size} source ids, but the model has rows for {size - 1} only."
    marian = open_tokenizer(Marian(str(folder / "marian")))
    without_row = tiny(marian.size - 1, zero_token=marian.size - 1, source_vocab_size=marian.size)
    check_vocabulary(without_row, marian)


def test_an_unknown_language_is_refused_with_those_there_are(mbart, marian, t5):
    with pytest.raises(ConfigError, match=r"^The language is 'xx': allowed is ar_AR, cs_CZ, .*sl_SI\.$"):
        replace(mbart, languages=("xx", "de_DE")).prepare(["a"])
    with pytest.raises(ConfigError, match=r"^The language is '>>fra<<': allowed is >>deu<<, >>ron<<\.$"):
        replace(marian, languages=(">>fra<<", None)).prepare(["a"])
    with pytest.raises(ConfigError, match=r"^The language is 'de': this tokenizer has no language codes\.$"):
        replace(t5, languages=("de", None)).prepare(["a"])


def test_a_prompt_may_ask_with_sentinels_and_they_are_shown_in_the_answer(t5):
    first = int(t5.tokenizer.sentinel_ids[0])
    ((*ids,),), _ = t5.prepare(["The <extra_id_0> of a list."])
    assert ids == [*t5.tokenizer.encode("The "), first, *t5.tokenizer.encode(" of a list."), t5.tokenizer.eos_id]
    forced = replace(t5, generation=replace(t5.generation, forced_first=first))
    (answer,) = outputs(forced, ["The <extra_id_0>"])[0]
    assert answer.tokens[0] == first
    assert answer.text.startswith("<extra_id_0>")


def test_what_an_output_follows_from_is_in_the_identity(t5, mbart):
    others = [
        replace(t5, seed=1),
        replace(t5, scores=True),
        replace(t5, languages=("de", None)),
        replace(t5, model=replace(t5.model, compute="bfloat16")),
        replace(t5, generation=replace(t5.generation, max_length=8)),
        replace(t5, params=jax.tree.map(lambda leaf: leaf.at[(0,) * leaf.ndim].multiply(1 + 1e-6), t5.params)),
        mbart,
    ]
    identities = [repr(generator.identity()) for generator in (t5, *others)]
    assert len(set(identities)) == len(identities)
    assert replace(t5, batch_size=9).identity() == t5.identity()
