"""Learning rate schedules."""

from dataclasses import dataclass
from typing import Any

from research.config.base import require, require_not_negative, require_positive
from research.config.optimizer import Schedule


@dataclass(frozen=True, kw_only=True)
class Constant(Schedule):
    """Constant rate: the peak, after warm-up."""

    def curve(self, step: Any, steps: int) -> Any:
        import jax.numpy as jnp

        return jnp.float32(self.peak)


@dataclass(frozen=True, kw_only=True)
class Decay(Schedule):
    """Base class of schedules that start at the end of warm-up and reach `final` at the last step of the experiment."""

    final: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require_not_negative("optimizer.schedule.", self, "final")

    def check(self, steps: int) -> None:
        warmup = self.warmup
        require(warmup < steps, f"optimizer.schedule.warmup is {warmup}: it must be below steps, which is {steps}.")

    def progress(self, step: Any, steps: int) -> Any:
        """Compute the fraction of the steps after warm-up that have passed, from 0 to 1."""
        import jax.numpy as jnp

        return jnp.clip((step - self.warmup) / max(steps - 1 - self.warmup, 1), 0.0, 1.0)


@dataclass(frozen=True, kw_only=True)
class Linear(Decay):
    """Linear decay from the peak to `final`."""

    def curve(self, step: Any, steps: int) -> Any:
        return self.peak + (self.final - self.peak) * self.progress(step, steps)


@dataclass(frozen=True, kw_only=True)
class Cosine(Decay):
    """Cosine decay from the peak to `final`, over half a period."""

    def curve(self, step: Any, steps: int) -> Any:
        import jax.numpy as jnp

        return self.final + (self.peak - self.final) * 0.5 * (1.0 + jnp.cos(jnp.pi * self.progress(step, steps)))


@dataclass(frozen=True, kw_only=True)
class InverseSquareRoot(Schedule):
    """Rate peak * sqrt(timescale / max(step, timescale)). T5 pretraining: peak 0.01, timescale 10,000, no warm-up."""

    peak: float = 0.01
    timescale: int = 10_000

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive("optimizer.schedule.", self, "timescale")

    def curve(self, step: Any, steps: int) -> Any:
        import jax.numpy as jnp

        return self.peak * jnp.sqrt(self.timescale / jnp.maximum(step, self.timescale))
