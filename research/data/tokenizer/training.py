"""Training a SentencePiece vocabulary in T5's form."""

import io
import random
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import sentencepiece

from research.config import ConfigError, TrainedSentencePiece
from research.data.tokenizer.files import utf8
from research.data.tokenizer.sentinels import SentinelTokenizer
from research.storage.files import write_bytes

LINES_A_PIECE = 25  # 8,000 pieces from half of 17 MB: all of it takes 2.5 times as long and saves 0.3% of the tokens
LINE_LENGTH = 1000  # characters, at most 4 bytes each: SentencePiece drops lines above 4,192 bytes
TRAINING_THREADS = 16  # fixed, since float sums over threads decide the pieces


def train_sentencepiece(texts: Iterable[str], config: TrainedSentencePiece, path: str | Path) -> None:
    """Trains a model with byte fallback and writes it to `path`, whole or not at all.

    The same texts give the same file. Every text is read, and a sample of their lines is kept in memory and trained on.
    Raises ConfigError, saying what is possible, where the text does not allow that number of pieces.
    """
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(sample(training_lines(texts), LINES_A_PIECE * config.pieces)),
            model_writer=model,
            model_type=config.algorithm,
            vocab_size=config.pieces,
            byte_fallback=True,
            pad_id=SentinelTokenizer.pad_id,
            eos_id=SentinelTokenizer.eos_id,
            unk_id=SentinelTokenizer.unknown_id,
            bos_id=-1,
            num_threads=TRAINING_THREADS,
            minloglevel=2,
        )
    except RuntimeError as error:
        explain(error, config.pieces)
        raise
    write_bytes(Path(path), model.getvalue())


def training_lines(texts: Iterable[str]) -> Iterator[bytes]:
    for text in texts:
        for line in filter(str.strip, text.splitlines()):
            for start in range(0, len(line), LINE_LENGTH):
                yield utf8(line[start : start + LINE_LENGTH])


def sample(lines: Iterable[bytes], size: int) -> list[bytes]:
    """At most `size` of the lines, all equally likely to be among them (Vitter's algorithm R, TOMS 11:1, 1985).

    SentencePiece draws a sample too, but another one in each process, whatever its seed.
    """
    rng = random.Random(0)
    kept: list[bytes] = []
    for index, line in enumerate(lines):
        if index < size:
            kept.append(line)
        elif (place := int(rng.random() * (index + 1))) < size:
            kept[place] = line
    return kept


def explain(error: RuntimeError, pieces: int) -> None:
    """Raises ConfigError where SentencePiece failed for want of text; it says so in English only."""
    message = str(error)
    if most := re.search(r"Vocabulary size too high .* <= (\d+)", message):
        raise ConfigError(
            f"tokenizer.pieces is {pieces}: the training text allows {most[1]} at most; give more text or lower it."
        ) from error
    if least := re.search(r"Vocabulary size is smaller than required_chars. \d+ vs (\d+)", message):
        raise ConfigError(
            f"tokenizer.pieces is {pieces}: at least {least[1]} are needed for the characters of the training text."
        ) from error
    if "sentences_.empty()" in message or "all_chars_count" in message:
        raise ConfigError("The text to train a SentencePiece vocabulary on is empty.") from error
