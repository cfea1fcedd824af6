"""UTF-8 bytes as ids, as in ByT5 (arXiv:2105.13626)."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from jaxtyping import Bool, UInt

from research.config import Bytes
from research.data.tokenizer.base import Array, Ids
from research.data.tokenizer.files import utf8
from research.data.tokenizer.sentinels import SentinelTokenizer

BYTE_OFFSET = 3  # ids of pad, EOS and unknown come before the bytes
BYTES_OUTSIDE_UTF8 = 11  # 0xF5 to 0xFF occur in no text


class ByteTokenizer(SentinelTokenizer):
    """Byte b is id b + 3. With sentinels=0 the highest byte ids serve: 258, 257, ..., as in ByT5's pretraining.

    Added ids count down too, as everywhere here; Hugging Face's names count them up, <extra_id_0> being 259.
    """

    def __init__(self, sentinels: int):
        super().__init__(BYTE_OFFSET + 256, sentinels, b"bytes")

    @cached_property
    def sentinel_ids(self) -> UInt[Array, " sentinels"]:
        lowest = self.pieces if self.sentinels else BYTE_OFFSET
        return np.arange(self.size - 1, lowest - 1, -1, dtype=np.uint32)

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        return [(np.frombuffer(utf8(text), np.uint8).astype(int) + BYTE_OFFSET).tolist() for text in texts]

    @cached_property
    def surfaces(self) -> Sequence[bytes]:
        text = self.pieces - BYTES_OUTSIDE_UTF8
        return [*map(self._surface, range(text)), *[b""] * (self.size - text)]

    @cached_property
    def word_starts(self) -> Bool[Array, " ids"]:
        """All of them: bytes know no words."""
        return np.ones(self.size, bool)

    def text(self, ids: Ids) -> str:
        known = (id - BYTE_OFFSET for id in map(int, ids) if BYTE_OFFSET <= id < self.pieces)
        return bytes(known).decode("utf-8", errors="ignore")

    def _shown_sentinels(self) -> UInt[Array, " shown"]:
        # A byte that text may hold is shown as that byte, even where it might have been meant as a sentinel.
        return self.sentinel_ids if self.sentinels else self.sentinel_ids[:BYTES_OUTSIDE_UTF8]

    def _surface(self, piece: int) -> bytes:
        return bytes([piece - BYTE_OFFSET]) if piece >= BYTE_OFFSET else b""

    def save(self, path: str | Path) -> Bytes:
        return Bytes(self.sentinels)
