"""Attention a few rows at a time, so that the scores of a block stay in a chip's fast memory.

A loop over the blocks of a device's own rows computes the plain formula, and once more in the backward pass, which
keeps nothing but its inputs. On TPUs this moves a tenth of the bytes of the plain formula over all rows.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import PartitionSpec
from jaxtyping import Array as AnyArray
from jaxtyping import Bool, Float, PRNGKeyArray, Shaped

from research.model.layer import drop
from research.model.mask import AttentionMask, causal, same_segment
from research.model.own_part import attention_arrays
from research.parallel.layout import BATCH_AXES, on_own_part

SCORES = 2**22  # in a block, if rows are short: 16 MiB in float32


def blocked_attention(
    formula: Callable[..., Array],
    query: Float[Array, "b t h k"],
    key: Float[Array, "b s h k"],
    value: Float[Array, "b s h k"],
    mask: AttentionMask,
    bias: Float[Array, "*_ h t s"] | None,
    rate: float = 0.0,
    dropout_key: PRNGKeyArray | None = None,
) -> Float[Array, "b t h k"]:
    """Compute `formula` (query, key, value, mask, bias, drop) of a device's own rows, block by block.

    For dropout each query draws its mask from a key of its own, so that masks depend neither on the mesh nor on blocks.
    """
    arrays, specs = attention_arrays(query, key, value, mask, bias)
    length, heads = specs["query"][1], specs["query"][2]
    if mask.structured and mask.causal:
        arrays["causal"] = causal(query.shape[1])
    if not mask.structured and mask.array is not None:
        batched = mask.array.ndim == 3
        arrays["rows" if batched else "causal"] = mask.array
    if dropout_key is not None:
        arrays["keys"] = dropout_keys(dropout_key, query)
    specs |= {
        "causal": PartitionSpec(length, None),
        "rows": PartitionSpec(BATCH_AXES, length, None),
        "keys": PartitionSpec(BATCH_AXES, heads, length),
    }
    own = partial(_by_blocks, partial(_block, formula, rate))
    return on_own_part(own, arrays, specs, specs["query"])


def dropout_keys(key: PRNGKeyArray, query: Float[Array, "b t h k"]) -> Array:
    """Derive a key for each query, [b h t]."""
    b, t, h, _ = query.shape
    return jax.vmap(partial(jax.random.fold_in, key))(jnp.arange(b * h * t)).reshape(b, h, t)


def _by_blocks(block: Callable[..., Array], arrays: dict[str, Array]) -> Array:
    """Map a function over blocks of rows. A block gets the whole of arrays without rows."""
    rows, length, heads, _ = arrays["query"].shape
    constant = {name: arrays[name] for name in arrays if name == "causal"}
    if "bias" in arrays and len(arrays["bias"]) == 1:
        constant["bias"] = arrays["bias"][0]
    size = block_rows(rows, heads * length * arrays["key"].shape[1])

    by_row = {name: array for name, array in arrays.items() if name not in constant}
    if size == 1:  # without an axis of length 1 in memory, for which a TPU rearranges rows
        return jax.lax.map(jax.checkpoint(lambda row: block(_with_axis(row) | constant)[0]), by_row)
    blocks = {name: array.reshape(rows // size, size, *array.shape[1:]) for name, array in by_row.items()}
    attended = jax.lax.map(jax.checkpoint(lambda part: block(part | constant)), blocks)
    return attended.reshape(rows, *attended.shape[2:])


def _with_axis(row: dict[str, Array]) -> dict[str, Array]:
    return {name: array[None] for name, array in row.items()}


def block_rows(rows: int, scores: int) -> int:
    """Return the rows of a block: the most that divide all rows and whose scores number at most SCORES, or one."""
    return max(size for size in range(1, rows + 1) if rows % size == 0 and (size == 1 or size * scores <= SCORES))


def _block(formula: Callable[..., Array], rate: float, arrays: dict[str, Array]) -> Array:
    def dropped(weights: Float[Array, "b h t s"]) -> Float[Array, "b h t s"]:
        if "keys" not in arrays:
            return weights
        draw = partial(jax.random.bernoulli, p=1.0 - rate, shape=weights.shape[-1:])
        return drop(weights, rate, jax.vmap(jax.vmap(jax.vmap(draw)))(arrays["keys"]))

    names = ("query", "key", "value")
    return formula(*(arrays[name] for name in names), block_mask(arrays), arrays.get("bias"), dropped)


def block_mask(arrays: dict[str, Any]) -> Bool[AnyArray, "*_ #t s"] | None:
    """Build the mask of a block from the arrays that it has."""
    masks: list[Shaped[AnyArray, "*_ t s"]] = [arrays[name] for name in ("causal", "rows") if name in arrays]
    if "key_ids" in arrays:
        keys = arrays["key_ids"]
        queries = arrays.get("query_ids", jnp.ones((len(keys), arrays["query"].shape[1]), keys.dtype))
        masks.append(same_segment(queries, keys))
    return None if not masks else masks[0] if len(masks) == 1 else masks[0] & masks[1]
