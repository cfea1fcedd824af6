"""The mesh, and one table that says how every parameter is split over it.

The mesh has four axes. Rows of a batch are split over `data` and `fsdp`; parameters and optimizer state are split
over `fsdp` (gathered where used, as ZeRO stage 3, arXiv:1910.02054) and over `tensor` (heads, feed-forward and
vocabulary, as Megatron, arXiv:1909.08053). Over `sequence` every activation is split along its length, and attention
gathers keys and values. Every mesh gives the same numbers, up to the rounding of sums.

Parameters and states are nested dicts; a path is the keys joined by "/". A table over parameters is rows of (pattern,
value) in which every path must match exactly one row as a whole, so that a new parameter cannot be overlooked.
"""

import math
from collections.abc import Sequence
from functools import cache
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from jaxtyping import Int

from research import config
from research.config import ConfigError, Experiment, require
from research.data.batch import Batch, Shard
from research.parallel.layout import AXES, BATCH_AXES

# --- Paths ------------------------------------------------------------------------------------------------------------


# --- The mesh ---------------------------------------------------------------------------------------------------------


def factorisations(count: int, axes: int = len(AXES)) -> list[tuple[int, ...]]:
    """All sizes of so many axes with that product."""
    if axes == 1:
        return [(count,)]
    sizes = (size for size in range(1, count + 1) if count % size == 0)
    return [(size, *others) for size in sizes for others in factorisations(count // size, axes - 1)]


def make_mesh(sizes: config.Mesh, devices: Sequence[jax.Device] | None = None) -> jax.sharding.Mesh:
    """A mesh over all devices (or those given), whose product of sizes must be their number; else a ConfigError."""
    devices = jax.devices() if devices is None else devices
    laid = laid_out(mesh_shape(sizes, len(devices)), devices)
    return jax.sharding.Mesh(laid, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def abstract_mesh(sizes: config.Mesh, count: int) -> jax.sharding.AbstractMesh:
    """A mesh of so many devices that are not here."""
    return jax.sharding.AbstractMesh(mesh_shape(sizes, count), AXES, axis_types=(AxisType.Auto,) * len(AXES))


def laid_out(shape: Sequence[int], devices: Sequence[Any]) -> np.ndarray:
    """The devices as suits their links. Where only a network joins parts of them, the first axes that can cross it."""
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
    """The size of each axis, for so many devices; else a ConfigError."""
    shape = [getattr(sizes, axis) for axis in AXES]
    product = math.prod(size for size in shape if size != -1)
    if -1 in shape and count % product == 0:
        shape[shape.index(-1)] = count // product
    if math.prod(shape) != count:
        asked = ", ".join(f"{axis}={size}" for axis, size in zip(AXES, shape, strict=True))
        takes = f"a multiple of {product}" if -1 in shape else str(product)
        message = f"mesh is {asked}, which takes {takes} devices, but there are {count}"
        raise ConfigError(f"{message}: the sizes must multiply to {count}, and one may be -1, which takes the rest.")
    return tuple(shape)


def check_divisible(experiment: Experiment, mesh: jax.sharding.Mesh | jax.sharding.AbstractMesh) -> None:
    """A ConfigError names the first size that the mesh does not divide, before anything is compiled."""
    data, fsdp, _, tensor = (mesh.shape[axis] for axis in AXES)
    model, rows = experiment.model, experiment.batch_size // experiment.microbatches
    need = "it must be a multiple of"
    require(
        rows % (data * fsdp) == 0,
        f"batch_size / microbatches is {rows} rows: {need} mesh.data * mesh.fsdp, which is {data * fsdp}.",
    )
    require(model.heads % tensor == 0, f"model.heads is {model.heads}: {need} mesh.tensor, which is {tensor}.")
    require(
        model.feed_forward % tensor == 0,
        f"model.feed_forward is {model.feed_forward}: {need} mesh.tensor, which is {tensor}.",
    )
    require(model.width % fsdp == 0, f"model.width is {model.width}: {need} mesh.fsdp, which is {fsdp}.")
    shards = tensor * fsdp
    for name, size in (("vocab_size", model.vocab_size), ("source_vocab_size", model.source_vocab_size)):
        padded = math.ceil((size or 0) / shards) * shards
        require(
            size is None or size == padded,
            f"model.{name} is {size}: {need} mesh.tensor * mesh.fsdp, which is {shards}; pad to {padded}.",
        )


# --- Placing ----------------------------------------------------------------------------------------------------------


def batch_sharding(mesh: jax.sharding.Mesh) -> NamedSharding:
    """Rows over the batch axes; the rest of a batch's axes are whole."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


@cache  # it is asked for every batch, and looks at every device
def host_shard(mesh: jax.sharding.Mesh) -> Shard:
    """What the devices of this host hold of every batch."""
    hosts = [device.process_index for device in mesh.devices.flat]
    parts = mesh.shape["data"] * mesh.shape["fsdp"]
    return shard_of(jax.process_index(), np.array(hosts).reshape(parts, -1))


def shard_of(host: int, hosts: Int[np.ndarray, "parts copies"]) -> Shard:
    """What a host holds of every batch, whose parts lie on devices of these hosts.

    The parts need not be neighbours, for a mesh lies over a torus as suits it; and where the tensor axis crosses hosts,
    several of them hold the same ones.
    """
    return Shard(len(hosts), tuple(np.flatnonzero((hosts == host).any(axis=1)).tolist()))


def place_batch(mesh: jax.sharding.Mesh, local: Batch) -> Batch:
    """Global arrays on the mesh from the rows that this host's shard of a batch has."""
    sharding, shard = batch_sharding(mesh), host_shard(mesh)

    def place(rows: np.ndarray) -> jax.Array:
        part = len(rows) // len(shard.held)

        def piece(index: Any) -> np.ndarray:
            first = shard.held.index((index[0].start or 0) // part) * part
            return rows[first : first + part]

        return jax.make_array_from_callback((part * shard.parts, *rows.shape[1:]), sharding, piece)

    return jax.tree.map(place, local)


def place_rows(mesh: jax.sharding.Mesh, whole: Any) -> Any:
    """Global arrays on the mesh from a tree of rows that every process holds all of."""
    sharding = batch_sharding(mesh)
    return jax.tree.map(lambda rows: jax.make_array_from_callback(rows.shape, sharding, rows.__getitem__), whole)


# --- Hosts ------------------------------------------------------------------------------------------------------------
