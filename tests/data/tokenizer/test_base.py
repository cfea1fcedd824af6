"""What holds for the tokenizer of every family."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from vocabularies import FORGED, LINES, ODD

from research.config import ConfigError
from research.data.tokenizer import open_tokenizer

FAMILIES = ("t5", "fallback", "mt5", "byt5", "bart", "cc25", "50", "m2m_100", "marian", "separate")
LANGUAGE = {"cc25": "ro_RO", "50": "ro_RO", "m2m_100": "ro"}
FIRST, SECOND = LINES[0], LINES[1]


def test_each_family_frames_text_in_its_own_way(families):
    """One identity a family, from their papers; X is the text."""
    for name, source, target, start, forced in (
        ("t5", "X </s>", "X </s>", "<pad>", None),
        ("byt5", "X </s>", "X </s>", "<pad>", None),
        ("bart", "<s> X </s>", "<s> X </s>", "</s>", None),
        ("cc25", "X </s> ro_RO", "X </s> ro_RO", "ro_RO", None),
        ("50", "ro_RO X </s>", "ro_RO X </s>", "</s>", "ro_RO"),
        ("m2m_100", "ro X </s>", "ro X </s>", "</s>", "ro"),
        ("marian", "X </s>", "X </s>", "<pad>", None),
        ("separate", "X </s>", "X </s>", "<pad>", None),
    ):
        tokenizer, language = families[name], LANGUAGE.get(name)
        ids = {"<s>": tokenizer.bos_id, "</s>": tokenizer.eos_id, "<pad>": tokenizer.pad_id, **tokenizer.language_ids}

        def framed(frame: str, text: list[int], ids=ids) -> list[int]:
            before, _, after = frame.partition("X")
            return [*(ids[part] for part in before.split()), *text, *(ids[part] for part in after.split())]

        text = tokenizer.encode(FIRST)
        assert tokenizer.source([FIRST], language) == [framed(source, text)]
        if name not in ("marian", "separate"):  # another vocabulary
            assert tokenizer.target([FIRST], language) == [framed(target, text)]
        assert tokenizer.start_id(language) == ids[start]
        assert tokenizer.forced_first(language) == (ids[forced] if forced else None)


@pytest.mark.parametrize("name", FAMILIES)
def test_controls_are_distinct_ids_of_the_vocabulary(families, name):
    tokenizer = families[name]
    controls = [tokenizer.pad_id, tokenizer.eos_id, tokenizer.unknown_id, tokenizer.bos_id, tokenizer.mask_id]
    ids = [id for id in controls if id is not None] + list(tokenizer.language_ids.values())
    assert len(set(ids)) == len(ids)
    assert set(ids) <= set(range(tokenizer.size))
    assert set(ids).isdisjoint(tokenizer.sentinel_ids.tolist())
    assert tokenizer.text(ids[:3]) == ""


@pytest.mark.parametrize("name", FAMILIES)
def test_text_gives_no_control(families, name):
    tokenizer = families[name]
    forbidden = {tokenizer.pad_id, tokenizer.eos_id, tokenizer.bos_id, tokenizer.mask_id}
    forbidden |= {*tokenizer.sentinel_ids.tolist(), *tokenizer.language_ids.values()}
    for ids in tokenizer.encode_batch([*FORGED, *ODD, *LINES[:200]]):
        assert forbidden.isdisjoint(ids)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_batch_is_read_as_its_texts_are(families, name):
    tokenizer, language = families[name], LANGUAGE.get(name)
    for side in (tokenizer.source, tokenizer.target):
        assert side([*ODD, FIRST], language) == [side([text], language)[0] for text in (*ODD, FIRST)]
        assert side([], language) == []
    assert tokenizer.encode("a\ud800b") == tokenizer.encode("a?b")


@pytest.mark.parametrize("name", FAMILIES)
def test_parts_of_a_text_have_together_its_ids(families, name):
    tokenizer = families[name]
    text = " ".join((*LINES[:200], *ODD, *FORGED, "a\nb c\n"))
    parts = list(tokenizer.parts(text, 100))
    assert len(parts) > 50 or name in ("marian", "separate")  # Marian keeps it whole
    assert [id for ids in tokenizer.encode_batch(parts) for id in ids] == tokenizer.encode(text)
    assert list(tokenizer.parts(text[:100], 100)) == [text[:100]]


@pytest.mark.parametrize("name", FAMILIES)
def test_framed_text_decodes_to_itself(families, name):
    """Where every character is known, to the text as the vocabulary normalises it: spaces become one."""
    tokenizer, language = families[name], LANGUAGE.get(name)
    exact = name in ("byt5", "bart")
    shown = 0
    for line, ids in zip(LINES, tokenizer.target(LINES, language), strict=True):
        if tokenizer.unknown_id not in ids and (exact or line.isascii()):
            expected = line if exact else " ".join(line.split())
            assert tokenizer.text(ids) == tokenizer.text(np.array(ids, np.uint16)) == expected
            assert tokenizer.decode(ids) == expected
            shown += 1
    assert shown > 20


@pytest.mark.parametrize("name", FAMILIES)
@settings(deadline=None, max_examples=30)
@given(ids=st.lists(st.integers(-(2**31), 2**31) | st.integers(-1, 1000), max_size=30))
def test_no_ids_are_too_odd_to_decode(families, name, ids):
    tokenizer = families[name]
    assert isinstance(tokenizer.decode(ids), str)
    assert tokenizer.text(ids) == tokenizer.text([id for id in ids if 0 <= id < tokenizer.target_size])


@pytest.mark.parametrize("name", FAMILIES)
def test_what_is_saved_opens_as_the_same(families, name, tmp_path):
    tokenizer = families[name]
    again = open_tokenizer(tokenizer.save(tmp_path / "saved"))
    assert again.digest == tokenizer.digest
    assert (again.size, again.target_size) == (tokenizer.size, tokenizer.target_size)
    assert again.encode_batch(LINES[:50]) == tokenizer.encode_batch(LINES[:50])


def test_digests_differ(families):
    assert len({tokenizer.digest for tokenizer in families.values()}) == len(families)


@pytest.mark.parametrize("name", FAMILIES)
def test_an_unknown_language_is_refused_in_one_sentence(families, name):
    tokenizer = families[name]
    said = r"The language is 'xx_YY': (allowed is \S+, \S+.*\.$|this tokenizer has no language codes)"
    for call in (tokenizer.start_id, tokenizer.forced_first, lambda code: tokenizer.source([FIRST], code)):
        with pytest.raises(ConfigError, match=said):
            call("xx_YY")
    with pytest.raises(ConfigError, match=said):
        tokenizer.target([FIRST], "xx_YY")


def test_many_languages_are_abbreviated(families):
    tokenizer = families["marian"]
    many = type("Many", (), {"languages": tuple(map(str, range(140))), "language_ids": dict.fromkeys(range(140))})()
    with pytest.raises(ConfigError, match=r"allowed is 0, 1, .*, 99 and 40 more\.$"):
        type(tokenizer).language_id(many, "xx")


# --- Surfaces ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["t5", "fallback", "mt5", "byt5", "bart", "cc25", "50", "m2m_100", "marian"])
def test_surfaces_are_what_ids_add_to_a_text(families, name):
    """Of ids of text one after the other; a first space may be lost, and broken characters become one sign or more."""
    tokenizer, rng = families[name], np.random.default_rng(0)
    word = next(id for id in tokenizer.text_ids.tolist() if tokenizer.token_bytes[id].strip().isalpha())
    for ids in rng.choice(tokenizer.text_ids, (200, 12)).tolist():
        if name == "marian" and not set(ids) <= set(range(tokenizer.target_size)):
            continue
        joined = b"".join(tokenizer.token_bytes[id] for id in (word, *ids, word)).decode("utf-8", errors="ignore")
        assert squeezed(tokenizer.text([word, *ids, word])) == squeezed(joined)


def squeezed(text: str) -> str:
    return "".join(text.replace("\ufffd", "").split())


@pytest.mark.parametrize("name", ["t5", "fallback", "mt5", "byt5", "bart", "cc25", "50", "m2m_100", "marian"])
def test_controls_have_no_surface_and_all_that_text_gives_has_one(families, name):
    tokenizer = families[name]
    controls = {tokenizer.pad_id, tokenizer.eos_id, tokenizer.unknown_id, tokenizer.bos_id, tokenizer.mask_id}
    sentinels = set() if name == "byt5" else set(tokenizer.sentinel_ids.tolist())
    hidden = (controls | sentinels | set(tokenizer.language_ids.values())) - {None}
    assert not hidden & set(tokenizer.text_ids.tolist())
    given = {id for ids in tokenizer.encode_batch([line.replace(">>", "") for line in LINES]) for id in ids}
    assert given - {tokenizer.unknown_id} <= set(tokenizer.text_ids.tolist())
    assert tokenizer.word_starts[list(controls - {None})].all()
    assert len(tokenizer.token_bytes) == len(tokenizer.word_starts) == tokenizer.size


@pytest.mark.parametrize("name", ["t5", "bart", "cc25", "marian"])
def test_words_begin_after_a_space(families, name):
    """Of a text of plain words as many tokens begin one as there are, but perhaps the first."""
    tokenizer = families[name]
    ids = tokenizer.encode("the house of reading letters quickly")
    assert tokenizer.word_starts[ids].sum() == 6 - (name == "bart")


def test_every_byte_begins_a_word(families):
    assert families["byt5"].word_starts.all()


def test_ids_by_surface_are_exact(families):
    for name in ("t5", "bart", "cc25", "byt5"):
        tokenizer = families[name]
        for id in tokenizer.ids_by_bytes[b"."]:
            assert tokenizer.token_bytes[id] == b"."
        assert len(tokenizer.ids_by_bytes[b"."]) == 1
