"""Scaling curves: L = E + A * x ** -alpha fitted to finished runs, and its predictions for larger ones.

The fit is that of Hoffmann et al. (arXiv:2203.15556, appendix D.2) in one variable: minimize the Huber loss, with delta
1e-3, of the residuals of log L from a grid of starting points. Their L-BFGS stopped before convergence
(arXiv:2404.10102), so a least-squares method is used instead. Intervals come from fits to resampled runs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.optimize import least_squares
from scipy.special import expit

from research.config import override, require
from research.model import flops
from research.model.transformer import abstract_params
from research.report.plot import Band, plot_fit
from research.report.record import RunRecord, is_number, read_all
from research.report.table import Cell, Table
from research.storage.run_directory import CHANGEABLE

Measure = Literal["flops", "parameters", "tokens"]

DELTA = 1e-3  # of the Huber loss: residuals of log L beyond it count linearly
FEWEST = 4  # sizes: one more than the parameters of the curve
RESAMPLES, SEED = 200, 0
EXPONENTS = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0)  # starting points of a fit: alpha ...
SHARES = (0.1, 0.5, 0.9)  # ... and the reducible share of the loss
BOUNDS = ((-50.0, 0.0, -50.0), (50.0, 5.0, 50.0))

Values = Float[np.ndarray, " n"]  # one per run
Parameters = Float[np.ndarray, "3"]  # log A, alpha, log E


class Point(NamedTuple):
    """A run: its size and its final loss."""

    name: str
    size: float
    loss: float


class Curve(NamedTuple):
    irreducible: float  # E, the limit of the loss for infinite size
    scale: float  # A, for sizes in multiples of `unit`
    exponent: float  # alpha
    unit: float  # geometric mean of the runs' sizes: near it A depends less on alpha than at size 1

    def loss(self, size: Any) -> Any:
        return self.irreducible + self.scale * (np.asarray(size) / self.unit) ** -self.exponent

    @property
    def amplitude(self) -> float:
        """A for sizes in their own unit."""
        return self.scale * self.unit**self.exponent


@dataclass(frozen=True)
class Scaling:
    """Runs, the curve through them, and the curves through resampled runs."""

    points: list[Point]
    curve: Curve
    resampled: list[Curve]

    @staticmethod
    def interval(values: Sequence[float]) -> tuple[float, float]:
        """Return the central interval that holds 95 % of the values."""
        low, high = np.percentile(values, (2.5, 97.5))
        return float(low), float(high)

    def predict(self, size: float) -> tuple[float, tuple[float, float]]:
        """Predict the loss at a size, with its interval."""
        return float(self.curve.loss(size)), self.interval([float(curve.loss(size)) for curve in self.resampled])


# --- Runs -------------------------------------------------------------------------------------------------------------


def read_points(directories: Sequence[Path], by: Measure, loss: str) -> list[Point]:
    """Read the last `loss` of each run and its size: FLOPs or tokens up to that step, or parameters.

    Raises:
        ConfigError: a directory holds no run, or a run that is not done or lacks this loss; a run is given twice; the
            data differ; or there are too few sizes.
    """
    records = read_all(directories)
    for record in records:
        require(record.status == "done", f"{record.directory} is {record.status}: only finished runs can be fitted.")
        _check_same_data(records[0], record)
    points = [_point(record, by, loss) for record in records]
    sizes = len({point.size for point in points})
    needs = f"a curve of three parameters needs at least {FEWEST} sizes"
    require(sizes >= FEWEST, f"There are {len(points)} runs of {sizes} sizes by {by}: {needs}.")
    return points


def _check_same_data(first: RunRecord, other: RunRecord) -> None:
    differences = override.diff(first.config, other.config)
    names = [name for name in differences if f"{name}.".startswith("data.") and name not in CHANGEABLE]
    difference = f"{other.directory} differs from {first.directory} in {', '.join(names)}"
    require(not names, f"{difference}: fit runs on the same data.")


def _point(record: RunRecord, by: Measure, loss: str) -> Point:
    curve = record.curve(loss)
    numbers = sorted({name for line in record.lines for name, value in line.items() if is_number(value)} - {"step"})
    require(len(curve) > 0, f"{record.directory} has no {loss} in its metrics.jsonl, which has {', '.join(numbers)}.")
    step, value = curve[-1]
    require(value > 0, f"{loss} of {record.directory} is {value}: a loss must be above 0 to be fitted.")
    match by:
        case "flops":
            size = step * record.flops_per_step
        case "tokens":
            size = step * record.tokens_per_step
        case "parameters":
            size = flops.parameter_count(abstract_params(record.config.model))
    return Point(str(record.directory), float(size), value)


# --- Fits -------------------------------------------------------------------------------------------------------------


def fit(points: Sequence[Point]) -> Scaling:
    """Fit the curve from all starting points; fit resampled runs from the best fit and some starting points."""
    sizes, losses = np.array([point.size for point in points]), np.array([point.loss for point in points])
    unit = float(np.exp(np.log(sizes).mean()))
    curve = _fit(sizes, losses, unit, _starts(losses, EXPONENTS, SHARES), tries=1000)
    near = np.array([np.log(curve.scale), curve.exponent, np.log(curve.irreducible)])
    draw, resampled = np.random.default_rng(SEED), list[Curve]()
    while len(resampled) < RESAMPLES:
        chosen = draw.integers(len(points), size=len(points))
        if len(set(sizes[chosen])) >= 3:  # fewer sizes do not determine a curve
            starts = [near, *_starts(losses, EXPONENTS[3:4], SHARES[1:2])]
            resampled.append(_fit(sizes[chosen], losses[chosen], unit, starts, tries=100))
    return Scaling(list(points), curve, resampled)


def _starts(losses: Values, exponents: Sequence[float], shares: Sequence[float]) -> list[Parameters]:
    return [
        np.array([np.log(share * losses.mean()), exponent, np.log((1 - share) * losses.min())])
        for exponent in exponents
        for share in shares
    ]


def _fit(sizes: Values, losses: Values, unit: float, starts: Sequence[Parameters], tries: int) -> Curve:
    distance, log_losses = np.log(sizes / unit), np.log(losses)

    def terms(parameters: Any) -> tuple[Any, Any]:
        """Return the logarithms of A * x ** -alpha and of E."""
        log_scale, exponent, log_irreducible = parameters
        return log_scale - exponent * distance, np.full(len(sizes), log_irreducible)

    def residuals(parameters: Any) -> Any:
        return np.logaddexp(*terms(parameters)) - log_losses

    def slopes(parameters: Any) -> Any:
        reducible, irreducible = terms(parameters)
        share = expit(reducible - irreducible)
        return np.stack([share, -share * distance, 1 - share], axis=1)

    options: Any = {"loss": "huber", "f_scale": DELTA, "bounds": BOUNDS, "x_scale": "jac", "max_nfev": tries}
    precise = {"ftol": 1e-12, "xtol": 1e-12, "gtol": 1e-12}
    fits = [least_squares(residuals, start, jac=slopes, **options, **precise) for start in starts]
    log_scale, exponent, log_irreducible = min(fits, key=lambda one: float(one.cost)).x
    return Curve(float(np.exp(log_irreducible)), float(np.exp(log_scale)), float(exponent), unit)


# --- Results ----------------------------------------------------------------------------------------------------------


def tables(scaling: Scaling, by: Measure, predicted_sizes: Sequence[float]) -> list[Table]:
    """Make the tables of the runs beside the curve, the curve's parameters, and its predictions if any."""
    runs = [
        [
            Cell(point.name),
            *_numbers(point.size),
            Cell(f"{point.loss:.4f}"),
            Cell(f"{scaling.curve.loss(point.size):.4f}"),
        ]
        for point in sorted(scaling.points, key=lambda point: point.size)
    ]
    note = f"95 % of {RESAMPLES} fits to resampled runs lie between these values."
    parameters = []
    for symbol, name in (("E", "irreducible"), ("A", "amplitude"), ("alpha", "exponent")):
        ends = scaling.interval([getattr(curve, name) for curve in scaling.resampled])
        parameters.append([Cell(symbol), *_numbers(getattr(scaling.curve, name), *ends)])
    predicted = []
    for size in predicted_sizes:
        loss, ends = scaling.predict(size)
        predicted.append([*_numbers(size), *(Cell(f"{value:.4f}") for value in (loss, *ends))])
    shown = [
        Table("Runs", ("run", by, "loss", "curve"), runs),
        Table(f"L = E + A * {by} ** -alpha", ("", "fit", "from", "to"), parameters, note),
    ]
    return shown + ([Table("Predicted", (by, "loss", "from", "to"), predicted)] if predicted else [])


def _numbers(*values: float) -> list[Cell]:
    return [Cell(f"{value:.4g}") for value in values]


def remarks(scaling: Scaling, predicted_sizes: Sequence[float]) -> list[str]:
    """List caveats of the fit, one sentence each."""
    low, high = scaling.interval([curve.irreducible for curve in scaling.resampled])
    sizes = [point.size for point in scaling.points]
    sentences = []
    if not 0 < scaling.curve.exponent < BOUNDS[1][1] or high - low > scaling.curve.irreducible:
        sentences.append("These runs do not determine E and alpha separately: add runs of more widely spaced sizes.")
    if any(size > 10 * max(sizes) for size in predicted_sizes):
        sentences.append(
            "A predicted size is more than ten times the largest measured one: the extrapolation is uncertain."
        )
    return sentences


def draw(path: Path, scaling: Scaling, by: Measure, loss: str, predicted_sizes: Sequence[float]) -> None:
    sizes = [point.size for point in scaling.points]
    x = np.geomspace(min(sizes), max([*sizes, *predicted_sizes]), 100)
    low, high = np.percentile([curve.loss(x) for curve in scaling.resampled], (2.5, 97.5), axis=0)
    labels = {"flops": "training FLOPs", "parameters": "parameters", "tokens": "tokens of both stacks' rows"}
    band = Band(*(line.tolist() for line in (x, scaling.curve.loss(x), low, high)))
    plot_fit(path, [point[1:] for point in scaling.points], band, labels[by], loss)
