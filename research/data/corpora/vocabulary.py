"""The tokenizer of a data config: opened, or trained once on the training split and cached."""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import sentencepiece

from research.config import Mixing, SentencePiece, TokenizerConfig, TrainedSentencePiece
from research.config.base import digest
from research.data.corpora.documents import Documents
from research.data.corpora.tokens import document_order
from research.data.mixing import weights
from research.data.tokenizer import Tokenizer, open_tokenizer, train_sentencepiece
from research.storage import cache

FORMAT = 2  # increment when the same documents would give another vocabulary
TEXT_CHARACTERS = 50_000_000  # total over all corpora; the training lines are sampled from these


def tokenizer_for(config: TokenizerConfig, corpora: Sequence[Documents], mixing: Mixing) -> Tokenizer:
    """Open the tokenizer of a config, training its vocabulary if needed.

    Raises ConfigError if the vocabulary cannot be opened, or cannot be trained on this text.
    """
    if not isinstance(config, TrainedSentencePiece):
        return open_tokenizer(config)
    identities = [documents.identity for documents in corpora]
    rules = [FORMAT, sentencepiece.__version__, TEXT_CHARACTERS, mixing.temperature, config.pieces, config.algorithm]
    folder = cache.entry(
        "vocabulary", digest([rules, identities]), lambda folder: _train(folder, config, corpora, mixing)
    )
    return open_tokenizer(SentencePiece(str(folder / "tokenizer.model"), config.sentinels, config.languages))


def _train(folder: Path, config: TrainedSentencePiece, corpora: Sequence[Documents], mixing: Mixing) -> None:
    names = ", ".join(documents.name for documents in corpora)
    print(f"Training a SentencePiece vocabulary of {config.pieces:,} pieces on {names}.", file=sys.stderr, flush=True)
    train_sentencepiece(training_text(corpora, mixing), config, folder / "tokenizer.model")


def training_text(corpora: Sequence[Documents], mixing: Mixing) -> Iterator[str]:
    """Yield up to `TEXT_CHARACTERS` of documents, shared among the corpora in the proportions of `mixing` without its
    limit.
    """
    sizes = tuple(_estimated_characters(documents) for documents in corpora)
    shares = weights(sizes, Mixing(mixing.temperature))
    for documents, share in zip(corpora, shares, strict=True):
        left = TEXT_CHARACTERS * share // sum(shares)
        for texts in document_order(documents):
            for text in texts:
                if left <= 0:
                    break
                yield text[:left]
                left -= len(text)
            if left <= 0:
                break


def _estimated_characters(documents: Documents) -> int:
    sample = next(document_order(documents))
    return 1 + sum(map(len, sample)) * len(documents) // max(1, len(sample))
