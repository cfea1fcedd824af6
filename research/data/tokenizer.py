"""Text to token ids and back: SentencePiece as T5's, bytes as ByT5's, behind one interface.

Both begin with <pad> 0, </s> 1, <unk> 2. Sentinels are the last ids, counted down: <extra_id_0> is the last id of all.
"""

import hashlib
import io
import os
import random
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from itertools import count, takewhile
from pathlib import Path

import numpy as np
import sentencepiece
from jaxtyping import Integer, UInt

from research.config import Bytes, ConfigError, SentencePiece, TrainedSentencePiece, require

Array = np.ndarray

BYTE_OFFSET = 3  # ids of pad, EOS and unknown come before the bytes
BYTES_OUTSIDE_UTF8 = 11  # 0xF5 to 0xFF occur in no text
LINES_A_PIECE = 25  # 8,000 pieces from half of 17 MB: all of it takes 2.5 times as long and saves 0.3% of the tokens
LINE_LENGTH = 1000  # characters, at most 4 bytes each: SentencePiece drops lines above 4,192 bytes
TRAINING_THREADS = 16  # fixed, since float sums over threads decide the pieces


class Tokenizer(ABC):
    """What both kinds share. `pieces` ids come before the sentinels; `size` counts both."""

    pad_id = 0
    eos_id = 1
    unknown_id = 2

    def __init__(self, pieces: int, sentinels: int, identity: bytes):
        require(
            0 <= sentinels <= pieces,
            f"tokenizer.sentinels is {sentinels}: from 0 to {pieces}, the pieces this vocabulary has without them.",
        )
        self.pieces = pieces
        self.sentinels = sentinels
        self.size = pieces + sentinels
        # Equal digests mean equal ids for any text: what a checkpoint's vocabulary is compared by.
        self.digest = hashlib.sha256(identity + b" sentinels %d" % sentinels).hexdigest()

    @cached_property
    def sentinel_ids(self) -> UInt[Array, " sentinels"]:
        """Descending from the last id, as T5 spends them."""
        return np.arange(self.size - 1, self.pieces - 1, -1, dtype=np.uint32)

    @abstractmethod
    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text, without EOS. Lone surrogates, which UTF-8 cannot hold, are read as "?"."""

    def encode(self, text: str) -> list[int]:
        """The ids of a text, without EOS."""
        return self.encode_batch([text])[0]

    def decode(self, ids: Sequence[int] | Integer[Array, " n"]) -> str:
        """The text of any ids: sentinels as <extra_id_0> ..., pad and EOS as nothing, ids it does not have as unknown.

        Pieces keep their leading spaces next to a sentinel, so filling the sentinels of an input with the spans of its
        target gives the text of the raw tokens.
        """
        surfaces = (self._surfaces[id if 0 <= id < self.size else self.unknown_id] for id in map(int, ids))
        return b"".join(surfaces).decode("utf-8", errors="replace")

    @cached_property
    def _surfaces(self) -> list[bytes]:
        """What each id looks like in UTF-8; a piece may be a part of a character."""
        surfaces = [b""] * self.size
        for id in range(self.pieces):
            surfaces[id] = self._surface(id)
        for index, id in enumerate(self._shown_sentinels()):
            surfaces[int(id)] = b"<extra_id_%d>" % index
        return surfaces

    def _shown_sentinels(self) -> UInt[Array, " shown"]:
        return self.sentinel_ids

    @abstractmethod
    def _surface(self, piece: int) -> bytes: ...

    @abstractmethod
    def save(self, path: str | Path) -> SentencePiece | Bytes:
        """Writes the vocabulary to `path` if it is more than a rule; returns the config that opens the same again."""


class SentencePieceTokenizer(Tokenizer):
    """A SentencePiece model; `origin` names it in errors. Raises ConfigError where it is broken or not in T5's form."""

    def __init__(self, model: bytes, sentinels: int, origin: str):
        self.model = model
        self.processor = load_processor(model, origin)
        super().__init__(self.processor.get_piece_size(), sentinels, b"sentencepiece " + model)

    @cached_property
    def sentinel_ids(self) -> UInt[Array, " sentinels"]:
        if self.sentinels:
            return super().sentinel_ids
        own = (self.processor.piece_to_id(f"<extra_id_{index}>") for index in count())
        return np.fromiter(takewhile(lambda id: id != self.unknown_id, own), np.uint32)

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        return self.processor.encode([utf8(text) for text in texts], num_threads=-1)

    def decode(self, ids: Sequence[int] | Integer[Array, " n"]) -> str:
        return super().decode(ids).lstrip(" ")  # SentencePiece puts one before a first word

    def _surface(self, piece: int) -> bytes:
        if self.processor.is_control(piece):
            return b""
        if self.processor.is_unknown(piece):
            return " \N{DOUBLE QUESTION MARK} ".encode()
        name = self.processor.id_to_piece(piece)
        if self.processor.is_byte(piece):
            return bytes([int(name[1:-1], base=16)])  # <0xE2>
        return name.replace("\N{LOWER ONE EIGHTH BLOCK}", " ").encode()

    def save(self, path: str | Path) -> SentencePiece:
        write_whole(Path(path), self.model)
        return SentencePiece(str(path), self.sentinels)


class ByteTokenizer(Tokenizer):
    """Byte b is id b + 3. With sentinels=0 the highest byte ids serve: 258, 257, ..., as in ByT5's pretraining."""

    def __init__(self, sentinels: int):
        super().__init__(BYTE_OFFSET + 256, sentinels, b"bytes")

    @cached_property
    def sentinel_ids(self) -> UInt[Array, " sentinels"]:
        lowest = self.pieces if self.sentinels else BYTE_OFFSET
        return np.arange(self.size - 1, lowest - 1, -1, dtype=np.uint32)

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        return [(np.frombuffer(utf8(text), np.uint8).astype(int) + BYTE_OFFSET).tolist() for text in texts]

    def _shown_sentinels(self) -> UInt[Array, " shown"]:
        # A byte that text may hold is shown as that byte, even where it might have been meant as a sentinel.
        return self.sentinel_ids if self.sentinels else self.sentinel_ids[:BYTES_OUTSIDE_UTF8]

    def _surface(self, piece: int) -> bytes:
        return bytes([piece - BYTE_OFFSET]) if piece >= BYTE_OFFSET else b""

    def save(self, path: str | Path) -> Bytes:
        return Bytes(self.sentinels)


def open_tokenizer(config: SentencePiece | Bytes) -> Tokenizer:
    """Raises ConfigError naming a vocabulary file that is missing, broken or not in T5's form."""
    match config:
        case SentencePiece(path, sentinels):
            try:
                model = Path(path).read_bytes()
            except OSError as error:
                raise ConfigError(f"The SentencePiece model {path} cannot be read: {error.strerror}.") from error
            return SentencePieceTokenizer(model, sentinels, origin=path)
        case Bytes(sentinels):
            return ByteTokenizer(sentinels)


def load_processor(model: bytes, origin: str) -> sentencepiece.SentencePieceProcessor:
    require(len(model) > 0, f"The SentencePiece model {origin} is an empty file.")
    try:
        processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    except RuntimeError as error:
        raise ConfigError(f"{origin} is not a SentencePiece model, or a damaged one.") from error
    controls = (processor.pad_id(), processor.eos_id(), processor.unk_id())
    require(
        controls == (Tokenizer.pad_id, Tokenizer.eos_id, Tokenizer.unknown_id),
        f"The SentencePiece model {origin} has pad, EOS and unknown at {controls}: they must be (0, 1, 2), as in T5.",
    )
    return processor


def train_sentencepiece(texts: Iterable[str], config: TrainedSentencePiece, path: str | Path) -> None:
    """Trains a unigram model with byte fallback and writes it to `path`, whole or not at all.

    The same texts give the same file. Every text is read, and a sample of their lines is kept in memory and trained on.
    Raises ConfigError, saying what is possible, where the text does not allow that number of pieces.
    """
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(sample(training_lines(texts), LINES_A_PIECE * config.pieces)),
            model_writer=model,
            model_type="unigram",
            vocab_size=config.pieces,
            byte_fallback=True,
            pad_id=Tokenizer.pad_id,
            eos_id=Tokenizer.eos_id,
            unk_id=Tokenizer.unknown_id,
            bos_id=-1,
            num_threads=TRAINING_THREADS,
            minloglevel=2,
        )
    except RuntimeError as error:
        explain(error, config.pieces)
        raise
    write_whole(Path(path), model.getvalue())


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


def utf8(text: str) -> bytes:
    return text.encode("utf-8", errors="replace")


def write_whole(path: Path, content: bytes) -> None:
    """The file at `path` is the old one or the whole new one, whenever the process dies."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with unfinished.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
