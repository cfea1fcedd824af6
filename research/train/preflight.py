"""Checks before a launch, made before data are prepared or anything is compiled."""

from typing import NamedTuple

import jax

from research.config import Experiment
from research.decode.evaluate import check_length
from research.parallel.mesh import check_divisible, make_mesh
from research.pretrained.find import Weights, find_initial
from research.storage.bucket import AnyPath
from research.storage.checkpoint import steps_on_disk
from research.train.step import abstract_state


class Preflight(NamedTuple):
    """Results of the checks that the launch uses."""

    mesh: jax.sharding.Mesh
    weights: Weights | None  # initial weights, not read yet; None if the run has a checkpoint or a random start


def preflight(experiment: Experiment, directory: AnyPath) -> Preflight:
    """Check an experiment against this machine's devices and the weights that its run starts from.

    Raises:
        ConfigError: as `check`; the mesh does not fit the devices; or the weights are missing or of another model.
    """
    mesh = make_mesh(experiment.mesh)
    check(experiment, mesh)
    if experiment.init is None or steps_on_disk(directory / "checkpoints"):
        return Preflight(mesh, None)
    return Preflight(mesh, find_initial(experiment, experiment.init))


def check(experiment: Experiment, mesh: jax.sharding.Mesh | jax.sharding.AbstractMesh) -> None:
    """Check an experiment against the sizes of a mesh. Its devices need not be on this machine.

    Raises:
        ConfigError: the mesh does not divide the experiment's sizes, an evaluation generates more tokens than the model
            has positions for, or the optimizer or its schedule does not fit the model or the number of steps.
    """
    check_divisible(experiment, mesh)
    check_length(experiment)
    abstract_state(experiment)
