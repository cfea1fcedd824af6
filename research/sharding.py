"""The mesh, and one table that says how every parameter is split over it.

The mesh has four axes. Rows of a batch are split over `data` and `fsdp`; parameters and optimizer state are split
over `fsdp` (gathered where used, as ZeRO stage 3, arXiv:1910.02054) and over `tensor` (heads, feed-forward and
vocabulary, as Megatron, arXiv:1909.08053). Over `sequence` every activation is split along its length, and attention
gathers keys and values. Every mesh gives the same numbers, up to the rounding of sums.

Parameters and states are nested dicts; a path is the keys joined by "/". A table over parameters is rows of (pattern,
value) in which every path must match exactly one row as a whole, so that a new parameter cannot be overlooked.
"""

import hashlib
import math
import os
import re
import socket
import sys
import threading
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np
from jax.experimental import mesh_utils, multihost_utils
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from jaxtyping import Int

from research import config
from research.config import ConfigError, Experiment, require
from research.data.batch import Batch, Shard
from research.model.layout import AXES, BATCH_AXES

Value = TypeVar("Value")
Tree = Any  # a pytree of arrays, of their shapes, or of what is said of them

# The embedding and the head are split along the vocabulary alone: with the width split, XLA's partitioner falls back to
# gathering the whole table.
PARAMETERS: tuple[tuple[str, PartitionSpec], ...] = (
    (r"(source_)?embedding", PartitionSpec(("tensor", "fsdp"), None)),
    (r"head", PartitionSpec(None, ("tensor", "fsdp"))),
    (r"logits_bias", PartitionSpec(("tensor", "fsdp"))),
    (r"(en|de)coder/position_embedding", PartitionSpec(None, None)),
    (r"(en|de)coder/relative_bias", PartitionSpec(None, "tensor")),
    (r"(en|de)coder/layers/self_attention/relative_bias", PartitionSpec(None, None, "tensor")),
    (r"(en|de)coder/layers/\w+_attention/(query|key|value)/weight", PartitionSpec(None, "fsdp", "tensor", None)),
    (r"(en|de)coder/layers/\w+_attention/(query|key|value)/bias", PartitionSpec(None, "tensor", None)),
    (r"(en|de)coder/layers/\w+_attention/output/weight", PartitionSpec(None, "tensor", None, "fsdp")),
    (r"(en|de)coder/layers/\w+_attention/output/bias", PartitionSpec(None, None)),
    (r"(en|de)coder/layers/feed_forward/(gate|up)/weight", PartitionSpec(None, "fsdp", "tensor")),
    (r"(en|de)coder/layers/feed_forward/(gate|up)/bias", PartitionSpec(None, "tensor")),
    (r"(en|de)coder/layers/feed_forward/down/weight", PartitionSpec(None, "tensor", "fsdp")),
    (r"(en|de)coder/layers/feed_forward/down/bias", PartitionSpec(None, None)),
    (r"(en|de)coder/layers/\w+_norm/(scale|bias)", PartitionSpec(None, None)),
    (r"(en|de)coder/(embedding_)?norm/(scale|bias)", PartitionSpec(None)),
)


# --- Paths ------------------------------------------------------------------------------------------------------------


def flatten(tree: Tree) -> dict[str, Any]:
    """The leaves of nested dicts by their paths."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def unflatten(flat: Mapping[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for path, leaf in flat.items():
        *parents, name = path.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[name] = leaf
    return tree


def match_once(table: Sequence[tuple[str, Value]], paths: Iterable[str]) -> dict[str, Value]:
    """The value of the one row that each path matches as a whole; ValueError lists paths that match none or several."""
    found = {path: [value for pattern, value in table if re.fullmatch(pattern, path)] for path in paths}
    wrong = [f"{path} matches {len(values)} rows" for path, values in found.items() if len(values) != 1]
    if wrong:
        raise ValueError("A parameter must match exactly one row of a table: " + "; ".join(wrong) + ".")
    return {path: values[0] for path, values in found.items()}


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


def await_hosts(seconds: float) -> None:
    """Leaves the distributed runtime together with the other hosts, or without them when the time is over.

    A host whose first one has gone is ended by the runtime, whatever it was about to say.
    """
    leaving = threading.Thread(target=jax.distributed.shutdown, daemon=True)
    leaving.start()
    leaving.join(seconds)


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


def param_specs(params: Tree) -> Tree:
    """A PartitionSpec for each parameter."""
    return unflatten(match_once(PARAMETERS, flatten(params)))


def state_specs(state: Tree, params: Tree) -> Tree:
    """A PartitionSpec for each leaf of an optimizer state, whose paths are a kind and a parameter's path, or a counter.

    A statistic has its parameter's axes, some of them averaged away to size 1: those are whole on every device, the
    others are split as the parameter's are.
    """
    specs, shapes = flatten(param_specs(params)), {path: leaf.shape for path, leaf in flatten(params).items()}

    def spec(path: str, shape: tuple[int, ...]) -> PartitionSpec:
        if not shape:
            return PartitionSpec()
        parameter = path.split("/", 1)[1]
        axes = zip(shape, shapes[parameter], specs[parameter], strict=True)
        return PartitionSpec(*(axis if size == whole else None for size, whole, axis in axes))

    return unflatten({path: spec(path, leaf.shape) for path, leaf in flatten(state).items()})


def shardings(mesh: jax.sharding.Mesh | jax.sharding.AbstractMesh, specs: Tree) -> Tree:
    """The same tree of specs, on a mesh."""
    return jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs)


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


def place_rows(mesh: jax.sharding.Mesh, whole: tuple[np.ndarray, ...]) -> tuple[jax.Array, ...]:
    """Global arrays on the mesh from rows that every process holds all of."""
    sharding = batch_sharding(mesh)
    return tuple(jax.make_array_from_callback(rows.shape, sharding, rows.__getitem__) for rows in whole)


# --- Hosts ------------------------------------------------------------------------------------------------------------


class Cluster(NamedTuple):
    """Who takes part, where no environment says so."""

    coordinator: str  # address:port, at which host 0 listens
    hosts: int
    host: int  # this one's number, from 0


def initialize_hosts(cluster: Cluster | None = None, patience: int = 300, heartbeat: int = 60) -> None:
    """Starts JAX's runtime over this cluster, or the one that the environment names, or over this one alone.

    Alone too, because without the runtime's client SIGTERM ends a process before it can save. Called again, it does
    nothing. Where the hosts do not meet within `patience` seconds, the process ends, with a sentence and exit code 2:
    left to itself, the runtime would abort it. Once they have met it does: when a host has given no sign of life for
    `heartbeat` seconds, the runtime says so and aborts the others.
    """
    if jax.distributed.is_initialized():
        return
    late = threading.Timer(patience, _end_unmet, [cluster, patience])
    late.daemon = True
    late.start()
    settings: Any = {"initialization_timeout": 2 * patience, "heartbeat_timeout_seconds": heartbeat}
    try:
        if cluster is None:
            jax.distributed.initialize(**settings)
        else:
            jax.distributed.initialize(*cluster, cluster_detection_method="deactivate", **settings)
    except ValueError as error:
        # JAX raises this, and nothing more telling, where it finds no cluster in the environment.
        if "coordinator_address" not in str(error):
            raise
        # Without it several devices of one process would talk over sockets too, and abort when their messages cross.
        jax.config.update("jax_cpu_collectives_implementation", None)
        with socket.socket() as free:
            free.bind(("localhost", 0))
            port = free.getsockname()[1]
        alone = f"localhost:{port}"  # where JAX would listen to every machine, and let each take part
        jax.distributed.initialize(alone, num_processes=1, process_id=0, coordinator_bind_address=alone)
    finally:
        late.cancel()


def _end_unmet(cluster: Cluster | None, seconds: int) -> None:
    who = "The hosts that the environment names" if cluster is None else f"{cluster.hosts} hosts"
    where = "" if cluster is None else f" at {cluster.coordinator}"
    each = "" if cluster is None else f", with --host_id 0 to {cluster.hosts - 1}"
    print(
        f"error: {who} did not meet{where} in {seconds} s. Start the same command on each{each}; the address must be"
        " the first one's, and its port open.",
        file=sys.stderr,
        flush=True,
    )
    os._exit(2)


def check_agreement(said: Mapping[str, str]) -> None:
    """Raises ConfigError, on every host, where hosts say other things; it names them."""
    if jax.process_count() == 1:
        return
    digests = [hashlib.sha256(text.encode()).digest() for text in said.values()]
    mine = np.frombuffer(b"".join(digests), np.uint8).reshape(len(digests), -1)
    everyone = np.asarray(multihost_utils.process_allgather(mine))
    differs = (everyone != everyone[0]).any(axis=-1)
    if differs.any():
        names = ", ".join(name for name, column in zip(said, differs.T, strict=True) if column.any())
        others = ", ".join(str(host) for host in np.flatnonzero(differs.any(axis=1)))
        raise ConfigError(f"Hosts disagree about {names}: host {others} differs from host 0. Start the same on all.")
