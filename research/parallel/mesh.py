"""The mesh, and the sharding of batches over it.

The mesh has four axes. Rows of a batch are split over `data` and `fsdp`; parameters and optimizer state are split
over `fsdp` (gathered where used, as in ZeRO stage 3, arXiv:1910.02054) and over `tensor` (heads, feed-forward and
vocabulary, as in Megatron, arXiv:1909.08053). Over `sequence` every activation is split along its length, and attention
gathers keys and values. Every mesh gives the same numbers, up to the rounding of sums.

Parameters and states are nested dicts; a path is the keys joined by "/". A table over parameters has rows of (pattern,
value). Every path must match exactly one row as a whole, so that a new parameter cannot be overlooked.
"""

import math
from collections.abc import Sequence
from functools import cache
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AbstractDevice, AxisType, NamedSharding, PartitionSpec
from jaxtyping import Int

from research import config
from research.config import ConfigError, Experiment, Model, require
from research.data.batch import Batch, Shard
from research.parallel.layout import AXES, BATCH_AXES

# --- The mesh ---------------------------------------------------------------------------------------------------------


def factorisations(count: int, axes: int = len(AXES)) -> list[tuple[int, ...]]:
    """List all tuples of `axes` axis sizes with the product `count`."""
    if axes == 1:
        return [(count,)]
    sizes = (size for size in range(1, count + 1) if count % size == 0)
    return [(size, *others) for size in sizes for others in factorisations(count // size, axes - 1)]


def make_mesh(sizes: config.Mesh, devices: Sequence[jax.Device] | None = None) -> jax.sharding.Mesh:
    """Make a mesh over all devices, or over those given.

    Raises:
        ConfigError: the product of the sizes is not the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    arranged = arrange_devices(mesh_shape(sizes, len(devices)), devices)
    return jax.sharding.Mesh(arranged, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def abstract_mesh(sizes: config.Mesh, count: int, device: AbstractDevice | None = None) -> jax.sharding.AbstractMesh:
    """Make a mesh of `count` devices that this process does not have; `device` describes them."""
    types = (AxisType.Auto,) * len(AXES)
    return jax.sharding.AbstractMesh(mesh_shape(sizes, count), AXES, axis_types=types, abstract_device=device)


def arrange_devices(shape: Sequence[int], devices: Sequence[Any]) -> np.ndarray:
    """Arrange devices in the shape of the mesh so that neighbours are joined by fast links.

    If only a network joins groups of devices (TPU slices), the first axes that can are split across the network.
    """
    if devices[0].platform == "cpu":
        return np.array(devices).reshape(shape)
    parts = len({getattr(device, "slice_index", 0) for device in devices})
    if parts == 1:
        return mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)
    across: list[int] = []
    for size in shape:
        across.append(math.gcd(size, parts // math.prod(across)))
    within = [size // part for size, part in zip(shape, across, strict=True)]
    return mesh_utils.create_hybrid_device_mesh(within, across, devices, allow_split_physical_axes=True)


def mesh_shape(sizes: config.Mesh, count: int) -> tuple[int, ...]:
    """Compute the size of each axis for `count` devices, with -1 resolved.

    Raises:
        ConfigError: the product of the sizes is not `count`.
    """
    shape = [getattr(sizes, axis) for axis in AXES]
    product = math.prod(size for size in shape if size != -1)
    if -1 in shape and count % product == 0:
        shape[shape.index(-1)] = count // product
    if math.prod(shape) != count:
        given = ", ".join(f"{axis}={size}" for axis, size in zip(AXES, shape, strict=True))
        needed = f"a multiple of {product}" if -1 in shape else str(product)
        message = f"mesh is {given}, which needs {needed} devices, but there are {count}"
        raise ConfigError(f"{message}: the sizes must multiply to {count}, and one may be -1 (the remaining ones).")
    return tuple(shape)


def check_divisible(experiment: Experiment, mesh: jax.sharding.Mesh | jax.sharding.AbstractMesh) -> None:
    """Check, before anything is compiled, that the mesh divides the sizes of the experiment; a vocabulary is padded.

    Raises:
        ConfigError: the mesh does not divide a size; the message names the first one.
    """
    data, fsdp = mesh.shape["data"], mesh.shape["fsdp"]
    rows = experiment.batch_size // experiment.microbatches
    need = "it must be a multiple of"
    require(
        rows % (data * fsdp) == 0,
        f"batch_size / microbatches is {rows} rows: {need} mesh.data * mesh.fsdp, which is {data * fsdp}.",
    )
    models: dict[str, Model] = {"model": experiment.model}
    if experiment.distil is not None:
        models["distil.teacher"] = experiment.distil.teacher
    for name, model in models.items():
        for size, axis in (("heads", "tensor"), ("feed_forward", "tensor"), ("width", "fsdp")):
            value, parts = getattr(model, size), mesh.shape[axis]
            require(value % parts == 0, f"{name}.{size} is {value}: {need} mesh.{axis}, which is {parts}.")


# --- Placing ----------------------------------------------------------------------------------------------------------


def batch_sharding(mesh: jax.sharding.Mesh) -> NamedSharding:
    """Make the sharding of a batch: rows over the batch axes; its other axes are not split."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


@cache  # called for every batch, and visits every device
def host_shard(mesh: jax.sharding.Mesh) -> Shard:
    """Find the shard of every batch that the devices of this host hold."""
    hosts = [device.process_index for device in mesh.devices.flat]
    parts = mesh.shape["data"] * mesh.shape["fsdp"]
    return shard_of(jax.process_index(), np.array(hosts).reshape(parts, -1))


def shard_of(host: int, hosts: Int[np.ndarray, "parts copies"]) -> Shard:
    """Find the shard of every batch that a host holds. `hosts` are the hosts that have each part.

    The parts need not be adjacent, since a mesh is arranged to fit the torus. If the tensor axis crosses hosts, several
    hosts hold the same parts.
    """
    return Shard(len(hosts), tuple(np.flatnonzero((hosts == host).any(axis=1)).tolist()))


def place_batch(mesh: jax.sharding.Mesh, local: Batch) -> Batch:
    """Make global arrays on the mesh from the rows of a batch that this host holds."""
    sharding, shard = batch_sharding(mesh), host_shard(mesh)

    def place(rows: np.ndarray) -> jax.Array:
        part = len(rows) // len(shard.held)

        def piece(index: Any) -> np.ndarray:
            first = shard.held.index((index[0].start or 0) // part) * part
            return rows[first : first + part]

        return jax.make_array_from_callback((part * shard.parts, *rows.shape[1:]), sharding, piece)

    return jax.tree.map(place, local)


def place_rows(mesh: jax.sharding.Mesh, whole: Any) -> Any:
    """Make global arrays on the mesh from a tree of rows that every process holds in full."""
    sharding = batch_sharding(mesh)
    return jax.tree.map(lambda rows: jax.make_array_from_callback(rows.shape, sharding, rows.__getitem__), whole)
