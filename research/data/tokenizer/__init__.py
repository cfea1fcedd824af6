"""Tokenizers: text to token ids and back, exactly as each model family does it, behind one interface."""

from pathlib import Path

from research.config import ByteLevelBPE, Bytes, Marian, MBart, SentencePiece, Vocabulary
from research.data.tokenizer.base import Tokenizer
from research.data.tokenizer.byte_level_bpe import ByteLevelBPETokenizer, open_byte_level_bpe
from research.data.tokenizer.bytes import ByteTokenizer
from research.data.tokenizer.files import read
from research.data.tokenizer.marian import MarianTokenizer
from research.data.tokenizer.mbart import MBartTokenizer
from research.data.tokenizer.sentencepiece import SentencePieceTokenizer
from research.data.tokenizer.sentinels import SentinelTokenizer
from research.data.tokenizer.training import train_sentencepiece

__all__ = [
    "ByteLevelBPETokenizer",
    "ByteTokenizer",
    "MBartTokenizer",
    "MarianTokenizer",
    "SentencePieceTokenizer",
    "SentinelTokenizer",
    "Tokenizer",
    "open_tokenizer",
    "train_sentencepiece",
]


def open_tokenizer(config: Vocabulary) -> Tokenizer:
    """Open the tokenizer of a vocabulary config.

    Raises ConfigError naming a vocabulary file that is missing, broken or not in its family's format.
    """
    match config:
        case SentencePiece(path, sentinels, languages):
            model = read(Path(path), "SentencePiece model")
            return SentencePieceTokenizer(model, sentinels, origin=path, languages=languages)
        case Bytes(sentinels):
            return ByteTokenizer(sentinels)
        case ByteLevelBPE(path):
            return open_byte_level_bpe(Path(path))
        case MBart(path, variant):
            return MBartTokenizer(read(Path(path), "SentencePiece model"), variant, origin=path)
        case Marian(directory):
            return MarianTokenizer(Path(directory))
