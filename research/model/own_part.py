"""The arrays of one attention, and how each device gets its own part of them: its rows and its heads."""

from typing import Any

from jax import Array
from jax.sharding import PartitionSpec
from jaxtyping import Float

from research.model.mask import AttentionMask
from research.parallel.layout import BATCH_AXES, dividing


def attention_arrays(
    query: Float[Array, "b t h k"],
    key: Float[Array, "b s h k"],
    value: Float[Array, "b s h k"],
    mask: AttentionMask,
    bias: Float[Array, "*_ h t s"] | None,
) -> tuple[dict[str, Array], dict[str, Any]]:
    """Return the arrays of an attention by name, and the specs by which the mesh divides them.

    The axes of the mesh divide rows and heads, and along the length only the queries.
    """
    length, heads = dividing(query.shape[1], "sequence"), dividing(query.shape[2], "tensor")
    arrays = {"query": query, "key": key, "value": value}
    specs = {
        "query": PartitionSpec(BATCH_AXES, length, heads, None),
        "key": PartitionSpec(BATCH_AXES, None, heads, None),
        "value": PartitionSpec(BATCH_AXES, None, heads, None),
        "bias": PartitionSpec(BATCH_AXES, heads, length, None),
        "query_ids": PartitionSpec(BATCH_AXES, length),
        "key_ids": PartitionSpec(BATCH_AXES, None),
    }
    if bias is not None:
        arrays["bias"] = bias if bias.ndim == 4 else bias[None]
    if mask.structured:
        ids = {"query_ids": mask.query_ids, "key_ids": mask.key_ids}
        arrays |= {name: array for name, array in ids.items() if array is not None}
    return arrays, specs
