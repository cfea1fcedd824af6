"""The one interface of every tokenizer: text to ids, framed as its family frames it, and back."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import islice
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Integer, UInt

from research.config import Vocabulary, require

Array = np.ndarray
Ids = Sequence[int] | Integer[Array, " n"]

LANGUAGES_SHOWN = 60  # in an error: all of mBART-50's; Marian's largest vocabularies have several hundred


class Tokenizer(ABC):
    """What all families share.

    Text is only ever text: "</s>" or "<mask>" written in it gives no control id, so that no document can forge one.
    Hugging Face reads them as controls; with `split_special_tokens=True` BART's and Marian's tokenizers there do as is
    done here, while T5's and mBART's still find the names among their pieces.
    """

    pad_id: int
    eos_id: int
    unknown_id: int
    bos_id: int | None = None
    mask_id: int | None = None
    language_ids: Mapping[str, int]  # by code, in the order of their ids; empty where the family has none
    size: int  # ids of the encoder's text

    def __init__(self, size: int, identity: bytes, language_ids: Mapping[str, int] | None = None):
        self.size = size
        self.language_ids = language_ids or {}
        # Equal digests mean equal ids for any text: what a checkpoint's vocabulary is compared by.
        self.digest = hashlib.sha256(identity).hexdigest()

    @property
    def target_size(self) -> int:
        """Ids of the decoder's text; another number than `size` only where the two vocabularies are separate."""
        return self.size

    @cached_property
    def sentinel_ids(self) -> UInt[Array, " sentinels"]:
        """In the order in which T5's objectives spend them; none in the other families."""
        return np.zeros(0, np.uint32)

    # --- What ids stand for -------------------------------------------------------------------------------------------

    @property
    @abstractmethod
    def surfaces(self) -> Sequence[bytes]:
        """What each id adds to a text amid others, in UTF-8; nothing for controls, sentinels, languages and the mask.

        It may be a part of a character.
        """

    @cached_property
    def text_ids(self) -> UInt[Array, " n"]:
        """The ids that stand for text."""
        return np.flatnonzero([len(surface) > 0 for surface in self.surfaces]).astype(np.uint32)

    @cached_property
    def ids_by_surface(self) -> Mapping[bytes, list[int]]:
        ids: dict[bytes, list[int]] = {}
        for id, surface in enumerate(self.surfaces):
            ids.setdefault(surface, []).append(id)
        return ids

    @cached_property
    def word_starts(self) -> Bool[Array, " ids"]:
        """Which ids begin a word: those with a space in front, and what is no text (fairseq's get_whole_word_mask)."""
        return np.array([not surface or surface.startswith(b" ") for surface in self.surfaces])

    @property
    def languages(self) -> tuple[str, ...]:
        return tuple(self.language_ids)

    def language_id(self, language: str | None) -> int:
        """Raises ConfigError, listing the codes there are, where `language` is none of them."""
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
        """The ids of each text, without EOS. Lone surrogates, which UTF-8 cannot hold, are read as "?"."""

    def encode(self, text: str) -> list[int]:
        """The ids of a text, without EOS."""
        return self.encode_batch([text])[0]

    def source(self, texts: Sequence[str], language: str | None = None, limit: int | None = None) -> list[list[int]]:
        """The ids of each text as the encoder gets them, controls included, the text cut to `limit` ids in all.

        Raises ConfigError as `language_id`.
        """
        return self._framed(self.encode_batch(texts), language, limit)

    def target(self, texts: Sequence[str], language: str | None = None, limit: int | None = None) -> list[list[int]]:
        """The ids of each text as the decoder's labels, controls included, the text cut to `limit` ids in all.

        Raises ConfigError as `language_id`.
        """
        return self.source(texts, language, limit)

    def _framed(self, batch: list[list[int]], language: str | None, limit: int | None = None) -> list[list[int]]:
        before, after = self.frame(language)
        room = None if limit is None else max(limit - len(before) - len(after), 0)
        return [[*before, *ids[:room], *after] for ids in batch]

    @abstractmethod
    def frame(self, language: str | None) -> tuple[list[int], list[int]]:
        """What comes before and after the ids of a text. Raises ConfigError as `language_id`."""

    def ending(self, language: str | None = None) -> int:
        """How many controls end what `source` and `target` give: what a text that is cut must keep."""
        return len(self.frame(language)[1])

    def _refuse(self, language: str | None) -> None:
        """For families whose frame has no place for a language."""
        if language is not None:
            self.language_id(language)

    @abstractmethod
    def start_id(self, language: str | None = None) -> int:
        """What the decoder starts from: the input that stands before the first label."""

    def forced_first(self, language: str | None = None) -> int | None:
        """The id that must be generated first, whatever the logits; `language` is that of the target."""
        self._refuse(language)
        return None

    # --- Ids to text --------------------------------------------------------------------------------------------------

    @abstractmethod
    def decode(self, ids: Ids) -> str:
        """What to show a person for any ids: sentinels and masks by name, ids that there are not as unknown.

        Pad, BOS, EOS and languages are shown as nothing, and nothing ends at EOS.
        """

    @abstractmethod
    def text(self, ids: Ids) -> str:
        """What to score: the text alone, every control, sentinel, mask, unknown and absent id left out.

        Hugging Face's `decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)`.
        """

    # --- Files --------------------------------------------------------------------------------------------------------

    @abstractmethod
    def save(self, path: str | Path) -> Vocabulary:
        """Writes the vocabulary to `path` if it is more than a rule; returns the config that opens the same again.

        `path` becomes a directory where the family has several files.
        """
