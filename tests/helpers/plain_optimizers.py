"""The shipped optimizers written as one plain function each, parameter by parameter, without optax's chains.

These formulas trained the runs before the optimizers became chains of optax's transformations. They take and return
flat dicts by path; a key of the state is a kind and a path, as in checkpoints.
"""

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from research import Adafactor, RMSScaledAdamW

Flat = dict[str, Any]


class PlainOptimizer:
    """An optimizer: `init` takes parameters; `update` takes gradients, state, parameters and the learning rate.

    Layouts have one letter for each axis: l counts layers, r and c are rows and columns of a layer's matrix, and .
    is an axis of a parameter that is not a matrix.
    """

    def __init__(
        self, settings: Any, layouts: Mapping[str, str], growth: Mapping[str, float], decay: Mapping[str, float]
    ) -> None:
        self.settings, self.layouts, self.decay = settings, layouts, decay
        self.adafactor, self.scaled = isinstance(settings, Adafactor), isinstance(settings, RMSScaledAdamW)
        exponent = -0.5 if self.adafactor or self.scaled else -1.0
        self.factors = {path: grown**exponent for path, grown in growth.items()}

    def is_factored(self, layout: str, shape: tuple[int, ...]) -> bool:
        if not self.settings.factored or "r" not in layout:
            return False
        sides = (math.prod(size for size, axis in zip(shape, layout, strict=True) if axis == side) for side in "rc")
        return min(sides) >= self.settings.min_factored

    def init(self, params: Flat) -> Flat:
        state: Flat = {"count": jnp.zeros((), jnp.int32)}
        for path, param in params.items():
            layout, zeros = self.layouts[path], jnp.zeros_like(param)
            if not self.adafactor:
                state |= {f"mean/{path}": zeros, f"square/{path}": zeros}
            elif self.is_factored(layout, param.shape):
                state |= {f"row/{path}": mean(zeros, layout, "c"), f"column/{path}": mean(zeros, layout, "r")}
            else:
                state[f"square/{path}"] = zeros
            if self.adafactor and self.settings.momentum is not None:
                state[f"momentum/{path}"] = zeros
        return state

    def update(self, gradients: Flat, state: Flat, params: Flat, rate: Any) -> tuple[Flat, Flat]:
        if self.settings.clip_norm is not None:
            gradients, _ = optax.clip_by_global_norm(self.settings.clip_norm).update(gradients, optax.EmptyState())
        return (self.by_adafactor if self.adafactor else self.by_adam)(gradients, state, params, rate)

    def by_adafactor(self, gradients: Flat, state: Flat, params: Flat, rate: Any) -> tuple[Flat, Flat]:
        settings, new_params, new = self.settings, {}, {"count": state["count"] + 1}
        kept = 1.0 - (state["count"] + 1.0) ** -settings.decay_exponent
        for path, param in params.items():
            layout, gradient, factor = self.layouts[path], gradients[path], self.factors[path]
            square = jnp.square(gradient) + 1e-30
            if f"square/{path}" in state:
                new[f"square/{path}"] = full = kept * state[f"square/{path}"] + (1.0 - kept) * square
                direction = gradient * full**-0.5
            else:
                row = kept * state[f"row/{path}"] + (1.0 - kept) * mean(square, layout, "c")
                column = kept * state[f"column/{path}"] + (1.0 - kept) * mean(square, layout, "r")
                new |= {f"row/{path}": row, f"column/{path}": column}
                direction = gradient * (row / mean(row, layout, "r")) ** -0.5 * column**-0.5
            direction /= jnp.maximum(1.0, rms(direction, layout) / settings.clip_update)
            change = rate * factor * jnp.maximum(rms(param, layout), 1e-3 * factor) * direction
            if settings.momentum is not None:
                change = settings.momentum * state[f"momentum/{path}"] + (1.0 - settings.momentum) * change
                new[f"momentum/{path}"] = change
            new_params[path] = (1.0 - self.decay[path]) * param - change
        return new_params, new

    def by_adam(self, gradients: Flat, state: Flat, params: Flat, rate: Any) -> tuple[Flat, Flat]:
        settings, scaled = self.settings, self.scaled
        moments = ({path: state[f"{kind}/{path}"] for path in params} for kind in ("mean", "square"))
        early = jax.lax.rsqrt(1.0 - settings.b2 ** (state["count"] + 1.0)) if scaled else 1.0
        adam = optax.scale_by_adam(settings.b1, settings.b2, settings.epsilon * early)
        directions, after = adam.update(gradients, optax.ScaleByAdamState(state["count"], *moments))
        new_params, new = {}, {"count": after.count}
        for path, param in params.items():
            factor = self.factors[path]
            scale = jnp.maximum(rms(param, self.layouts[path]), 1e-3 * factor) if scaled else 1.0
            stepped = param - rate * factor * scale * directions[path]
            new_params[path] = stepped - rate * self.decay[path] * (stepped if scaled else param)
            new |= {f"mean/{path}": after.mu[path], f"square/{path}": after.nu[path]}
        return new_params, new


def mean(values: Any, layout: str, averaged: str) -> Any:
    return jnp.mean(values, axis=tuple(i for i, axis in enumerate(layout) if axis in averaged), keepdims=True)


def rms(values: Any, layout: str) -> Any:
    return jnp.sqrt(mean(jnp.square(values), layout, "rc."))
