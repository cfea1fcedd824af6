"""Marian: pieces by two SentencePiece models, ids by JSON, languages by a code before the text."""

import json
import shutil

import numpy as np
import pytest
from vocabularies import FORGED, LINES, ODD, sentencepiece_model, write_ids

from research import Marian
from research.config import ConfigError
from research.data.tokenizer import open_tokenizer

CODED = (
    ">>deu<< Hello",
    ">>deu<<the river",
    ">>xxx<< a",
    ">>deu a",
    ">> deu << a",
    ">>ron<<",
    "a >>deu<< b",
    ">>> 1 << 2",
    " >>> 1 << 2",
)
SIDES = ("source", "target")


def test_each_side_has_its_own_pieces(families):
    marian = families["marian"]
    pieces = {side: getattr(marian, f"{side}_side").processor.encode(LINES[:200], out_type=str) for side in SIDES}
    assert pieces["source"] != pieces["target"]
    for side, encode in (("source", marian.source), ("target", marian.target)):
        ids = getattr(marian, f"{side}_side").ids
        for text, found in zip(pieces[side], encode(LINES[:200]), strict=True):
            assert found == [*(ids.get(piece, marian.unknown_id) for piece in text), marian.eos_id]


def test_a_language_is_a_code_before_the_source(families):
    marian = families["marian"]
    assert marian.languages == (">>deu<<", ">>ron<<")
    code = marian.language_id(">>deu<<")
    assert marian.source(["the river"], ">>deu<<") == marian.source([">>deu<<the river"])
    assert marian.source(["the river"], ">>deu<<") == [[code, *marian.source(["the river"])[0]]]
    assert marian.target(["the river"], ">>deu<<") == marian.target(["the river"])
    assert marian.source([">>xxx<<the"])[0][0] == marian.unknown_id


def test_what_looks_like_a_code_is_lost_unless_a_space_comes_first(families):
    marian = families["marian"]
    assert marian.source([">>> 1 << the river"])[0] == [marian.unknown_id, *marian.source([" the river"])[0]]
    assert marian.source([" >>> 1 << the river"])[0] != marian.source([">>> 1 << the river"])[0]
    assert len(marian.source([" >>> 1 << the river"])[0]) > 2 + len(marian.source(["the river"])[0])


def test_separate_vocabularies_have_their_own_sizes(files, tmp_path):
    for name in ("source.spm", "target.spm", "vocab.json"):
        shutil.copy(files / "separate" / name, tmp_path)
    small = {"</s>": 0, "<unk>": 1, "<pad>": 2, "▁the": 3}
    source = json.loads((tmp_path / "vocab.json").read_text())
    last = next(piece for piece, id in source.items() if id == 2)
    source |= {"<pad>": 2, last: source["<pad>"]}
    (tmp_path / "vocab.json").write_text(json.dumps(source))
    (tmp_path / "target_vocab.json").write_text(json.dumps(small))
    marian = open_tokenizer(Marian(str(tmp_path)))
    assert (marian.size, marian.target_size) == (len(source), 4)
    assert {id for ids in marian.target(LINES[:200]) for id in ids} == {0, 1, 3}
    assert marian.text([3, 0, 2, 4, len(source) - 1]) == "the"


def test_targets_are_decoded_by_their_own_vocabulary(families):
    separate = families["separate"]
    for line in LINES[:200]:
        (ids,) = separate.target([line])
        if separate.unknown_id not in ids and line.isascii():
            assert separate.text(ids) == separate.decode(ids) == " ".join(line.split())


def test_the_model_of_the_target_decodes(files, tmp_path):
    """Only it knows that pieces like <0xE2> are bytes."""
    shutil.copytree(files / "marian", tmp_path / "m")
    (tmp_path / "m" / "target.spm").write_bytes(sentencepiece_model(byte_fallback=True))
    write_ids(tmp_path / "m" / "vocab.json", ["▁", *(f"<0x{byte:02X}>" for byte in range(256))])
    marian = open_tokenizer(Marian(str(tmp_path / "m")))
    (ids,) = marian.target(["\U0010ffff"])
    assert len(ids) == 6
    assert marian.text(ids) == marian.decode(ids) == "\U0010ffff"


@pytest.mark.parametrize("name", ["source.spm", "target.spm", "vocab.json"])
def test_a_missing_or_broken_file_is_named(files, tmp_path, name):
    shutil.copytree(files / "marian", tmp_path / "m")
    (tmp_path / "m" / name).write_bytes(b"neither")
    with pytest.raises(ConfigError, match=f"{name} is not"):
        open_tokenizer(Marian(str(tmp_path / "m")))
    (tmp_path / "m" / name).unlink()
    with pytest.raises(ConfigError, match=f"{name} cannot be read: No such file"):
        open_tokenizer(Marian(str(tmp_path / "m")))


@pytest.mark.parametrize(
    ("ids", "said"),
    [
        ({"</s>": 0, "<unk>": 1, "a": 2}, "lacks <pad>: it needs </s>, <unk>, <pad>"),
        ({"</s>": 0, "<unk>": 1, "<pad>": 3}, "each of 0, 1, 2 ... once"),
        ({"</s>": 0, "<unk>": 1, "<pad>": "2"}, "each of 0, 1, 2 ... once"),
        ({"</s>": 0, "<unk>": 1, "<pad>": True}, "each of 0, 1, 2 ... once"),
        ({"</s>": 0, "<pad>": 1, "<unk>": 2}, r"target_vocab.json give \['<unk>', '<pad>'\] different ids"),
    ],
)
def test_a_vocabulary_that_does_not_fit_is_refused(files, tmp_path, ids, said):
    shutil.copytree(files / "separate", tmp_path / "m")
    (tmp_path / "m" / "target_vocab.json").write_text(json.dumps(ids))
    with pytest.raises(ConfigError, match=said):
        open_tokenizer(Marian(str(tmp_path / "m")))


@pytest.mark.live
@pytest.mark.parametrize("name", ["marian", "separate"])
@pytest.mark.filterwarnings("ignore:Recommended. pip install sacremoses")
def test_ids_and_text_are_hugging_faces(families, files, name):
    from transformers import MarianTokenizer

    separate = name == "separate"
    theirs, marian = MarianTokenizer.from_pretrained(files / name, separate_vocabs=separate), families[name]
    assert len(theirs) == marian.size
    assert theirs.supported_language_codes == list(marian.languages)
    texts = [*ODD, *CODED, *LINES]
    for text, source, target in zip(texts, marian.source(texts), marian.target(texts), strict=True):
        assert source == theirs(text).input_ids
        assert target == theirs(text_target=text).input_ids
    for text, source in zip(FORGED, marian.source(FORGED), strict=True):
        assert source == theirs(text, split_special_tokens=True).input_ids
    for row in np.random.default_rng(0).integers(0, marian.target_size, (500, 20)):
        text = theirs.decode(
            row, skip_special_tokens=True, clean_up_tokenization_spaces=False, use_source_tokenizer=False
        )
        assert marian.text(row) == text
