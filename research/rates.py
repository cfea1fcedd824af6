"""Which learning rates suit a model at each of its widths, from runs of them all that have ended."""

import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from research.comparison import Group, compared
from research.config import require
from research.plot import plot_panels
from research.record import Record
from research.table import Cell, Table

RATE, WIDTH, PARAMETRIZATION = "optimizer.schedule.peak", "model.width", "model.parametrization"
# What may differ: sizes that go with the width, the parametrization with its base, and the rate.
MAY_DIFFER = (RATE, WIDTH, "model.heads", "model.head_width", "model.feed_forward")


class Range(NamedTuple):
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

        None where the best is the lowest or the highest of what was tried, or a neighbour's loss is not finite.
        """
        rates = list(self.losses)
        place = rates.index(self.best)
        if place in (0, len(rates) - 1):
            return None
        near = rates[place - 1 : place + 2]
        (x0, x1, x2), (y0, y1, y2) = [math.log(rate) for rate in near], [self.losses[rate] for rate in near]
        if not math.isfinite(y0 + y2):
            return None
        left, right = (x1 - x0) * (y1 - y2), (x1 - x2) * (y1 - y0)
        return math.exp(x1 - 0.5 * ((x1 - x0) * left - (x1 - x2) * right) / (left - right)) if left != right else None

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


def read_ranges(directories: Sequence[Path], loss: str) -> list[Range]:
    """By parametrization and width.

    Raises:
        ConfigError: a directory holds no run, or one that has not ended or has no such number; or runs differ in more
            than seed, learning rate, width and parametrization.
    """
    groups = compared(directories)
    names = {name for group in groups for name in group.fields}
    others = sorted(name for name in names if name not in MAY_DIFFER and not name.startswith(PARAMETRIZATION))
    require(not others, f"The runs differ in {', '.join(others)}: only seed, rate, width and parametrization may.")
    found: dict[tuple[str, int], dict[float, float]] = {}
    for group in groups:
        model = group.records[0].config.model
        key = type(model.parametrization).__name__, model.width
        rate = group.records[0].config.optimizer.schedule.peak
        of_one = found.setdefault(key, {})
        require(rate not in of_one, f"{group.label}: another model of width {model.width} has this rate too.")
        of_one[rate] = _loss(group, loss)
    ranges = [Range(*key, dict(sorted(losses.items()))) for key, losses in sorted(found.items())]
    for one in ranges:
        there = any(map(math.isfinite, one.losses.values()))
        require(there, f"No run of width {one.width} ({one.parametrization}) is finite: try lower learning rates.")
    return ranges


def _loss(group: Group, name: str) -> float:
    return statistics.fmean(_last(record, name) for record in group.records)


def _last(record: Record, name: str) -> float:
    if record.status == "not finite":
        return math.inf
    require(record.status == "done", f"{record.directory} is {record.status}: a range takes runs that have ended.")
    curve = record.curve(name)
    require(len(curve) > 0, f"{record.directory} has no {name} in its metrics.jsonl.")
    return curve[-1][1]


# --- Results ----------------------------------------------------------------------------------------------------------


def table(ranges: Sequence[Range], loss: str, distance: float) -> Table:
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


def remarks(ranges: Sequence[Range]) -> list[str]:
    """How the best rate changes with the width, a sentence for each parametrization, and what the runs cannot say."""
    said = []
    for name in dict.fromkeys(one.parametrization for one in ranges):
        known = [(one.width, one.optimum) for one in ranges if one.parametrization == name and one.optimum is not None]
        edges = [str(one.width) for one in ranges if one.parametrization == name and one.optimum is None]
        if len(known) >= 2:
            (narrow, first), (wide, last) = known[0], known[-1]
            said.append(f"{name}: from width {narrow} to {wide} the best rate is multiplied by {last / first:.2f}.")
        if edges:
            said.append(f"{name}: of width {', '.join(edges)} the best rate is at the edge of what was tried.")
    return said


def draw(path: Path, ranges: Sequence[Range], loss: str) -> None:
    panels: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for one in ranges:
        finite = [(rate, value) for rate, value in one.losses.items() if math.isfinite(value)]
        panels.setdefault(one.parametrization, {})[f"width {one.width}"] = finite
    plot_panels(path, panels, "peak of the learning rate", loss)
