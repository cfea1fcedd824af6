"""A `Denoising` config made ready: corpora as token streams, each under the objective that breaks it."""

import numpy as np
from jaxtyping import Int64

from research.config import Denoising, Objective, TrainedSentencePiece
from research.data import cache, mixture
from research.data.batch import Batch
from research.data.corpus import open_documents
from research.data.objective import corrupt, lengths, require_sentinels
from research.data.source import Prepared
from research.data.tokenizer import Tokenizer, open_tokenizer
from research.data.tokens import TokenStream, token_stream
from research.data.vocabulary import tokenizer_for


class BrokenText:
    """A token stream cut into rows, which an objective breaks anew each time."""

    def __init__(self, stream: TokenStream, objective: Objective, input_length: int, tokenizer: Tokenizer) -> None:
        self.name, self.digest = stream.name, stream.text_digest
        self._objective, self._tokenizer = objective, tokenizer
        self._lengths = lengths(objective, input_length)
        self.raw, self.inputs, self.targets = self._lengths.raw, self._lengths.inputs, self._lengths.targets
        self._rows = stream.rows(self.raw)

    def __len__(self) -> int:
        return len(self._rows)

    def __call__(self, rows: Int64[np.ndarray, " n"], rng: np.random.Generator) -> Batch:
        return corrupt(self._rows[rows], self._objective, self._lengths, self._tokenizer, rng)


def prepare(data: Denoising) -> Prepared:
    """Corpora found, built and checked, the vocabulary trained or opened, text tokenised.

    Raises ConfigError where what `data` asks for is missing, empty, damaged or does not fit together.
    """
    row_lengths = lengths(data.objective, data.input_length)
    if not isinstance(data.tokenizer, TrainedSentencePiece):
        require_sentinels(row_lengths, open_tokenizer(data.tokenizer))  # before a corpus is built, which can take hours
    train = [open_documents(corpus, "train") for corpus in data.corpora]
    held_out = [open_documents(corpus, "held_out") for corpus in data.corpora]
    tokenizer = tokenizer_for(data.tokenizer, train, data.mixing)
    require_sentinels(row_lengths, tokenizer)

    def broken(stream: TokenStream) -> BrokenText:
        return BrokenText(stream, data.objective, data.input_length, tokenizer)

    train_sources = tuple(broken(token_stream(documents, tokenizer)) for documents in train)
    held_out_sources = tuple(broken(token_stream(documents, tokenizer)) for documents in held_out)
    weights = mixture.weights(tuple(map(len, train_sources)), data.mixing)
    fingerprint: dict[str, str | int] = {
        "data.corpora": cache.digest([source.digest for source in (*train_sources, *held_out_sources)]),
        "data.objective": repr(data.objective),
        "data.input_length": data.input_length,
        "data.mixing": repr(data.mixing),
    }
    return Prepared(tokenizer, train_sources, held_out_sources, weights, fingerprint)
