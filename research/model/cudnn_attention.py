"""Attention by cuDNN on NVIDIA GPUs, which keeps neither scores nor weights."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int

from research.model.mask import AttentionMask
from research.model.own_part import attention_arrays
from research.parallel.layout import on_own_part

IMPLEMENTATION: Any = "cudnn"  # tests on CPUs replace it by "xla"


def cudnn_attention(
    query: Float[Array, "b t h k"],
    key: Float[Array, "b s h k"],
    value: Float[Array, "b s h k"],
    mask: AttentionMask,
    bias: Float[Array, "*_ h t s"] | None,
) -> Float[Array, "b t h k"]:
    """Attend within one example a row, followed by padding.

    The bias has one [h t s] for all rows of a device, since cuDNN would write a gradient for every row; it has the
    dtype of the queries, since a float32 bias gave gradients that are not numbers. Padding is described by lengths,
    since a mask is added to the bias, for every row. The output of padded queries is 0.
    """
    arrays, specs = attention_arrays(query, key, value, mask, bias)

    def own(arrays: dict[str, Array]) -> Array:
        return jax.nn.dot_product_attention(
            arrays["query"],
            arrays["key"],
            arrays["value"],
            arrays["bias"].astype(query.dtype) if "bias" in arrays else None,
            scale=1.0,
            is_causal=mask.causal,
            query_seq_lengths=lengths(arrays.get("query_ids")),
            key_value_seq_lengths=lengths(arrays.get("key_ids")),
            implementation=IMPLEMENTATION,
        )

    return on_own_part(own, arrays, specs, specs["query"])


def lengths(segment_ids: Int[Array, "b s"] | None) -> Int[Array, " b"] | None:
    """Count the tokens of each row's example. A row of padding alone counts as one token, to stay finite."""
    return None if segment_ids is None else jnp.maximum(jnp.sum(segment_ids == 1, axis=1, dtype=jnp.int32), 1)
