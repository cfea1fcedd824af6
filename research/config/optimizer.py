"""The bases of optimizers and learning-rate schedules; the shipped ones are in research/train/."""

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
    """One parameter's axes and growth, for optimizers, from the table in research/model/parameters.py."""

    axes: str  # one letter per stored axis, "ldhk"; l is the layers of a stack
    reads: str  # the axes that a product with the matrix sums over, "d"; empty if not a matrix
    growth: float = 1.0  # muP: fan-in of a hidden matrix over that in the base model; 1 for others

    @property
    def of_layer(self) -> tuple[int, ...]:
        """Indices of the axes of one layer's parameter: all but l."""
        return tuple(i for i, axis in enumerate(self.axes) if axis != "l")

    @property
    def rows(self) -> tuple[int, ...]:
        """Indices of the axes that are the rows of a layer's matrix: the axes read."""
        return tuple(i for i in self.of_layer if self.axes[i] in self.reads)

    @property
    def columns(self) -> tuple[int, ...]:
        """Indices of the axes that are its columns: the axes written. Empty if not a matrix."""
        return tuple(i for i in self.of_layer if self.reads and self.axes[i] not in self.reads)


@dataclass(frozen=True, kw_only=True)
class Schedule(Part):
    """The learning rate by step: linear warm-up, times the `curve` of a subclass.

    For example, a schedule that divides by ten every thousand steps:

        @dataclass(frozen=True, kw_only=True)
        class Staircase(Schedule):
            every: int = 1000
            factor: float = 0.1

            def curve(self, step, steps):
                import jax.numpy as jnp

                return self.peak * self.factor ** jnp.floor(step / self.every)
    """

    peak: float  # learning rate at the start of the curve
    warmup: int = 0  # steps of linear rise to the curve
    warmup_start: float = 0.0  # share of the curve at which warm-up starts

    def __post_init__(self) -> None:
        require_not_negative("optimizer.schedule.", self, "peak", "warmup")
        start = self.warmup_start
        require(0 <= start <= 1, f"optimizer.schedule.warmup_start is {start}: it must be a share from 0 to 1.")

    @abstractmethod
    def curve(self, step: Any, steps: int) -> Any:
        """Compute the learning rate without warm-up, a float32 scalar in jax.numpy.

        `step` is the number of earlier steps, including skipped ones, as a float32 scalar; `steps` is the experiment's
        number of steps. Called while the training step is traced.
        """

    def check(self, steps: int) -> None:
        """Raise ConfigError, by `require`, if the schedule is not valid for an experiment of `steps` steps."""


@dataclass(frozen=True, kw_only=True)
class Optimizer(Part):
    """The base of optimizers: an optax transformation, gradient clipping, and weight decay.

    One step, in float32, on the parameters that are not frozen:

        gradient of the mean loss per target token -> clip_norm -> transformation -> decayed -> new parameters

    A subclass defines one method, `transformation`. For example, optax's Lion (arXiv:2302.06675):

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

    With muP it would be this, since Lion's updates do not depend on the gradient's scale:

        @dataclass(frozen=True, kw_only=True)
        class Lion(Optimizer):
            scales_by_growth = True

            def transformation(self, rate, parameters):
                import optax
                from research.train.transformations import scale_by_growth

                direction = optax.scale_by_lion(0.9, 0.99)
                return optax.chain(direction, scale_by_growth(parameters, -1.0, rate), optax.scale(-1.0))

    Patterns are regular expressions that are searched in parameter paths; each must match at least one.
    """

    schedule: Schedule
    clip_norm: float | None = None  # maximum global norm of the gradient
    weight_decay: float = 0.0
    no_decay: tuple[str, ...] = (r"norm", r"bias")
    frozen: tuple[str, ...] = ()

    # Whether the transformation multiplies updates by powers of `Parameter.growth`, as muP requires.
    scales_by_growth: ClassVar[bool] = False

    def __post_init__(self) -> None:
        clip = self.clip_norm
        require(clip is None or 0 < clip < math.inf, f"optimizer.clip_norm is {clip}: it must be above 0, or None.")
        require_not_negative("optimizer.", self, "weight_decay")

    @abstractmethod
    def transformation(self, rate: Any, parameters: Mapping[str, Parameter]) -> "optax.GradientTransformation":
        """Return the optax transformation from gradients to updates, which are added to the parameters.

        `rate` is the learning rate of this step, a traced float32 scalar. It follows the steps of the run, so skipped
        updates do not delay the schedule. `parameters` has an entry for each parameter by its path.

        Gradients, parameters and updates are nested dicts of float32 arrays of the parameters' shapes, with layers
        stacked along the first axis. The state may be any pytree of arrays with constant structure and shapes. It is
        saved in checkpoints. A leaf under a parameter's path, with that parameter's shape or some axes of size 1, is
        sharded as the parameter; other leaves are replicated.

        Called while the training step is traced, and to make the state, which must not depend on the rate.
        """

    def decayed(self, param: Any, update: Any, rate: Any, weight_decay: float) -> Any:
        """Compute a new parameter, an array, from its update and `weight_decay`, which is 0 if no_decay matches.

        The decay is decoupled (arXiv:1711.05101): rate * weight_decay times the parameter before the update.
        """
        return param + update - rate * weight_decay * param
