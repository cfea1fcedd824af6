"""Shared code of objectives: checks of their settings, and assembly of batches from corrupted rows."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int, UInt

from research.config import require
from research.config.objective import Lengths
from research.data.batch import Batch
from research.data.tokenizer import Tokenizer

Array = np.ndarray


class Rows(NamedTuple):
    """Concatenated text of rows, with the number of tokens per row; `counts` is None if all rows are equally long."""

    tokens: UInt[Array, " total"]
    counts: Int[Array, " n"] | None


def require_density(density: float, most: float = 1.0) -> None:
    """Refuse a noise density outside (0, 1), or above `most` if that is smaller than 1."""
    limits = "1, both excluded" if most == 1 else f"{most}"
    require(
        0 < density < 1 and density <= most,
        f"objective.noise_density is {density}: it must lie between 0 and {limits}.",
    )


def require_share(name: str, share: float) -> None:
    require(0 <= share <= 1, f"objective.{name} is {share}: it must lie in [0, 1].")


def select_tokens(tokens: UInt[Array, "n raw"], keep: Bool[Array, "n raw"]) -> Rows:
    return Rows(tokens[keep], keep.sum(axis=1))


def full_rows(tokens: UInt[Array, "n raw"]) -> Rows:
    return Rows(tokens.reshape(-1), None)


def raw_for(input_length: int, num_special_tokens: int) -> int:
    """Return the number of raw tokens that fill a row of `input_length`. Raises ConfigError if there is no room for
    any.
    """
    require(
        input_length > num_special_tokens,
        f"data.input_length is {input_length}: {num_special_tokens} special tokens and one of text need at"
        f" least {num_special_tokens + 1}.",
    )
    return input_length - num_special_tokens


def batch_of(
    rows: int, inputs: Rows, targets: Rows, lengths: Lengths, tokenizer: Tokenizer, language: str | None
) -> Batch:
    """Add the tokenizer's special tokens to both sides and build a batch. A side with `counts` is padded and masked."""
    special_tokens = tokenizer.special_tokens(language)
    encoder, encoder_real = _add_special_tokens(rows, inputs, lengths.inputs, special_tokens, tokenizer.pad_id)
    decoder, decoder_real = _add_special_tokens(rows, targets, lengths.targets, special_tokens, tokenizer.pad_id)
    shifted = np.empty_like(decoder)
    shifted[:, 0] = tokenizer.start_id(language)
    shifted[:, 1:] = decoder[:, :-1]
    if decoder_real is not None:
        shifted[~decoder_real] = tokenizer.pad_id
    return Batch(
        encoder_input_tokens=encoder,
        decoder_input_tokens=shifted,
        decoder_target_tokens=decoder,
        decoder_loss_weights=None if decoder_real is None else decoder_real.astype(np.float32),
        encoder_segment_ids=None if encoder_real is None else encoder_real.astype(np.int32),
        decoder_segment_ids=None if decoder_real is None else decoder_real.astype(np.int32),
    )


def _add_special_tokens(
    rows: int, text: Rows, width: int, special_tokens: tuple[list[int], list[int]], pad_id: int
) -> tuple[Int[Array, "n width"], Bool[Array, "n width"] | None]:
    """Surround the text of rows with special tokens; return the rows and a mask of real tokens, None if there is no
    padding.
    """
    before, after = special_tokens
    room = width - len(before) - len(after)
    framed = np.full((rows, width), pad_id, np.int32)
    framed[:, : len(before)] = before
    if text.counts is None:
        framed[:, len(before) : len(before) + room] = text.tokens.reshape(rows, room)
        framed[:, len(before) + room :] = after
        return framed, None
    columns, ends = np.arange(width), len(before) + text.counts[:, None]
    framed[(columns >= len(before)) & (columns < ends)] = text.tokens
    framed[np.arange(rows)[:, None], ends + np.arange(len(after))] = after
    return framed, columns < ends + len(after)


def mask_of(tokenizer: Tokenizer) -> int:
    """Return the id that replaces hidden text: the mask or, in vocabularies without one, the first sentinel, as in T5.

    Raises ConfigError if the tokenizer has neither.
    """
    if tokenizer.mask_id is not None:
        return tokenizer.mask_id
    require(len(tokenizer.sentinel_ids) > 0, "data.objective needs a mask or a sentinel: the tokenizer has neither.")
    return int(tokenizer.sentinel_ids[0])


def masks_or_random(
    count: int, random_tokens: float, tokenizer: Tokenizer, rng: np.random.Generator
) -> UInt[Array, " count"]:
    """Return `count` masks, each replaced independently by a random text token with probability `random_tokens`."""
    tokens = np.full(count, mask_of(tokenizer), np.uint32)
    if random_tokens:
        is_random = rng.random(count, np.float32) < random_tokens
        tokens[is_random] = random_text(int(is_random.sum()), tokenizer, rng)
    return tokens


def random_text(count: int, tokenizer: Tokenizer, rng: np.random.Generator) -> UInt[Array, " count"]:
    """Draw ids of text uniformly.

    T5 and fairseq draw from all ids but the first few, so that they occasionally draw a special token or a sentinel.
    """
    return tokenizer.text_ids[rng.integers(len(tokenizer.text_ids), size=count)]
