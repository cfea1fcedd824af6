"""Vocabularies made to do harm are refused by name."""

import base64
import json
from pathlib import Path

import pytest

from research.config import ConfigError
from research.pretrained.tokenizer_files import read_tokenizer

CONTROLS = [["<pad>", 0], ["</s>", 0], ["<unk>", 0]]
CHARSMAP = {"type": "Precompiled", "precompiled_charsmap": ""}
DEEP = '{"a":' * 100_000


def unigram(vocabulary: list, normalizer: object = CHARSMAP) -> dict[str, object]:
    return {"model": {"type": "Unigram", "vocab": vocabulary}, "normalizer": normalizer}


def refused(directory: Path, name: str, content: object) -> None:
    (directory / name).write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(ConfigError) as error:
        read_tokenizer(directory)
    assert name in str(error.value)
    assert "\n" not in str(error.value)


def test_the_form_that_is_damaged_below_is_read(tmp_path):
    (tmp_path / "tokenizer.json").write_text(json.dumps(unigram([*CONTROLS, ["a", -1.0]])))
    assert read_tokenizer(tmp_path).size == 4


@pytest.mark.parametrize(
    "content",
    [
        DEEP,
        [1],
        {"model": "x"},
        {"model": {"type": "Unigram"}},
        unigram([[f"<extra_id_{index}>", 0] for index in (3, 2, 1, 0)]),
        unigram([*CONTROLS, ["\ud800", 0]]),
        unigram([*CONTROLS, ["a", 10**400]]),
        unigram([*CONTROLS, ["a", True, 3]]),
        unigram([*CONTROLS, ["a", 0]], "x"),
        unigram([*CONTROLS, ["a", 0]], {"normalizers": 5}),
        unigram([*CONTROLS, ["a", 0]], {"normalizers": ["x"]}),
        unigram([*CONTROLS, ["a", 0]], {"type": "Precompiled"}),
        unigram([*CONTROLS, ["a", 0]], CHARSMAP | {"precompiled_charsmap": "a"}),
        unigram([*CONTROLS, ["a", 0]], CHARSMAP | {"precompiled_charsmap": base64.b64encode(b"\xff" * 5).decode()}),
    ],
)
def test_a_unigram_tokenizer_json_refused(content, tmp_path):
    refused(tmp_path, "tokenizer.json", content)


@pytest.mark.parametrize(
    "changes",
    [
        {"model": "x"},
        {"pre_tokenizer": "ByteLevel"},
        {"decoder": ["ByteLevel"]},
        {"added_tokens": 5},
        {"merges": [["zzz", "yyy"]]},
        {"merges": "x" * 1000},
        {"vocab": {"a": -1}},
        {"vocab": {"a": 2**63}},
        {"continuing_subword_prefix": "x" * 100},  # longer than a piece, at which the library would not raise but panic
    ],
)
def test_a_byte_level_tokenizer_json_refused(changes, families, tmp_path):
    content = json.loads(families["bart"].framed_json())
    for name, value in changes.items():
        (content["model"] if name in content["model"] and name != "model" else content)[name] = value
    refused(tmp_path, "tokenizer.json", content)


@pytest.mark.parametrize(
    "content",
    [DEEP, {"extra_ids": 10**12}, {"extra_ids": -1}, {"extra_ids": "100"}, {"additional_special_tokens": 5}],
)
def test_a_tokenizer_config_refused(content, tmp_path):
    content = content if isinstance(content, str) else {"tokenizer_class": "ByT5Tokenizer"} | content
    (tmp_path / "tokenizer_config.json").write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(ConfigError):
        read_tokenizer(tmp_path)


def test_a_sentencepiece_model_with_a_piece_that_is_no_text_is_refused(families, tmp_path):
    model = families["t5"].model
    place = model.index("ß".encode())
    (tmp_path / "spiece.model").write_bytes(model[:place] + b"\xff\xff" + model[place + 2 :])
    with pytest.raises(ConfigError, match=r"spiece\.model is not a SentencePiece model"):
        read_tokenizer(tmp_path)
