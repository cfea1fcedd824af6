"""The shipped optimizers: chains of transformations from optax and transformations.py.

Their state is one dict of statistics by kind and then by path of the parameter. `count` is the number of updates made,
which bias correction and Adafactor's decay need.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from research.config.base import require, require_positive
from research.config.optimizer import Optimizer, Parameter, Schedule
from research.train.schedules import InverseSquareRoot

if TYPE_CHECKING:
    import optax


@dataclass(frozen=True, kw_only=True)
class Adafactor(Optimizer):
    """T5X's Adafactor (arXiv:1804.04235), without momentum.

    Updates are scaled by the RMS of the parameter and clipped by their own RMS.
    """

    schedule: Schedule = InverseSquareRoot()
    decay_exponent: float = 0.8  # second-moment decay is 1 - (step + 1) ** -decay_exponent
    clip_update: float = 1.0  # RMS of one parameter's update
    momentum: float | None = None
    factored: bool = True
    min_factored: int = 128  # a matrix with a smaller side keeps its full second moment

    scales_by_growth: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive("optimizer.", self, "decay_exponent", "clip_update", "min_factored")
        momentum = self.momentum
        require(momentum is None or 0 < momentum < 1, f"optimizer.momentum is {momentum}: None, or between 0 and 1.")

    def transformation(self, rate: Any, parameters: Mapping[str, Parameter]) -> "optax.GradientTransformation":
        import optax

        from research.train import transformations as own

        return own.chain_by_kind(
            own.scale_by_layer_moments(parameters, self.decay_exponent, self.min_factored if self.factored else None),
            own.clip_by_layer_rms(parameters, self.clip_update),
            own.scale_by_layer_rms(parameters, -0.5, rate),
            *(() if self.momentum is None else (optax.ema(self.momentum, debias=False),)),
            optax.scale(-1.0),
        )

    def decayed(self, param: Any, update: Any, rate: Any, weight_decay: float) -> Any:
        """Apply an update and weight decay, which is not scaled by the learning rate, as in T5X."""
        return (1.0 - weight_decay) * param + update


@dataclass(frozen=True, kw_only=True)
class Adam(Optimizer):
    """Base class of AdamW, RMSScaledAdamW and LAMB."""

    b1: float = 0.9
    b2: float = 0.999
    epsilon: float = 1e-8

    scales_by_growth: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("b1", "b2"):
            value = getattr(self, name)
            require(0 <= value < 1, f"optimizer.{name} is {value}: it must lie in [0, 1).")
        require_positive("optimizer.", self, "epsilon")


@dataclass(frozen=True, kw_only=True)
class AdamW(Adam):
    """Adam with decoupled weight decay (arXiv:1711.05101)."""

    def transformation(self, rate: Any, parameters: Mapping[str, Parameter]) -> "optax.GradientTransformation":
        import optax

        from research.train import transformations as own

        return own.chain_by_kind(
            optax.scale_by_adam(self.b1, self.b2, self.epsilon),
            own.scale_by_growth(parameters, -1.0, rate),
            optax.scale(-1.0),
        )


@dataclass(frozen=True, kw_only=True)
class LAMB(Adam):
    """Adam with steps as long as the parameter, for large batches (You et al., arXiv:1904.00962).

    The step of a layer's parameter, weight decay included, is scaled by the norm of the parameter over that of the
    step. Parameters that no_decay matches take Adam's steps.
    """

    b2: float = 0.98
    epsilon: float = 1e-6

    def transformation(self, rate: Any, parameters: Mapping[str, Parameter]) -> "optax.GradientTransformation":
        import optax

        from research.train import transformations as own

        decayed = {path for path in parameters if not any(re.search(pattern, path) for pattern in self.no_decay)}
        return own.chain_by_kind(
            optax.scale_by_adam(self.b1, self.b2, self.epsilon),
            own.scale_by_layer_trust(parameters, decayed, self.weight_decay, rate),
            optax.scale(-1.0),
        )

    def decayed(self, param: Any, update: Any, rate: Any, weight_decay: float) -> Any:
        """Apply an update, which has the weight decay."""
        return param + update


@dataclass(frozen=True, kw_only=True)
class RMSScaledAdamW(Adam):
    """AdamW with steps scaled by max(1e-3, RMS(parameter)): nanoT5's AdamWScale.

    As in nanoT5 (github.com/PiotrNawrot/nanoT5, arXiv:2309.02373), epsilon is added to the second moment before bias
    correction, and weight decay acts on the parameter after the step.
    """

    epsilon: float = 1e-6

    def transformation(self, rate: Any, parameters: Mapping[str, Parameter]) -> "optax.GradientTransformation":
        import optax

        from research.train import transformations as own

        return own.chain_by_kind(
            own.scale_by_early_epsilon_adam(self.b1, self.b2, self.epsilon),
            own.scale_by_layer_rms(parameters, -0.5, rate),
            optax.scale(-1.0),
        )

    def decayed(self, param: Any, update: Any, rate: Any, weight_decay: float) -> Any:
        stepped = param + update
        return stepped - rate * weight_decay * stepped
