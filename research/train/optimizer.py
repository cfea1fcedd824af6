"""The optimizer of a run: schedule, clipping, transformation, decay and frozen parameters chained in one place."""

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from research.config import ConfigError, Model, require
from research.config.optimizer import Optimizer, Parameter, Schedule
from research.config.parts import calling, expect
from research.model.parameters import parameters
from research.parallel.rules import Tree, flatten, map_by_path, unflatten

Rate = Float[Array, ""]


def learning_rate(schedule: Schedule, total_steps: int) -> Callable[[Int[Array, ""]], Rate]:
    """The rate at a step, counted from 0: warm-up's factor, linear in the step, times the schedule's own curve.

    A ConfigError if the schedule cannot be kept in so many steps.
    """
    schedule.check(total_steps)

    def rate(step: Int[Array, ""]) -> Rate:
        time = step.astype(jnp.float32)
        warmed = jnp.minimum(time / max(schedule.warmup, 1), 1.0) if schedule.warmup else jnp.float32(1.0)
        with calling(schedule, "curve"):
            curve = schedule.curve(time, total_steps)
        expect(jnp.shape(curve) == (), schedule, "curve", f"returned the shape {jnp.shape(curve)}, not a scalar")
        return (schedule.warmup_start + (1.0 - schedule.warmup_start) * warmed) * curve

    return rate


class Updater(NamedTuple):
    """An optimizer for one tree of parameters; all three are pure and meant to be traced."""

    split: Callable[[Tree], tuple[Tree, Tree]]  # params -> those that are trained, those that are frozen
    init: Callable[[Tree], Tree]  # trained params -> state
    update: Callable[[Tree, Tree, Tree, Array], tuple[Tree, Tree]]  # gradients, state, params, step -> params, state


def build(settings: Optimizer, total_steps: int, params: Tree, model: Model) -> Updater:
    """Chain an experiment's optimizer. `params` gives paths and shapes alone.

    Gradients, state and parameters hold what is trained; all is float32. The learning rate follows the step of the run
    and not the number of updates made, so that a skipped update does not shift warm-up or decay.

    A ConfigError if a pattern matches no parameter, if nothing is left to train, or if the schedule or the model's
    parametrization cannot be kept.
    """
    paths = list(flatten(params))
    frozen = _matched("frozen", settings.frozen, paths)
    undecayed = _matched("no_decay", settings.no_decay, paths)
    require(len(frozen) < len(paths), "optimizer.frozen matches every parameter: at least one must be trained.")
    decay = {path: 0.0 if path in undecayed else settings.weight_decay for path in paths}
    known = parameters(params, model)
    require(
        settings.scales_by_growth or all(parameter.growth == 1.0 for parameter in known.values()),
        f"optimizer is {type(settings).__name__}, which has no rule for muP, model.parametrization: multiply its steps"
        " by scale_by_growth and set scales_by_growth = True in its class, or train a Standard() model.",
    )
    rate = learning_rate(settings.schedule, total_steps)

    def split(params: Tree) -> tuple[Tree, Tree]:
        flat = flatten(params)
        return (
            unflatten({path: leaf for path, leaf in flat.items() if path not in frozen}),
            unflatten({path: leaf for path, leaf in flat.items() if path in frozen}),
        )

    def init(params: Tree) -> Tree:
        now = rate(jnp.int32(0))
        with calling(settings, "transformation"):
            return clipped(settings, now, known).init(params)

    def update(gradients: Tree, state: Tree, params: Tree, step: Array) -> tuple[Tree, Tree]:
        gradients = jax.tree.map(lambda gradient: gradient.astype(jnp.float32), gradients)
        now = rate(step)
        with calling(settings, "transformation"):
            updates, new_state = clipped(settings, now, known).update(gradients, state, params)
        _check_like(settings, "updates", updates, params)
        _check_like(settings, "a state", new_state, state)

        def moved(path: str, param: Array, update: Array) -> Array:
            return settings.decayed(param, update, now, decay[path])

        return map_by_path(moved, params, updates), new_state

    return Updater(split, init, update)


def clipped(settings: Optimizer, rate: Any, known: Mapping[str, Parameter]) -> optax.GradientTransformation:
    """The optimizer's transformation after clipping. The state is the transformation's, as clipping has none."""
    own = settings.transformation(rate, known)
    if settings.clip_norm is None:
        return own
    clip = optax.clip_by_global_norm(settings.clip_norm)

    def update(gradients: Tree, state: Tree, params: Tree | None = None) -> tuple[Tree, Tree]:
        return own.update(clip.update(gradients, optax.EmptyState())[0], state, params)

    return optax.GradientTransformation(own.init, update)


def _matched(field: str, patterns: tuple[str, ...], paths: list[str]) -> set[str]:
    """The paths in which a pattern is found; a ConfigError for a pattern that is found in none."""
    found: set[str] = set()
    for pattern in patterns:
        try:
            matches = {path for path in paths if re.search(pattern, path)}
        except re.error as error:
            raise ConfigError(f"optimizer.{field} has {pattern!r}, which is no regular expression: {error}.") from error
        listed = ", ".join(paths)
        require(len(matches) > 0, f"optimizer.{field} has {pattern!r}, which matches no parameter; there are {listed}.")
        found |= matches
    return found


def _check_like(settings: Optimizer, name: str, returned: Tree, given: Tree) -> None:
    """Raise a ConfigError unless a transformation returned arrays of the shapes and dtypes of those it was given."""
    after, before = (
        {path: f"{jnp.result_type(leaf)}{list(jnp.shape(leaf))}" for path, leaf in flatten(tree).items()}
        for tree in (returned, given)
    )
    wrong = [path for path in sorted(after.keys() | before.keys()) if after.get(path) != before.get(path)]
    path = wrong[0] if wrong else ""
    found, wanted = after.get(path, "nothing"), before.get(path, "nothing")
    expect(not wrong, settings, "transformation", f"returned {name} with {found} at {path}, where {wanted} was given")
