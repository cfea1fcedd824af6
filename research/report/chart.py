"""The data of charts that react in a page: curves thinned to their extremes, as base64 of float32 in JSON."""

import base64
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from research.report.plot import COLOURS, SMOOTHED, Number, Points

MOST_NUMBERS = 300_000  # points of a figure
MOST_POINTS = 2000  # points of a curve
KNOTS = 64  # of a clock, with straight lines between them
LARGEST = 3e38  # of float32


class LivingCurve(NamedTuple):
    """A curve by steps, and what places it on the other axes."""

    name: str
    points: Points
    group: str = ""  # its entry in the legend, where the name is not
    smooth: bool = False  # may be drawn as its running mean
    fields: Mapping[str, str] = {}  # to filter by
    scales: tuple[int, int] | None = None  # tokens and FLOPs of a step
    clock: Points = ()  # (step, seconds of steps until then)
    spread: Sequence[Number] | None = None  # to either side
    each: bool | None = None  # one seed (True) or the mean of several (False), of which one is drawn at a time


def living(
    curves: Sequence[LivingCurve],
    *,
    title: str,
    y_label: str,
    x_label: str = "",
    logarithmic: tuple[bool, bool] = (False, False),
    settled: bool = False,
) -> str:
    """Write a figure's data as JSON that is safe inside HTML. With `x_label`, x is not a step but that quantity.

    With `settled`, the y axis covers the last nine tenths of each curve.
    """
    arrays: dict[str, int] = {}  # equal ones, such as the steps of evaluations, once

    def stored(values: Any) -> int:
        return arrays.setdefault(_encoded(values), len(arrays))

    most = max(100, min(MOST_POINTS, MOST_NUMBERS // max(1, len(curves))))
    known = [_curve(one, most, stored) for one in curves if len(one.points)]
    clocked = any("clock" in one for one in known)
    scaled = any("scales" in one for one in known)
    axes = [] if x_label else ["step", *["tokens", "FLOPs"] * scaled, *["time"] * clocked]
    data = {
        "title": title, "x": x_label, "y": y_label, "axes": axes, "log": logarithmic, "settled": settled,
        "smoothing": SMOOTHED if any(one["smooth"] for one in known) else 0, "colours": COLOURS, "curves": known,
        "arrays": list(arrays),
    }  # fmt: skip
    return json.dumps(data, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


def _curve(curve: LivingCurve, most: int, stored: Any) -> dict[str, Any]:
    points = np.array(curve.points, float)
    data: dict[str, Any] = {
        "name": curve.name, "group": curve.group or curve.name, "smooth": curve.smooth, "fields": dict(curve.fields),
        "points": [stored(column) for column in extremes(points, most).T],
    }  # fmt: skip
    if curve.smooth and len(points) > most:
        data["means"] = [stored(column) for column in means(points, most // 2).T]
    if curve.scales is not None:
        data["scales"] = curve.scales
    if len(curve.clock) > 1:
        chosen = np.unique(np.linspace(0, len(curve.clock) - 1, KNOTS).round().astype(int))
        data["clock"] = [stored(column) for column in np.array(curve.clock, float)[chosen].T]
    if curve.spread is not None:
        data["spread"] = stored(curve.spread)
    if curve.each is not None:
        data["each"] = curve.each
    return data


def extremes(points: np.ndarray, most: int) -> np.ndarray:
    """Keep the first and the last point, and of each part of the others the least and the greatest."""
    if len(points) <= most:
        return points
    kept = {0, len(points) - 1}
    for part in np.array_split(np.arange(1, len(points) - 1), (most - 2) // 2):
        values = points[part, 1]
        kept |= {part[values.argmin()], part[values.argmax()]}
    return points[sorted(kept)]


def means(points: np.ndarray, most: int) -> np.ndarray:
    """Average neighbours, for running means over all points."""
    return np.stack([part.mean(axis=0) for part in np.array_split(points, most)])


def _encoded(values: Any) -> str:
    return base64.b64encode(np.clip(values, -LARGEST, LARGEST).astype("<f4").tobytes()).decode()
