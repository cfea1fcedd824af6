"""Documents of one split of a corpus, by index, and how to open them."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Int64

from research.config import Corpus, require
from research.config.base import digest
from research.config.parts import calling, expect, is_shipped
from research.data.corpora.overlap import pieces_of
from research.storage import stop
from research.storage.lines import is_unicode

AT_ONCE = 1024  # documents hashed together
TEST_DOCUMENTS = 16  # documents of a user's corpus that are read first, as a test


class LeftOut(NamedTuple):
    """Counts of documents that are left out, each by what it repeats."""

    within: int = 0  # an earlier one of its corpus
    between: int = 0  # one of an earlier corpus
    held_out: int = 0  # one that is held out, whatever else it repeats

    def __str__(self) -> str:
        named = ("of their own corpus", "of an earlier corpus", "of held-out text")
        return ", ".join(f"{count:,} {what}" for count, what in zip(self, named, strict=True) if count)


class Documents(ABC):
    """One split of a corpus. A subclass needs a `name`, `__len__` and `__getitem__`.

    Messages refer to the split by its name. Equal identities mean equal documents in equal order.
    """

    name: str
    left_out = LeftOut()  # of documents that would be here otherwise

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitem__(self, index: int) -> str: ...

    def read(self, indices: Int64[np.ndarray, " n"]) -> list[str]:
        """Read several documents in the order of the indices. Some corpora override it to be faster."""
        return [self[int(index)] for index in indices]

    @cached_property
    def identity(self) -> str:
        """Hash of all documents, each of which is read once to compute it."""
        text_hash = hashlib.sha256()
        for start in range(0, len(self), AT_ONCE):
            stop.check()
            for text in self.read(np.arange(start, min(start + AT_ONCE, len(self)))):
                content = text.encode()
                text_hash.update(len(content).to_bytes(8, "little") + content)
        return text_hash.hexdigest()


class DocumentsInMemory(Documents):
    """Documents held in memory."""

    def __init__(self, name: str, texts: Sequence[str]) -> None:
        self.name, self._texts = name, texts

    def __len__(self) -> int:
        return len(self._texts)

    def __getitem__(self, index: int) -> str:
        return self._texts[index]


class CheckedDocuments(Documents):
    """Documents of a user's corpus, validated; errors name the file and line of the user's class."""

    def __init__(self, documents: Documents, corpus: Corpus, split: str) -> None:
        self._documents, self._corpus, self._split, self.name = documents, corpus, split, documents.name
        # If the documents are of a shipped class, their texts come from the user's corpus.
        shipped = is_shipped(type(documents))
        self.pieces = pieces_of([documents])
        self._part: object
        self._part, self._method = (corpus, "documents") if shipped else (documents, "read")
        with calling(self._part, self._method if shipped else "__len__"):
            self._count = len(documents)

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> str:
        return self.read(np.array([index]))[0]

    def read(self, indices: Int64[np.ndarray, " n"]) -> list[str]:
        part, method = self._part, self._method
        with calling(part, method):
            texts = self._documents.read(indices)
        kind = type(texts).__name__
        expect(isinstance(texts, list), part, method, f"returned {kind}, not a list of texts")
        expect(len(texts) == len(indices), part, method, f"returned {len(texts)} texts for {len(indices)} indices")
        for index, text in zip(indices.tolist(), texts, strict=True):
            kind = "text with half of a surrogate pair" if isinstance(text, str) else f"{type(text).__name__}, not text"
            sound = isinstance(text, str) and is_unicode(text)
            expect(sound, part, method, f"gives document {index} of {self.name} as {kind}")
        return texts

    @cached_property
    def identity(self) -> str:
        """Identity of the documents, the corpus and the split, so that corpora of equal identities
        do not share tokens.
        """
        with calling(self._part, "identity"):
            own = self._documents.identity
        expect(isinstance(own, str) and len(own) > 0, self._part, "identity", f"is {own!r}, not text")
        return digest([repr(self._corpus), self._split, own])


def left_out_notes(several: Sequence[Any], what: str = "documents") -> tuple[str, ...]:
    """Describe what is left out of corpora, or of tasks' examples."""
    counts = [(one, getattr(one, "left_out", LeftOut())) for one in several]
    return tuple(
        f"{sum(left_out):,} of {sum(left_out, len(one)):,} {what} of {one.name} repeat others and are left out:"
        f" {left_out}"
        for one, left_out in counts
        if any(left_out)
    )


def open_documents(corpus: Corpus, split: Literal["train", "held_out"]) -> Documents:
    """Find and check a split of a corpus, building it if needed.

    Raises:
        ConfigError: it is missing, empty or not as its config describes; or a user's corpus does not return documents.
    """
    with calling(corpus, "documents"):
        documents: Any = corpus.documents(split)
    if is_shipped(type(corpus)):
        return documents
    expect(isinstance(documents, Documents), corpus, "documents", f"returned {type(documents).__name__}, not Documents")
    name = getattr(documents, "name", None)
    expect(isinstance(name, str), corpus, "documents", f"returned documents with the name {name!r}: it must be text")
    checked = CheckedDocuments(documents, corpus, split)
    require(len(checked) > 0, f"The corpus {checked.name} is empty: its {split} split holds no documents.")
    checked.read(np.arange(min(len(checked), TEST_DOCUMENTS)))
    return checked
