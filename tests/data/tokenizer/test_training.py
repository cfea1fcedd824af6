"""Training a SentencePiece vocabulary: the same file each time, or one sentence and nothing written."""

import pydoc_data.topics
import subprocess
import sys

import numpy as np
import pytest
import sentencepiece
from scipy import stats

from research import SentencePiece, TrainedSentencePiece
from research.config import ConfigError
from research.data.tokenizer import open_tokenizer, train_sentencepiece
from research.data.tokenizer.training import LINE_LENGTH, sample, training_lines

TEXTS = list(pydoc_data.topics.topics.values())

IN_ANOTHER_PROCESS = """
import sys
from research.config import TrainedSentencePiece
from research.data.tokenizer import training
import pydoc_data.topics

training.LINES_A_PIECE = 5
texts = pydoc_data.topics.topics.values()
training.train_sentencepiece(texts, TrainedSentencePiece(pieces=400), sys.argv[1])
"""


def test_training_is_quiet_and_gives_the_same_file_in_any_process(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr("research.data.tokenizer.training.LINES_A_PIECE", 5)
    assert sum(1 for _ in training_lines(TEXTS)) > 4 * 5 * 400  # so that a sample is drawn
    train_sentencepiece(iter(TEXTS), TrainedSentencePiece(pieces=400), tmp_path / "here")
    subprocess.run([sys.executable, "-c", IN_ANOTHER_PROCESS, str(tmp_path / "there")], check=True)
    assert capfd.readouterr() == ("", "")
    assert (tmp_path / "here").read_bytes() == (tmp_path / "there").read_bytes()


def test_every_line_is_as_likely_to_be_sampled():
    lines = [b"%d" % number for number in range(10_000)]
    drawn = [int(line) for line in sample(lines, 2_000)]
    assert len(set(drawn)) == 2_000
    assert stats.kstest(np.array(drawn) / 10_000, "uniform").pvalue > 1e-3
    assert sample(lines[:5], 2_000) == lines[:5]


def test_training_reads_long_lines_in_parts():
    lines = list(training_lines(["é" * (2 * LINE_LENGTH + 1) + "\nshort"]))
    assert [len(line.decode()) for line in lines] == [LINE_LENGTH, LINE_LENGTH, 1, 5]
    assert max(map(len, lines)) <= 4192


@pytest.mark.parametrize(
    ("texts", "pieces", "sentence"),
    [
        (["a few words are not enough"], 8000, r"tokenizer.pieces is 8000: the training text allows \d+ at most"),
        ([], 400, "is empty"),
        (["", " \n "], 400, "is empty"),
        (["".join(map(chr, range(0x4E00, 0x4F00)))], 301, r"pieces is 301: at least \d+ are needed for the characters"),
    ],
)
def test_text_that_does_not_allow_the_pieces_is_refused_and_nothing_is_written(tmp_path, texts, pieces, sentence):
    with pytest.raises(ConfigError, match=sentence):
        train_sentencepiece(texts, TrainedSentencePiece(pieces), tmp_path / "v.model")
    assert list(tmp_path.iterdir()) == []


def test_byte_pairs_are_merged_where_asked(tmp_path):
    """Scores are then the order of the merges, and not logarithms of probabilities."""
    train_sentencepiece(TEXTS[:30], TrainedSentencePiece(500, "bpe"), tmp_path / "v.model")
    processor = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "v.model"))
    learned = range(3 + 256, 500)
    assert [processor.get_score(piece) for piece in learned] == [-float(place) for place in range(len(learned))]
    assert len(processor.id_to_piece(learned[0])) == 2


@pytest.mark.parametrize("algorithm", ["unigram", "bpe"])
def test_the_number_of_pieces_that_a_refusal_names_is_possible(tmp_path, algorithm):
    with pytest.raises(ConfigError) as refusal:
        train_sentencepiece(TEXTS[:3], TrainedSentencePiece(8000, algorithm), tmp_path / "v.model")
    possible = int(str(refusal.value).split("allows ")[1].split()[0])
    train_sentencepiece(TEXTS[:3], TrainedSentencePiece(possible, algorithm), tmp_path / "v.model")
    assert open_tokenizer(SentencePiece(str(tmp_path / "v.model"))).pieces == possible


def test_a_failed_training_leaves_the_old_file(tmp_path):
    path = tmp_path / "v.model"
    path.write_bytes(b"old")
    with pytest.raises(ConfigError):
        train_sentencepiece(["few"], TrainedSentencePiece(8000), path)
    assert path.read_bytes() == b"old"
