"""New tokens for a trained model: rows that are the mean of the pieces which spelled them, and a longer tokenizer."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from research.config import require
from research.config.tokenizer import require_new_tokens
from research.data.tokenizer import ExtendedTokenizer, Tokenizer
from research.pretrained.files import new_directory
from research.pretrained.rows import open_directory, write_directory
from research.pretrained.tokenizer_files import own_tokens


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


def extended(tokenizer: Tokenizer, tokens: Sequence[str]) -> ExtendedTokenizer:
    """Return the tokenizer with new tokens; raise ConfigError if one exists already, repeats or has white space."""
    require_new_tokens(tokens)
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
