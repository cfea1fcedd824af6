"""What decoding remembers: keys and values of the encoder's output, and of the decoder's positions so far."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental.layout import Layout, with_layout_constraint
from jaxtyping import Array, Float, Int

Projection = tuple[Float[Array, "b _ h k"], Float[Array, "b _ h k"]]  # keys and values of any number of places
Stored = tuple[Float[Array, "b h k _"], Float[Array, "b h _ k"]]  # the same in a cache


class Past(NamedTuple):
    """Keys and values of places already seen, and where the new ones go."""

    stored: Stored
    place: Int[Array, ""]

    def write(self, new: Projection) -> Projection:
        (old_key, old_value), (key, value) = self.stored, as_stored(new)
        key = jax.lax.dynamic_update_slice(old_key, key, (0, 0, 0, self.place))
        value = jax.lax.dynamic_update_slice(old_value, value, (0, 0, self.place, 0))
        return as_projection((key, value))


class Cache(NamedTuple):
    """A pair of keys and values a layer; m is c * n, the n hypotheses of a place together.

    What the encoder gave is projected once, and stays at batch size however many hypotheses there are. The axes stand
    as the products with few queries want them, [k m] and [m k], so that no step transposes what it reads.
    """

    own: tuple[Stored, ...]  # [b h k m] and [b h m k], of the decoder's positions so far
    cross: tuple[Stored, ...]  # [b h k s] and [b h s k], of the encoder's output

    def grown(self, length: int, hypotheses: int) -> "Cache":
        """The same with room for `length` places."""
        return self._replace(own=tuple(_grown(stored, length * hypotheses) for stored in self.own))


def _grown(stored: Stored, places: int) -> Stored:
    (key, value), more = stored, (0, places - stored[0].shape[-1])
    return jnp.pad(key, ((0, 0), (0, 0), (0, 0), more)), jnp.pad(value, ((0, 0), (0, 0), more, (0, 0)))


def as_stored(projection: Projection) -> Stored:
    key, value = projection
    # Said of the bytes too, or the compiler keeps the order in which they came and transposes at every step.
    return _laid_out(jnp.moveaxis(key, 1, 3)), _laid_out(jnp.moveaxis(value, 1, 2))


def _laid_out(array: Float[Array, "b h _ _"]) -> Float[Array, "b h _ _"]:
    return with_layout_constraint(array, Layout((0, 1, 2, 3)))


def as_projection(stored: Stored) -> Projection:
    key, value = stored
    return jnp.moveaxis(key, 3, 1), jnp.moveaxis(value, 2, 1)
