"""Sharding of activations over the mesh that is set. Without a mesh, these functions return their argument as is."""

import math
from collections.abc import Callable
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


def each_row(bias: Float[Array, "*p h t s"] | None, rows: int) -> Float[Array, "*b h t s"] | None:
    """Repeat the bias of each part of the batch for the part's rows. A bias without a part or row axis stays as is."""
    if bias is None or bias.ndim == 3 or len(bias) == rows:
        return bias
    return jnp.repeat(bias, rows // len(bias), axis=0)


def dividing(size: int, axis: str) -> str | None:
    """Return the mesh axis if it divides `size`, else None: every device then has the whole."""
    shape = jax.sharding.get_abstract_mesh().shape
    return axis if shape and size % shape[axis] == 0 else None


def on_own_part(
    function: Callable[[dict[str, Array]], Array],
    arrays: dict[str, Array],
    specs: dict[str, Any],
    result: Any,
    checked: bool = True,
) -> Array:
    """Call a function with each device's own part of some arrays, without communication: its result has the spec given.

    Gradients of arrays that several devices share are summed over these devices. Without `checked`, JAX does not verify
    that the function computes on own parts alone, which it cannot for a kernel.
    """
    if jax.sharding.get_abstract_mesh().empty:
        return function(arrays)
    in_specs = {name: specs[name] for name in arrays}
    return jax.shard_map(function, in_specs=(in_specs,), out_specs=result, check_vma=checked)(arrays)


def axis_size(axis: str) -> int:
    """Return the size of an axis of the mesh that is set; 1 without a mesh."""
    return jax.sharding.get_abstract_mesh().shape.get(axis, 1)


def own_copies(table: Float[Array, "n h"], parts: int) -> Float[Array, "{parts} n h"]:
    """Copy a table for each part of the batch: its gradients are then summed over the parts once, not at every use."""
    return constrain(jnp.broadcast_to(table, (parts, *table.shape)), PartitionSpec(BATCH_AXES, None, "tensor"))
