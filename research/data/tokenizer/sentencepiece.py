"""SentencePiece models as T5 and mT5 use them, and the code that all families with SentencePiece share."""

from collections.abc import Iterable, Iterator, Sequence
from functools import cache, cached_property
from itertools import count, takewhile
from pathlib import Path

import numpy as np
import sentencepiece
from jaxtyping import UInt

from research.config import ConfigError, SentencePiece, require
from research.data.tokenizer.base import Array, Ids
from research.data.tokenizer.files import utf8
from research.data.tokenizer.parts import cut
from research.data.tokenizer.sentinels import SentinelTokenizer
from research.storage.files import write_bytes

SPACE = "\N{LOWER ONE EIGHTH BLOCK}"  # represents a space in a piece

THREADS = -1  # all cores of the machine


class SentencePieceTokenizer(SentinelTokenizer):
    """A SentencePiece model in T5's form.

    `origin` names it in errors. Raises ConfigError if it is broken or not in T5's form.

    Hugging Face's `T5Tokenizer` is built from the same file by another library. It has no byte fallback, which T5's own
    file does not need, and of two equally likely segmentations, as of "333", it may choose the other.
    """

    def __init__(self, model: bytes, sentinels: int, origin: str, languages: Sequence[str] = ()):
        self.model = model
        self.processor = load_processor(model, origin)
        controls = (self.processor.pad_id(), self.processor.eos_id(), self.processor.unk_id())
        require(
            controls == (self.pad_id, self.eos_id, self.unknown_id),
            f"The SentencePiece model {origin} has pad, EOS and unknown at {controls}: they must be (0, 1, 2), "
            "as in T5.",
        )
        super().__init__(self.processor.get_piece_size(), sentinels, b"sentencepiece " + model, languages)

    @cached_property
    def sentinel_ids(self) -> UInt[Array, " sentinels"]:
        if self.sentinels:
            return super().sentinel_ids
        own = map(self._own_sentinel, count())
        return np.fromiter(takewhile(lambda id: id != self.unknown_id, own), np.uint32)

    def _own_sentinel(self, index: int) -> int:
        """Find a sentinel piece. mT5's sentinels have a leading space marker; hand-made ones usually do not."""
        name = f"<extra_id_{index}>"
        id = self.processor.piece_to_id(SPACE + name)
        return id if id != self.unknown_id else self.processor.piece_to_id(name)

    @cached_property
    def token_bytes(self) -> list[bytes]:
        own = set() if self.sentinels else set(self.sentinel_ids.tolist())
        none = [b""] * (self.size - self.pieces)
        pieces = (
            b"" if id in own or is_control(self.processor, id) else piece_bytes(self.processor, id)
            for id in range(self.pieces)
        )
        return [*pieces, *none]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        return self.processor.encode([utf8(text) for text in texts], num_threads=THREADS)

    def parts(self, text: str, most: int) -> Iterator[str]:
        return cut(text, most) if splits_at_spaces(self.processor) else iter([text])

    def decode(self, ids: Ids) -> str:
        return super().decode(ids).lstrip(" ")  # SentencePiece adds a space before the first word

    def text(self, ids: Ids) -> str:
        known = [id for id in map(int, ids) if 0 <= id < self.pieces]
        return join(piece_bytes(self.processor, id) for id in known if not is_control(self.processor, id))

    def _piece_bytes(self, piece: int) -> bytes:
        if self.processor.is_control(piece):
            return b""
        if self.processor.is_unknown(piece):
            return " \N{DOUBLE QUESTION MARK} ".encode()
        return piece_bytes(self.processor, piece)

    def save(self, path: str | Path) -> SentencePiece:
        write_bytes(Path(path), self.model)
        return SentencePiece(str(path), self.sentinels, self.languages)


@cache
def splits_at_spaces(processor: sentencepiece.SentencePieceProcessor) -> bool:
    """Return whether pieces have a space at their start alone, and a space comes before the first word."""
    names = map(processor.id_to_piece, range(processor.get_piece_size()))
    first, second, both = processor.encode(["a", "b", "a b"])
    return not any(SPACE in name[1:] for name in names) and first + second == both


def is_control(processor: sentencepiece.SentencePieceProcessor, piece: int) -> bool:
    """Return whether a piece has no text of its own: control pieces and the unknown piece."""
    return processor.is_control(piece) or processor.is_unknown(piece)


def piece_bytes(processor: sentencepiece.SentencePieceProcessor, piece: int) -> bytes:
    """Return the UTF-8 bytes of a piece that is not a control; they may be part of a character."""
    name = processor.id_to_piece(piece)
    if processor.is_byte(piece):
        return bytes([int(name[1:-1], base=16)])  # <0xE2>
    return name.replace(SPACE, " ").encode()


def join(surfaces: Iterable[bytes]) -> str:
    """Join pieces into text as SentencePiece does: spaces are removed from the first piece, and from no other."""
    first, *others = (*surfaces, b"")
    return b"".join([first.replace(b" ", b""), *others]).decode("utf-8", errors="replace")


def load_processor(model: bytes, origin: str) -> sentencepiece.SentencePieceProcessor:
    require(len(model) > 0, f"The SentencePiece model {origin} is an empty file.")
    try:
        processor = sentencepiece.SentencePieceProcessor(model_proto=model)
        processor.id_to_piece(list(range(processor.get_piece_size())))
    except (RuntimeError, UnicodeDecodeError) as error:  # UnicodeDecodeError: a piece is not text
        raise ConfigError(f"{origin} is not a SentencePiece model, or is damaged.") from error
    return processor
