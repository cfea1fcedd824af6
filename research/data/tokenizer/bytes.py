"""Byte tokenizer: UTF-8 bytes as ids, as in ByT5 (arXiv:2105.13626)."""

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from jaxtyping import Bool, UInt

from research.config import Bytes
from research.data.tokenizer.base import Array, Ids
from research.data.tokenizer.files import utf8
from research.data.tokenizer.sentinels import SentinelTokenizer

BYTE_OFFSET = 3  # pad, EOS and unknown precede the bytes
BYTES_OUTSIDE_UTF8 = 11  # 0xF5 to 0xFF never occur in UTF-8


class ByteTokenizer(SentinelTokenizer):
    """A byte tokenizer: byte b is id b + 3.

    With sentinels=0, the highest byte ids serve as sentinels: 258, 257, ..., as in ByT5's pretraining. Added sentinel
    ids count down too, as in every tokenizer here; Hugging Face's names count up, with <extra_id_0> at 259.
    """

    def __init__(self, sentinels: int):
        super().__init__(BYTE_OFFSET + 256, sentinels, b"bytes")

    @cached_property
    def sentinel_ids(self) -> UInt[Array, " sentinels"]:
        lowest = self.pieces if self.sentinels else BYTE_OFFSET
        return np.arange(self.size - 1, lowest - 1, -1, dtype=np.uint32)

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        return [(np.frombuffer(utf8(text), np.uint8).astype(int) + BYTE_OFFSET).tolist() for text in texts]

    def parts(self, text: str, most: int) -> Iterator[str]:
        return (text[start : start + most] for start in range(0, len(text), most))

    @cached_property
    def token_bytes(self) -> Sequence[bytes]:
        text = self.pieces - BYTES_OUTSIDE_UTF8
        return [*map(self._piece_bytes, range(text)), *[b""] * (self.size - text)]

    @cached_property
    def word_starts(self) -> Bool[Array, " ids"]:
        """Mask that marks every id: bytes have no words."""
        return np.ones(self.size, bool)

    def text(self, ids: Ids) -> str:
        known = (id - BYTE_OFFSET for id in map(int, ids) if BYTE_OFFSET <= id < self.pieces)
        return bytes(known).decode("utf-8", errors="ignore")

    def _shown_sentinels(self) -> UInt[Array, " shown"]:
        # A byte that may occur in text is shown as that byte, even if it was meant as a sentinel.
        return self.sentinel_ids if self.sentinels else self.sentinel_ids[:BYTES_OUTSIDE_UTF8]

    def _piece_bytes(self, piece: int) -> bytes:
        return bytes([piece - BYTE_OFFSET]) if piece >= BYTE_OFFSET else b""

    def save(self, path: str | Path) -> Bytes:
        return Bytes(self.sentinels)
