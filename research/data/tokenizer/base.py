"""The interface of all tokenizers: text to ids, with the special tokens of the model family, and back."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from itertools import islice
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Integer, UInt

from research.config import Vocabulary, require

Array = np.ndarray
Ids = Sequence[int] | Integer[Array, " n"]

LANGUAGES_SHOWN = 100  # in an error message: all of M2M-100's; Marian's largest vocabularies have several hundred


class Tokenizer(ABC):
    """The interface and shared code of all tokenizers.

    Text is always plain text: "</s>" or "<mask>" in it gives no special token, so that no document can forge one.
    Hugging Face reads them as special tokens; with `split_special_tokens=True`, BART's and Marian's tokenizers there
    behave as these do, while T5's and mBART's still find the names among their pieces.
    """

    pad_id: int
    eos_id: int
    unknown_id: int
    bos_id: int | None = None
    mask_id: int | None = None
    language_ids: Mapping[str, int]  # by language code, in the order of the ids; empty if the family has none
    size: int  # number of ids of the encoder's text

    def __init__(self, size: int, identity: bytes, language_ids: Mapping[str, int] | None = None):
        self.size = size
        self.language_ids = language_ids or {}
        # Equal digests mean equal ids for any text; a checkpoint's vocabulary is compared by its digest.
        self.digest = hashlib.sha256(identity).hexdigest()

    @property
    def target_size(self) -> int:
        """Number of ids of the decoder's text; differs from `size` only if the two vocabularies are separate."""
        return self.size

    @cached_property
    def sentinel_ids(self) -> UInt[Array, " sentinels"]:
        """Sentinels in the order in which span corruption uses them; empty if the family has none."""
        return np.zeros(0, np.uint32)

    # --- Meaning of ids -----------------------------------------------------------------------------------------------

    @property
    @abstractmethod
    def token_bytes(self) -> Sequence[bytes]:
        """UTF-8 bytes that each id contributes within a text; empty for special tokens, sentinels, languages and the
        mask.

        The bytes may be part of a character.
        """

    @cached_property
    def text_ids(self) -> UInt[Array, " n"]:
        """Ids of text."""
        return np.flatnonzero([len(surface) > 0 for surface in self.token_bytes]).astype(np.uint32)

    @cached_property
    def ids_by_bytes(self) -> Mapping[bytes, list[int]]:
        """Ids that contribute each byte string, ascending."""
        ids: dict[bytes, list[int]] = {}
        for id, surface in enumerate(self.token_bytes):
            ids.setdefault(surface, []).append(id)
        return ids

    @cached_property
    def word_starts(self) -> Bool[Array, " ids"]:
        """Mask of the ids that begin a word: those with a leading space, and those that are not text.

        Follows fairseq's get_whole_word_mask.
        """
        return np.array([not surface or surface.startswith(b" ") for surface in self.token_bytes])

    @property
    def languages(self) -> tuple[str, ...]:
        return tuple(self.language_ids)

    def language_id(self, language: str | None) -> int:
        """Return the id of a language code. Raises ConfigError, listing the known codes, if `language` is not one of
        them.
        """
        if language is not None and language in self.language_ids:
            return self.language_ids[language]
        require(len(self.languages) > 0, f"The language is {language!r}: this tokenizer has no language codes.")
        shown = ", ".join(islice(self.languages, LANGUAGES_SHOWN))
        more = len(self.languages) - LANGUAGES_SHOWN
        require(False, f"The language is {language!r}: allowed is {shown}{f' and {more} more' * (more > 0)}.")
        raise AssertionError

    # --- Text to ids --------------------------------------------------------------------------------------------------

    @abstractmethod
    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Encode texts, without EOS. Lone surrogates, which UTF-8 cannot represent, are read as "?"."""

    def parts(self, text: str, most: int) -> Iterator[str]:
        """Cut a text about every `most` characters into parts with together the same ids; families that cannot do not.

        SentencePiece's sums of scores lose digits in a long text: there the ids are those of exact sums.
        """
        yield text

    def encode(self, text: str) -> list[int]:
        """Encode a text, without EOS."""
        return self.encode_batch([text])[0]

    def source(self, texts: Sequence[str], language: str | None = None, limit: int | None = None) -> list[list[int]]:
        """Encode texts as encoder input with special tokens, cutting the text to a total of `limit` ids.

        Raises ConfigError like `language_id`.
        """
        return self._add_special_tokens(self.encode_batch(texts), language, limit)

    def target(self, texts: Sequence[str], language: str | None = None, limit: int | None = None) -> list[list[int]]:
        """Encode texts as decoder labels with special tokens, cutting the text to a total of `limit` ids.

        Raises ConfigError like `language_id`.
        """
        return self.source(texts, language, limit)

    def _add_special_tokens(
        self, batch: list[list[int]], language: str | None, limit: int | None = None
    ) -> list[list[int]]:
        before, after = self.special_tokens(language)
        room = None if limit is None else max(limit - len(before) - len(after), 0)
        return [[*before, *ids[:room], *after] for ids in batch]

    @abstractmethod
    def special_tokens(self, language: str | None) -> tuple[list[int], list[int]]:
        """Return the special tokens before and after a text. Raises ConfigError like `language_id`."""

    def ending(self, language: str | None = None) -> int:
        """Return the number of special tokens at the end of `source` and `target` ids, which
        cutting a text must keep.
        """
        return len(self.special_tokens(language)[1])

    def _refuse(self, language: str | None) -> None:
        """Raise ConfigError for any language: this family has no language codes."""
        if language is not None:
            self.language_id(language)

    @abstractmethod
    def start_id(self, language: str | None = None) -> int:
        """Return the first decoder input, which precedes the first label."""

    def forced_first(self, language: str | None = None) -> int | None:
        """Return the id that must be generated first, whatever the logits, or None. `language` is the target's."""
        self._refuse(language)
        return None

    # --- Ids to text --------------------------------------------------------------------------------------------------

    @abstractmethod
    def decode(self, ids: Ids) -> str:
        """Decode any ids for display: sentinels and masks by name, ids outside the vocabulary as unknown.

        Pad, BOS, EOS and languages are shown as nothing, and decoding does not stop at EOS.
        """

    @abstractmethod
    def text(self, ids: Ids) -> str:
        """Decode ids for scoring: text only, without special tokens, sentinels, masks, unknown ids and ids outside the
        vocabulary.

        Equals Hugging Face's `decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)`.
        """

    # --- Files --------------------------------------------------------------------------------------------------------

    @abstractmethod
    def save(self, path: str | Path) -> Vocabulary:
        """Write the vocabulary to `path`, if it has any files, and return the config that opens it again.

        `path` becomes a directory if the family has several files.
        """
