"""The optimizer of a run: schedule, clipping, transformation, weight decay and frozen parameters, chained."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from research.config import Model, require
from research.config.optimizer import Optimizer, Parameter, Schedule
from research.config.parts import calling, expect
from research.model.parameters import parameters
from research.parallel.rules import Tree, flatten, map_by_path, occurrences, unflatten

Rate = Float[Array, ""]


def learning_rate(schedule: Schedule, total_steps: int) -> Callable[[Int[Array, ""]], Rate]:
    """Build the function from a step, counted from 0, to its rate: linear warm-up times the schedule's curve.

    Raises:
        ConfigError: the schedule does not fit the number of steps.
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
    """An optimizer for one tree of parameters. All three functions are pure and can be traced."""

    split: Callable[[Tree], tuple[Tree, Tree]]  # params -> trained ones, frozen ones
    init: Callable[[Tree], Tree]  # trained params -> state
    update: Callable[[Tree, Tree, Tree, Array], tuple[Tree, Tree]]  # gradients, state, params, step -> params, state


def build(settings: Optimizer, total_steps: int, params: Tree, model: Model) -> Updater:
    """Build an experiment's optimizer. Only the paths and shapes of `params` are used.

    Gradients, state and parameters hold only what is trained, all in float32. The learning rate follows the step of the
    run, not the number of updates made, so that a skipped update does not shift warm-up or decay.

    Raises:
        ConfigError: a pattern matches no parameter, nothing is left to train, the schedule does not fit the number of
            steps, or the optimizer does not support the model's parametrization.
    """
    paths = list(flatten(params))
    frozen, undecayed = (
        {path for matches in occurrences(f"optimizer.{field}", patterns, paths).values() for path in matches}
        for field, patterns in (("frozen", settings.frozen), ("no_decay", settings.no_decay))
    )
    if model.adapter is not None:
        frozen |= {path for path in paths if not model.adapter.trains(path)}
    of = "matches every parameter" + (" that model.adapter trains" if model.adapter is not None else "")
    require(len(frozen) < len(paths), f"optimizer.frozen {of}: at least one must be trained.")
    trained = set(paths) - frozen
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
            unflatten({path: leaf for path, leaf in flat.items() if path in trained}),
            unflatten({path: leaf for path, leaf in flat.items() if path not in trained}),
        )

    def init(params: Tree) -> Tree:
        now = rate(jnp.int32(0))
        with calling(settings, "transformation"):
            return with_clipping(settings, now, known).init(params)

    def update(gradients: Tree, state: Tree, params: Tree, step: Array) -> tuple[Tree, Tree]:
        gradients = jax.tree.map(lambda gradient: gradient.astype(jnp.float32), gradients)
        now = rate(step)
        with calling(settings, "transformation"):
            updates, new_state = with_clipping(settings, now, known).update(gradients, state, params)
        _check_like(settings, "updates", updates, params)
        _check_like(settings, "a state", new_state, state)

        def moved(path: str, param: Array, update: Array) -> Array:
            return settings.decayed(param, update, now, decay[path])

        return map_by_path(moved, params, updates), new_state

    return Updater(split, init, update)


def with_clipping(settings: Optimizer, rate: Any, known: Mapping[str, Parameter]) -> optax.GradientTransformation:
    """Chain clipping and the optimizer's transformation. The state is the transformation's, since clipping has none."""
    own = settings.transformation(rate, known)
    if settings.clip_norm is None:
        return own
    clip = optax.clip_by_global_norm(settings.clip_norm)

    def update(gradients: Tree, state: Tree, params: Tree | None = None) -> tuple[Tree, Tree]:
        return own.update(clip.update(gradients, optax.EmptyState())[0], state, params)

    return optax.GradientTransformation(own.init, update)


def _check_like(settings: Optimizer, name: str, returned: Tree, given: Tree) -> None:
    """Check that a transformation returned arrays of the shapes and dtypes that it was given.

    Raises:
        ConfigError: an array differs, is missing or is new; the message names the first one.
    """
    after, before = (
        {path: f"{jnp.result_type(leaf)}{list(jnp.shape(leaf))}" for path, leaf in flatten(tree).items()}
        for tree in (returned, given)
    )
    wrong = [path for path in sorted(after.keys() | before.keys()) if after.get(path) != before.get(path)]
    path = wrong[0] if wrong else ""
    actual, expected = after.get(path, "nothing"), before.get(path, "nothing")
    expect(
        not wrong, settings, "transformation", f"returned {name} with {actual} at {path}, where {expected} was given"
    )
