"""Bases of optimizers and of the schedules of their learning rate; those shipped are in research/train/."""

import math
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from research.config.base import require, require_not_negative
from research.config.parts import Part

if TYPE_CHECKING:
    import optax


class Parameter(NamedTuple):
    """One parameter as optimizers know it, by the parameters' table (research/model/parameters.py)."""

    axes: str  # a letter for each stored axis, "ldhk"; l counts the layers of a stack
    reads: str  # the axes that a product with a matrix sums over, "d"; empty for what is no matrix
    growth: float = 1.0  # muP: how many times as many features a hidden matrix reads as its base's; else 1

    @property
    def of_layer(self) -> tuple[int, ...]:
        """Positions of the axes of one layer's parameter: all but l."""
        return tuple(i for i, axis in enumerate(self.axes) if axis != "l")

    @property
    def rows(self) -> tuple[int, ...]:
        """Positions of the axes that are the rows of a layer's matrix: those read."""
        return tuple(i for i in self.of_layer if self.axes[i] in self.reads)

    @property
    def columns(self) -> tuple[int, ...]:
        """Positions of the axes that are its columns: those written. Empty for what is no matrix."""
        return tuple(i for i in self.of_layer if self.reads and self.axes[i] not in self.reads)


@dataclass(frozen=True, kw_only=True)
class Schedule(Part):
    """The learning rate by step: linear warm-up, times the `curve` that a subclass has.

    A schedule that falls by a tenth every thousand steps:

        @dataclass(frozen=True, kw_only=True)
        class Staircase(Schedule):
            every: int = 1000
            factor: float = 0.1

            def curve(self, step, steps):
                import jax.numpy as jnp

                return self.peak * self.factor ** jnp.floor(step / self.every)
    """

    peak: float  # the learning rate that the curve starts from
    warmup: int = 0  # steps of linear rise to the curve
    warmup_start: float = 0.0  # the share of it that the rise starts from

    def __post_init__(self) -> None:
        require_not_negative("optimizer.schedule.", self, "peak", "warmup")
        start = self.warmup_start
        require(0 <= start <= 1, f"optimizer.schedule.warmup_start is {start}: a share of the peak, from 0 to 1.")

    @abstractmethod
    def curve(self, step: Any, steps: int) -> Any:
        """Give the learning rate without warm-up, a float32 scalar in jax.numpy.

        `step` is a float32 scalar, counted from 0, of the steps that the run has taken, skipped ones too; `steps` is
        the experiment's number of them. Called while the training step is traced.
        """

    def check(self, steps: int) -> None:
        """Raise a ConfigError, by `require`, if an experiment of so many steps cannot have this schedule."""


@dataclass(frozen=True, kw_only=True)
class Optimizer(Part):
    """The base of optimizers: an optax transformation, and what every optimizer has.

    One step does this, in float32, on the parameters that are trained:

        gradient of the mean loss a target token -> clip_norm -> transformation -> decayed -> new parameters

    A subclass has one method, `transformation`. Lion (arXiv:2302.06675), of optax, in an experiment's file:

        @dataclass(frozen=True, kw_only=True)
        class Lion(Optimizer):
            b1: float = 0.9
            b2: float = 0.99

            def transformation(self, rate, parameters):
                import optax

                return optax.lion(rate, self.b1, self.b2, weight_decay=0.0)  # decay is the base's


        def get_config() -> Experiment:
            return Experiment(
                ...,
                optimizer=Lion(schedule=Cosine(peak=1e-4, warmup=100), weight_decay=1.0, clip_norm=1.0),
            )

    For muP it would be this, as Lion's steps are as long whatever the gradient's size:

        @dataclass(frozen=True, kw_only=True)
        class Lion(Optimizer):
            scales_by_growth = True

            def transformation(self, rate, parameters):
                import optax
                from research.train.transformations import scale_by_growth

                direction = optax.scale_by_lion(0.9, 0.99)
                return optax.chain(direction, scale_by_growth(parameters, -1.0, rate), optax.scale(-1.0))

    Patterns are regular expressions searched in parameter paths; each must match one.
    """

    schedule: Schedule
    clip_norm: float | None = None  # global norm of the gradient
    weight_decay: float = 0.0
    no_decay: tuple[str, ...] = (r"norm", r"bias")
    frozen: tuple[str, ...] = ()

    # Whether the transformation multiplies steps by powers of `Parameter.growth`, without which muP is refused.
    scales_by_growth: ClassVar[bool] = False

    def __post_init__(self) -> None:
        clip = self.clip_norm
        require(clip is None or 0 < clip < math.inf, f"optimizer.clip_norm is {clip}: it must be above 0, or None.")
        require_not_negative("optimizer.", self, "weight_decay")

    @abstractmethod
    def transformation(self, rate: Any, parameters: Mapping[str, Parameter]) -> "optax.GradientTransformation":
        """Give the optax transformation from gradients to what is added to the parameters.

        `rate` is the learning rate of this step, a float32 scalar that is traced: it is the schedule's at the step of
        the run, so skipped updates do not shift it. `parameters` has an entry for each parameter by its path.

        Gradients, parameters and updates are nested dicts of float32 arrays of the parameters' shapes, layers stacked
        along the first axis. The state may be any pytree of arrays that keeps its structure and shapes. It is saved
        in checkpoints. A leaf of it under a parameter's path, of that parameter's shape or with some axes of size 1,
        is sharded as the parameter is; others are whole on every device.

        Called while the training step is traced, and to make the state, which must not depend on the rate.
        """

    def decayed(self, param: Any, update: Any, rate: Any, weight_decay: float) -> Any:
        """Give the new parameter, an array, after its update and weight decay, which is 0 where no_decay matches.

        Decoupled decay (arXiv:1711.05101): by rate * weight_decay of the parameter before the update.
        """
        return param + update - rate * weight_decay * param
