"""Memory per chip of a training step, estimated without compilation: training state and working memory.

The state is exact. Activations saved for the backward pass are counted by tracing both passes: the arrays that
differentiation keeps, with remat and dropout as configured, for a chip's share of heads, features and vocabulary. Added
to these are the cast weights, the gradients, and the activations alive within one layer. TPUs pad the last axis of an
array to a multiple of 128: a head width of 64 takes as much as 128. A test compares estimates with the memory of seven
steps compiled for TPUs; they agree within 10 %.
"""

import math
from collections.abc import Callable
from dataclasses import astuple, replace
from functools import cache
from typing import Any

import jax
from jax.interpreters.partial_eval import dce_jaxpr

from research.config import DecoderOnly, Experiment, Mesh
from research.data.batch import Batch
from research.data.shapes import abstract_batch, row_lengths
from research.model import flops
from research.model.attention_backends import Backend
from research.model.loss import chunks
from research.model.transformer import abstract_params
from research.parallel.hardware import Hardware
from research.parallel.mesh import abstract_mesh
from research.parallel.rules import flatten, unflatten
from research.plan.attention import backends, on_one_chip
from research.plan.roofline import SIZES
from research.train.state import abstract_state, abstract_teacher
from research.train.step import summed_loss


def chip_bytes(experiment: Experiment, hardware: Hardware) -> int:
    """Compute the bytes per chip: state and working memory. The mesh must be resolved: no size is -1."""
    mesh = experiment.mesh
    # Normalized, so the cached tracing is shared between experiments that differ only in how they are computed.
    stored = replace(experiment, model=replace(experiment.model, remat="none"), mesh=Mesh(), microbatches=1)
    held = device_bytes(stored, abstract_mesh(mesh, math.prod(astuple(mesh))))
    return held + working_bytes(experiment, hardware)


def working_bytes(experiment: Experiment, hardware: Hardware | None = None) -> int:
    """Compute the bytes per chip of cast weights, gradients and activations; without hardware, on this machine.

    All activations count as split over the sequence axis, although keys and values are not.
    """
    mesh, size = experiment.mesh, SIZES[experiment.model.compute]
    layers = experiment.model.decoder_layers
    if not isinstance(experiment.model.stacks, DecoderOnly):
        layers += experiment.model.encoder_layers
    adapter, shards = experiment.model.adapter, mesh.tensor * mesh.fsdp
    parameters = flops.parameter_count(abstract_params(experiment.model)) / shards
    trained = flops.trained_count(experiment.model) / shards
    weights = trained * (2 * size + (4 if experiment.microbatches > 1 else 0))
    if adapter is not None and adapter.frozen == "int8":  # a layer's weights, made for the forward or backward pass
        weights += (parameters - trained) / layers * size
    elif adapter is not None and adapter.frozen != experiment.model.compute:
        weights += (parameters - trained) * size
    if experiment.distil is not None and mesh.fsdp > 1:  # two layers' gathered weights of the teacher
        teacher = experiment.distil.teacher
        held = flops.parameter_count(abstract_params(teacher)) / mesh.tensor * SIZES[teacher.compute]
        weights += 2 * held / (teacher.encoder_layers + teacher.decoder_layers)
    if mesh.fsdp > 1:  # two layers' gathered weights at a time, and one layer's unsharded gradient
        weights += parameters * mesh.fsdp / layers * 5 * size
    rows = experiment.batch_size / experiment.microbatches / (mesh.data * mesh.fsdp)
    part, kind = chip_part(replace(experiment, mesh=Mesh(1, 1, 1, mesh.tensor))), None
    chosen: set[Backend] = {"reference"}
    if hardware is not None:
        kind = hardware._replace(name=hardware.kind, chips=1, topology=hardware.topology and f"{hardware.kind}:1")
        chosen = {*backends(experiment, hardware, mesh, row_lengths(experiment)).values()}
        if chosen == {"reference"}:  # perhaps because of the mesh, which one chip does not show
            part = replace(part, model=replace(part.model, attention="reference"))
    count = max(1, round(rows))
    vocabulary = part.model.vocab_size * (1 if part.distil is None else 2)
    if "blocked" not in chosen and chunks((count, row_lengths(experiment)[1]), vocabulary) == 1:
        count = 1  # what a row keeps does not depend on their number, and traces are shared
    none = replace(part, model=replace(part.model, remat="none"))
    row = kept_bytes(part, count, kind) + kept_bytes(none, count, kind, padded=False) / layers
    return int(weights + rows / mesh.sequence * row)


def chip_part(experiment: Experiment) -> Experiment:
    """Return the experiment with a chip's share of the sizes that the tensor axis splits; used for shapes only."""
    tensor, distil = experiment.mesh.tensor, experiment.distil

    def part(model: Any) -> Any:
        return replace(
            model,
            heads=model.heads // tensor,
            feed_forward=model.feed_forward // tensor,
            vocab_size=-(-model.vocab_size // tensor),
            zero_token=None,
        )

    distil = None if distil is None else replace(distil, teacher=part(distil.teacher))
    return replace(experiment, model=part(experiment.model), distil=distil, batch_size=1, microbatches=1, mesh=Mesh(1))


def kept_bytes(experiment: Experiment, rows: int = 1, hardware: Hardware | None = None, padded: bool = True) -> float:
    """Compute the bytes for each of some rows that the backward pass keeps, on a chip with the whole model.

    `padded` counts the last axis of arrays as padded to the lanes of a TPU.
    """
    lanes = 1 if hardware is None or not padded else hardware.chip.lanes

    def total(count: int) -> int:
        return sum(padded_bytes(leaf, lanes) for leaf in kept(experiment, count, hardware))

    constant = 2 * total(1) - total(2)  # weights and tables
    return (total(rows) - constant) / rows


def padded_bytes(leaf: Any, lanes: int) -> int:
    *others, last = leaf.shape or (1,)
    return math.prod(others) * -(-last // lanes) * lanes * leaf.dtype.itemsize


@cache
def kept(experiment: Experiment, rows: int, hardware: Hardware | None = None) -> list[Any]:
    """Return the shapes of the arrays that differentiation keeps from the forward pass on one chip."""
    key = jax.eval_shape(jax.random.key, 0)
    cast = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, experiment.model.compute), abstract_params(experiment.model)
    )

    adapter = experiment.model.adapter
    trained = {path: leaf for path, leaf in flatten(cast).items() if adapter is None or adapter.trains(path)}
    frozen = {path: leaf for path, leaf in flatten(cast).items() if path not in trained}

    teacher = None if experiment.distil is None else abstract_params(experiment.distil.teacher)

    def backward(trained: Any, frozen: Any, batch: Batch, key: Any, teacher: Any) -> Callable[..., Any]:
        drawn = key if experiment.model.dropped else None
        return jax.vjp(
            lambda trained: summed_loss(experiment, unflatten(trained | frozen), batch, drawn, teacher).loss, trained
        )[1]

    with on_one_chip(hardware):
        pullback = jax.eval_shape(backward, trained, frozen, abstract_batch(experiment, rows), key, teacher)
        leaves = jax.tree.leaves(pullback)
        if adapter is None:
            return leaves
        # Without the inputs of products with frozen weights, which only the gradients of these need.
        program = jax.make_jaxpr(lambda pull, gradient: pull(gradient))(pullback, jax.ShapeDtypeStruct((), "float32"))
    _, used = dce_jaxpr(program.jaxpr, [True] * len(program.jaxpr.outvars))
    return [leaf for leaf, needed in zip(leaves, used, strict=False) if needed]


def state_bytes(experiment: Experiment) -> int:
    """Compute the bytes of parameters and optimizer state, over all devices together."""
    return sum(leaf.dtype.itemsize * math.prod(leaf.shape) for leaf in jax.tree.leaves(abstract_state(experiment)))


def device_bytes(experiment: Experiment, mesh: jax.sharding.Mesh | jax.sharding.AbstractMesh) -> int:
    """Compute the bytes of parameters, optimizer state and a teacher on each device of the mesh."""
    leaves = jax.tree.leaves(abstract_state(experiment, mesh))
    if experiment.distil is not None:
        leaves += jax.tree.leaves(abstract_teacher(experiment.distil.teacher, mesh))
    return sum(leaf.dtype.itemsize * math.prod(leaf.sharding.shard_shape(leaf.shape)) for leaf in leaves)
