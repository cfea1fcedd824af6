"""Denoising objectives: how text is broken, and what must be written of it."""

from dataclasses import dataclass

from research.config.base import require


@dataclass(frozen=True)
class SpanCorruption:
    """T5's objective: noise spans become sentinels, the target lists what they hid (arXiv:1910.10683, 3.1.4)."""

    noise_density: float = 0.15
    mean_span_length: float = 3.0

    def __post_init__(self) -> None:
        density, span = self.noise_density, self.mean_span_length
        require(0 < density < 1, f"objective.noise_density is {density}: it must lie between 0 and 1, both excluded.")
        require(span >= 1, f"objective.mean_span_length is {span}: it must be at least 1 token.")


Objective = SpanCorruption
