"""The state of training: its parts, their shapes and shardings on a mesh, first values, and what a checkpoint holds."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array, Int, PRNGKeyArray

from research.config import Experiment, Model, Optimizer, Pretrained
from research.config.parts import calling, is_shipped
from research.data.tokenizer import Tokenizer
from research.model.parameters import param_specs, state_specs, table_of
from research.model.quantized import IN_FLOAT32, cast, keep, kept
from research.model.transformer import abstract_params, initial_params, own_rows, specs_of, without_dropout
from research.parallel.padding import check_padded, cut, fill, placed
from research.parallel.rules import Tree, flatten, merge, shardings, unflatten
from research.train.optimizer import Updater, build
from research.train.schedules import Constant


class TrainState(NamedTuple):
    """State of training. A step maps it to the next state."""

    step: Int[Array, ""]  # steps taken, including skipped ones
    params: Tree  # float32; those that an adapter does not train as research/model/quantized.py keeps them
    opt_state: Tree
    average: Tree | None = None  # moving average of the parameters (with an adapter, of those that are trained), if
    # experiment.average_decay is set

    @property
    def evaluated(self) -> Tree:
        """Parameters for evaluation and use: the average if there is one."""
        if self.average is None:
            return self.params
        whole = flatten(self.average).keys() == flatten(self.params).keys()
        return self.average if whole else merge(self.params, self.average)


class _StateParts(NamedTuple):
    """The parts of an experiment on which the structure of its state depends."""

    model: Model
    optimizer: Optimizer
    steps: int
    averaged: bool


def updater_of(experiment: Experiment) -> Updater:
    """Build the optimizer of an experiment."""
    return build(experiment.optimizer, experiment.steps, abstract_params(experiment.model), experiment.model)


def _first_state(experiment: Experiment, params: Tree) -> TrainState:
    return _state(updater_of(experiment), experiment.model, params, experiment.average_decay is not None)


def _state(updater: Updater, model: Model, params: Tree, averaged: bool) -> TrainState:
    trained, _ = updater.split(params)
    average = params if averaged else None
    if model.adapter is not None:
        average = trained if averaged else None
        params = kept(model, params)
    return TrainState(jnp.zeros((), jnp.int32), params, updater.init(trained), average)


def saved(experiment: Experiment, state: Any) -> Any:
    """Return what a checkpoint holds of a state, or of a tree of its structure: not what an adapter does not train."""
    adapter = experiment.model.adapter
    if adapter is None:
        return state
    own = flatten(abstract_params(experiment.model)).keys()  # without the parts of weights in int8
    trained = {path: leaf for path, leaf in flatten(state.params).items() if path in own and adapter.trains(path)}
    return state._replace(params=unflatten(trained))


def with_first_values(experiment: Experiment, given: Tree, tokenizer: Tokenizer) -> Tree:
    """Add to given parameters the first values of those that an adapter makes from them, unless they have these."""
    adapter = experiment.model.adapter
    if adapter is None:
        return given
    with calling(adapter, "first_values"):
        first = adapter.first_values(experiment.model, given, tokenizer, experiment.seed)
    return merge(first, given)


def with_base(experiment: Experiment, mesh: jax.sharding.Mesh, state: TrainState, base: Tree) -> TrainState:
    """Add the parameters that an adapter does not train to a state from a checkpoint."""
    trained = flatten(saved(experiment, abstract_state(experiment)).params).keys()
    frozen = {path: leaf for path, leaf in flatten(base).items() if path not in trained}
    return state._replace(params=merge(keep(experiment.model, mesh, frozen), state.params))


def _random_state(experiment: Experiment, key: PRNGKeyArray) -> TrainState:
    return _first_state(experiment, initial_params(experiment.model, key))


def _random_params(experiment: Experiment, paths: Collection[str], key: PRNGKeyArray) -> dict[str, Array]:
    """Initialise only the parameters at these paths. Under jit, the others are not computed."""
    params = flatten(initial_params(experiment.model, key))
    return {path: params[path] for path in paths}


def abstract_state(
    experiment: Experiment, mesh: jax.sharding.Mesh | jax.sharding.AbstractMesh | None = None
) -> TrainState:
    """Compute the shapes and dtypes of a state without allocating it; with a mesh, as the mesh pads and shards them.

    Raises:
        ConfigError: the optimizer does not fit the model.
    """
    state = _abstract_state(_state_parts(experiment))
    return state if mesh is None else placed(state, state_shardings(experiment, mesh))


def _state_parts(experiment: Experiment) -> _StateParts:
    """Return the parts that determine the state, which many variants of a sweep have in common.

    Raises:
        ConfigError: the schedule does not fit the number of steps.
    """
    optimizer, steps = experiment.optimizer, experiment.steps
    if is_shipped(type(optimizer)) and is_shipped(type(optimizer.schedule)):  # whose states do not depend on the rate
        optimizer.schedule.check(steps)
        optimizer, steps = replace(optimizer, schedule=Constant(peak=1.0)), 1
    return _StateParts(without_dropout(experiment.model), optimizer, steps, experiment.average_decay is not None)


@cache
def _abstract_state(parts: _StateParts) -> TrainState:
    params = abstract_params(parts.model)
    updater = build(parts.optimizer, parts.steps, params, parts.model)
    state = jax.eval_shape(partial(_state, updater, parts.model, averaged=parts.averaged), params)
    if not is_shipped(type(parts.optimizer)):  # find mistakes in a user's optimizer before anything is compiled
        trained, _ = updater.split(state.params)
        jax.eval_shape(updater.update, trained, state.opt_state, trained, state.step)
    return state


def state_shardings(experiment: Experiment, mesh: jax.sharding.Mesh | jax.sharding.AbstractMesh) -> TrainState:
    """Compute the sharding of every array of a state."""
    return _state_shardings(_state_parts(experiment), mesh)


@cache
def _state_shardings(parts: _StateParts, mesh: jax.sharding.Mesh | jax.sharding.AbstractMesh) -> TrainState:
    return shardings(mesh, _specs(parts))


@cache
def _specs(parts: _StateParts) -> TrainState:
    state = _abstract_state(parts)
    table = table_of(parts.model)
    params = param_specs(state.params, table)
    average = None if state.average is None else param_specs(state.average, table)
    of_optimizer = state_specs(state.opt_state, state.params, table)
    return TrainState._make((PartitionSpec(), params, of_optimizer, average))


def check_stored(experiment: Experiment, found: Mapping[str, tuple[int, ...]]) -> None:
    """Check the shapes of a stored state by path: a mesh may have padded its vocabulary.

    Raises:
        ConfigError: a shape is not that of the experiment's state.
    """
    parts = _state_parts(experiment)
    check_padded(found, _abstract_state(parts), _specs(parts))


def own_state(experiment: Experiment, state: TrainState) -> TrainState:
    """Cut off the rows of zeros that a mesh adds to a state."""
    parts = _state_parts(experiment)
    return cut(state, _abstract_state(parts), _specs(parts))


def new_state(
    experiment: Experiment, mesh: jax.sharding.Mesh, key: PRNGKeyArray, given: Tree | None = None
) -> TrainState:
    """Initialise a state, sharded from the start: no device ever holds all of it. Every mesh gives the same numbers.

    `given` are parameters with their shardings; their buffers are donated to the state. Parameters that it lacks are
    random, with the values they would have without it.
    """
    whole = abstract_state(experiment, mesh)

    def compiled(make: Callable[[Any], Tree], like: Tree, **options: Any) -> Callable[[Any], Tree]:
        places = jax.tree.map(lambda leaf: leaf.sharding, like)
        return jax.jit(lambda given: fill(make(given), like), out_shardings=places, **options)

    if given is None:
        return compiled(partial(_random_state, experiment), whole)(key)
    params = flatten(keep(experiment.model, mesh, given))
    missing = {path: leaf for path, leaf in flatten(whole.params).items() if path not in params}
    if missing:
        params |= compiled(partial(_random_params, experiment, missing.keys()), missing)(key)

    def first(params: Tree) -> TrainState:
        return _first_state(experiment, own_rows(experiment.model, params))

    return compiled(first, whole, donate_argnums=0)(unflatten(params))


def abstract_teacher(teacher: Pretrained, mesh: jax.sharding.Mesh | jax.sharding.AbstractMesh) -> Tree:
    """Compute the shapes, dtypes and shardings of a teacher's parameters, as the mesh pads and shards them."""
    shapes = jax.eval_shape(partial(cast, dtype=teacher.compute, exact=IN_FLOAT32), abstract_params(teacher))
    return placed(shapes, shardings(mesh, specs_of(teacher)))
