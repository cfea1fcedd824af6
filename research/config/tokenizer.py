"""Vocabularies: existing ones from files, or trained on the data."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from research.config.base import require


def require_languages(languages: tuple[str, ...]) -> None:
    """Raise ConfigError unless language codes are distinct and not empty."""
    distinct = len(set(languages)) == len(languages)
    require(distinct and all(languages), f"tokenizer.languages is {languages}: codes must be distinct, and not empty.")


def require_new_tokens(tokens: Sequence[str]) -> None:
    """Raise ConfigError unless new tokens are distinct texts without white space, one or more."""
    listed = not isinstance(tokens, str) and all(isinstance(token, str) for token in tokens)
    require(listed, f'The new tokens are {tokens!r}: give a list of texts, such as ["<sep>"].')
    plain = all(token.split() == [token] for token in tokens) and len(set(tokens)) == len(tokens) > 0
    require(plain, f"The new tokens are {', '.join(map(repr, tokens))}: they must be distinct and without white space.")


@dataclass(frozen=True)
class SentencePiece:
    """A SentencePiece model on disk; `sentinels` ids are added after its pieces.

    A unigram tokenizer.json, as transformers 5 saves T5's, is read too: its sentinels are in the file.

    With sentinels=0 its own pieces <extra_id_0>, <extra_id_1>, ... are the sentinels, as in mT5's file. With languages,
    an id for each language and one for the mask are added before the sentinels, and text is formatted as in mBART's
    CC25: `X </s> LANGUAGE`.
    """

    path: str
    sentinels: int = 100
    languages: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        require_languages(self.languages)


@dataclass(frozen=True)
class TrainedSentencePiece:
    """A SentencePiece model trained once on the training split and cached; other ids as in SentencePiece."""

    pieces: int = 32_000
    algorithm: Literal["unigram", "bpe"] = "unigram"
    sentinels: int = 100
    languages: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        require_languages(self.languages)
        require(self.pieces > 300, f"tokenizer.pieces is {self.pieces}: at least 301, for bytes and special tokens.")


@dataclass(frozen=True)
class Bytes:
    """UTF-8 bytes after three special tokens, as in ByT5.

    With sentinels=0 the highest byte ids are the sentinels, as in ByT5's pretraining.
    """

    sentinels: int = 100


@dataclass(frozen=True)
class ByteLevelBPE:
    """BART's byte-level BPE: a tokenizer.json, or a directory with one, or with vocab.json and merges.txt."""

    path: str


@dataclass(frozen=True)
class MBart:
    """mBART's sentencepiece.bpe.model, with fairseq's ids and the languages of CC25 or mBART-50, or some of these."""

    path: str
    variant: Literal["cc25", "50"] = "cc25"
    languages: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        require_languages(self.languages)


@dataclass(frozen=True)
class Marian:
    """Marian's vocabulary: a directory with source.spm, target.spm and vocab.json, or also target_vocab.json."""

    directory: str


NO_NEW_TOKENS = "M2M-100's vocabulary cannot have new tokens: the ids after its pieces are those of its languages."
M2MEdition = Literal["m2m100", "wmt21"]


@dataclass(frozen=True)
class M2M100:
    """M2M-100's vocabulary: a directory with sentencepiece.bpe.model and vocab.json; `variant` names its languages."""

    directory: str
    variant: M2MEdition = "m2m100"


@dataclass(frozen=True)
class Extended:
    """Another vocabulary with new tokens after its ids. A text that contains a new token has its one id there."""

    vocabulary: SentencePiece | Bytes | ByteLevelBPE | MBart | Marian | M2M100
    tokens: tuple[str, ...]

    def __post_init__(self) -> None:
        require_new_tokens(self.tokens)
        require(not isinstance(self.vocabulary, M2M100), NO_NEW_TOKENS)


# Vocabularies that need no training.
Vocabulary = SentencePiece | Bytes | ByteLevelBPE | MBart | Marian | M2M100 | Extended


@dataclass(frozen=True)
class ModelTokenizer:
    """The tokenizer that is stored with the experiment's model, which is a `Pretrained`."""

    vocabulary: Vocabulary | None = field(default=None, init=False)  # that of the model, set by the experiment


TokenizerConfig = Vocabulary | TrainedSentencePiece | ModelTokenizer
