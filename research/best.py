"""The best evaluation so far: what a checkpoint is kept for, and what patience counts from."""

import math
from collections.abc import Mapping
from typing import NamedTuple


class Best(NamedTuple):
    """By the number `name`. Kept in every checkpoint, so that a run that goes on counts as if it had not stopped."""

    name: str
    value: float | None = None  # None before the first finite one
    step: int = 0
    since: int = 0  # evaluations after it

    def after(self, step: int, scores: Mapping[str, float], valid: bool = True) -> "Best":
        """With one evaluation more, which cannot be the best where it is not `valid` or its number not finite."""
        value = scores[self.name]
        better = self.value is None or merit(self.name, value) > merit(self.name, self.value)
        if valid and math.isfinite(value) and better:
            return Best(self.name, value, step)
        return self._replace(since=self.since + 1)

    def exhausts(self, patience: int | None) -> bool:
        return patience is not None and self.since >= patience

    def said(self) -> str:
        return f"any {self.name}" if self.value is None else f"{self.name} {self.value:.4g} of step {self.step}"


def merit(name: str, value: float) -> float:
    """More is better. Of all numbers only the loss is better when lower."""
    return -value if name == "held_out_loss" else value
