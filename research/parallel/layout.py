"""How activations lie on the mesh that is set. Without a mesh everything here leaves its argument as it is."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float

AXES = ("data", "fsdp", "sequence", "tensor")
BATCH_AXES = ("data", "fsdp")

RESIDUAL = PartitionSpec(BATCH_AXES, "sequence", None)  # [b t d]
LOGITS = PartitionSpec(BATCH_AXES, "sequence", "tensor")  # [b t v]
PROJECTED = PartitionSpec(BATCH_AXES, "sequence", "tensor", None)  # keys and values, [b s h k]
ATTENDED = PartitionSpec(BATCH_AXES, None, "tensor", None)  # the same, by queries at any place


def constrain(tree: Any, specs: Any) -> Any:
    """Values inside a jitted function laid out as said on the mesh that is set."""
    if jax.sharding.get_abstract_mesh().empty:
        return tree
    return jax.lax.with_sharding_constraint(tree, specs)


def gather_length(x: Float[Array, "b s h k"]) -> Float[Array, "b s h k"]:
    """Keys or values of all places on every device. Each projects its own; otherwise all might project all."""
    return constrain(constrain(x, PROJECTED), ATTENDED)


def batch_parts(rows: int) -> int:
    """Into how many equal parts the mesh that is set divides so many rows; 1 where it cannot."""
    shape = jax.sharding.get_abstract_mesh().shape
    parts = math.prod(shape[axis] for axis in BATCH_AXES) if shape else 1
    return parts if rows % parts == 0 else 1


def own_copies(table: Float[Array, "n h"], parts: int) -> Float[Array, "{parts} n h"]:
    """A copy for each part of the batch, so that gradients are summed over the parts once, and not at every use."""
    return constrain(jnp.broadcast_to(table, (parts, *table.shape)), PartitionSpec(BATCH_AXES, None, "tensor"))
