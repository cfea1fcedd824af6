"""Schedules of the learning rate."""

from dataclasses import dataclass
from typing import Any

from research.config.base import require, require_not_negative, require_positive
from research.config.optimizer import Schedule


@dataclass(frozen=True, kw_only=True)
class Constant(Schedule):
    """The peak, from the end of warm-up on."""

    def curve(self, step: Any, steps: int) -> Any:
        import jax.numpy as jnp

        return jnp.float32(self.peak)


@dataclass(frozen=True, kw_only=True)
class Decay(Schedule):
    """The base of schedules that start where warm-up ends and reach `final` at the experiment's last step."""

    final: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require_not_negative("optimizer.schedule.", self, "final")

    def check(self, steps: int) -> None:
        warmup = self.warmup
        require(warmup < steps, f"optimizer.schedule.warmup is {warmup}: it must be below steps, which is {steps}.")

    def progress(self, step: Any, steps: int) -> Any:
        """The share of the steps after warm-up that have passed, from 0 to 1."""
        import jax.numpy as jnp

        return jnp.clip((step - self.warmup) / max(steps - 1 - self.warmup, 1), 0.0, 1.0)


@dataclass(frozen=True, kw_only=True)
class Linear(Decay):
    """A straight line from the peak to `final`."""

    def curve(self, step: Any, steps: int) -> Any:
        return self.peak + (self.final - self.peak) * self.progress(step, steps)


@dataclass(frozen=True, kw_only=True)
class Cosine(Decay):
    """Half a wave from the peak to `final`."""

    def curve(self, step: Any, steps: int) -> Any:
        import jax.numpy as jnp

        return self.final + (self.peak - self.final) * 0.5 * (1.0 + jnp.cos(jnp.pi * self.progress(step, steps)))


@dataclass(frozen=True, kw_only=True)
class InverseSquareRoot(Schedule):
    """peak * sqrt(timescale / max(step, timescale)); T5 pretraining is peak 0.01, timescale 10,000, no warm-up."""

    peak: float = 0.01
    timescale: int = 10_000

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive("optimizer.schedule.", self, "timescale")

    def curve(self, step: Any, steps: int) -> Any:
        import jax.numpy as jnp

        return self.peak * jnp.sqrt(self.timescale / jnp.maximum(step, self.timescale))
