"""Learning-rate sweeps: the best rate at each width of a model, from finished runs at several rates."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from research.config import Model, require
from research.report.comparison import Group, compared
from research.report.plot import plot_panels
from research.report.record import RunRecord
from research.report.table import Cell, Table

RATE, WIDTH, PARAMETRIZATION = "optimizer.schedule.peak", "model.width", "model.parametrization"
# Fields that may differ between runs: the rate, the width with its dependent sizes, and the parametrization.
MAY_DIFFER = (RATE, WIDTH, "model.heads", "model.head_width", "model.feed_forward")


class RateCurve(NamedTuple):
    """The losses of one model at its learning rates; infinite if a run was not finite."""

    parametrization: str
    width: int
    losses: dict[float, float]  # mean over seeds by rate, in ascending order of the rates

    @property
    def best(self) -> float:
        """The tried rate with the lowest loss."""
        return min(self.losses, key=self.losses.__getitem__)

    @property
    def optimum(self) -> float | None:
        """The minimum of a parabola, in log rate, through the best rate and its two neighbours.

        None if the best rate is the lowest or the highest tried, or if a neighbour's loss is not finite.
        """
        rates = list(self.losses)
        position = rates.index(self.best)
        near = rates[max(position - 1, 0) : position + 2]
        losses = [self.losses[rate] for rate in near]
        if position == 0 or len(near) < 3 or not all(map(math.isfinite, losses)):
            return None
        square, linear, _ = np.polyfit(np.log(near) - math.log(self.best), losses, 2)
        return self.best * math.exp(-0.5 * linear / square) if square > 0 else self.best

    def within(self, distance: float) -> tuple[float, float]:
        """Return the ends of the range of rates around the best with losses at most `distance` above the lowest."""
        rates = list(self.losses)
        limit = self.losses[self.best] + distance
        low = high = rates.index(self.best)
        while low > 0 and self.losses[rates[low - 1]] <= limit:
            low -= 1
        while high < len(rates) - 1 and self.losses[rates[high + 1]] <= limit:
            high += 1
        return rates[low], rates[high]


def read_ranges(directories: Sequence[Path], loss: str) -> list[RateCurve]:
    """Read a curve per parametrization and width. Standard runs at the sizes of muP's base count for both.

    Raises:
        ConfigError: a directory holds no run, or a run that has not ended or lacks this loss; runs differ in more
            than seed, learning rate, width and parametrization; or runs of one width are of different models.
    """
    groups = compared(directories)
    names = {name for group in groups for name in group.fields}
    others = sorted(name for name in names if name not in MAY_DIFFER and not name.startswith(PARAMETRIZATION))
    require(
        not others, f"The runs differ in {', '.join(others)}: only seed, rate, width and parametrization may differ."
    )
    by_model: dict[Model, dict[float, float]] = {}
    for group in groups:
        config = group.records[0].config
        rate = config.optimizer.schedule.peak
        require(rate > 0, f"{group.label}: the learning rate is {rate}, but must be above 0.")
        by_model.setdefault(config.model, {})[rate] = _loss(group, loss)
    for model in list(by_model):
        at_base = replace(model.base, parametrization=model.parametrization)
        if model.base in by_model and at_base not in by_model:
            by_model[at_base] = by_model[model.base]
    ranges: dict[tuple[str, int], RateCurve] = {}
    for model, losses in by_model.items():
        key = type(model.parametrization).__name__, model.width
        require(
            key not in ranges, f"The runs are of different models of width {model.width} ({key[0]}): give runs of one."
        )
        ranges[key] = RateCurve(*key, dict(sorted(losses.items())))
        any_finite = any(map(math.isfinite, losses.values()))
        require(any_finite, f"No run of width {model.width} ({key[0]}) is finite: try lower learning rates.")
    return [ranges[key] for key in sorted(ranges)]


def _loss(group: Group, name: str) -> float:
    return statistics.fmean(_last(record, name) for record in group.records)


def _last(record: RunRecord, name: str) -> float:
    if record.status == "not finite":
        return math.inf
    require(record.status == "done", f"{record.directory} is {record.status}: only finished runs can be compared.")
    curve = record.curve(name)
    require(len(curve) > 0, f"{record.directory} has no {name} in its metrics.jsonl.")
    return curve[-1][1]


# --- Results ----------------------------------------------------------------------------------------------------------


def table(ranges: Sequence[RateCurve], loss: str, distance: float) -> Table:
    rates = sorted({rate for one in ranges for rate in one.losses})
    rows = []
    for one in ranges:
        shown = [one.losses.get(rate) for rate in rates]
        losses = [
            Cell("")
            if value is None
            else Cell(f"{value:.4f}" if math.isfinite(value) else "not finite", rate == one.best)
            for rate, value in zip(rates, shown, strict=True)
        ]
        low, high = one.within(distance)
        optimum = "at the edge" if one.optimum is None else f"{one.optimum:.3g}"
        rows.append(
            [Cell(one.parametrization), Cell(str(one.width)), *losses, Cell(optimum), Cell(f"{low:g}-{high:g}")]
        )
    header = ("parametrization", "width", *(f"{rate:g}" for rate in rates), "best rate", f"within {distance:g}")
    note = f"Last {loss} at each peak learning rate; the best rate is the minimum of a parabola through the best three."
    return Table("Learning rates by width", header, rows, note)


def remarks(ranges: Sequence[RateCurve]) -> list[str]:
    """Describe in sentences, per parametrization, how the best rate changes with the width and where it is unknown."""
    sentences = []
    for name in dict.fromkeys(one.parametrization for one in ranges):
        known = [(one.width, one.optimum) for one in ranges if one.parametrization == name and one.optimum is not None]
        edges = [str(one.width) for one in ranges if one.parametrization == name and one.optimum is None]
        if len(known) >= 2:
            (narrow, first), (wide, last) = known[0], known[-1]
            sentences.append(
                f"{name}: from width {narrow} to {wide} the best rate is multiplied by {last / first:.2f}."
            )
        if edges:
            sentences.append(f"{name}: at width {', '.join(edges)} the best rate is at the edge of the finite ones.")
    return sentences


def draw(path: Path, ranges: Sequence[RateCurve], loss: str) -> None:
    panels: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for one in sorted(ranges, key=lambda one: one.width):
        finite = [(rate, value) for rate, value in one.losses.items() if math.isfinite(value)]
        panels.setdefault(one.parametrization, {})[f"width {one.width}"] = finite
    plot_panels(path, panels, "peak of the learning rate", loss, linear_y=True)
