"""The base of T5's and ByT5's tokenizers: three special tokens, and sentinels counted down from the last id."""

import re
from abc import abstractmethod
from collections.abc import Sequence
from functools import cached_property

import numpy as np
from jaxtyping import UInt

from research.config import require
from research.data.tokenizer.base import Array, Ids, Tokenizer
from research.data.tokenizer.files import json_bytes

SENTINEL = re.compile(r"<extra_id_(0|[1-9][0-9]{0,8})>")


class SentinelTokenizer(Tokenizer):
    """A vocabulary with sentinels: <pad> 0, </s> 1, <unk> 2, the other pieces, languages and a mask if any, then
    sentinels.

    Text is encoded as `X </s>` or, with languages, as in mBART: `X </s> LANGUAGE`, with a decoder that starts from the
    target language.
    """

    pad_id = 0
    eos_id = 1
    unknown_id = 2

    def __init__(self, pieces: int, sentinels: int, identity: bytes, languages: Sequence[str] = ()):
        require(
            0 <= sentinels <= pieces,
            f"tokenizer.sentinels is {sentinels}: it must be from 0 to {pieces}, the number of other pieces.",
        )
        identity += b" sentinels %d" % sentinels
        if languages:
            identity += b" languages " + json_bytes(list(languages))
            self.mask_id = pieces + len(languages)
        first_sentinel = pieces + len(languages) + (len(languages) > 0)
        ids = {language: pieces + index for index, language in enumerate(languages)}
        super().__init__(first_sentinel + sentinels, identity, ids)
        self.pieces = pieces
        self.sentinels = sentinels

    @cached_property
    def sentinel_ids(self) -> UInt[Array, " sentinels"]:
        """Sentinels, descending from the last id, as T5 uses them."""
        return np.arange(self.size - 1, self.size - 1 - self.sentinels, -1, dtype=np.uint32)

    def source(self, texts: Sequence[str], language: str | None = None, limit: int | None = None) -> list[list[int]]:
        """Encode sources, reading <extra_id_0> ... in a text as sentinels, so that a prompt can have gaps to fill."""
        return self._add_special_tokens(self.prompts(texts), language, limit)

    def prompts(self, texts: Sequence[str]) -> list[list[int]]:
        """Encode texts whose <extra_id_0> ... are sentinels, without EOS."""
        return [self._prompt(text) for text in texts]

    def _prompt(self, text: str) -> list[int]:
        sentinels = self.sentinel_ids
        ids: list[int] = []
        start = 0
        for match in SENTINEL.finditer(text):
            if (index := int(match[1])) < len(sentinels):  # any other is text
                ids += [*self.encode(text[start : match.start()]), int(sentinels[index])]
                start = match.end()
        return ids + self.encode(text[start:])

    def special_tokens(self, language: str | None) -> tuple[list[int], list[int]]:
        if self.language_ids:
            return [], [self.eos_id, self.language_id(language)]
        self._refuse(language)
        return [], [self.eos_id]

    def start_id(self, language: str | None = None) -> int:
        """Return the first decoder input; `language` is the target's."""
        if self.language_ids:
            return self.language_id(language)
        self._refuse(language)
        return self.pad_id

    def decode(self, ids: Ids) -> str:
        """Decode ids for display: sentinels as <extra_id_0> ..., the mask as <mask>, ids outside the vocabulary as
        unknown.

        Pad, EOS and languages are shown as nothing. Pieces keep their leading spaces next to a sentinel, so filling the
        sentinels of an input with the spans of its target gives the text of the raw tokens.
        """
        surfaces = (self._shown_bytes[id if 0 <= id < self.size else self.unknown_id] for id in map(int, ids))
        return b"".join(surfaces).decode("utf-8", errors="replace")

    @cached_property
    def _shown_bytes(self) -> list[bytes]:
        """UTF-8 bytes that show each id; a piece may be part of a character."""
        surfaces = [*map(self._piece_bytes, range(self.pieces)), *[b""] * (self.size - self.pieces)]
        if self.mask_id is not None:
            surfaces[self.mask_id] = b" <mask>"
        for index, id in enumerate(self._shown_sentinels()):
            surfaces[int(id)] = b"<extra_id_%d>" % index
        return surfaces

    def _shown_sentinels(self) -> UInt[Array, " shown"]:
        return self.sentinel_ids

    @abstractmethod
    def _piece_bytes(self, piece: int) -> bytes: ...
