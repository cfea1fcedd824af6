"""Optax transformations that the shipped optimizers need and optax lacks.

Layers are stacked along a leading axis, yet the update of a layer must not depend on other layers. So root mean
squares, clipping and factoring are computed per layer, on the matrix that T5X stores. The axes of every parameter are
looked up by its path in the table `research.model.parameters.parameters(params, model)`. Updates, parameters and
moments are float32 arrays in nested dicts with the same paths.

They can be chained with optax's own transformations and work outside this project:

    known = parameters(params, model)
    optax.chain(scale_by_layer_moments(known), clip_by_layer_rms(known, 1.0), scale_by_layer_rms(known, -0.5, 0.01),
                optax.scale(-1.0))

The learning rate is a factor inside `scale_by_growth` and `scale_by_layer_rms`: the scalar factors of a parameter are
multiplied first, then the array once.
"""

import math
from collections.abc import Collection, Iterable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from research.config.optimizer import Parameter
from research.parallel.rules import Tree, flatten, map_by_path, unflatten

Known = Mapping[str, Parameter]  # by path
Rate = float | Float[Array, ""]

SQUARE_FLOOR = 1e-30  # Adafactor's first epsilon, added to the squared gradient
SCALE_FLOOR = 1e-3  # its second: lower bound of the root mean square by which a step is scaled


# --- Scales -----------------------------------------------------------------------------------------------------------


def scale_by_growth(parameters: Known, power: float, rate: Rate = 1.0) -> optax.GradientTransformation:
    """Multiply each update by muP's factor, rate * growth ** power. In the standard parametrization growth is 1.

    The power is -1 if the length of a step does not depend on the gradient's size (Adam, Lion). It is -0.5 if the step
    is scaled by the root mean square of the matrix, which already has half of that power
    (research/model/parametrization.py).
    """

    def scaled(path: str, update: Array) -> Array:
        return rate * parameters[path].growth ** power * update

    return optax.stateless(lambda updates, _: map_by_path(scaled, updates))


def scale_by_layer_rms(parameters: Known, power: float, rate: Rate = 1.0) -> optax.GradientTransformation:
    """Multiply each layer's update by rate * growth ** power * max(1e-3 * growth ** power, RMS of its parameter)."""

    def scaled(path: str, update: Array, param: Array) -> Array:
        factor = parameters[path].growth ** power
        return rate * factor * jnp.maximum(_rms(param, parameters[path]), SCALE_FLOOR * factor) * update

    return optax.stateless(lambda updates, params: map_by_path(scaled, updates, params))


def scale_by_layer_trust(
    parameters: Known, decayed: Collection[str], weight_decay: float, rate: Rate = 1.0
) -> optax.GradientTransformation:
    """Add weight decay and multiply each layer's update by rate * growth ** -0.5 * LAMB's trust ratio.

    The ratio is the parameter's norm over the update's, or 1 if either is 0. Parameters that are not `decayed` have no
    decay and no ratio; their updates are multiplied by rate / growth.
    """

    def scaled(path: str, update: Array, param: Array) -> Array:
        known = parameters[path]
        if path not in decayed:
            return rate / known.growth * update
        update = update + weight_decay * param
        size, step = _rms(param, known), _rms(update, known)
        ratio = jnp.where((size > 0) & (step > 0), size / jnp.where(step > 0, step, 1.0), 1.0)
        return rate * known.growth**-0.5 * ratio * update

    return optax.stateless(lambda updates, params: map_by_path(scaled, updates, params))


def clip_by_layer_rms(parameters: Known, threshold: float) -> optax.GradientTransformation:
    """Divide each layer's update by max(1, its RMS / threshold), as Adafactor does."""

    def clipped(path: str, update: Array) -> Array:
        return update / jnp.maximum(1.0, _rms(update, parameters[path]) / threshold)

    return optax.stateless(lambda updates, _: map_by_path(clipped, updates))


def _rms(values: Array, parameter: Parameter) -> Array:
    """Compute the root mean square of each layer's parameter; averaged axes are kept with size 1."""
    return jnp.sqrt(_mean(jnp.square(values), parameter.of_layer))


def _mean(values: Array, axes: tuple[int, ...]) -> Array:
    return jnp.mean(values, axis=axes, keepdims=True)


# --- Adafactor's moments ----------------------------------------------------------------------------------------------


class LayerMoments(NamedTuple):
    """Second moments: of rows and columns for factored matrices ([l d 1 1] and [l 1 h k] of [l d h k]), else full."""

    count: Array  # type: ignore[assignment]  # int32, updates made
    row: Tree
    column: Tree
    square: Tree


def scale_by_layer_moments(
    parameters: Known, decay_exponent: float = 0.8, min_factored: int | None = 128
) -> optax.GradientTransformation:
    """Divide gradients by the root of Adafactor's second moments (arXiv:1804.04235), in T5X's order of operations.

    A layer's matrix is factored if its smaller side, with heads and head width joined, is at least `min_factored`; None
    factors nothing. The decay at update t, counted from 1, is 1 - t ** -decay_exponent.
    """

    def is_factored(path: str, shape: tuple[int, ...]) -> bool:
        known = parameters[path]
        if min_factored is None or not known.reads:
            return False
        return min(math.prod(shape[i] for i in side) for side in (known.rows, known.columns)) >= min_factored

    def init(params: Tree) -> LayerMoments:
        row, column, square = {}, {}, {}
        for path, param in flatten(params).items():
            zeros = partial(jnp.zeros_like, param)  # a new array each time, since a buffer can be donated only once
            if is_factored(path, param.shape):
                row[path] = _mean(zeros(), parameters[path].columns)
                column[path] = _mean(zeros(), parameters[path].rows)
            else:
                square[path] = zeros()
        return LayerMoments(jnp.zeros((), jnp.int32), *map(unflatten, (row, column, square)))

    def update(gradients: Tree, state: LayerMoments, params: Tree | None = None) -> tuple[Tree, LayerMoments]:
        kept = 1.0 - (state.count + 1.0) ** -decay_exponent
        rows, columns, squares = flatten(state.row), flatten(state.column), flatten(state.square)
        directions = {}

        def moment(before: Array, mean: Array) -> Array:
            return kept * before + (1.0 - kept) * mean

        for path, gradient in flatten(gradients).items():
            known, square = parameters[path], jnp.square(gradient) + SQUARE_FLOOR
            if path in squares:
                squares[path] = moment(squares[path], square)
                directions[path] = gradient * squares[path] ** -0.5
                continue
            rows[path] = row = moment(rows[path], _mean(square, known.columns))
            columns[path] = column = moment(columns[path], _mean(square, known.rows))
            directions[path] = gradient * (row / _mean(row, known.rows)) ** -0.5 * column**-0.5
        return unflatten(directions), LayerMoments(state.count + 1, *map(unflatten, (rows, columns, squares)))

    return optax.GradientTransformation(init, update)


# --- Adam -------------------------------------------------------------------------------------------------------------


def scale_by_early_epsilon_adam(b1: float, b2: float, epsilon: float) -> optax.GradientTransformation:
    """Scale by Adam with epsilon added to the second moment before bias correction.

    This is the variant at the end of section 2 of arXiv:1412.6980.
    """

    def update(
        gradients: Tree, state: optax.ScaleByAdamState, params: Tree | None = None
    ) -> tuple[Tree, optax.ScaleByAdamState]:
        corrected = epsilon * (jax.lax.rsqrt(1.0 - b2 ** (state.count + 1.0)))
        return optax.scale_by_adam(b1, b2, corrected).update(gradients, state, params)

    return optax.GradientTransformation(optax.scale_by_adam(b1, b2).init, update)


# --- Chains -----------------------------------------------------------------------------------------------------------

KINDS = {"mu": "mean", "nu": "square", "ema": "momentum"}  # names of statistics in optax, and in checkpoints


def chain_by_kind(*steps: optax.GradientTransformation) -> optax.GradientTransformation:
    """Chain transformations; their joint state is one dict of statistics by kind: {"count": ..., "mean": ...}.

    The state of each must be a named tuple. A kind that two of them have, such as `count`, must be equal in both.
    `update` needs the parameters.
    """

    def init(params: Tree) -> dict[str, Any]:
        return _by_kind(step.init(params) for step in steps)

    def update(updates: Tree, state: dict[str, Any], params: Tree | None = None) -> tuple[Tree, dict[str, Any]]:
        after = []
        for step in steps:
            own = jax.eval_shape(step.init, params)
            kinds = {field: KINDS.get(field, field) for field in own._fields}
            own = own._replace(**{field: state[kind] for field, kind in kinds.items() if kind in state})
            updates, own = step.update(updates, own, params)
            after.append(own)
        return updates, _by_kind(after)

    return optax.GradientTransformation(init, update)


def _by_kind(states: Iterable[Any]) -> dict[str, Any]:
    """Merge the fields of states, without those that have no array."""
    fields = {KINDS.get(field, field): value for state in states for field, value in state._asdict().items()}
    return {kind: value for kind, value in fields.items() if jax.tree.leaves(value)}
