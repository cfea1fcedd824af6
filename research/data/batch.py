"""What a step receives: a pytree of integer arrays, with what a pipeline guarantees left out as None."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

Array = np.ndarray  # or a jax.Array: batches are made on the host and placed on the mesh


class Batch(NamedTuple):
    """Token ids and, where rows hold padding or several examples, the segments that say which token belongs to which.

    A segment id is 0 for padding and 1, 2, ... for the examples packed into a row. None for the segments means,
    statically, that every token of every row is real and belongs to one example, so attention needs no mask but the
    causal one. None for the positions means 0, 1, 2, ... along the row. None for the weights means that every target
    counts once.
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
        """Tokens a row of the encoder and of the decoder."""
        return self.encoder_input_tokens.shape[1], self.decoder_target_tokens.shape[1]


class Shard(NamedTuple):
    """What a host has of every batch: of so many equal parts, those in `held`, in their order."""

    parts: int = 1
    held: tuple[int, ...] = (0,)

    def spans(self, rows: int) -> list[tuple[int, int]]:
        """Its rows of a batch of so many, as first ones and ones past the last, neighbours joined."""
        part, found = rows // self.parts, list[tuple[int, int]]()
        for number in self.held:
            start, stop = number * part, (number + 1) * part
            if found and found[-1][1] == start:
                start, _ = found.pop()
            found.append((start, stop))
        return found


WHOLE = Shard()


def fields_of(batches: Sequence[Batch], inputs: int, targets: int) -> frozenset[str]:
    """Names of the fields that must be arrays, not None, in a batch of `inputs` and `targets` tokens a row which may
    hold rows of any of `batches`.
    """

    def needed(batch: Batch, name: str) -> bool:
        side = name.startswith("decoder")
        narrow = batch.widths[side] < (inputs, targets)[side] and not name.endswith("positions")
        return narrow or getattr(batch, name) is not None

    return frozenset(name for name in Batch._fields if any(needed(batch, name) for batch in batches))


def interleaved(
    parts: Sequence[tuple[Int[np.ndarray, " _"], Batch]],
    inputs: int,
    targets: int,
    pad_id: int,
    written: frozenset[str],
) -> Batch:
    """One batch of `inputs` and `targets` tokens a row, of parts with the places of their rows in the whole.

    Narrower parts are padded. It has the fields `written`, of whatever parts it is: what a part leaves out as None is
    written out.
    """
    only = parts[0][1]
    if len(parts) == 1 and only.widths == (inputs, targets) and written == fields_of([only], *only.widths):
        return only
    count = sum(len(where) for where, _ in parts)
    whole: list[np.ndarray | None] = []
    for name in Batch._fields:
        if name not in written:
            whole.append(None)
            continue
        width = (inputs, targets)[name.startswith("decoder")]
        fields = [(where, written_out(batch, name)) for where, batch in parts]
        rows = np.full((count, width), pad_id if name.endswith("tokens") else 0, fields[0][1].dtype)
        for where, field in fields:
            rows[where, : field.shape[1]] = field
        whole.append(rows)
    return Batch._make(whole)


def written_out(batch: Batch, name: str) -> Array:
    """A field of a batch; what None stands for, where it is None."""
    field = getattr(batch, name)
    if field is not None:
        return field
    shape = len(batch.encoder_input_tokens), batch.widths[name.startswith("decoder")]
    if name.endswith("positions"):
        return np.broadcast_to(np.arange(shape[1], dtype=np.int32), shape)
    return np.ones(shape, np.float32 if name.endswith("weights") else np.int32)


def started(batch: Batch, start_token: int) -> Batch:
    """The batch, the decoder starting from that token in every row and every segment."""
    first = written_out(batch, "decoder_positions") == 0
    real = first & (written_out(batch, "decoder_segment_ids") > 0)
    return batch._replace(decoder_input_tokens=np.where(real, np.int32(start_token), batch.decoder_input_tokens))
