"""scripts.train_tokenizer: from files to a vocabulary, or one sentence and exit code 2."""

import gzip
import json
import pydoc_data.topics

import pytest

from research import SentencePiece
from research.data.tokenizer import open_tokenizer
from scripts.train_tokenizer import main

TEXTS = list(pydoc_data.topics.topics.values())


@pytest.fixture(autouse=True)
def files(tmp_path, monkeypatch):
    monkeypatch.setenv("KINTSUGI_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_text("\n\n".join(TEXTS[:20]))
    with gzip.open(tmp_path / "b.txt.gz", "wt") as file:
        file.write("\n\n".join(TEXTS[20:40]))
    (tmp_path / "c.jsonl").write_text("".join(json.dumps({"body": text}) + "\n" for text in TEXTS[:20]))


def test_plain_and_compressed_text_give_a_vocabulary(capsys):
    assert main(["--text", "*.txt", "b.txt.gz", "--pieces", "600", "--output", "v.model"]) == 0
    assert open_tokenizer(SentencePiece("v.model")).size == 700
    assert "600 pieces from" in capsys.readouterr().out


def test_json_lines_give_the_vocabulary_of_their_texts():
    assert main(["--text", "c.jsonl", "--key", "body", "--pieces", "500", "--output", "json.model"]) == 0
    assert main(["--text", "a.txt", "--pieces", "500", "--output", "plain.model"]) == 0
    models = [open_tokenizer(SentencePiece(name)) for name in ("json.model", "plain.model")]
    assert models[0].digest == models[1].digest


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--text", "a.txt", "--output", "c.jsonl"], "--output c.jsonl exists: nothing is overwritten"),
        (["--text", "a.txt", "--output", "no/v.model"], "there is no directory"),
        (["--text", "none*.txt", "--output", "v.model"], "No file matches the pattern none*.txt."),
        (["--text", "c.jsonl", "--key", "text", "--output", "v.model"], "has no key \"text\": its keys are 'body'."),
        (["--text", "a.txt", "--pieces", "90000", "--output", "v.model"], "the training text allows"),
        (["--text", "a.txt", "--pieces", "10", "--output", "v.model"], "tokenizer.pieces is 10: at least 301"),
    ],
)
def test_bad_input_is_one_sentence_and_nothing_is_written(tmp_path, capsys, arguments, sentence):
    before = (tmp_path / "c.jsonl").read_bytes()
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert sentence in err
    assert err.count("\n") == 1
    assert not (tmp_path / "v.model").exists()
    assert (tmp_path / "c.jsonl").read_bytes() == before
