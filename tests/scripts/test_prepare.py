"""Text prepared by processes and shards: the same stream whoever makes it, and nothing is made twice."""

import json
import os
import signal
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest

from research import Bytes, PlainText
from research.config import load
from research.data import pipeline
from research.data.corpora import corpus, denoising, tokens
from research.data.corpora.documents import open_documents
from research.data.corpora.tokens import Recipe, TokenStream
from research.data.tokenizer import open_tokenizer
from scripts import prepare

ROOT = Path(__file__).resolve().parents[2]
EXPERIMENT = """
from research import *

def get_config():
    return Experiment(
        model=Model(512, 16, 2, 8, 32, 2, 2),
        data=Denoising((PlainText("{folder}/train.txt", "{folder}/held_out.txt"),), Bytes(), input_length=48),
        optimizer=Adafactor(),
        steps=1,
        batch_size=2,
    )
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An experiment of 1,000 documents to train on and 30 held out, in pieces of 100."""
    monkeypatch.setenv("KINTSUGI_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(tokens, "PIECE", 100)
    write(tmp_path, 1000)
    return tmp_path


def write(folder: Path, documents: int) -> None:
    (folder / "train.txt").write_text("\n\n".join(f"document {number}" for number in range(documents)))
    (folder / "held_out.txt").write_text("\n\n".join(f"held out {number}" for number in range(30)))
    (folder / "experiment.py").write_text(EXPERIMENT.format(folder=folder))


def recipe(folder: Path) -> Recipe:
    _, (made,), _ = denoising.recipes(load.open_experiment(str(folder / "experiment.py")).config.data)
    return made


def as_one_piece(folder: Path, monkeypatch: pytest.MonkeyPatch) -> TokenStream:
    with monkeypatch.context() as patch:
        patch.setenv("KINTSUGI_CACHE", str(folder / "cache of one piece"))
        patch.setattr(tokens, "PIECE", 1 << 30)
        return recipe(folder).stream()


def run(folder: Path, *arguments: str) -> int:
    return prepare.main([str(folder / "experiment.py"), *arguments])


def entries(folder: Path) -> list[str]:
    """Of the cache, but locks."""
    return sorted(path.name for path in (folder / "cache" / "tokens").iterdir() if path.suffix != ".lock")


def test_the_stream_is_the_same_in_pieces(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stream, expected = recipe(place).stream(), as_one_piece(place, monkeypatch)
    np.testing.assert_array_equal(stream.tokens, expected.tokens)
    (name,) = entries(place)
    meta = json.loads((place / "cache" / "tokens" / name / "meta.json").read_text())
    whole = json.loads(next((place / "cache of one piece" / "tokens").glob("*/meta.json")).read_text())
    assert meta["tokens_digest"] == whole["tokens_digest"]


def test_a_stream_of_one_piece_is_what_it_always_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else runs that have begun would be refused for other data."""
    monkeypatch.setenv("KINTSUGI_CACHE", str(tmp_path / "cache"))
    (tmp_path / "text.txt").write_text("one\n\ntwo\n\nthree")
    documents = open_documents(PlainText(str(tmp_path / "text.txt"), str(tmp_path / "text.txt")), "train")
    stream = tokens.Recipe(documents, open_tokenizer(Bytes())).stream()
    assert bytes(token - 3 for token in stream.tokens.tolist()) == b"threeonetwo"
    assert stream.text_digest == "074b073f94cb90c92910fdcbe0cb114b94d3c48a6d090a2900659a0e238b9507"


def test_shards_make_each_piece_once_and_the_last_puts_them_together(place: Path, monkeypatch, capsys) -> None:
    expected = as_one_piece(place, monkeypatch)
    assert run(place, "--jobs=1", "--shard=2/3") == 0
    assert "3 pieces made" in capsys.readouterr().out
    assert recipe(place).missing() == [0, 2, 3, 5, 6, 8, 9]
    assert run(place, "--jobs=1", "--shard=2/3") == 0
    assert "0 pieces made in 0 s, 8 are missing\nOther shards make them" in capsys.readouterr().out
    assert run(place, "--jobs=1", "--shard=3/3") == run(place, "--jobs=1", "--shard=1/3") == 0
    assert f"train.txt: {len(expected.tokens):,} tokens" in capsys.readouterr().out
    with monkeypatch.context() as patch:
        patch.setattr(Recipe, "_encode", lambda self, texts: pytest.fail("tokenised again"))
        np.testing.assert_array_equal(recipe(place).stream().tokens, expected.tokens)
        assert run(place, "--jobs=1", "--shard=1/3") == 0
    assert len(entries(place)) == 2  # the text to train on and the held-out one: the pieces are gone


def test_training_takes_what_was_prepared(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(place, "--jobs=1") == 0
    monkeypatch.setattr(Recipe, "_encode", lambda self, texts: pytest.fail("tokenised again"))
    config = load.open_experiment(str(place / "experiment.py")).config
    assert pipeline.prepare(config.data, config.seed, config.batch_size).train_rows > 0


@pytest.mark.slow
def test_processes_make_the_same_stream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    """With pieces of the size that they really have."""
    monkeypatch.setenv("KINTSUGI_CACHE", str(tmp_path / "cache"))
    write(tmp_path, 2 * tokens.PIECE + 1)
    expected = as_one_piece(tmp_path, monkeypatch)
    assert run(tmp_path, "--jobs=2") == 0
    assert "4 pieces made" in capsys.readouterr().out
    np.testing.assert_array_equal(recipe(tmp_path).stream().tokens, expected.tokens)


KILLED = """
import os, signal, sys
from research.data.corpora import tokens
from scripts import prepare
tokens.PIECE = 100
encode, calls = tokens.Recipe._encode, []
def _encode(self, texts):
    calls.append(1)
    if len(calls) == 5:
        os.kill(os.getpid(), signal.SIGKILL)
    return encode(self, texts)
tokens.Recipe._encode = _encode
prepare.main(sys.argv[1:])
"""


def test_killed_it_goes_on_after_the_last_whole_piece(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And training would do the same, which makes the stream in the same way."""
    command = [sys.executable, "-c", KILLED, str(place / "experiment.py"), "--jobs=1"]
    killed = subprocess.run(command, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert killed.returncode == -signal.SIGKILL
    assert recipe(place).missing() == list(range(4, 10))
    np.testing.assert_array_equal(recipe(place).stream().tokens, as_one_piece(place, monkeypatch).tokens)


def test_a_killed_process_is_reported_and_nothing_is_lost(place: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    def dies(*arguments) -> None:
        raise prepare.BrokenProcessPool

    monkeypatch.setattr(prepare, "make_in_processes", dies)
    assert run(place, "--jobs=2") == 1
    assert "error: a process was killed" in capsys.readouterr().err


def test_a_damaged_piece_is_made_anew(place: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    recipe(place).make(3)
    (piece,) = (place / "cache" / "tokens").glob("*.pieces/*/tokens")
    content = bytearray(piece.read_bytes())
    content[7] ^= 1
    piece.write_bytes(content)
    np.testing.assert_array_equal(recipe(place).stream().tokens, as_one_piece(place, monkeypatch).tokens)
    assert "is damaged (tokens was changed)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--shard=0/4"], "--shard is 0/4: it must be NUMBER/COUNT, such as 3/16, from 1/16 to 16/16."),
        (["--shard=5/4"], "--shard is 5/4: it must be"),
        (["--shard=x"], "--shard is x: it must be"),
        (["--jobs=0"], "--jobs is 0: it must be above 0."),
        (["--config.data.input_length=-1"], "input_length"),
        (
            ["--beam_runner=DirectRunner"],
            "--beam_runner needs Apache Beam: pip install 'kintsugi[beam]'",
        ),
    ],
)
def test_bad_input(place: Path, arguments: list[str], said: str, capsys) -> None:
    assert run(place, *arguments) == 2
    assert said in capsys.readouterr().err
    assert not (place / "cache").exists()


def test_what_apache_beam_builds_is_built_by_the_runner_that_is_named(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    """Apache Beam is not here: it is TFDS that is asked as its documentation says."""
    import tensorflow_datasets as tfds

    class Builder(tfds.core.BeamBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")
        name = "told"
        data_dir = place / "tfds"
        asked: tuple = ()

        _info = _split_generators = _build_pcollection = __init__ = lambda self: None

        def is_prepared(self) -> bool:
            return bool(self.asked)

        def download_and_prepare(self, *, download_config, file_format: str) -> None:
            self.asked = (download_config.beam_runner, download_config.beam_options, file_format)

    builder = Builder()
    monkeypatch.setattr(corpus, "_find_builder", lambda name: builder)
    taken = ["--config.data.corpora=[TFDS('told')]"]
    assert run(place, *taken) == 2
    assert "told is built with Apache Beam: prepare it by python -m scripts.prepare" in capsys.readouterr().err
    options = types.SimpleNamespace(PipelineOptions=list)
    monkeypatch.setattr(prepare, "find_spec", lambda name: True)
    for name, module in (("", types.SimpleNamespace()), (".options", None), (".options.pipeline_options", options)):
        monkeypatch.setitem(sys.modules, f"apache_beam{name}", module or types.SimpleNamespace())
    assert run(place, *taken, "--beam_runner=DirectRunner", "--beam_options=--project=P") == 0
    assert builder.asked == ("DirectRunner", ["--project=P"], "array_record")
