"""Sharding of activations over the mesh that is set. Without a mesh, these functions return their argument as is."""

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
ATTENDED = PartitionSpec(BATCH_AXES, None, "tensor", None)  # keys and values for queries at any position

PLATFORMS = {"cuda": "gpu", "rocm": "gpu"}  # names of devices that are compiled for, and not here


def constrain(tree: Any, specs: Any) -> Any:
    """Constrain values inside a jitted function to `specs` on the mesh that is set."""
    if jax.sharding.get_abstract_mesh().empty:
        return tree
    return jax.lax.with_sharding_constraint(tree, specs)


def platform() -> str:
    """Return the platform of the mesh that is set, "cpu", "gpu" or "tpu"; without devices in it, JAX's default."""
    device = jax.sharding.get_abstract_mesh().abstract_device
    return jax.default_backend() if device is None else PLATFORMS.get(device.platform, device.platform)


def gather_length(x: Float[Array, "b s h k"]) -> Float[Array, "b s h k"]:
    """Gather the keys or values of all positions on every device.

    Each device projects its own positions first; otherwise the partitioner may let every device project all of them.
    """
    return constrain(constrain(x, PROJECTED), ATTENDED)


def batch_parts(rows: int) -> int:
    """Count the equal parts into which the mesh that is set divides `rows`; 1 if it does not divide them."""
    shape = jax.sharding.get_abstract_mesh().shape
    parts = math.prod(shape[axis] for axis in BATCH_AXES) if shape else 1
    return parts if rows % parts == 0 else 1


def axis_size(axis: str) -> int:
    """Return the size of an axis of the mesh that is set; 1 without a mesh."""
    return jax.sharding.get_abstract_mesh().shape.get(axis, 1)


def own_copies(table: Float[Array, "n h"], parts: int) -> Float[Array, "{parts} n h"]:
    """Copy a table for each part of the batch: its gradients are then summed over the parts once, not at every use."""
    return constrain(jnp.broadcast_to(table, (parts, *table.shape)), PartitionSpec(BATCH_AXES, None, "tensor"))
