"""The search for the best variant: ranges of fields, sampler and pruning.

    def search():
        return Search({"optimizer.schedule.peak": LogRange(1e-4, 1e-1), "model.dropout": Range(0.0, 0.3)})

The experiment's evaluation.best is the metric that is optimised.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from research.config.base import require, require_not_negative, require_positive


@dataclass(frozen=True)
class Range:
    """Numbers from low to high, both included; integers if both are integers (1, not 1.0)."""

    low: float | int
    high: float | int

    def __post_init__(self) -> None:
        _check_ends("Range", self.low, self.high)


@dataclass(frozen=True)
class LogRange:
    """Log-uniform numbers from low to high."""

    low: float | int
    high: float | int

    def __post_init__(self) -> None:
        _check_ends("LogRange", self.low, self.high)
        require(self.low > 0, f"LogRange({self.low}, {self.high}): its ends must be above 0.")


@dataclass(frozen=True)
class Choice:
    """One of several values, which are config objects, or text as on the command line."""

    of: tuple[Any, ...]

    def __post_init__(self) -> None:
        require(len(self.of) > 0, "Choice(()): give at least one value.")
        texts = [str(value) for value in self.of]
        require(len(set(texts)) == len(texts), f"Choice({self.of}): its values must differ.")


def _check_ends(name: str, low: float | int, high: float | int) -> None:
    numbers = all(type(end) in (int, float) for end in (low, high))
    require(numbers and math.isfinite(low) and math.isfinite(high), f"{name}({low!r}, {high!r}): both must be numbers.")
    require(low < high, f"{name}({low}, {high}): the first must be below the second.")


@dataclass(frozen=True)
class TPE:
    """The tree-structured Parzen estimator (Bergstra et al. 2011)."""

    random_trials: int = 10  # random trials before the estimator is used

    def __post_init__(self) -> None:
        require_positive("sampler.", self, "random_trials")


@dataclass(frozen=True)
class Random:
    """Random search: independent trials."""


@dataclass(frozen=True)
class Median:
    """Pruning of trials worse than the median of the finished trials at the same step."""

    finished: int = 5  # trials that must finish before any is stopped
    warmup: int = 0  # steps in which a trial is never stopped

    def __post_init__(self) -> None:
        require_positive("pruning.", self, "finished")
        require_not_negative("pruning.", self, "warmup")


@dataclass(frozen=True)
class SuccessiveHalving:
    """Pruning to the best 1 / factor of trials at steps `first`, `first * factor`, ... (ASHA, Li et al. 2018)."""

    first: int  # step
    factor: int = 4

    def __post_init__(self) -> None:
        require_positive("pruning.", self, "first")
        require(self.factor > 1, f"pruning.factor is {self.factor}: it must be above 1.")


@dataclass(frozen=True)
class Hyperband:
    """Pruning by successive halvings with several first steps, the earliest of them `first` (Li et al. 2016)."""

    first: int  # step
    factor: int = 3

    def __post_init__(self) -> None:
        require_positive("pruning.", self, "first")
        require(self.factor > 1, f"pruning.factor is {self.factor}: it must be above 1.")


@dataclass(frozen=True)
class Search:
    """A search over ranges of fields, with a sampler and optional pruning."""

    ranges: Mapping[str, Range | LogRange | Choice]  # by dotted names of fields
    sampler: TPE | Random = TPE()
    pruning: Median | SuccessiveHalving | Hyperband | None = None
    seed: int = 0  # of the sampler

    def __post_init__(self) -> None:
        require(len(self.ranges) > 0, "search.ranges is empty: it must name at least one field.")
        for name, space in self.ranges.items():
            known = isinstance(space, Range | LogRange | Choice)
            require(known, f"search.ranges[{name!r}] is {space!r}: it must be Range, LogRange or Choice.")
        fixed = [name for name in self.ranges if name.split(".")[0] in ("evaluation", "steps")]
        message = f"search.ranges names {', '.join(fixed)}: all trials must have the same steps and evaluation."
        require(not fixed, message)
        known = isinstance(self.sampler, TPE | Random)
        require(known, f"search.sampler is {self.sampler!r}: it must be TPE or Random.")
        require(
            self.pruning is None or isinstance(self.pruning, Median | SuccessiveHalving | Hyperband),
            f"search.pruning is {self.pruning!r}: it must be Median, SuccessiveHalving, Hyperband or None.",
        )
        require_not_negative("search.", self, "seed")
