"""Strings that end an output, found among its tokens on the device, as Hugging Face's StopStringCriteria finds them.

A string ends an output with the token whose text completes it: the text of the last tokens contains the string, and
would not without the last one. How each token's text may lie on each string is worked out once, for the whole
vocabulary. Then the last token covers an end of the string, each token before it the characters before those, and the
string is complete when nothing of it is left.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from research.config import require
from research.data.tokenizer import Tokenizer

NONE = -1  # fills the rows of tokens with fewer places; the last row, of ids outside the vocabulary, has nothing else


class StopTable(NamedTuple):
    """The places of each token's text on each stop string, in bytes counted from the string's end."""

    endings: Int[np.ndarray, "v s e"]  # how much of a string's end the token's beginning covers
    inner: Int[np.ndarray, "v s p"]  # how much must be covered already for the token to come before
    lengths: Int[np.ndarray, " v"]
    sizes: Int[np.ndarray, " s"]  # of the strings
    back: Int[np.ndarray, " k"]  # 0, 1, ...: the tokens to look at, from the last one


def stop_table(tokenizer: Tokenizer, strings: tuple[str, ...]) -> StopTable:
    """Work out where the tokens of a vocabulary may lie on the strings.

    Raises:
        ConfigError: no token's text ends any of the strings.
    """
    from research.data.tokenizer import MarianTokenizer  # decoding tokens does without the libraries of tokenizers

    texts, stops = surfaces(tokenizer), [string.encode() for string in strings]
    endings = [[_endings(text, stop) for stop in stops] for text in texts]
    require(
        any(places for each in endings for places in each),
        f"generation.stop_strings is {list(strings)!r}: no token of the vocabulary ends one of them.",
    )
    inner = [[_inner(text, stop) for stop in stops] for text in texts]
    # Marian's pieces of a space alone have no length there, and so the number of tokens to look at matters.
    measured = strings if isinstance(tokenizer, MarianTokenizer) else stops
    return StopTable(
        endings=_filled(endings),
        inner=_filled(inner),
        lengths=np.array([*(len(text or b"") for text in texts), NONE], np.int32),
        sizes=np.array([len(stop) for stop in stops], np.int32),
        back=np.arange(max(map(len, measured)), dtype=np.int32),
    )


def completed(table: StopTable, tokens: Int[Array, "b m t"], last: Int[Array, ""]) -> Bool[Array, "b m"]:
    """Tell of which hypotheses the token at `last` completes a stop string."""
    positions, outside = last - jnp.asarray(table.back), len(table.lengths) - 1
    ids = jnp.take(tokens, jnp.maximum(positions, 0), axis=2)
    ids = jnp.where(positions >= 0, jnp.minimum(ids, outside), outside)
    endings = jnp.asarray(table.endings)[ids[..., 0]][:, :, None]  # [b m 1 s e]
    lengths = jnp.asarray(table.lengths)[ids[..., 1:]][..., None, None]
    before = jnp.asarray(table.inner)[ids[..., 1:]]  # [b m k s p]
    covered = endings + jnp.pad(jnp.cumsum(lengths, axis=2), ((0, 0), (0, 0), (1, 0), (0, 0), (0, 0)))
    fits = jnp.any(covered[:, :, :-1, :, :, None] == before[:, :, :, :, None], axis=-1)
    whole = jnp.cumprod(jnp.concatenate([endings > 0, fits], axis=2), axis=2, dtype=jnp.int32)
    return jnp.any(whole * covered >= jnp.asarray(table.sizes)[:, None], axis=(2, 3, 4))


def surfaces(tokenizer: Tokenizer) -> list[bytes | None]:
    """Return the UTF-8 bytes of each id of an output within a text, special tokens by name; None: it has neither.

    They are what Hugging Face's tokenizers give, but for Marian's separate vocabularies, of which StopStringCriteria
    takes the source's, and for ByT5, of which it knows ASCII alone.
    """
    from research.data.tokenizer import MarianTokenizer, SentencePieceTokenizer  # as above
    from research.data.tokenizer.sentencepiece import SPACE
    from research.pretrained.tokenizer_files import own_tokens

    names = {id: name.encode() for name, id in reversed(own_tokens(tokenizer).items())}
    if isinstance(tokenizer, SentencePieceTokenizer):
        pieces = map(tokenizer.processor.id_to_piece, range(tokenizer.pieces))
        names |= {id: piece.replace(SPACE, " ").encode() for id, piece in enumerate(pieces)}
    if isinstance(tokenizer, MarianTokenizer):
        special = (tokenizer.pad_id, tokenizer.eos_id, tokenizer.unknown_id)
        return [names[id] if id in special else text for id, text in enumerate(tokenizer.target_bytes)]
    return [text or names.get(id) for id, text in enumerate(tokenizer.token_bytes)]


def _endings(text: bytes | None, stop: bytes) -> list[int]:
    beginnings = [(text or b"")[: end + 1] for end in range(len(text or b""))]
    return sorted({min(len(each), len(stop)) for each in beginnings if stop.endswith(each) or each.endswith(stop)})


def _inner(text: bytes | None, stop: bytes) -> list[int]:
    if text is None:
        return []
    rests = [(covered, stop[: len(stop) - covered]) for covered in range(1, len(stop))]
    return [covered for covered, rest in rests if rest.endswith(text) or text.endswith(rest)]


def _filled(places: Sequence[Sequence[Sequence[int]]]) -> Int[np.ndarray, "v s p"]:
    """Pad lists to an array, and add the row of ids outside the vocabulary."""
    width = max(max(map(len, each)) for each in places)
    array = np.full((len(places) + 1, len(places[0]), max(width, 1)), NONE, np.int32)
    for row, each in enumerate(places):
        for column, numbers in enumerate(each):
            array[row, column, : len(numbers)] = numbers
    return array
