"""The best evaluation of a run so far."""

import math
from collections.abc import Mapping
from typing import NamedTuple


class Best(NamedTuple):
    """The best evaluation so far, by the score `name`. It is in every checkpoint, so that a resumed run keeps count."""

    name: str
    value: float | None = None  # None before the first finite score
    step: int = 0
    since: int = 0  # number of evaluations after the best

    def after(self, step: int, scores: Mapping[str, float], valid: bool = True) -> "Best":
        """Add an evaluation. It cannot become the best if it is not `valid` or its score is not finite."""
        value = scores[self.name]
        better = self.value is None or merit(self.name, value) > merit(self.name, self.value)
        if valid and math.isfinite(value) and better:
            return Best(self.name, value, step)
        return self._replace(since=self.since + 1)

    def exhausts(self, patience: int | None) -> bool:
        """Tell whether `patience` evaluations in a row were no better."""
        return patience is not None and self.since >= patience

    def describe(self) -> str:
        """Format the best score and its step, for messages."""
        return f"any {self.name}" if self.value is None else f"{self.name} {self.value:.4g} of step {self.step}"


def merit(name: str, value: float) -> float:
    """Orient a score so that higher is better: only the loss is better when lower."""
    return -value if name == "held_out_loss" else value
