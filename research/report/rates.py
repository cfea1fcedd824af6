"""Which learning rates suit a model at each of its widths, from runs of them all that have ended."""

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
# What may differ: sizes that go with the width, the parametrization with its base, and the rate.
MAY_DIFFER = (RATE, WIDTH, "model.heads", "model.head_width", "model.feed_forward")


class RateCurve(NamedTuple):
    """The losses of one model at its learning rates; infinite where a run was not finite."""

    parametrization: str
    width: int
    losses: dict[float, float]  # by rate, in ascending order; the means over seeds

    @property
    def best(self) -> float:
        """The rate of the least loss among those tried."""
        return min(self.losses, key=self.losses.__getitem__)

    @property
    def optimum(self) -> float | None:
        """Where a parabola through the best and its neighbours is lowest, by the logarithm of the rate.

        None where the best is the lowest or the highest of what was tried, or beside a loss that is not finite.
        """
        rates = list(self.losses)
        place = rates.index(self.best)
        near = rates[max(place - 1, 0) : place + 2]
        losses = [self.losses[rate] for rate in near]
        if place == 0 or len(near) < 3 or not all(map(math.isfinite, losses)):
            return None
        square, linear, _ = np.polyfit(np.log(near) - math.log(self.best), losses, 2)
        return self.best * math.exp(-0.5 * linear / square) if square > 0 else self.best

    def within(self, distance: float) -> tuple[float, float]:
        """The lowest and the highest rate of those around the best whose losses are at most so much above its."""
        rates = list(self.losses)
        limit = self.losses[self.best] + distance
        low = high = rates.index(self.best)
        while low > 0 and self.losses[rates[low - 1]] <= limit:
            low -= 1
        while high < len(rates) - 1 and self.losses[rates[high + 1]] <= limit:
            high += 1
        return rates[low], rates[high]


def read_ranges(directories: Sequence[Path], loss: str) -> list[RateCurve]:
    """By parametrization and width. Runs of the standard parametrization at the sizes of muP's base count for both.

    Raises:
        ConfigError: a directory holds no run, or one that has not ended or has no such number; runs differ in more
            than seed, learning rate, width and parametrization; or those of one width are of several models.
    """
    groups = compared(directories)
    names = {name for group in groups for name in group.fields}
    others = sorted(name for name in names if name not in MAY_DIFFER and not name.startswith(PARAMETRIZATION))
    require(not others, f"The runs differ in {', '.join(others)}: only seed, rate, width and parametrization may.")
    found: dict[Model, dict[float, float]] = {}
    for group in groups:
        config = group.records[0].config
        rate = config.optimizer.schedule.peak
        require(rate > 0, f"{group.label}: its learning rate is {rate}, which has no logarithm.")
        found.setdefault(config.model, {})[rate] = _loss(group, loss)
    for model in list(found):
        at_base = replace(model.base, parametrization=model.parametrization)
        if model.base in found and at_base not in found:
            found[at_base] = found[model.base]
    ranges: dict[tuple[str, int], RateCurve] = {}
    for model, losses in found.items():
        key = type(model.parametrization).__name__, model.width
        require(
            key not in ranges, f"The runs are of several models of width {model.width} ({key[0]}): give those of one."
        )
        ranges[key] = RateCurve(*key, dict(sorted(losses.items())))
        there = any(map(math.isfinite, losses.values()))
        require(there, f"No run of width {model.width} ({key[0]}) is finite: try lower learning rates.")
    return [ranges[key] for key in sorted(ranges)]


def _loss(group: Group, name: str) -> float:
    return statistics.fmean(_last(record, name) for record in group.records)


def _last(record: RunRecord, name: str) -> float:
    if record.status == "not finite":
        return math.inf
    require(record.status == "done", f"{record.directory} is {record.status}: a range takes runs that have ended.")
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
            Cell("") if it is None else Cell(f"{it:.4f}" if math.isfinite(it) else "not finite", rate == one.best)
            for rate, it in zip(rates, shown, strict=True)
        ]
        low, high = one.within(distance)
        optimum = "at the edge" if one.optimum is None else f"{one.optimum:.3g}"
        rows.append(
            [Cell(one.parametrization), Cell(str(one.width)), *losses, Cell(optimum), Cell(f"{low:g}-{high:g}")]
        )
    header = ("parametrization", "width", *(f"{rate:g}" for rate in rates), "best rate", f"within {distance:g}")
    note = f"Last {loss} at each peak of the learning rate; the best rate is a parabola's, through the best and the two"
    return Table("Learning rates by width", header, rows, f"{note} beside it.")


def remarks(ranges: Sequence[RateCurve]) -> list[str]:
    """How the best rate changes with the width, a sentence for each parametrization, and where they do not say it."""
    said = []
    for name in dict.fromkeys(one.parametrization for one in ranges):
        known = [(one.width, one.optimum) for one in ranges if one.parametrization == name and one.optimum is not None]
        edges = [str(one.width) for one in ranges if one.parametrization == name and one.optimum is None]
        if len(known) >= 2:
            (narrow, first), (wide, last) = known[0], known[-1]
            said.append(f"{name}: from width {narrow} to {wide} the best rate is multiplied by {last / first:.2f}.")
        if edges:
            said.append(f"{name}: of width {', '.join(edges)} the best rate is at the edge of what is finite.")
    return said


def draw(path: Path, ranges: Sequence[RateCurve], loss: str) -> None:
    panels: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for one in sorted(ranges, key=lambda one: one.width):
        finite = [(rate, value) for rate, value in one.losses.items() if math.isfinite(value)]
        panels.setdefault(one.parametrization, {})[f"width {one.width}"] = finite
    plot_panels(path, panels, "peak of the learning rate", loss, linear_y=True)
