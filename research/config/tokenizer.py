"""Vocabularies: opened as they are, or trained on the data."""

from dataclasses import dataclass
from typing import Literal

from research.config.base import require


def require_languages(languages: tuple[str, ...]) -> None:
    distinct = len(set(languages)) == len(languages)
    require(distinct and all(languages), f"tokenizer.languages is {languages}: codes must be there and differ.")


@dataclass(frozen=True)
class SentencePiece:
    """A SentencePiece model on disk; `sentinels` ids are added above its pieces.

    With sentinels=0 its own pieces <extra_id_0>, <extra_id_1>, ... serve, as in mT5's file. With languages, an id for
    each and one for the mask come between, and text is framed as mBART's CC25 frames it: `X </s> LANGUAGE`.
    """

    path: str
    sentinels: int = 100
    languages: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        require_languages(self.languages)


@dataclass(frozen=True)
class TrainedSentencePiece:
    """A SentencePiece model trained on the training split, once, and cached; what is added is as above."""

    pieces: int = 32_000
    algorithm: Literal["unigram", "bpe"] = "unigram"
    sentinels: int = 100
    languages: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        require_languages(self.languages)
        require(self.pieces > 300, f"tokenizer.pieces is {self.pieces}: at least 301, for 256 bytes and the controls.")


@dataclass(frozen=True)
class Bytes:
    """UTF-8 bytes after three controls, as ByT5. With sentinels=0 the highest byte ids serve, as in its pretraining."""

    sentinels: int = 100


@dataclass(frozen=True)
class ByteLevelBPE:
    """BART's byte-level BPE: a tokenizer.json, or a directory that holds one, or vocab.json and merges.txt."""

    path: str


@dataclass(frozen=True)
class MBart:
    """mBART's sentencepiece.bpe.model, with fairseq's ids, and the languages of CC25 or of mBART-50."""

    path: str
    variant: Literal["cc25", "50"] = "cc25"


@dataclass(frozen=True)
class Marian:
    """A directory with source.spm, target.spm and vocab.json; target_vocab.json too where the two are separate."""

    directory: str


Vocabulary = SentencePiece | Bytes | ByteLevelBPE | MBart | Marian  # what can be opened as it is
