"""Optimizers and the schedules of their learning rate."""

import math
from dataclasses import dataclass
from typing import NamedTuple

from research.config.base import require, require_not_negative, require_positive


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
class Warmup:
    """Steps of linear rise to the peak, from `warmup_start` of it."""

    peak: float
    warmup: int = 0
    warmup_start: float = 0.0

    def __post_init__(self) -> None:
        require_not_negative("optimizer.schedule.", self, "peak", "warmup")
        start = self.warmup_start
        require(0 <= start <= 1, f"optimizer.schedule.warmup_start is {start}: a share of the peak, from 0 to 1.")


@dataclass(frozen=True, kw_only=True)
class Constant(Warmup):
    pass


@dataclass(frozen=True, kw_only=True)
class Decay(Warmup):
    final: float = 0.0  # reached at the experiment's last step

    def __post_init__(self) -> None:
        super().__post_init__()
        require_not_negative("optimizer.schedule.", self, "final")


@dataclass(frozen=True, kw_only=True)
class Linear(Decay):
    pass


@dataclass(frozen=True, kw_only=True)
class Cosine(Decay):
    pass


@dataclass(frozen=True, kw_only=True)
class InverseSquareRoot(Warmup):
    """peak * sqrt(timescale / max(step, timescale)); T5 pretraining is peak 0.01, timescale 10,000, no warm-up."""

    peak: float = 0.01
    timescale: int = 10_000

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive("optimizer.schedule.", self, "timescale")


Schedule = Constant | Linear | Cosine | InverseSquareRoot


@dataclass(frozen=True, kw_only=True)
class Optimizer:
    """What every optimizer has. Patterns are regular expressions searched in parameter paths; each must match one."""

    schedule: Schedule
    clip_norm: float | None = None  # global norm of the gradient
    weight_decay: float = 0.0
    no_decay: tuple[str, ...] = (r"norm", r"bias")
    frozen: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        clip = self.clip_norm
        require(clip is None or 0 < clip < math.inf, f"optimizer.clip_norm is {clip}: it must be above 0, or None.")
        require_not_negative("optimizer.", self, "weight_decay")


@dataclass(frozen=True, kw_only=True)
class Adafactor(Optimizer):
    """As T5X's (arXiv:1804.04235): no momentum, update scaled by the RMS of the parameter and clipped by its own."""

    schedule: Schedule = InverseSquareRoot()
    decay_exponent: float = 0.8  # second-moment decay is 1 - (step + 1) ** -decay_exponent
    clip_update: float = 1.0  # RMS of one parameter's update
    momentum: float | None = None
    factored: bool = True
    min_factored: int = 128  # a matrix with a smaller side keeps its full second moment

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive("optimizer.", self, "decay_exponent", "clip_update", "min_factored")
        momentum = self.momentum
        require(momentum is None or 0 < momentum < 1, f"optimizer.momentum is {momentum}: None, or between 0 and 1.")


@dataclass(frozen=True, kw_only=True)
class Adam(Optimizer):
    """What both kinds of AdamW have."""

    b1: float = 0.9
    b2: float = 0.999
    epsilon: float = 1e-8

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("b1", "b2"):
            value = getattr(self, name)
            require(0 <= value < 1, f"optimizer.{name} is {value}: it must lie in [0, 1).")
        require_positive("optimizer.", self, "epsilon")


@dataclass(frozen=True, kw_only=True)
class AdamW(Adam):
    """Decoupled weight decay (arXiv:1711.05101)."""


@dataclass(frozen=True, kw_only=True)
class RMSScaledAdamW(Adam):
    """AdamW whose step is scaled by max(1e-3, RMS(parameter)): nanoT5's AdamWScale."""

    epsilon: float = 1e-6
