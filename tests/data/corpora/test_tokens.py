"""Token streams: every document once, nothing between them, whole or absent, and damage is noticed."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from research import Bytes, Mixing, PlainText, TrainedSentencePiece
from research.config import ConfigError
from research.data.corpora import tokens, vocabulary
from research.data.corpora.documents import Documents, open_documents
from research.data.corpora.tokens import Recipe, TokenStream, document_order
from research.data.corpora.vocabulary import tokenizer_for
from research.data.tokenizer import open_tokenizer


def corpus(path: Path, documents: list[str]) -> Documents:
    path.write_text("\n\n".join(documents))
    return open_documents(PlainText(str(path), held_out=str(path)), "train")


def stored(cache: Path) -> Path:
    (found,) = (cache / "tokens").glob("*/tokens")
    return found


def test_every_document_once_in_one_order_and_nothing_between(tmp_path: Path) -> None:
    documents = [f"<document {number}>" for number in range(2000)]
    stream = Recipe(corpus(tmp_path / "a", documents), open_tokenizer(Bytes())).stream()
    text = open_tokenizer(Bytes()).decode(stream.tokens)
    order = [f"<{part}" for part in text.split("<")[1:]]
    assert order != documents
    assert sorted(order) == sorted(documents)
    assert np.corrcoef(np.arange(2000), [int(name[10:-1]) for name in order])[0, 1] < 0.1
    assert stream.tokens.dtype == np.uint16
    assert not stream.tokens.flags.writeable


def test_a_vocabulary_beyond_16_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = open_tokenizer(Bytes())
    monkeypatch.setattr(tokenizer, "size", 2**16 + 1)
    monkeypatch.setattr(tokenizer, "digest", "large")
    monkeypatch.setattr(tokenizer, "encode_batch", lambda texts: [[2**16] for _ in texts])
    stream = Recipe(corpus(tmp_path / "a", ["one", "two"]), tokenizer).stream()
    assert stream.tokens.tolist() == [2**16, 2**16]
    assert stream.tokens.dtype == np.uint32


@pytest.mark.parametrize("eos_after_lines", [False, True])
def test_a_long_text_is_encoded_in_parts_to_the_same_tokens(
    tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch, eos_after_lines: bool
) -> None:
    texts = [f"Document {number}, " + " or\nlines of words of".join("abcdefgh" * (number % 3)) for number in range(9)]
    tokenizer, encoded = open_tokenizer(Bytes()), []
    original = tokenizer.encode_batch
    documents = corpus(tmp_path / "a", texts)
    expected = Recipe(documents, tokenizer, eos_after_lines).stream().tokens.tolist()
    monkeypatch.setattr(tokens, "LONG", 100)
    monkeypatch.setattr(tokens, "PART_LENGTH", 20)
    monkeypatch.setattr(tokenizer, "encode_batch", lambda texts: encoded.extend(texts) or original(texts))
    monkeypatch.setenv("KINTSUGI_CACHE", str(tmp_path / "other"))
    assert Recipe(documents, tokenizer, eos_after_lines).stream().tokens.tolist() == expected
    assert max(map(len, texts)) > 300
    assert max(map(len, encoded)) <= 40


def test_it_is_tokenised_once_a_tokenizer_and_text(
    own_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    documents, tokenizer = corpus(tmp_path / "a", ["one", "two"]), open_tokenizer(Bytes())
    first = Recipe(documents, tokenizer).stream()
    monkeypatch.setattr(tokenizer, "encode_batch", lambda texts: pytest.fail("tokenised again"))
    assert Recipe(documents, tokenizer).stream().tokens.tolist() == first.tokens.tolist()
    monkeypatch.undo()
    monkeypatch.setenv("KINTSUGI_CACHE", str(own_cache))
    Recipe(documents, open_tokenizer(Bytes(sentinels=7))).stream()
    other = Recipe(corpus(tmp_path / "b", ["one", "three"]), tokenizer).stream()
    assert len(list((own_cache / "tokens").glob("*/tokens"))) == 3
    assert other.text_digest != first.text_digest


@pytest.mark.parametrize(
    ("end", "equal"), [("\n", True), ("\r\n", True), ("\u2028", False), (" \x0c", False), ("\r", False)]
)
def test_a_text_whose_lines_once_gave_other_tokens_has_another_digest(tmp_path: Path, end: str, equal: bool) -> None:
    documents, tokenizer = corpus(tmp_path / "a", [f"one{end}line", "two"]), open_tokenizer(Bytes())
    text_digest = Recipe(documents, tokenizer).stream().text_digest  # the only one of earlier versions
    assert (Recipe(documents, tokenizer, eos_after_lines=True).stream().text_digest == text_digest) is equal


def test_letters_that_ended_lines_but_give_no_tokens_change_no_digest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    documents, tokenizer = corpus(tmp_path / "a", ["one \x0c\nline\u2028"]), open_tokenizer(Bytes())
    original = tokenizer.encode_batch
    monkeypatch.setattr(tokenizer, "encode_batch", lambda texts: original([text.strip() for text in texts]))
    digests = {Recipe(documents, tokenizer, of_lines).stream().text_digest for of_lines in (False, True)}
    assert len(digests) == 1


BUILD_AND_DIE = """
import os, signal, sys
from research import Bytes, PlainText
from research.data.corpora.documents import open_documents
from research.data.tokenizer import ByteTokenizer, open_tokenizer
from research.data.corpora.tokens import Recipe
encode, calls = ByteTokenizer.encode_batch, []
def encode_batch(self, texts):
    calls.append(1)
    if len(calls) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return encode(self, texts)
ByteTokenizer.encode_batch = encode_batch
Recipe(open_documents(PlainText(sys.argv[1], held_out=sys.argv[1]), "train"), open_tokenizer(Bytes())).stream()
"""


def test_a_killed_tokenisation_leaves_nothing_taken_for_whole(own_cache: Path, tmp_path: Path) -> None:
    documents = corpus(tmp_path / "a", [f"document {number}" for number in range(2000)])
    process = subprocess.run([sys.executable, "-c", BUILD_AND_DIE, str(tmp_path / "a")], timeout=120)
    assert process.returncode == -9
    assert list((own_cache / "tokens").glob("*.partial/tokens"))
    stream = Recipe(documents, open_tokenizer(Bytes())).stream()
    assert len(stream.tokens) == sum(len(text) for texts in document_order(documents) for text in texts)
    assert not list((own_cache / "tokens").glob("*.partial"))


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-2])


def cut_meta(path: Path) -> None:
    path.with_name("meta.json").write_text("{")


@pytest.mark.parametrize("damage", [flip, cut, cut_meta, Path.unlink])
def test_a_damaged_stream_is_reported_and_made_anew(
    own_cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: object
) -> None:
    documents, tokenizer = corpus(tmp_path / "a", ["one", "two"]), open_tokenizer(Bytes())
    before = Recipe(documents, tokenizer).stream().tokens.tolist()
    damage(stored(own_cache))  # type: ignore[operator]
    assert Recipe(documents, tokenizer).stream().tokens.tolist() == before
    assert "is damaged" in capsys.readouterr().err
    assert Recipe(documents, tokenizer).stream().tokens.tolist() == before
    assert capsys.readouterr().err == ""


def test_meta_says_what_is_there(own_cache: Path, tmp_path: Path) -> None:
    Recipe(corpus(tmp_path / "a", ["one", "two"]), open_tokenizer(Bytes())).stream()
    meta = json.loads(stored(own_cache).with_name("meta.json").read_text())
    assert (meta["length"], meta["dtype"]) == (6, "uint16")


def test_rows_drop_what_is_left_over() -> None:
    stream = TokenStream("some text", np.arange(10, dtype=np.uint16), "")
    assert stream.rows(4).tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert stream.rows(10).shape == (1, 10)
    with pytest.raises(ConfigError, match=r"some text has 10 tokens, fewer than one row of 11: .* data\.input_length"):
        stream.rows(11)


def test_a_vocabulary_is_trained_once_and_from_all_corpora(own_cache: Path, tmp_path: Path) -> None:
    digits = [" ".join(str(number * step) for step in range(20)) for number in range(300)]
    letters = [" ".join(chr(97 + number * step % 26) * 3 for step in range(20)) for number in range(300)]
    corpora = [corpus(tmp_path / "a", digits), corpus(tmp_path / "b", letters)]
    config = TrainedSentencePiece(pieces=320, sentinels=10)
    tokenizer = tokenizer_for(config, corpora, Mixing())
    assert tokenizer.size == 330
    assert tokenizer.unknown_id not in tokenizer.encode("123 abc")
    assert len(tokenizer.encode("aaa bbb")) < 7

    (model,) = (own_cache / "vocabulary").glob("*/tokenizer.model")
    written = model.stat().st_mtime_ns
    assert tokenizer_for(config, corpora, Mixing()).digest == tokenizer.digest
    assert model.stat().st_mtime_ns == written
    with pytest.raises(ConfigError, match="pieces"):
        tokenizer_for(TrainedSentencePiece(pieces=30_000), corpora, Mixing())
    assert len(list((own_cache / "vocabulary").glob("*/tokenizer.model"))) == 1


def test_training_text_is_bounded_and_shared_as_the_mixing_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vocabulary, "TEXT_CHARACTERS", 4000)
    corpora = [corpus(tmp_path / "a", ["a" * 70] * 1286), corpus(tmp_path / "b", ["b" * 50] * 200)]
    for temperature, share in ((1.0, 0.9), (2.0, 0.75)):
        text = "".join(vocabulary.training_text(corpora, Mixing(temperature)))
        assert 3990 <= len(text) <= 4000
        assert abs(text.count("a") / len(text) - share) < 0.01
