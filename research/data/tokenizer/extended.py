"""A tokenizer with new tokens, which are split off every text before the rest is encoded, as in transformers."""

import re
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from itertools import groupby
from pathlib import Path

import numpy as np
from jaxtyping import Bool, UInt

from research.config import Extended, require
from research.data.tokenizer.base import Array, Ids, Tokenizer
from research.data.tokenizer.bytes import ByteTokenizer
from research.data.tokenizer.files import json_bytes, utf8
from research.data.tokenizer.marian import MarianTokenizer
from research.data.tokenizer.mbart import MBartTokenizer
from research.data.tokenizer.sentencepiece import SentencePieceTokenizer, join
from research.data.tokenizer.sentinels import SentinelTokenizer

Encode = Callable[[Sequence[str]], list[list[int]]]


class ExtendedTokenizer(Tokenizer):
    """The tokenizer `inner` with more ids after its own. The text between new tokens is encoded piece by piece.

    Raises:
        ConfigError: the vocabulary has such a token already, or has separate sides.
    """

    def __init__(self, inner: Tokenizer, tokens: Sequence[str]):
        self.inner, self.tokens = inner, tuple(tokens)
        old = [token for token in tokens if inner.ids_by_bytes.get(utf8(token)) or token in inner.language_ids]
        require(not old, f"The vocabulary has {', '.join(map(repr, old))} already: name only new tokens.")
        separate = isinstance(inner, MarianTokenizer) and inner.separate
        require(not separate, "Separate vocabularies of source and target cannot have new tokens.")
        self.pad_id, self.eos_id, self.unknown_id = inner.pad_id, inner.eos_id, inner.unknown_id
        self.bos_id, self.mask_id = inner.bos_id, inner.mask_id
        longest_first = sorted(self.tokens, key=len, reverse=True)
        self._pattern = re.compile(f"({'|'.join(map(re.escape, longest_first))})")
        identity = b"extended " + inner.digest.encode() + json_bytes(list(tokens))
        super().__init__(inner.size + len(tokens), identity, inner.language_ids)

    @cached_property
    def sentinel_ids(self) -> UInt[Array, " sentinels"]:
        return self.inner.sentinel_ids

    @cached_property
    def token_bytes(self) -> Sequence[bytes]:
        return [*self.inner.token_bytes, *map(utf8, self.tokens)]

    @cached_property
    def word_starts(self) -> Bool[Array, " ids"]:
        return np.concatenate([self.inner.word_starts, np.ones(len(self.tokens), bool)])

    # --- Text to ids --------------------------------------------------------------------------------------------------

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        return self._encode(texts, self.inner.encode_batch)

    def _encode(self, texts: Sequence[str], encode: Encode) -> list[list[int]]:
        """Encode the parts between new tokens by `encode`, all in one batch."""
        ids = {token: self.inner.size + place for place, token in enumerate(self.tokens)}
        split = [self._pattern.split(text) for text in texts]  # text, token, text, token ..., text
        encoded = iter(encode([part for parts in split for part in parts[::2]]))
        return [
            [id for place, part in enumerate(parts) for id in ([ids[part]] if place % 2 else next(encoded))]
            for parts in split
        ]

    def source(self, texts: Sequence[str], language: str | None = None, limit: int | None = None) -> list[list[int]]:
        inner, encode = self.inner, self.inner.encode_batch
        if isinstance(inner, SentinelTokenizer):
            encode = inner.prompts
        return self._add_special_tokens(self._encode(texts, encode), language, limit)

    def target(self, texts: Sequence[str], language: str | None = None, limit: int | None = None) -> list[list[int]]:
        if isinstance(self.inner, MarianTokenizer):
            self._refuse(language)
            return self._add_special_tokens(self._encode(texts, self.inner.target_side.encode), None, limit)
        return self.source(texts, language, limit)

    def special_tokens(self, language: str | None) -> tuple[list[int], list[int]]:
        return self.inner.special_tokens(language)

    def start_id(self, language: str | None = None) -> int:
        return self.inner.start_id(language)

    def forced_first(self, language: str | None = None) -> int | None:
        return self.inner.forced_first(language)

    def parts(self, text: str, most: int) -> Iterator[str]:
        """Cut a text where `inner` does, at white space, which no token has; bytes are cut anywhere, so not here."""
        return iter([text]) if isinstance(self.inner, ByteTokenizer) else self.inner.parts(text, most)

    # --- Ids to text --------------------------------------------------------------------------------------------------

    def decode(self, ids: Ids) -> str:
        return "".join(self._shown(ids))

    def _shown(self, ids: Ids) -> Iterator[str]:
        """Yield the runs of `inner`'s ids and the new tokens; a run after a token keeps its leading space."""
        first = True
        for new, group in groupby(map(int, ids), self._is_new):
            run = list(group)
            if new:
                yield "".join(self.tokens[id - self.inner.size] for id in run)
            else:
                known = 0 <= run[0] < self.inner.size
                spaced = known and self.inner.token_bytes[run[0]].startswith(b" ") and not first
                text = self.inner.decode(run)
                yield " " + text if spaced and not text.startswith(" ") else text
            first = False

    def _is_new(self, id: int) -> bool:
        return self.inner.size <= id < self.size

    def text(self, ids: Ids) -> str:
        known = [id for id in map(int, ids) if 0 <= id < self.size]
        if not any(map(self._is_new, known)):
            return self.inner.text(known)
        surfaces = [surface for id in known if (surface := self.token_bytes[id])]
        match self.inner:
            case SentencePieceTokenizer() | MBartTokenizer():
                return join(surfaces)
            case MarianTokenizer():
                return join(surfaces).strip()
            case ByteTokenizer():
                return b"".join(surfaces).decode("utf-8", errors="ignore")
        return b"".join(surfaces).decode("utf-8", errors="replace")

    # --- Files --------------------------------------------------------------------------------------------------------

    def save(self, path: str | Path) -> Extended:
        inner = self.inner.save(path)
        assert not isinstance(inner, Extended), "new tokens are added to a family's own vocabulary"
        return Extended(inner, self.tokens)
