"""vocab.yml, as Marian writes it and as it is written here."""

import pytest

from research.config import ConfigError
from research.pretrained.marian.vocabulary import read_vocabulary, write_vocabulary

TOKENS = ["</s>", "<unk>", "null", "no", "~", "1", "a: b", ":", "▁the", '"', "'", "'q'", "\\", "# x", "- x", "? x"]
TOKENS += ["\U0001f389", "\u2028", "\x85", "\t", "\x01", "\ufeff", " a ", "<<", "=", "x" * 2000]


def test_vocabularies_round_trip(tmp_path):
    write_vocabulary(tmp_path / "vocab.yml", TOKENS)
    assert read_vocabulary(tmp_path / "vocab.yml") == TOKENS


def test_vocabularies_as_marian_writes_them(tmp_path):
    lines = [
        "</s>: 0",
        "<unk>: 1",
        "no: 3",
        "null: 2",
        "? " + "y" * 9,
        ": 4",
        '"a: \\"b": 5',
        "':': 6",
        "a\u2028b: 7",
        "",
    ]
    (tmp_path / "vocab.yml").write_text("\n".join(lines), encoding="utf-8")
    found = read_vocabulary(tmp_path / "vocab.yml")
    assert found == ["</s>", "<unk>", "null", "no", "y" * 9, 'a: "b', ":", "a\u2028b"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 0\nb: x\n", "line 2: 'b: x' is not a token, a colon and a number"),
        ("a: 0\nb: 0\n", "line 2: number 0 occurs twice"),
        ("a: 0\nb: 2\n", "its numbers are not 0 to 1, each once"),
        ("a: 0\na: 1\n", "a token occurs twice"),
        ('"a: 0\n', "is not a quoted token"),
        (b"\xff: 0\n", "is not UTF-8"),
    ],
)
def test_vocabularies_refused(tmp_path, text, message):
    (tmp_path / "vocab.yml").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigError, match=message):
        read_vocabulary(tmp_path / "vocab.yml")
    with pytest.raises(ConfigError, match="is missing"):
        read_vocabulary(tmp_path / "absent.yml")
    with pytest.raises(ConfigError, match="contains a token twice"):
        write_vocabulary(tmp_path / "out.yml", ["a", "a"])
