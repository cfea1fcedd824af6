"""The curves of a run as a picture."""

import io
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import matplotlib
import matplotlib.figure
import numpy as np

from research.config import FORCED, Experiment, require
from research.report.record import read_metrics


def plot_loss(directory: Path, unigram_entropy: float, config: Experiment) -> Path:
    """Draws loss.png: training loss, held-out loss, and the entropy that a model blind to context can reach.

    Below them the number that evaluations are judged by or, where that is the loss, the first of the tasks' scores.
    """
    if jax.process_index() != 0:
        return directory / "loss.png"
    plt = _pyplot()
    lines = read_metrics(directory)
    score = _plotted(config)
    figure, panels = plt.subplots(1 + (score is not None), figsize=(8, 5), layout="constrained", squeeze=False)
    axes = panels[0, 0]
    for name, label, style in (("nll", "training", "-"), ("held_out_loss", "held out", "o-")):
        if points := _points(lines, name):
            axes.plot(*zip(*points, strict=True), style, markersize=4, label=label)
    axes.axhline(unigram_entropy, color="0.4", linestyle="--", label="unigram entropy of held-out targets")
    axes.set(xlabel="step", ylabel="negative log-likelihood (nats a target token)", title=directory.name)
    axes.grid(alpha=0.3)
    axes.legend()
    if score is not None:
        if points := _points(lines, score):
            panels[1, 0].plot(*zip(*points, strict=True), "o-", markersize=4)
        panels[1, 0].set(xlabel="step", ylabel=score)
        panels[1, 0].grid(alpha=0.3)
    figure.savefig(directory / "loss.png", dpi=120)
    plt.close(figure)
    return directory / "loss.png"


def plot_scaling(path: Path, lines: Mapping[str, Sequence[tuple[int, float | int]]]) -> None:
    """Tokens a second and chip against the number of chips, a line an experiment."""
    plt = _pyplot()
    figure, axes = plt.subplots(figsize=(8, 5), layout="constrained")
    for name, points in lines.items():
        if points:
            axes.plot(*zip(*points, strict=True), "o-", markersize=4, label=name)
    chips = sorted({chips for points in lines.values() for chips, _ in points})
    axes.set(xlabel="chips", ylabel="tokens a second and chip, at most", xscale="log", yscale="log")
    axes.set_xticks(chips, labels=map(str, chips))
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)
    plt.close(figure)


class Band(NamedTuple):
    """A curve, and between what it lies."""

    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]


def plot_fit(path: Path, points: Sequence[tuple[float, float]], band: Band, x_label: str, y_label: str) -> None:
    """Runs as dots, and the curve fitted to them with its interval."""
    plt = _pyplot()
    figure, axes = plt.subplots(figsize=(8, 5), layout="constrained")
    axes.fill_between(band.x, band.low, band.high, color="0.85", linewidth=0, label="95 % of fits to resampled runs")
    axes.plot(band.x, band.y, color="0.3", label="fit")
    axes.plot(*zip(*points, strict=True), "o", markersize=5, label="runs")
    axes.set(xlabel=x_label, ylabel=y_label, xscale="log", yscale="log")
    axes.grid(alpha=0.3, which="both")
    axes.legend()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def plot_lines(
    path: Path, lines: Mapping[str, Sequence[tuple[float, float]]], x_label: str, y_label: str, linear_y: bool = False
) -> None:
    """Lines by name, x logarithmic; y too, or linear."""
    plt = _pyplot()
    figure, axes = plt.subplots(figsize=(8, 5), layout="constrained")
    for number, (name, points) in enumerate(lines.items()):
        style = ("o-", "s--", "^:", "v-.")[number // 10 % 4]  # colours repeat after ten
        axes.plot(*zip(*points, strict=True), style, markersize=4, label=name)
    axes.set(xlabel=x_label, ylabel=y_label, xscale="log", yscale="linear" if linear_y else "log")
    axes.grid(alpha=0.3, which="both")
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def plot_panels(
    path: Path,
    panels: Mapping[str, Mapping[str, Sequence[tuple[float, float]]]],
    x_label: str,
    y_label: str,
    linear_y: bool = False,
) -> None:
    """Panels by title beside one another, of lines by name, with one legend; x is logarithmic, y too or linear."""
    plt = _pyplot()
    figure, axes = plt.subplots(
        1, len(panels), figsize=(4.5 * len(panels) + 3, 6), sharey=True, squeeze=False, layout="constrained"
    )
    names = list(dict.fromkeys(name for lines in panels.values() for name in lines))
    drawn: dict[str, Any] = {}
    for panel, (title, lines) in zip(axes[0], panels.items(), strict=True):
        for name, points in lines.items():
            number = names.index(name)
            style = ("o-", "s--", "^:", "v-.")[number // 10 % 4]  # colours repeat after ten
            (drawn[name],) = panel.plot(*zip(*points, strict=True), style, color=f"C{number % 10}", markersize=4)
        ticks = sorted({x for points in lines.values() for x, _ in points})
        panel.set(xlabel=x_label, title=title, xscale="log", yscale="linear" if linear_y else "log")
        panel.set_xticks(ticks, labels=[f"{x:g}" for x in ticks])
        panel.set_xticks([], minor=True)
        panel.grid(alpha=0.3)
    axes[0, 0].set_ylabel(y_label)
    figure.legend([drawn[name] for name in names], names, loc="outside right", fontsize=8)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def check_picture(path: Path | None) -> None:
    """Raises ConfigError for a file that no picture can be written to."""
    if path is not None:
        require(path.suffix in (".png", ".svg", ".pdf"), f"{path}: a picture's name ends in .png, .svg or .pdf.")
        require(path.absolute().parent.is_dir(), f"{path}: there is no directory {path.absolute().parent}.")


def _pyplot() -> Any:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt


def _points(lines: list[dict[str, Any]], name: str) -> list[tuple[int, float]]:
    return [(line["step"], line[name]) for line in lines if line.get(name) is not None]


def _plotted(config: Experiment) -> str | None:
    best, of_tasks = config.evaluation.best, [name for name in config.scores if name not in FORCED]
    return best if best != "held_out_loss" else next(iter(of_tasks), None)


# Okabe and Ito's colours that tell apart whoever sees them, without the yellow, which white paper swallows.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "os^Dv<>Ph*Xd"
STYLES = ("-", "--", ":", "-.")
WIDTH = 5.2  # inches, at which text is as large on a phone as on a page
LEGEND = 44  # letters of a line of it
MOST_POINTS = 400  # of a curve
SMOOTHED = 0.04  # share of a curve that each of its points is the mean of


Number = float | int
Points = Sequence[tuple[Number, Number]]


class Series(NamedTuple):
    label: str
    x: Sequence[Number]
    y: Sequence[Number]
    spread: Sequence[Number] | None = None  # to either side
    pale: bool = False  # what is behind the series of the same label, unsmoothed


def curves(
    series: Sequence[Series],
    *,
    title: str,
    x_label: str,
    y_label: str,
    logarithmic: tuple[bool, bool] = (False, False),
    joined: bool = True,
    settled: bool = False,
) -> str:
    """An SVG document; `logarithmic` is of x and y, and without `joined` points are dots with bars of their spread.

    With `settled` the scale of y is that of the last nine tenths of each curve.
    """
    named = [one for one in series if not one.pale]
    legend = len(named) > 1
    lines = sum(max(1, len(textwrap.wrap(one.label, LEGEND))) for one in named) if legend else 0
    figure = _figure(3.3 + 0.19 * lines)
    axes = figure.add_subplot()
    for one in series:
        number = (
            named.index(one) if one in named else next((i for i, it in enumerate(named) if it.label == one.label), 0)
        )
        _draw(axes, one, number, joined)
    axes.set(xlabel=x_label, ylabel=y_label)
    axes.set_title("\n".join(textwrap.wrap(title, 52)), fontsize=10)
    for axis, is_log in zip(("x", "y"), logarithmic, strict=True):
        if is_log:
            getattr(axes, f"set_{axis}scale")("log")
    if settled:
        late = [y for one in series for x, y in zip(one.x, one.y, strict=True) if x >= 0.1 * one.x[-1]]
        margin = 0.05 * (max(late) - min(late)) or 1.0
        axes.set_ylim(min(late) - margin, max(late) + margin)
    axes.grid(alpha=0.3)
    if legend:
        figure.legend(loc="outside lower left", fontsize=8, frameon=False)
    return _svg(figure)


def dots(labels: Sequence[str], values: Sequence[Sequence[Number]], *, title: str, x_label: str) -> str:
    """A line a label, from top to bottom: a small dot for each of its values, and a bar at their mean."""
    wrapped = ["\n".join(textwrap.wrap(label, 34)) for label in labels]
    figure = _figure(1.2 + 0.3 * sum(1 + 0.45 * label.count("\n") for label in wrapped))
    axes = figure.add_subplot()
    for place, of_one in enumerate(values):
        axes.plot(of_one, [place] * len(of_one), "o", color=COLOURS[0], markersize=4, alpha=0.6)
        axes.plot([np.mean(of_one)], [place], "|", color=COLOURS[6], markersize=13, markeredgewidth=2)
    axes.set_yticks(range(len(labels)), labels=wrapped, fontsize=8)
    axes.set_ylim(len(labels) - 0.5, -0.5)
    axes.set(xlabel=x_label)
    axes.set_title("\n".join(textwrap.wrap(title, 52)), fontsize=10)
    axes.grid(alpha=0.3)
    return _svg(figure)


def smoothed(points: Points, share: Number = SMOOTHED) -> tuple[Points, int]:
    """The running mean over the last so many points, a share of all, and how many these are."""
    window = max(1, round(share * len(points)))
    if not points:
        return [], window
    x, y = np.array(points, float).T
    sums = np.cumsum(np.concatenate([np.zeros(1), y]))
    ends = np.arange(1, len(y) + 1)
    starts = np.maximum(0, ends - window)
    return list(zip(x.tolist(), ((sums[ends] - sums[starts]) / (ends - starts)).tolist(), strict=True)), window


def thinned(points: Points) -> Points:
    """At most MOST_POINTS of them, each the mean of as many neighbours."""
    size = -(-len(points) // MOST_POINTS)
    groups = [points[start : start + size] for start in range(0, len(points), size)] if size > 1 else []
    return [(float(x), float(y)) for x, y in (np.mean(group, axis=0) for group in groups)] if groups else list(points)


def _draw(axes: Any, one: Series, number: int, joined: bool) -> None:
    colour, marker = COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)]
    if one.pale:
        axes.plot(one.x, one.y, color=colour, alpha=0.3, linewidth=0.8)
        return
    style = STYLES[number // len(COLOURS) % len(STYLES)]
    every = max(1, len(one.x) // 8)
    if one.spread is not None and not joined:
        axes.errorbar(one.x, one.y, yerr=one.spread, fmt=marker, color=colour, capsize=3, markersize=5, label=one.label)
        axes.plot(one.x, one.y, style, color=colour, linewidth=1)
        return
    axes.plot(
        one.x, one.y, style, color=colour, marker=marker, markevery=(number % every, every), markersize=4,
        linewidth=1.3, label="\n".join(textwrap.wrap(one.label, LEGEND)),
    )  # fmt: skip
    if one.spread is not None:
        low, high = np.array(one.y) - np.array(one.spread), np.array(one.y) + np.array(one.spread)
        axes.fill_between(one.x, low, high, color=colour, alpha=0.12, linewidth=0)


def _figure(height: float) -> matplotlib.figure.Figure:
    return matplotlib.figure.Figure(figsize=(WIDTH, height), layout="constrained")


def _svg(figure: matplotlib.figure.Figure) -> str:
    text = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "kintsugi"}):
        figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()
