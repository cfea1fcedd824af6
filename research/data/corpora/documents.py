"""Documents of one split of a corpus by index, and how they are opened."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from typing import Any, Literal

import numpy as np
from jaxtyping import Int64

from research.config import Corpus, require
from research.config.base import digest
from research.config.parts import calling, expect, is_shipped

AT_ONCE = 1024  # documents that are hashed together
TRIED = 16  # documents of a user's corpus that are read before all else


class Documents(ABC):
    """One split of a corpus. A subclass needs a `name`, `__len__` and `__getitem__`.

    The name is how messages call the split. Equal identities mean equal documents in equal order.
    """

    name: str

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitem__(self, index: int) -> str: ...

    def read(self, indices: Int64[np.ndarray, " n"]) -> list[str]:
        """Several documents at once, in the order of the indices; faster for some corpora."""
        return [self[int(index)] for index in indices]

    @cached_property
    def identity(self) -> str:
        """A hash of all documents, each of which is read once for it."""
        text_hash = hashlib.sha256()
        for start in range(0, len(self), AT_ONCE):
            for text in self.read(np.arange(start, min(start + AT_ONCE, len(self)))):
                content = text.encode()
                text_hash.update(len(content).to_bytes(8, "little") + content)
        return text_hash.hexdigest()


class DocumentsInMemory(Documents):
    """Documents that are in memory."""

    def __init__(self, name: str, texts: Sequence[str]) -> None:
        self.name, self._texts = name, texts

    def __len__(self) -> int:
        return len(self._texts)

    def __getitem__(self, index: int) -> str:
        return self._texts[index]


class Checked(Documents):
    """Documents of a user's corpus; what is wrong with them is refused by the file and line of their class."""

    def __init__(self, documents: Documents, corpus: Corpus, split: str) -> None:
        self._documents, self._corpus, self._split, self.name = documents, corpus, split, documents.name
        # A class that is shipped has its texts from the corpus.
        shipped = is_shipped(type(documents))
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
        expect(isinstance(texts, list), part, method, f"returned {kind}, no list of texts")
        expect(len(texts) == len(indices), part, method, f"returned {len(texts)} texts for {len(indices)} indices")
        for index, text in zip(indices.tolist(), texts, strict=True):
            found = "half of a surrogate pair in it" if isinstance(text, str) else f"{type(text).__name__}, no text"
            sound = isinstance(text, str) and is_unicode(text)
            expect(sound, part, method, f"gives document {index} of {self.name} as {found}")
        return texts

    @cached_property
    def identity(self) -> str:
        """The documents' own, beside the corpus and the split: others of one identity have no tokens in common."""
        with calling(self._part, "identity"):
            own = self._documents.identity
        expect(isinstance(own, str) and len(own) > 0, self._part, "identity", f"is {own!r}, no text")
        return digest([repr(self._corpus), self._split, own])


def open_documents(corpus: Corpus, split: Literal["train", "held_out"]) -> Documents:
    """Find, check and, where need be, build a split of a corpus.

    Raises:
        ConfigError: it is missing, empty or not what its config says; or a user's corpus gives no documents.
    """
    with calling(corpus, "documents"):
        documents: Any = corpus.documents(split)
    if is_shipped(type(corpus)):
        return documents
    expect(isinstance(documents, Documents), corpus, "documents", f"returned {type(documents).__name__}, no Documents")
    name = getattr(documents, "name", None)
    expect(isinstance(name, str), corpus, "documents", f"returned documents of the name {name!r}: it must be text")
    checked = Checked(documents, corpus, split)
    require(len(checked) > 0, f"The corpus {checked.name} is empty: its {split} split holds no documents.")
    checked.read(np.arange(min(len(checked), TRIED)))
    return checked


def is_unicode(text: str) -> bool:
    """Tell whether UTF-8 can hold a text: a lone half of a surrogate pair it cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
