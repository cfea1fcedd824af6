"""Adafactor, AdamW and RMS-scaled AdamW as pure functions, with a learning rate that follows the training step.

Layers are stacked along a leading axis, yet a layer's update must not depend on its neighbours: one table says of every
parameter which axis counts layers and which ones are the rows and the columns of its matrix, so that root mean squares,
clipping and factoring are each layer's own, on the matrix that T5X stores.

A state is one nested dict: `count`, and statistics by kind and then by the parameter's path. `count` is the number of
updates made, which bias corrections and Adafactor's decay need; the learning rate follows the step of the run instead,
so that a skipped update does not shift warm-up or decay.
"""

import math
import re
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from research import config
from research.config import ConfigError, require
from research.config.optimizer import Parameter
from research.model.parameters import parameters
from research.parallel.rules import Tree, flatten, unflatten

Flat = dict[str, Array]  # by path
Rate = Float[Array, ""]

SQUARE_FLOOR = 1e-30  # Adafactor's first epsilon, added to the squared gradient
SCALE_FLOOR = 1e-3  # its second, the least root mean square of a parameter by which a step is scaled


# --- Learning rate ----------------------------------------------------------------------------------------------------


def learning_rate(schedule: config.Schedule, total_steps: int) -> Callable[[Int[Array, ""]], Rate]:
    """The rate at a step, counted from 0: warm-up's factor, linear in the step, times the schedule's own curve.

    Linear and cosine start where warm-up ends and reach `final` at step total_steps - 1; a ConfigError if warm-up would
    leave them no step.
    """
    if isinstance(schedule, config.Linear | config.Cosine):
        require(
            schedule.warmup < total_steps,
            f"optimizer.schedule.warmup is {schedule.warmup}: it must be below steps, which is {total_steps}.",
        )

    def rate(step: Int[Array, ""]) -> Rate:
        time = step.astype(jnp.float32)
        warmed = jnp.minimum(time / max(schedule.warmup, 1), 1.0) if schedule.warmup else jnp.float32(1.0)
        return (schedule.warmup_start + (1.0 - schedule.warmup_start) * warmed) * _curve(schedule, total_steps, time)

    return rate


def _curve(schedule: config.Schedule, total_steps: int, time: Float[Array, ""]) -> Rate:
    progress = jnp.clip((time - schedule.warmup) / max(total_steps - 1 - schedule.warmup, 1), 0.0, 1.0)
    match schedule:
        case config.Constant(peak=peak):
            return jnp.float32(peak)
        case config.Linear(peak=peak, final=final):
            return peak + (final - peak) * progress
        case config.Cosine(peak=peak, final=final):
            return final + (peak - final) * 0.5 * (1.0 + jnp.cos(jnp.pi * progress))
        case config.InverseSquareRoot(peak=peak, timescale=timescale):
            return peak * jnp.sqrt(timescale / jnp.maximum(time, timescale))


# --- The optimizer ----------------------------------------------------------------------------------------------------


class Updater(NamedTuple):
    """An optimizer for one tree of parameters; all three are pure and meant to be traced."""

    split: Callable[[Tree], tuple[Tree, Tree]]  # params -> those that are trained, those that are frozen
    init: Callable[[Tree], Tree]  # trained params -> state
    update: Callable[[Tree, Tree, Tree, Array], tuple[Tree, Tree]]  # gradients, state, params, step -> params, state


def build(settings: config.Optimizer, total_steps: int, params: Tree, model: config.Model) -> Updater:
    """`params` gives paths and shapes alone. Gradients, state and parameters hold what is trained; all is float32.

    The model's parametrization decides how far its hidden matrices move (research/model/parametrization.py).

    A ConfigError if a pattern matches no parameter, if nothing is left to train or if the schedule cannot be kept.
    """
    paths = list(flatten(params))
    frozen = _matched("frozen", settings.frozen, paths)
    undecayed = _matched("no_decay", settings.no_decay, paths)
    require(len(frozen) < len(paths), "optimizer.frozen matches every parameter: at least one must be trained.")
    decay = {path: 0.0 if path in undecayed else settings.weight_decay for path in paths}
    known = parameters(params, model)
    layouts = {path: _layout(parameter) for path, parameter in known.items()}
    rate = learning_rate(settings.schedule, total_steps)
    initial, updated, exponent = _rule(settings)
    factors = {path: parameter.growth**exponent for path, parameter in known.items()}

    def split(params: Tree) -> tuple[Tree, Tree]:
        flat = flatten(params)
        return (
            unflatten({path: leaf for path, leaf in flat.items() if path not in frozen}),
            unflatten({path: leaf for path, leaf in flat.items() if path in frozen}),
        )

    def init(params: Tree) -> Tree:
        return unflatten({"count": jnp.zeros((), jnp.int32), **initial(settings, layouts, flatten(params))})

    def update(gradients: Tree, state: Tree, params: Tree, step: Array) -> tuple[Tree, Tree]:
        gradients = jax.tree.map(lambda gradient: gradient.astype(jnp.float32), gradients)
        if settings.clip_norm is not None:
            gradients, _ = optax.clip_by_global_norm(settings.clip_norm).update(gradients, optax.EmptyState())
        flat = (flatten(gradients), flatten(state), flatten(params))
        new_params, new_state = updated(settings, layouts, decay, factors, rate(step), *flat)
        return unflatten(new_params), unflatten(new_state)

    return Updater(split, init, update)


def _layout(parameter: Parameter) -> str:
    """A letter an axis: l counts layers, r and c are the rows and columns of a layer's matrix, . is of no matrix."""
    roles = {axis: "r" for axis in parameter.reads} | {"l": "l"}
    return "".join(roles.get(axis, "c" if parameter.reads else ".") for axis in parameter.axes)


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


def _rule(settings: config.Optimizer) -> tuple[Callable, Callable, float]:
    """What makes a state, what updates, and the power of its growth by which muP multiplies a matrix's step.

    A step that is scaled by the matrix's root mean square has half of that power already.
    """
    match settings:
        case config.Adafactor():
            return _adafactor_init, _adafactor_update, -0.5
        case config.RMSScaledAdamW():
            return _adam_init, _adam_update, -0.5
        case config.AdamW():
            return _adam_init, _adam_update, -1.0
        case _:
            raise TypeError(f"optimizer is a {type(settings).__name__}: it must be Adafactor, AdamW or RMSScaledAdamW.")


def _mean(values: Array, layout: str, averaged: str) -> Array:
    """Over the axes that carry one of those letters, which stay with size 1."""
    return jnp.mean(values, axis=tuple(i for i, axis in enumerate(layout) if axis in averaged), keepdims=True)


def _rms(values: Array, layout: str) -> Array:
    """Root mean square of every layer's parameter by itself."""
    return jnp.sqrt(_mean(jnp.square(values), layout, "rc."))


# --- Adafactor --------------------------------------------------------------------------------------------------------


def _is_factored(settings: config.Adafactor, layout: str, shape: tuple[int, ...]) -> bool:
    """Whether the smaller side of a layer's matrix, heads and head width joined, is long enough."""
    if not settings.factored or "r" not in layout:
        return False
    sides = (math.prod(size for size, axis in zip(shape, layout, strict=True) if axis == side) for side in "rc")
    return min(sides) >= settings.min_factored


def _adafactor_init(settings: config.Adafactor, layouts: dict[str, str], params: Flat) -> Flat:
    state = {}
    for path, param in params.items():
        layout = layouts[path]
        # Arrays of their own each, since a buffer can be donated only once.
        if _is_factored(settings, layout, param.shape):
            state[f"row/{path}"] = _mean(jnp.zeros_like(param), layout, "c")
            state[f"column/{path}"] = _mean(jnp.zeros_like(param), layout, "r")
        else:
            state[f"square/{path}"] = jnp.zeros_like(param)
        if settings.momentum is not None:
            state[f"momentum/{path}"] = jnp.zeros_like(param)
    return state


def _adafactor_update(
    settings: config.Adafactor,
    layouts: dict[str, str],
    decay: dict[str, float],
    factors: dict[str, float],
    rate: Rate,
    gradients: Flat,
    state: Flat,
    params: Flat,
) -> tuple[Flat, Flat]:
    """Adafactor (arXiv:1804.04235) with T5X's order of operations; weight decay is not scaled by the learning rate."""
    new_params, new_state = {}, {"count": state["count"] + 1}
    kept = 1.0 - (state["count"] + 1.0) ** -settings.decay_exponent
    for path, param in params.items():
        layout = layouts[path]
        moments, direction = _normalised(layout, path, kept, gradients[path], state)
        direction /= jnp.maximum(1.0, _rms(direction, layout) / settings.clip_update)
        change = rate * factors[path] * jnp.maximum(_rms(param, layout), SCALE_FLOOR * factors[path]) * direction
        if settings.momentum is not None:
            change = settings.momentum * state[f"momentum/{path}"] + (1.0 - settings.momentum) * change
            moments[f"momentum/{path}"] = change
        new_params[path] = (1.0 - decay[path]) * param - change
        new_state |= moments
    return new_params, new_state


def _normalised(layout: str, path: str, kept: Array, gradient: Array, state: Flat) -> tuple[Flat, Array]:
    """New second moments of one parameter, and its gradient divided by their root."""
    square = jnp.square(gradient) + SQUARE_FLOOR

    def moment(kind: str, mean: Array) -> Array:
        return kept * state[f"{kind}/{path}"] + (1.0 - kept) * mean

    if f"square/{path}" in state:
        full = moment("square", square)
        return {f"square/{path}": full}, gradient * full**-0.5
    row, column = moment("row", _mean(square, layout, "c")), moment("column", _mean(square, layout, "r"))
    direction = gradient * (row / _mean(row, layout, "r")) ** -0.5 * column**-0.5
    return {f"row/{path}": row, f"column/{path}": column}, direction


# --- AdamW ------------------------------------------------------------------------------------------------------------


def _adam_init(settings: config.AdamW | config.RMSScaledAdamW, layouts: dict[str, str], params: Flat) -> Flat:
    return {f"{kind}/{path}": jnp.zeros_like(param) for kind in ("mean", "square") for path, param in params.items()}


def _adam_update(
    settings: config.AdamW | config.RMSScaledAdamW,
    layouts: dict[str, str],
    decay: dict[str, float],
    factors: dict[str, float],
    rate: Rate,
    gradients: Flat,
    state: Flat,
    params: Flat,
) -> tuple[Flat, Flat]:
    """Adam's step, then decay by rate * weight_decay (arXiv:1711.05101).

    RMSScaledAdamW is nanoT5's AdamWScale (github.com/PiotrNawrot/nanoT5, arXiv:2309.02373): the step is multiplied by
    max(1e-3, RMS of the parameter), as Adafactor's is; epsilon joins the second moment before its bias is corrected
    (the efficient form in section 2 of arXiv:1412.6980); and decay acts on the parameter after the step.
    """
    scaled = isinstance(settings, config.RMSScaledAdamW)
    mean, square = ({path: state[f"{kind}/{path}"] for path in params} for kind in ("mean", "square"))
    updates_made = state["count"] + 1.0
    epsilon = settings.epsilon * (jax.lax.rsqrt(1.0 - settings.b2**updates_made) if scaled else 1.0)
    adam = optax.scale_by_adam(settings.b1, settings.b2, epsilon)
    directions, moments = adam.update(gradients, optax.ScaleByAdamState(state["count"], mean, square))

    new_params = {}
    for path, param in params.items():
        scale = jnp.maximum(_rms(param, layouts[path]), SCALE_FLOOR * factors[path]) if scaled else 1.0
        stepped = param - rate * factors[path] * scale * directions[path]
        new_params[path] = stepped - rate * decay[path] * (stepped if scaled else param)
    new_state = {"count": moments.count}
    for kind, values in (("mean", moments.mu), ("square", moments.nu)):
        new_state |= {f"{kind}/{path}": value for path, value in values.items()}
    return new_params, new_state
