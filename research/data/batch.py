"""Batches, the input of a step: pytrees of integer arrays. Fields that a pipeline guarantees to be trivial are None."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

Array = np.ndarray  # or jax.Array: batches are built on the host and placed on the mesh


class Batch(NamedTuple):
    """Token ids, with segment ids if rows hold padding or several examples.

    A segment id is 0 for padding and 1, 2, ... for the examples packed into a row. If the segment ids are None, every
    token of every row is real and belongs to one example; this is static, so attention needs no mask but the causal
    one. If the positions are None, they are 0, 1, 2, ... along the row, and a row with segment ids is one example that
    padding follows. With segment ids, the positions of an example count up by one along the row. If the loss weights
    are None, every target has weight 1.
    """

    encoder_input_tokens: Int[Array, "b s"]
    decoder_input_tokens: Int[Array, "b t"]
    decoder_target_tokens: Int[Array, "b t"]
    decoder_loss_weights: Float[Array, "b t"] | None = None
    encoder_segment_ids: Int[Array, "b s"] | None = None
    encoder_positions: Int[Array, "b s"] | None = None
    decoder_segment_ids: Int[Array, "b t"] | None = None
    decoder_positions: Int[Array, "b t"] | None = None

    @property
    def widths(self) -> tuple[int, int]:
        """Tokens per row of the encoder and of the decoder."""
        return self.encoder_input_tokens.shape[1], self.decoder_target_tokens.shape[1]


class Shard(NamedTuple):
    """A host's part of every batch: the batch has `parts` equal parts, and the host holds those in `held`, in that
    order.
    """

    parts: int = 1
    held: tuple[int, ...] = (0,)

    def spans(self, rows: int) -> list[tuple[int, int]]:
        """Return the host's rows of a batch of `rows` rows as (start, stop) spans, merging adjacent ones."""
        part, spans = rows // self.parts, list[tuple[int, int]]()
        for number in self.held:
            start, stop = number * part, (number + 1) * part
            if spans and spans[-1][1] == start:
                start, _ = spans.pop()
            spans.append((start, stop))
        return spans


WHOLE = Shard()


def fields_of(batches: Sequence[Batch], inputs: int, targets: int) -> frozenset[str]:
    """Return the names of the fields that must be arrays, not None.

    The batch has `inputs` and `targets` tokens per row and may hold rows of any of `batches`.
    """

    def needed(batch: Batch, name: str) -> bool:
        side = name.startswith("decoder")
        narrow = batch.widths[side] < (inputs, targets)[side] and not name.endswith("positions")
        return narrow or getattr(batch, name) is not None

    return frozenset(name for name in Batch._fields if any(needed(batch, name) for batch in batches))


def interleave(
    parts: Sequence[tuple[Int[np.ndarray, " _"], Batch]],
    inputs: int,
    targets: int,
    pad_id: int,
    written: frozenset[str],
) -> Batch:
    """Combine parts into one batch of `inputs` and `targets` tokens per row.

    Each part comes with the indices of its rows in the result. Narrower parts are padded. The result always has the
    fields `written`, whatever the parts: fields that a part leaves as None are filled with their defaults.
    """
    only = parts[0][1]
    if len(parts) == 1 and only.widths == (inputs, targets) and written == fields_of([only], *only.widths):
        return only
    count = sum(len(indices) for indices, _ in parts)
    whole: list[np.ndarray | None] = []
    for name in Batch._fields:
        if name not in written:
            whole.append(None)
            continue
        width = (inputs, targets)[name.startswith("decoder")]
        fields = [(indices, field_or_default(batch, name)) for indices, batch in parts]
        rows = np.full((count, width), pad_id if name.endswith("tokens") else 0, fields[0][1].dtype)
        for indices, field in fields:
            rows[indices, : field.shape[1]] = field
        whole.append(rows)
    return Batch._make(whole)


def field_or_default(batch: Batch, name: str) -> Array:
    """Return a field of a batch as an array, filled with its default if it is None."""
    field = getattr(batch, name)
    if field is not None:
        return field
    shape = len(batch.encoder_input_tokens), batch.widths[name.startswith("decoder")]
    if name.endswith("positions"):
        return np.broadcast_to(np.arange(shape[1], dtype=np.int32), shape)
    return np.ones(shape, np.float32 if name.endswith("weights") else np.int32)


def with_start_token(batch: Batch, start_token: int) -> Batch:
    """Return the batch with `start_token` as the first decoder input of every row and every segment."""
    first = field_or_default(batch, "decoder_positions") == 0
    real = first & (field_or_default(batch, "decoder_segment_ids") > 0)
    return batch._replace(decoder_input_tokens=np.where(real, np.int32(start_token), batch.decoder_input_tokens))
