"""Masks of attention: the keys that each query sees, as an array and as the structure that fast backends need."""

from dataclasses import dataclass, field
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

AttentionPart = Literal["encoder", "decoder", "cross"]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class AttentionMask:
    """The mask of one of a model's three attentions, with its structure.

    `array` is true if a query may see a key; None lets every query see every key. Where the backend reads the structure
    instead, nothing uses the array, and the compiler removes it. If `structured`, the array follows from the other
    fields: a query sees the keys of its own segment (without ids every token is of segment 1), and if `causal` no later
    keys.
    """

    part: AttentionPart = field(metadata={"static": True})
    array: Bool[Array, "*_ t s"] | None = None
    query_ids: Int[Array, "b t"] | None = None
    key_ids: Int[Array, "b s"] | None = None
    causal: bool = field(default=False, metadata={"static": True})
    packed: bool = field(default=False, metadata={"static": True})  # a row may hold several examples
    structured: bool = field(default=True, metadata={"static": True})


def self_mask(
    part: AttentionPart, length: int, segment_ids: Int[Array, "b t"] | None, *, causally: bool, packed: bool
) -> AttentionMask:
    """Build the mask of a self-attention. `packed` tells that rows of these segments may hold several examples.

    In the encoder's array padding sees nothing, so that a row without any source token is the mean of all values, as in
    Hugging Face. Other backends let padding see padding: they differ in such rows, and in no other outputs.
    """
    array = causal(length) if causally else None
    if segment_ids is not None:
        segments = same_segment(segment_ids, segment_ids)
        if part == "encoder":
            segments &= segment_ids[:, None] > 0
        array = segments if array is None else array & segments
    return AttentionMask(part, array, segment_ids, segment_ids, causally, packed and segment_ids is not None)


def encoder_mask(
    tokens: Int[Array, "b t"],
    segment_ids: Int[Array, "b t"] | None,
    encoder_segment_ids: Int[Array, "b s"] | None,
    *,
    packed: bool,
) -> AttentionMask:
    """Build the mask of the cross-attention from `tokens` to the encoder's output: see `cross_mask`."""
    array = cross_mask(tokens, segment_ids, encoder_segment_ids)
    if array is None:
        return AttentionMask("cross")
    return AttentionMask("cross", array, segment_ids, encoder_segment_ids, packed=packed and segment_ids is not None)


def as_array(mask: AttentionMask | Bool[Array, "*_ t s"] | None) -> Bool[Array, "*_ t s"] | None:
    """Return the array of a mask."""
    return mask.array if isinstance(mask, AttentionMask) else mask


def same_segment(query_ids: Int[Array, "b t"], key_ids: Int[Array, "b s"]) -> Bool[Array, "b t s"]:
    """Build the mask that is true within an example. Padding (segment 0) sees only padding; no example sees padding."""
    return query_ids[:, :, None] == key_ids[:, None, :]


def causal(length: int) -> Bool[Array, "t t"]:
    """Build the mask that is true for a position and all before it."""
    return jnp.tril(jnp.ones((length, length), bool))


def cross_mask(
    tokens: Int[Array, "b t"], segment_ids: Int[Array, "b t"] | None, encoder_segment_ids: Int[Array, "b s"] | None
) -> Bool[Array, "b t s"] | None:
    """Build the mask of the sources that each target sees. Without segments a row is one example, of segment 1."""
    if encoder_segment_ids is None:
        return None
    return same_segment(jnp.ones_like(tokens) if segment_ids is None else segment_ids, encoder_segment_ids)


def beam_mask(beams: int, slots: Int[Array, " m"], beam_index: Int[Array, "b n c"] | None) -> Bool[Array, "*_ n m"]:
    """Build the mask of the m = c * n cached keys and values, n a slot, that each of n beams attends to.

    Beam i attends, at cache slot c, to the entry of beam `beam_index[:, i, c]`; None means to its own entries.
    `slots` is the slot of each of the m entries.
    """
    own = jnp.arange(beams)
    writer = jnp.tile(own, len(slots) // beams)
    return (own[:, None] if beam_index is None else beam_index[..., slots]) == writer
