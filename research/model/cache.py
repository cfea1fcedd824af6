"""The decoding cache: keys and values of the encoder's output, and of the decoder's positions so far."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental.layout import Layout, with_layout_constraint
from jaxtyping import Array, Float, Int

Projection = tuple[Float[Array, "b _ h k"], Float[Array, "b _ h k"]]  # keys and values of any number of positions
Stored = tuple[Float[Array, "b h k _"], Float[Array, "b h _ k"]]  # keys and values in the layout of a cache


class Past(NamedTuple):
    """Cached keys and values of earlier positions, and the slot at which new ones are written."""

    stored: Stored
    slot: Int[Array, ""]

    def write(self, new: Projection) -> Projection:
        """Write new keys and values at the slot, and return all of them."""
        (old_key, old_value), (key, value) = self.stored, as_stored(new)
        key = jax.lax.dynamic_update_slice(old_key, key, (0, 0, 0, self.slot))
        value = jax.lax.dynamic_update_slice(old_value, value, (0, 0, self.slot, 0))
        return as_projection((key, value))


class Cache(NamedTuple):
    """Keys and values of each layer; m is c * n, with the n hypotheses of a cache slot next to each other.

    The encoder's output is projected once, and its batch size does not grow with the number of hypotheses. The axes are
    in the order of the products with few queries, [k m] and [m k], so that no step transposes its operands.
    """

    own: tuple[Stored, ...]  # [b h k m] and [b h m k], of the decoder's positions so far
    cross: tuple[Stored, ...]  # [b h k s] and [b h s k], of the encoder's output

    def padded(self, length: int, hypotheses: int) -> "Cache":
        """Return the cache with room for `length` decoder positions."""
        return self._replace(own=tuple(_padded(stored, length * hypotheses) for stored in self.own))


def _padded(stored: Stored, entries: int) -> Stored:
    (key, value), more = stored, (0, entries - stored[0].shape[-1])
    return jnp.pad(key, ((0, 0), (0, 0), (0, 0), more)), jnp.pad(value, ((0, 0), (0, 0), more, (0, 0)))


def as_stored(projection: Projection) -> Stored:
    """Rearrange keys and values to the layout of a cache."""
    key, value = projection
    # The memory layout is constrained too: otherwise the compiler keeps the old one and transposes at every step.
    return _with_layout(jnp.moveaxis(key, 1, 3)), _with_layout(jnp.moveaxis(value, 1, 2))


def _with_layout(array: Float[Array, "b h _ _"]) -> Float[Array, "b h _ _"]:
    return with_layout_constraint(array, Layout((0, 1, 2, 3)))


def as_projection(stored: Stored) -> Projection:
    """Rearrange cached keys and values to the layout of attention."""
    key, value = stored
    return jnp.moveaxis(key, 3, 1), jnp.moveaxis(value, 2, 1)
