"""Tokenizers: text to token ids and back, exactly as each model family does it, behind one interface."""

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from research.config import (
    M2M100,
    ByteLevelBPE,
    Bytes,
    Extended,
    Marian,
    MBart,
    ModelTokenizer,
    SentencePiece,
    Vocabulary,
)
from research.data.tokenizer.base import Tokenizer

if TYPE_CHECKING:
    from research.data.tokenizer.byte_level_bpe import ByteLevelBPETokenizer
    from research.data.tokenizer.bytes import ByteTokenizer
    from research.data.tokenizer.extended import ExtendedTokenizer
    from research.data.tokenizer.m2m_100 import M2M100Tokenizer
    from research.data.tokenizer.marian import MarianTokenizer
    from research.data.tokenizer.mbart import MBartTokenizer
    from research.data.tokenizer.sentencepiece import SentencePieceTokenizer
    from research.data.tokenizer.sentinels import SentinelTokenizer
    from research.data.tokenizer.training import train_sentencepiece

__all__ = [
    "ByteLevelBPETokenizer",
    "ByteTokenizer",
    "ExtendedTokenizer",
    "M2M100Tokenizer",
    "MBartTokenizer",
    "MarianTokenizer",
    "SentencePieceTokenizer",
    "SentinelTokenizer",
    "Tokenizer",
    "open_tokenizer",
    "train_sentencepiece",
]

# Modules of the names that are loaded when they are first used: they need libraries that a step on synthetic rows does
# without.
_MODULES = {
    "ByteLevelBPETokenizer": "byte_level_bpe",
    "ByteTokenizer": "bytes",
    "ExtendedTokenizer": "extended",
    "M2M100Tokenizer": "m2m_100",
    "MBartTokenizer": "mbart",
    "MarianTokenizer": "marian",
    "SentencePieceTokenizer": "sentencepiece",
    "SentinelTokenizer": "sentinels",
    "train_sentencepiece": "training",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def open_tokenizer(config: Vocabulary | ModelTokenizer) -> Tokenizer:
    """Open the tokenizer of a vocabulary config.

    Raises ConfigError naming a vocabulary file that is missing, broken or not in its family's format.
    """
    from research.data.tokenizer.files import read

    if isinstance(config, ModelTokenizer):
        assert config.vocabulary is not None  # set by the experiment
        return open_tokenizer(config.vocabulary)
    match config:
        case SentencePiece(path, sentinels, ()) if path.endswith(".json"):
            from research.data.tokenizer.unigram import open_t5

            return open_t5(Path(path), sentinels)
        case SentencePiece(path, sentinels, languages):
            from research.data.tokenizer.sentencepiece import SentencePieceTokenizer

            model = read(Path(path), "SentencePiece model")
            return SentencePieceTokenizer(model, sentinels, origin=path, languages=languages)
        case Bytes(sentinels):
            from research.data.tokenizer.bytes import ByteTokenizer

            return ByteTokenizer(sentinels)
        case ByteLevelBPE(path):
            from research.data.tokenizer.byte_level_bpe import open_byte_level_bpe

            return open_byte_level_bpe(Path(path))
        case MBart():
            return _open_mbart(config)
        case Marian(directory):
            from research.data.tokenizer.marian import MarianTokenizer

            return MarianTokenizer(Path(directory))
        case M2M100(directory, variant):
            from research.data.tokenizer.m2m_100 import open_m2m_100

            return open_m2m_100(Path(directory), variant)
        case Extended(vocabulary, tokens):
            from research.data.tokenizer.extended import ExtendedTokenizer

            return ExtendedTokenizer(open_tokenizer(vocabulary), tokens)


def _open_mbart(config: MBart) -> Tokenizer:
    from research.data.tokenizer.files import read, read_object

    path = Path(config.path)
    if path.suffix == ".json" and not config.languages:
        from research.data.tokenizer.unigram import read_mbart

        return read_mbart(read_object(path, "tokenizer"), path, config.variant)
    from research.data.tokenizer.mbart import MBartTokenizer

    model = read(path, "SentencePiece model")
    return MBartTokenizer(model, config.variant, origin=config.path, languages=config.languages)
