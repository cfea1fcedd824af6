"""M2M-100: pieces by SentencePiece, ids by JSON, languages after them; Hugging Face's ids for every text."""

import json
import shutil

import numpy as np
import pytest
from vocabularies import LINES, ODD

from research import M2M100, Extended
from research.config import ConfigError
from research.data.tokenizer import open_tokenizer
from research.data.tokenizer.m2m_100 import LANGUAGES
from research.pretrained.tokenizer_files import read_tokenizer


def test_pieces_without_an_id_are_unknown(families):
    tokenizer = families["m2m_100"]
    pieces = tokenizer.processor.encode(LINES[:300], out_type=str)
    expected = [[tokenizer.ids.get(piece, 3) for piece in text] for text in pieces]
    assert tokenizer.encode_batch(LINES[:300]) == expected
    known = {tokenizer.processor.id_to_piece(id) for id in range(tokenizer.processor.get_piece_size())}
    assert any(piece in known and piece not in tokenizer.ids for text in pieces for piece in text)


def test_languages_have_the_ids_of_the_published_vocabulary(families):
    """The published ids after 128,004 pieces: en 128022, fr 128028, and zu last."""
    tokenizer = families["m2m_100"]
    above = {code: id - len(tokenizer.ids) + 128_004 for code, id in tokenizer.language_ids.items()}
    assert (above["af"], above["en"], above["fr"], above["zu"]) == (128_004, 128_022, 128_028, 128_103)
    assert tokenizer.size == len(tokenizer.ids) + 100


def test_what_is_not_text_is_shown_but_not_scored(families):
    tokenizer = families["m2m_100"]
    ids = [0, *tokenizer.encode("the and"), tokenizer.language_id("ro"), 2, 1, 3, tokenizer.size]
    assert tokenizer.decode(ids) == "the and ⁇  ⁇ "
    assert tokenizer.text(ids) == "the and"


def test_an_unknown_language_is_refused_with_those_there_are(families):
    for language in (None, "xx", "__en__", "en_XX"):
        with pytest.raises(ConfigError, match=r"The language is .*: allowed is af, am, .*, de, .* zu\.$"):
            families["m2m_100"].source(["a"], language)


@pytest.mark.parametrize("variant", LANGUAGES)
def test_a_variant_is_named_in_the_directory(files, variant, tmp_path):
    shutil.copytree(files / "m2m_100", tmp_path / "m")
    config = {"tokenizer_class": "M2M100Tokenizer", "language_codes": variant}
    (tmp_path / "m" / "tokenizer_config.json").write_text(json.dumps(config))
    assert read_tokenizer(tmp_path / "m").digest == open_tokenizer(M2M100(str(tmp_path / "m"), variant)).digest
    assert read_tokenizer(tmp_path / "m").languages == LANGUAGES[variant]
    (tmp_path / "m" / "tokenizer_config.json").write_text(json.dumps(config | {"language_codes": "other"}))
    with pytest.raises(ConfigError, match=r"language_codes is 'other', not m2m100 or wmt21\.$"):
        read_tokenizer(tmp_path / "m")


@pytest.mark.parametrize("file", ["sentencepiece.bpe.model", "vocab.json"])
def test_a_missing_or_damaged_file_is_named(files, tmp_path, file):
    shutil.copytree(files / "m2m_100", tmp_path / "m")
    (tmp_path / "m" / file).write_text('{"a": 0}')
    message = "is not a SentencePiece model" if file.endswith("model") else "lacks <s>, <pad>, </s>, <unk>"
    with pytest.raises(ConfigError, match=message):
        open_tokenizer(M2M100(str(tmp_path / "m")))
    (tmp_path / "m" / file).unlink()
    with pytest.raises(ConfigError, match=rf"{file} cannot be read: No such file"):
        open_tokenizer(M2M100(str(tmp_path / "m")))


def test_new_tokens_are_refused():
    with pytest.raises(ConfigError, match=r"^M2M-100's vocabulary cannot have new tokens: "):
        Extended(M2M100("m2m"), ("<sep>",))


@pytest.mark.live
@pytest.mark.parametrize("variant", LANGUAGES)
def test_ids_and_text_are_hugging_faces(files, variant):
    from transformers import M2M100Tokenizer

    names = [f"__{code}__" for code in LANGUAGES[variant]]
    theirs = M2M100Tokenizer(
        str(files / "m2m_100" / "vocab.json"),
        str(files / "m2m_100" / "sentencepiece.bpe.model"),
        language_codes=variant,
        additional_special_tokens=names,
    )
    tokenizer = open_tokenizer(M2M100(str(files / "m2m_100"), variant))
    assert theirs.convert_tokens_to_ids(names) == list(tokenizer.language_ids.values())
    theirs.src_lang, theirs.tgt_lang = "ru", "de"
    texts = [*ODD, *LINES]
    assert theirs(texts).input_ids == tokenizer.source(texts, "ru")
    assert theirs(text_target=texts).input_ids == tokenizer.target(texts, "de")
    assert theirs.get_lang_id("de") == tokenizer.forced_first("de")
    for row in np.random.default_rng(0).integers(0, tokenizer.size, (500, 20)):
        assert tokenizer.text(row) == theirs.decode(row, skip_special_tokens=True, clean_up_tokenization_spaces=False)
