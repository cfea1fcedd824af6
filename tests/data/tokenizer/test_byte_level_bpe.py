"""Byte-level BPE: BART's ids, from either form of its files."""

import json
import shutil

import numpy as np
import pytest
from tokenizers import Tokenizer as Backend
from vocabularies import FORGED, LINES, ODD

from research import ByteLevelBPE
from research.config import ConfigError
from research.data.tokenizer import open_tokenizer


def test_the_controls_are_fairseqs(families):
    bart = families["bart"]
    assert (bart.bos_id, bart.pad_id, bart.eos_id, bart.unknown_id) == (0, 1, 2, 3)
    assert bart.mask_id == bart.size - 1 == bart.target_size - 1


def test_every_text_survives(families):
    bart = families["bart"]
    for text in (*ODD, *FORGED, *LINES[:300]):
        assert bart.text(bart.source([text])[0]) == bart.decode(bart.source([text])[0]) == text


def test_the_mask_is_shown_and_not_scored(families):
    bart = families["bart"]
    ids = [bart.bos_id, *bart.encode("the"), bart.mask_id, *bart.encode(" river"), bart.eos_id, bart.pad_id]
    assert bart.decode(ids) == "the<mask> river"
    assert bart.text(ids) == "the river"
    assert bart.decode([bart.size, -1]) == "<unk><unk>"


def test_both_forms_of_its_files_are_the_same(families, files, tmp_path):
    bart = families["bart"]
    (tmp_path / "tokenizer.json").write_bytes(bart.framed_json())
    for path in (tmp_path, tmp_path / "tokenizer.json"):
        again = open_tokenizer(ByteLevelBPE(str(path)))
        assert again.digest == bart.digest
        assert again.source(LINES[:50]) == bart.source(LINES[:50])
    merges = files / "bart" / "merges.txt"
    shutil.copytree(files / "bart", tmp_path / "other")
    (tmp_path / "other" / "merges.txt").write_text("\n".join(merges.read_text().splitlines()[:-1]))
    assert open_tokenizer(ByteLevelBPE(str(tmp_path / "other"))).digest != bart.digest


def test_what_is_written_frames_text_by_itself(families):
    bart = families["bart"]
    alone = Backend.from_str(bart.framed_json().decode())
    assert [encoding.ids for encoding in alone.encode_batch(LINES[:50])] == bart.source(LINES[:50])


def test_a_file_that_cuts_and_pads_does_neither(families, tmp_path):
    content = json.loads(families["bart"].framed_json())
    content["truncation"] = {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0}
    content["padding"] = {
        "strategy": {"Fixed": 9}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 1, "pad_type_id": 0,
        "pad_token": "<pad>",
    }  # fmt: skip
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    again = open_tokenizer(ByteLevelBPE(str(tmp_path)))
    assert again.source(["a", LINES[0]]) == families["bart"].source(["a", LINES[0]])


def damaged(content: dict, change: str) -> str:
    match change:
        case "prefix":
            content["pre_tokenizer"]["add_prefix_space"] = True
        case "unigram":
            content["model"]["type"] = "Unigram"
        case "normalizer":
            content["normalizer"] = {"type": "NFKC"}
        case "mask":
            del content["model"]["vocab"]["<mask>"]
            content["added_tokens"] = content["added_tokens"][:-1]
        case "hole":
            content["model"]["vocab"]["<mask>"] += 1
            content["added_tokens"] = content["added_tokens"][:-1]
        case "merge":
            content["model"]["merges"].append(["nowhere", "here"])
        case "json":
            return "{"
        case "list":
            return "[]"
    return json.dumps(content)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("prefix", "not byte-level BPE like BART's"),
        ("unigram", "not byte-level BPE like BART's"),
        ("normalizer", "and no normalizer"),
        ("mask", "lacks <mask>: it needs <s>, <pad>, </s>, <unk>, <mask>"),
        ("hole", "each of 0, 1, 2 ... once"),
        ("merge", "not a valid tokenizer.json"),
        ("json", "is not JSON"),
        ("list", "is not a JSON object"),
    ],
)
def test_a_bad_file_is_named(families, tmp_path, change, said):
    path = tmp_path / "tokenizer.json"
    path.write_text(damaged(json.loads(families["bart"].framed_json()), change))
    with pytest.raises(ConfigError) as error:
        open_tokenizer(ByteLevelBPE(str(path)))
    assert said in str(error.value)
    assert str(path) in str(error.value)


def test_merges_that_are_missing_or_of_another_vocabulary_are_named(files, tmp_path):
    shutil.copy(files / "bart" / "vocab.json", tmp_path)
    with pytest.raises(ConfigError, match=r"merges.txt cannot be read: No such file"):
        open_tokenizer(ByteLevelBPE(str(tmp_path)))
    for content in ("no where\n", "one\n", "one two three\n"):
        (tmp_path / "merges.txt").write_text(content)
        with pytest.raises(ConfigError, match=r"merges.txt does not fit vocab.json"):
            open_tokenizer(ByteLevelBPE(str(tmp_path)))


@pytest.mark.live
def test_ids_and_text_are_hugging_faces(families, files):
    from transformers import BartTokenizer

    theirs, bart = BartTokenizer.from_pretrained(files / "bart"), families["bart"]
    assert len(theirs) == bart.size
    assert theirs.mask_token_id == bart.mask_id
    texts = [*ODD, *LINES]
    for text, ids, target in zip(texts, bart.source(texts), bart.target(texts), strict=True):
        assert ids == theirs(text).input_ids
        assert target == theirs(text_target=text).input_ids
    for text, ids in zip(FORGED, bart.source(FORGED), strict=True):
        assert ids == theirs(text, split_special_tokens=True).input_ids
    for ids in np.random.default_rng(0).integers(0, bart.size, (500, 20)):
        assert bart.text(ids) == theirs.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
