"""Where a search for the best variant looks, and how it goes about it.

    def search():
        return Search({"optimizer.schedule.peak": LogRange(1e-4, 1e-1), "model.dropout": Range(0.0, 0.3)})

What is best is said by the experiment's evaluation.best.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from research.config.base import require, require_not_negative, require_positive


@dataclass(frozen=True)
class Range:
    """Numbers from low to high, both possible; whole ones where both are whole (1, not 1.0)."""

    low: float | int
    high: float | int

    def __post_init__(self) -> None:
        _check_ends("Range", self.low, self.high)


@dataclass(frozen=True)
class LogRange:
    """Numbers of which each order of magnitude is as likely as another."""

    low: float | int
    high: float | int

    def __post_init__(self) -> None:
        _check_ends("LogRange", self.low, self.high)
        require(self.low > 0, f"LogRange({self.low}, {self.high}): its ends must be above 0.")


@dataclass(frozen=True)
class Choice:
    """One of several values: the config's own objects, or text as on the command line."""

    of: tuple[Any, ...]

    def __post_init__(self) -> None:
        require(len(self.of) > 0, "Choice(()): there must be something to choose from.")
        texts = [str(value) for value in self.of]
        require(len(set(texts)) == len(texts), f"Choice({self.of}): each value may be there once.")


def _check_ends(name: str, low: float | int, high: float | int) -> None:
    numbers = all(type(end) in (int, float) for end in (low, high))
    require(numbers and math.isfinite(low) and math.isfinite(high), f"{name}({low!r}, {high!r}): both must be numbers.")
    require(low < high, f"{name}({low}, {high}): the first must be below the second.")


@dataclass(frozen=True)
class TPE:
    """The tree-structured Parzen estimator (Bergstra et al. 2011)."""

    random_trials: int = 10  # before it begins to learn from those there are

    def __post_init__(self) -> None:
        require_positive("sampler.", self, "random_trials")


@dataclass(frozen=True)
class Random:
    """Each trial drawn anew."""


@dataclass(frozen=True)
class Median:
    """Stops a trial that is worse than the median of the finished ones were at the same step."""

    finished: int = 5  # trials before any is stopped
    warmup: int = 0  # steps of a trial in which it is not stopped

    def __post_init__(self) -> None:
        require_positive("pruning.", self, "finished")
        require_not_negative("pruning.", self, "warmup")


@dataclass(frozen=True)
class SuccessiveHalving:
    """At steps `first`, `first * factor`, ... keeps the best of each `factor` trials (ASHA, Li et al. 2018)."""

    first: int  # step
    factor: int = 4

    def __post_init__(self) -> None:
        require_positive("pruning.", self, "first")
        require(self.factor > 1, f"pruning.factor is {self.factor}: it must be above 1.")


@dataclass(frozen=True)
class Hyperband:
    """Successive halvings that begin at several steps, the earliest of them `first` (Li et al. 2016)."""

    first: int  # step
    factor: int = 3

    def __post_init__(self) -> None:
        require_positive("pruning.", self, "first")
        require(self.factor > 1, f"pruning.factor is {self.factor}: it must be above 1.")


@dataclass(frozen=True)
class Search:
    ranges: Mapping[str, Range | LogRange | Choice]  # of fields, by their dotted names
    sampler: TPE | Random = TPE()
    pruning: Median | SuccessiveHalving | Hyperband | None = None
    seed: int = 0  # of the sampler

    def __post_init__(self) -> None:
        require(len(self.ranges) > 0, "search.ranges is empty: it must name at least one field.")
        for name, space in self.ranges.items():
            known = isinstance(space, Range | LogRange | Choice)
            require(known, f"search.ranges[{name!r}] is {space!r}: allowed is Range, LogRange or Choice.")
        aim = [name for name in self.ranges if name.split(".")[0] in ("evaluation", "steps")]
        require(not aim, f"search.ranges names {', '.join(aim)}: trials are compared by what is the same for all.")
        known = isinstance(self.sampler, TPE | Random)
        require(known, f"search.sampler is {self.sampler!r}: allowed is TPE or Random.")
        require(
            self.pruning is None or isinstance(self.pruning, Median | SuccessiveHalving | Hyperband),
            f"search.pruning is {self.pruning!r}: allowed is Median, SuccessiveHalving, Hyperband or None.",
        )
        require_not_negative("search.", self, "seed")
