"""Attention in kernels of our own on NVIDIA GPUs, which serve packed rows and odd lengths too.

No scores are written to memory. As in FlashAttention-2 (arXiv:2307.08691), a kernel computes tiles of scores and a
running softmax. The backward pass computes the tiles again in three kernels: for the gradient of the queries, for those
of keys and values, and for that of the bias, which is summed over rows as it is computed. Tiles in which no query sees
a key are skipped. The kernels are written in Pallas, and compiled by Triton.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.experimental import pallas
from jax.experimental.pallas import triton
from jax.sharding import PartitionSpec
from jaxtyping import Bool, Float, Int, PRNGKeyArray, UInt32

from research.model.mask import AttentionMask, same_segment
from research.model.own_part import attention_arrays
from research.model.pallas_kernels import (
    TILE,
    Scored,
    Sizes,
    Statistics,
    bias_kernel,
    forward_kernel,
    key_kernel,
    query_kernel,
)
from research.parallel.layout import BATCH_AXES, on_own_part

INTERPRET = False  # tests on CPUs replace it
PROGRAMS = 512  # that sum the bias's gradient: rows are divided into groups until there are so many


def pallas_attention(
    query: Float[Array, "b t h k"],
    key: Float[Array, "b s h k"],
    value: Float[Array, "b s h k"],
    mask: AttentionMask,
    bias: Float[Array, "*_ h t s"] | None,
    rate: float = 0.0,
    dropout_key: PRNGKeyArray | None = None,
) -> Float[Array, "b t h k"]:
    """Attend within segments and, if the mask is causal, to no later keys.

    The bias has one [h t s] for all rows of a device, and is rounded to the dtype of the queries. With a dropout key,
    each query drops weights of its own, from a seed of each row and head, so that masks do not depend on the mesh.
    """
    arrays, specs = attention_arrays(query, key, value, mask, bias)
    if dropout_key is not None:
        arrays["seeds"] = dropout_seeds(dropout_key, query)
        specs["seeds"] = PartitionSpec(BATCH_AXES, specs["query"][2], None)

    def own(arrays: dict[str, Array]) -> Array:
        query, keys = arrays["query"], arrays.get("key_ids")
        ids = None if keys is None else (arrays.get("query_ids", jnp.ones(query.shape[:2], keys.dtype)), keys)
        bias = arrays["bias"][0] if "bias" in arrays else None
        operands = query, arrays["key"], bias, *(ids or (None, None)), arrays.get("seeds")
        return _attend(mask.causal, rate, Scored(*operands), arrays["value"])

    return on_own_part(own, arrays, specs, specs["query"], checked=False)


def dropout_seeds(key: PRNGKeyArray, query: Float[Array, "b t h k"]) -> UInt32[Array, "b h 1"]:
    """Draw a seed for the dropout of each row and head."""
    return jax.random.bits(key, (query.shape[0], query.shape[2], 1))


# --- Calls ------------------------------------------------------------------------------------------------------------

AXES = Scored("bthk", "bshk", "hts", "bt", "bs", "bh1")


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _attend(causal: bool, rate: float, operands: Scored, value: Array) -> Array:
    return _forward(causal, rate, operands, value)[0]


def _forward(causal: bool, rate: float, operands: Scored, value: Array) -> tuple[Array, tuple[Any, ...]]:
    sizes, given = _sizes(causal, rate, operands), _given(operands)
    statistic = jax.ShapeDtypeStruct((sizes.rows, sizes.heads, sizes.queries), jnp.float32)
    results = [(operands.query, "bthk"), (statistic, "bht"), (statistic, "bht")]
    arguments = [(value, "bshk"), (_spans(_visible(sizes, operands)), "bn2")]
    output, largest, inverse = _call(forward_kernel, sizes, sizes.tiles[0], given, arguments, results)
    return output, (operands, value, output, largest, inverse)


def _backward(causal: bool, rate: float, kept: tuple[Any, ...], upstream: Array) -> tuple[Scored, Array]:
    operands, value, output, largest, inverse = kept
    sizes, given, (query, key, bias, *_) = _sizes(causal, rate, operands), _given(operands), operands
    visible, (m, n) = _visible(sizes, operands), sizes.tiles
    along = jnp.einsum("bthk,bthk->bht", upstream, output, preferred_element_type=jnp.float32)
    arguments = [(value, "bshk"), (upstream, "bthk"), (Statistics(largest, inverse, along), "bht")]

    last = _spans(visible), "bn2"
    (of_query,) = _call(query_kernel, sizes, m, given, [*arguments, last], [(query, "bthk")])
    last, results = (_spans(visible.swapaxes(1, 2)), "bn2"), [(key, "bshk"), (value, "bshk")]
    of_key, of_value = _call(key_kernel, sizes, n, given, [*arguments, last], results)
    if bias is None:
        return Scored(of_query, of_key, None, None, None, None), of_value

    groups = next(
        each
        for each in range(1, sizes.rows + 1)
        if sizes.rows % each == 0 and (each * m * n * sizes.heads >= PROGRAMS or each == sizes.rows)
    )
    result = jax.ShapeDtypeStruct((groups, *bias.shape), jnp.float32)
    last = visible.reshape(sizes.rows, m * n).astype(jnp.int32), "bn"
    (of_bias,) = _call(bias_kernel, sizes, m * n, given, [*arguments, last], [(result, "ghts")], groups)
    return Scored(of_query, of_key, of_bias.sum(axis=0).astype(bias.dtype), None, None, None), of_value


_attend.defvjp(_forward, _backward)


def _sizes(causal: bool, rate: float, operands: Scored) -> Sizes:
    rows, length, heads, width = operands.query.shape
    return Sizes(causal, rows, heads, length, operands.key.shape[1], width, rate)


def _given(operands: Scored) -> Scored:
    """Round the bias, which the kernels read once for every row."""
    bias = operands.bias
    return operands._replace(bias=None if bias is None else bias.astype(operands.query.dtype))


def _visible(sizes: Sizes, operands: Scored) -> Bool[Array, "b m n"]:
    """Return the tiles in which a query sees a key."""
    sees = jnp.ones((1, sizes.queries, sizes.keys), bool)
    if sizes.causal:
        sees = jnp.tril(sees)
    if operands.key_ids is not None:
        sees &= same_segment(operands.query_ids, operands.key_ids)
    sees |= ~sees.any(axis=2, keepdims=True)  # a query that sees nothing is the mean of all values
    m, n = sizes.tiles
    whole = jnp.pad(sees, ((0, 0), (0, m * TILE - sizes.queries), (0, n * TILE - sizes.keys)))
    return jnp.broadcast_to(whole.reshape(-1, m, TILE, n, TILE).any(axis=(2, 4)), (sizes.rows, m, n))


def _spans(visible: Bool[Array, "b m n"]) -> Int[Array, "b m 2"]:
    """Return the first visible tile of each row of tiles and the one after the last; zeros if there is none."""
    first, last = jnp.argmax(visible, axis=2), visible.shape[2] - jnp.argmax(visible[..., ::-1], axis=2)
    return jnp.where(visible.any(axis=2)[..., None], jnp.stack([first, last], axis=-1), 0).astype(jnp.int32)


def _call(
    kernel: Callable[..., None],
    sizes: Sizes,
    tiles: int,
    operands: Scored,
    arguments: list[tuple[Any, str]],
    results: list[tuple[Any, str]],
    groups: int | None = None,
) -> Any:
    """Call a kernel with so many tiles of every head, of every row or of every group of rows.

    Arrays come with their axes: b is that of rows, n that of tiles, g that of groups.
    """
    rows = None if groups is None else sizes.rows // groups
    t, s = (count * TILE for count in sizes.tiles)
    lengths = {"b": rows, "t": t, "s": s, "k": sizes.width, "1": 1, "2": 2}  # of a program; else one index, and no axis
    grid = {"n": 0, "b": 1, "g": 1, "h": 2}

    def part(axes: str) -> pallas.BlockSpec:
        block = tuple(lengths.get(axis) for axis in axes)
        return pallas.BlockSpec(block, lambda *program: tuple(program[grid[a]] if a in grid else 0 for a in axes))

    of_operands = [None if array is None else part(axes) for array, axes in zip(operands, AXES, strict=True)]
    return pallas.pallas_call(
        partial(kernel, sizes if rows is None else sizes._replace(rows=rows)),
        grid=(tiles, groups or sizes.rows, sizes.heads),
        in_specs=(
            Scored(*of_operands),
            *(jax.tree.map(lambda _, axes=axes: part(axes), a) for a, axes in arguments),
        ),
        out_specs=[part(axes) for _, axes in results],
        out_shape=[jax.ShapeDtypeStruct(array.shape, array.dtype) for array, _ in results],
        compiler_params=triton.CompilerParams(num_warps=4, num_stages=2),
        interpret=INTERPRET,
        name=f"attention_{kernel.__name__}",
    )(operands, *(array for array, _ in arguments))
