"""Kernels of attention in Pallas, which Triton compiles: a program computes tiles of scores of one head.

Tile (i, j) has the scores of TILE queries and TILE keys. A program gets references to its parts of arrays, with lengths
rounded up to whole tiles; what lies after the end is neither read nor written.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.experimental import pallas
from jax.experimental.pallas import triton
from jaxtyping import Bool, Int, UInt32

TILE = 64
MASKED = float(jnp.finfo(jnp.float32).min)  # finite: a query that sees nothing is a mean, as in the plain formula


class Scored(NamedTuple):
    """Arrays from which a kernel computes tiles of scores; in a kernel, references to a program's part of them."""

    query: Any  # [b t h k]; in a kernel [t k] of one row and head, with a length of whole tiles
    key: Any
    bias: Any  # [h t s] or None
    query_ids: Any  # [b t] or None
    key_ids: Any
    seeds: Any  # [b h 1], or None without dropout


class Sizes(NamedTuple):
    """The static facts of an attention."""

    causal: bool
    rows: int
    heads: int
    queries: int
    keys: int
    width: int
    dropped: float  # the share of attention weights, each query its own

    @property
    def tiles(self) -> tuple[int, int]:
        return pallas.cdiv(self.queries, TILE), pallas.cdiv(self.keys, TILE)


def _load(reference: Any, tile: Any, length: int, row: tuple[Any, ...] = ()) -> Array:
    """Load a tile of positions, with zeros after the end; of one row, where the first axis of the reference is rows."""
    inside = _positions(tile) < length
    mask = inside if len(reference.shape) == len(row) + 1 else inside[:, None]
    return triton.load(reference.at[(*row, pallas.ds(tile * TILE, TILE))], mask=mask, other=0)


def _store(reference: Any, tile: Any, length: int, array: Array) -> None:
    inside = _positions(tile) < length
    mask = inside if array.ndim == 1 else inside[:, None]
    triton.store(reference.at[pallas.ds(tile * TILE, TILE)], array.astype(reference.dtype), mask=mask)


def _positions(tile: Any) -> Array:
    return tile * TILE + jnp.arange(TILE)


def _product(left: Array, right: Array) -> Array:
    return jnp.dot(left, right, preferred_element_type=jnp.float32)


def _scores(
    sizes: Sizes, part: Scored, query: Array, key: Array, i: Any, j: Any, row: tuple[Any, ...] = ()
) -> tuple[Array, Array | None]:
    """Compute the scores of tile (i, j) in float32, and the mask of the keys that each query sees; None means all."""
    rows, columns = _positions(i)[:, None], _positions(j)[None]
    scores = _product(query, key.T)
    if part.bias is not None:
        at = part.bias.at[pallas.ds(i * TILE, TILE), pallas.ds(j * TILE, TILE)]
        inside = (rows < sizes.queries) & (columns < sizes.keys)
        scores += triton.load(at, mask=inside, other=0).astype(jnp.float32)
    sees = rows >= columns if sizes.causal else None
    if part.key_ids is not None:
        query_ids, key_ids = _load(part.query_ids, i, sizes.queries, row), _load(part.key_ids, j, sizes.keys, row)
        same = query_ids[:, None] == key_ids[None]
        sees = same if sees is None else sees & same
    if sees is not None:
        scores = jnp.where(sees, scores, MASKED)
    return jnp.where(columns < sizes.keys, scores, -jnp.inf), sees


def dropout_mask(
    seed: UInt32[Array, "*_"], rows: Int[Array, "t 1"], columns: Int[Array, "1 s"], keys: int, rate: float
) -> Bool[Array, "*_ t s"]:
    """Return which weights of a head dropout keeps, from a hash of their places: any tile by itself.

    The hash is lowbias32 of https://nullprogram.com/blog/2018/07/31/, a bijection of 32 bits.
    """
    bits = (rows * keys + columns).astype(jnp.uint32) + seed
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        bits = (bits ^ (bits >> jnp.uint32(shift))) * jnp.uint32(factor)
    bits = bits ^ (bits >> jnp.uint32(16))
    return (bits >> jnp.uint32(1)).astype(jnp.int32) >= round(rate * 2**31)


def _drop(sizes: Sizes, part: Scored, array: Array, i: Any, j: Any, row: tuple[Any, ...] = ()) -> Array:
    """Apply dropout to tile (i, j) of weights, or to the gradient of weights after dropout."""
    if part.seeds is None:
        return array
    rows, columns = _positions(i)[:, None], _positions(j)[None]
    keep = dropout_mask(part.seeds[(*row, 0)], rows, columns, sizes.keys, sizes.dropped)
    return jnp.where(keep, array / (1.0 - sizes.dropped), 0.0)


class Statistics(NamedTuple):
    """Numbers of each query, [b h t]: of its softmax, and the sum of its output times the gradient of that."""

    largest: Any
    inverse: Any  # of the sum of exponentials
    along: Any


def _weights(
    sizes: Sizes,
    part: Scored,
    kept: Statistics,
    arrays: tuple[Array, ...],
    i: Any,
    j: Any,
    row: tuple[Any, ...] = (),
) -> tuple[Array, Array]:
    """Compute tile (i, j) of the attention weights after dropout and of the gradient of the scores, in float32.

    `arrays` are the tiles of queries, keys, values and the output's gradient.
    """
    query, key, value, upstream = arrays
    scores, sees = _scores(sizes, part, query, key, i, j, row)
    largest, inverse, along = (_load(each, i, sizes.queries, row)[:, None] for each in kept)
    weights = jnp.exp(scores - largest) * inverse
    gradient = weights * (_drop(sizes, part, _product(upstream, value.T), i, j, row) - along)
    dropped = _drop(sizes, part, weights, i, j, row)
    return dropped, gradient if sees is None else jnp.where(sees, gradient, 0.0)


# --- Kernels ----------------------------------------------------------------------------------------------------------


def forward_kernel(sizes: Sizes, part: Scored, value: Any, span: Any, output: Any, largest: Any, inverse: Any) -> None:
    i = pallas.program_id(0)
    query = _load(part.query, i, sizes.queries)

    def step(j: Any, carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        mean, most, total = carry
        scores, _ = _scores(sizes, part, query, _load(part.key, j, sizes.keys), i, j)
        above = jnp.maximum(most, scores.max(axis=1))
        weights, rescaled = jnp.exp(scores - above[:, None]), jnp.exp(most - above)
        dropped = _drop(sizes, part, weights, i, j).astype(value.dtype)
        added = _product(dropped, _load(value, j, sizes.keys))
        return mean * rescaled[:, None] + added, above, total * rescaled + weights.sum(axis=1)

    nothing = jnp.zeros((TILE, sizes.width), jnp.float32), jnp.full(TILE, -jnp.inf), jnp.zeros(TILE, jnp.float32)
    mean, most, total = jax.lax.fori_loop(span[0], span[1], step, nothing)
    _store(output, i, sizes.queries, mean / total[:, None])
    _store(largest, i, sizes.queries, most)
    _store(inverse, i, sizes.queries, 1.0 / total)


def query_kernel(
    sizes: Sizes, part: Scored, value: Any, upstream: Any, kept: Statistics, span: Any, of_query: Any
) -> None:
    i = pallas.program_id(0)
    query, above = _load(part.query, i, sizes.queries), _load(upstream, i, sizes.queries)

    def step(j: Any, total: Array) -> Array:
        key = _load(part.key, j, sizes.keys)
        _, gradient = _weights(sizes, part, kept, (query, key, _load(value, j, sizes.keys), above), i, j)
        return total + _product(gradient.astype(key.dtype), key)

    nothing = jnp.zeros((TILE, sizes.width), jnp.float32)
    _store(of_query, i, sizes.queries, jax.lax.fori_loop(span[0], span[1], step, nothing))


def key_kernel(
    sizes: Sizes,
    part: Scored,
    value: Any,
    upstream: Any,
    kept: Statistics,
    span: Any,
    of_key: Any,
    of_value: Any,
) -> None:
    j = pallas.program_id(0)
    key, values = _load(part.key, j, sizes.keys), _load(value, j, sizes.keys)

    def step(i: Any, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        query, above = _load(part.query, i, sizes.queries), _load(upstream, i, sizes.queries)
        weights, gradient = _weights(sizes, part, kept, (query, key, values, above), i, j)
        of_key = carry[0] + _product(gradient.astype(query.dtype).T, query)
        return of_key, carry[1] + _product(weights.astype(above.dtype).T, above)

    nothing = jnp.zeros((TILE, sizes.width), jnp.float32)
    sums = jax.lax.fori_loop(span[0], span[1], step, (nothing, nothing))
    _store(of_key, j, sizes.keys, sums[0])
    _store(of_value, j, sizes.keys, sums[1])


def bias_kernel(
    sizes: Sizes, part: Scored, value: Any, upstream: Any, kept: Statistics, visible: Any, of_bias: Any
) -> None:
    """Sum the gradient of the scores in one tile over a group of rows, which is the first axis of most references."""
    i, j = pallas.program_id(0) // sizes.tiles[1], pallas.program_id(0) % sizes.tiles[1]

    def step(row: Any, total: Array) -> Array:
        def add() -> Array:
            query, above = (_load(each, i, sizes.queries, (row,)) for each in (part.query, upstream))
            key, values = (_load(each, j, sizes.keys, (row,)) for each in (part.key, value))
            return total + _weights(sizes, part, kept, (query, key, values, above), i, j, (row,))[1]

        return jax.lax.cond(visible[row] > 0, add, lambda: total)

    total = jax.lax.fori_loop(0, sizes.rows, step, jnp.zeros((TILE, TILE), jnp.float32))
    inside = (_positions(i) < sizes.queries)[:, None] & (_positions(j) < sizes.keys)[None]
    triton.store(of_bias.at[pallas.ds(i * TILE, TILE), pallas.ds(j * TILE, TILE)], total, mask=inside)
