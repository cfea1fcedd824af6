"""New tokens for a trained model: rows that are the mean of the pieces which spelled them, and a longer tokenizer."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from research.config import ConfigError, Extended, Model, Vocabulary, require
from research.config.tokenizer import require_new_tokens
from research.data.tokenizer import ExtendedTokenizer, Tokenizer, open_tokenizer
from research.model.transformer import Params
from research.pretrained.files import new_directory
from research.pretrained.hub import located
from research.pretrained.huggingface import read_params
from research.pretrained.rows import ChangedRows, check_directory, check_vocabulary, open_directory, write_directory
from research.pretrained.tokenizer_files import check_extensible, own_tokens
from research.storage.bucket import any_path


def add_tokens(directory: Path, out: Path, tokens: Sequence[str]) -> dict[str, list[str]]:
    """Write the model at `directory` with new tokens to the new directory `out`; return how each was spelled before.

    Rows above the tokenizer's last id, which pad T5's tables, are used first.

    Raises:
        ConfigError: a directory cannot serve, or a token exists, repeats or has white space.
    """
    model, tokenizer = open_directory(directory)
    longer = extended(tokenizer, tokens)
    spelled = [spelling(tokenizer, token) for token in tokens]
    size = max(model.vocab_size, longer.size)
    with new_directory(out) as unfinished:
        write_directory(
            directory, unfinished, longer, lambda rows: mean_rows(rows, tokenizer.size, spelled, size), size
        )
        open_directory(unfinished)  # raises if what was written does not read back
    names = [surface.decode("utf-8", errors="replace") or "<unk>" for surface in tokenizer.token_bytes]
    return {token: [names[id] for id in ids] for token, ids in zip(tokens, spelled, strict=True)}


class LongerVocabulary:
    """The model in a directory with new tokens, whose rows are made while it is read.

    `vocabulary` ends with the tokens. Everything equals what `add_tokens` writes, read back.

    Raises:
        ConfigError: it is no Hugging Face directory, or has a vocabulary for the source and another for the target.
    """

    def __init__(self, directory: Path, model: Model, vocabulary: Vocabulary, tokens: Sequence[str]) -> None:
        check_directory(directory)
        tokenizer = open_tokenizer(vocabulary)
        assert isinstance(tokenizer, ExtendedTokenizer)
        self.directory, self.tokenizer, self.rows = directory, tokenizer, model.vocab_size
        before = tokenizer.tokens[: -len(tokens)]
        shorter = ExtendedTokenizer(tokenizer.inner, before) if before else tokenizer.inner
        self.first, self.spelled = shorter.size, [spelling(shorter, token) for token in tokens]
        self.model = replace(model, vocab_size=max(model.vocab_size, tokenizer.size))

    def params(self, shardings: Any = None, fresh: Sequence[str] = ()) -> Params:
        tensors = ChangedRows(self.directory, self.rows, self._longer)
        return read_params(self.directory, self.model, shardings, fresh, tensors)

    def _longer(self, rows: np.ndarray) -> np.ndarray:
        return mean_rows(rows, self.first, self.spelled, self.model.vocab_size)


def longer_fields(path: str, vocabulary: Vocabulary | None, model: Model, tokens: Sequence[str]) -> dict[str, Any]:
    """Return the fields of `Pretrained` that new tokens change: its tokenizer and the rows of its embedding.

    Raises:
        ConfigError: there is no tokenizer, the directory or the tokenizer cannot have new tokens, or as `extended`.
    """
    directory = located(any_path(path))
    check_directory(directory)
    if vocabulary is None:
        message = f"{path} holds no tokenizer, which spells new_tokens: give one, Pretrained(..., tokenizer=...)."
        raise ConfigError(message)
    tokenizer = open_tokenizer(vocabulary)
    check_vocabulary(model, tokenizer)
    longer = extended(tokenizer, tokens)
    own = vocabulary.vocabulary if isinstance(vocabulary, Extended) else vocabulary
    return {"tokenizer": Extended(own, longer.tokens), "vocab_size": max(model.vocab_size, longer.size)}


def extended(tokenizer: Tokenizer, tokens: Sequence[str]) -> ExtendedTokenizer:
    """Return the tokenizer with new tokens; raise ConfigError if one exists already, repeats or has white space."""
    require_new_tokens(tokens)
    check_extensible(tokenizer)
    old = [token for token in tokens if token in own_tokens(tokenizer)]
    require(not old, f"The vocabulary has {', '.join(map(repr, old))} already: name only new tokens.")
    if isinstance(tokenizer, ExtendedTokenizer):
        return ExtendedTokenizer(tokenizer.inner, (*tokenizer.tokens, *tokens))
    return ExtendedTokenizer(tokenizer, tokens)


def spelling(tokenizer: Tokenizer, token: str) -> list[int]:
    """Return the ids that spell a token, without unknown ones unless there are no others."""
    ids = tokenizer.encode(token)
    return [id for id in ids if id != tokenizer.unknown_id] or [tokenizer.unknown_id]


def mean_rows(rows: np.ndarray, first: int, spelled: Sequence[Sequence[int]], size: int) -> np.ndarray:
    """Return `size` rows of which those from `first` on are the means of the rows in `spelled`."""
    longer = np.zeros((size, *rows.shape[1:]), rows.dtype)
    longer[: len(rows)] = rows
    for place, ids in enumerate(spelled):
        longer[first + place] = rows[list(ids)].astype(np.float32).mean(axis=0)
    return longer
