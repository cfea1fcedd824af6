"""Checks before a launch, made before data are prepared or anything is compiled."""

from functools import partial
from typing import NamedTuple

import jax

from research.config import ConfigError, Experiment, require
from research.config.parts import calling
from research.data.shapes import abstract_batch
from research.decode.evaluate import check_length
from research.model.attention_backends import recorded
from research.model.transformer import abstract_params
from research.parallel.mesh import check_divisible, make_mesh
from research.parallel.rules import flatten
from research.pretrained.find import digest, find_initial
from research.pretrained.table import fresh_paths
from research.pretrained.weights import Weights
from research.storage.bucket import AnyPath, any_path
from research.storage.manifest import newest_record, steps_on_disk
from research.train.state import abstract_state
from research.train.step import summed_loss
from research.train.teacher import FoundTeacher, find_teacher


class Preflight(NamedTuple):
    """Results of the checks that the launch uses."""

    mesh: jax.sharding.Mesh
    weights: Weights | None  # weights to read; None if the run has a checkpoint with all of them, or a random start
    base: str | None = None  # with an adapter, the hash of these weights
    teacher: FoundTeacher | None = None  # of experiment.distil


def preflight(experiment: Experiment, directory: AnyPath) -> Preflight:
    """Check an experiment against this machine's devices and the weights that its run starts from.

    Raises:
        ConfigError: as `check`; the mesh does not fit the devices; or the weights are missing or of another model.
    """
    mesh = make_mesh(experiment.mesh)
    check(experiment, mesh)
    for logger in experiment.report.loggers if jax.process_index() == 0 else ():
        with calling(logger, "check"):
            logger.check()
    teacher = find_teacher(experiment)
    if teacher is not None and experiment.distil is not None:
        _check_unchanged(directory, "teacher", experiment.distil.teacher.path, teacher.digest)
    if experiment.model.adapter is not None:
        return _with_base(experiment, mesh, directory)._replace(teacher=teacher)
    if experiment.weights is None or steps_on_disk(directory / "checkpoints"):
        return Preflight(mesh, None, teacher=teacher)
    return Preflight(mesh, find_initial(experiment, experiment.weights), teacher=teacher)


def _with_base(experiment: Experiment, mesh: jax.sharding.Mesh, directory: AnyPath) -> Preflight:
    """Find the weights that an adapter is trained on, which must be those of the run's checkpoints, if it has any."""
    init, adapter = experiment.weights, experiment.model.adapter
    assert adapter is not None
    if init is None:
        raise ConfigError("model.adapter needs init: name the trained weights that the adapter is for.")
    paths = flatten(abstract_params(experiment.model))
    untrained = sorted(path for path in fresh_paths(paths, experiment.init_fresh) if not adapter.trains(path))
    message = f"init_fresh matches {', '.join(untrained)}, which model.adapter does not train: they would stay random."
    require(not untrained, message)
    weights, base = find_initial(experiment, init), digest(any_path(init))
    _check_unchanged(directory, "base", init, base)
    return Preflight(mesh, weights, base)


def _check_unchanged(directory: AnyPath, role: str, path: str, digest: str) -> None:
    """Raise ConfigError if the run's newest checkpoint records another hash of the weights in this role."""
    newest = newest_record(directory / "checkpoints")
    same = newest is None or newest[1].get(role) == digest
    how = "with" if role == "teacher" else "on"
    message = f"{path} has changed since {directory} was trained {how} it: restore it, or give another --run_dir."
    require(same, message)


def check(experiment: Experiment, mesh: jax.sharding.Mesh | jax.sharding.AbstractMesh) -> None:
    """Check an experiment against the sizes of a mesh. Its devices need not be on this machine.

    Raises:
        ConfigError: the mesh does not divide the experiment's sizes, an evaluation generates more tokens than the model
            has positions for, the optimizer or its schedule does not fit the model or the number of steps, or the
            attention's backend, if named, cannot serve the model on these devices.
    """
    check_divisible(experiment, mesh)
    check_length(experiment)
    abstract_state(experiment)
    check_attention(experiment, mesh)


def check_attention(experiment: Experiment, mesh: jax.sharding.Mesh | jax.sharding.AbstractMesh) -> None:
    """Raise ConfigError if `model.attention` names a backend that cannot serve one of the three attentions.

    Nothing is known about the devices of an abstract mesh: then nothing is checked.
    """
    asked = experiment.model.attention
    if asked in ("auto", "reference") or not isinstance(mesh, jax.sharding.Mesh):
        return
    batch = abstract_batch(experiment, experiment.batch_size // experiment.microbatches)
    key = jax.eval_shape(jax.random.key, 0) if experiment.model.dropped else None
    with recorded() as record, jax.set_mesh(mesh):
        jax.eval_shape(partial(summed_loss, experiment), abstract_params(experiment.model), batch, key)
    for part, choices in record.items():
        for choice in choices:
            require(
                choice.backend == asked,
                f"model.attention is {asked!r}: {choice.reason} (in the {part} attention); set it to 'auto'.",
            )
