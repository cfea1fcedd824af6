"""Plots of runs in one style: PNG, SVG or PDF files, and SVG documents for pages."""

import io
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from research.config import TEACHER_FORCED, Experiment, require
from research.config.base import visible
from research.report.record import read_metrics
from research.storage.files import write_bytes

# Okabe and Ito's palette for colour-blind readers, without its yellow, which is hard to see on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
GREY = "0.35"  # for references such as baselines
MARKERS = "os^Dv<>Ph*Xd"
STYLES = ("-", "--", ":", "-.")
WIDTH = 5.2  # inches: the text is readable on a phone and on a page
FILE_SIZE = (8.0, 5.0)  # inches, for plots saved to files
LEGEND = 44  # characters per line of a legend
MOST_POINTS = 400  # per curve
MOST_NAMED = 60  # curves of an SVG document that are shapes with a name; more are one bitmap without a legend
SMOOTHED = 0.04  # window of the running mean, as a share of the curve

Number = float | int
Points = Sequence[tuple[Number, Number]]


# --- Files ------------------------------------------------------------------------------------------------------------


def check_picture(path: Path | None) -> None:
    """Raise ConfigError if the path is not a valid file name for a plot."""
    if path is not None:
        require(path.suffix in (".png", ".svg", ".pdf"), f"{path}: the name of a plot must end in .png, .svg or .pdf.")
        require(path.absolute().parent.is_dir(), f"{path}: there is no directory {path.absolute().parent}.")


def plot_loss(directory: Path, unigram_entropy: float, config: Experiment) -> Path:
    """Draw loss.png: training loss, held-out loss, and the unigram entropy, the best loss of a model without context.

    A second panel shows the metric for the best checkpoint or, if that is the loss, the first score of the tasks.
    """
    path = directory / "loss.png"
    if jax.process_index() != 0:
        return path
    lines = read_metrics(directory)
    score = _plotted(config)
    figure = _figure(*FILE_SIZE)
    panels = figure.subplots(1 if score is None else 2, squeeze=False)[:, 0]
    for number, (name, label) in enumerate((("nll", "training"), ("held_out_loss", "held out"))):
        _line(panels[0], _points(lines, name), number, label, marked=number > 0)
    panels[0].axhline(unigram_entropy, color=GREY, linestyle="--", label="unigram entropy of held-out targets")
    panels[0].set(xlabel="step", ylabel="negative log-likelihood (nats a target token)", title=_text(directory.name))
    panels[0].legend()
    if score is not None:
        _line(panels[1], _points(lines, score), 1, score)
        panels[1].set(xlabel="step", ylabel=_text(score))
    _save(figure, path)
    return path


def plot_scaling(path: Path, lines: Mapping[str, Sequence[tuple[int, Number]]]) -> None:
    """Draw tokens per second and chip against the number of chips, with one line per experiment."""
    figure = _figure(*FILE_SIZE)
    axes = figure.add_subplot()
    for number, (name, points) in enumerate(lines.items()):
        _line(axes, points, number, name)
    axes.set(xlabel="chips", ylabel="tokens per second and chip, at most", xscale="log", yscale="log")
    _ticks(axes, {chips for points in lines.values() for chips, _ in points})
    axes.legend()
    _save(figure, path)


class Band(NamedTuple):
    """A curve with its interval."""

    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]


def plot_fit(path: Path, points: Sequence[tuple[float, float]], band: Band, x_label: str, y_label: str) -> None:
    """Draw runs as dots, and the curve fitted to them with its interval, on log-log axes."""
    figure = _figure(*FILE_SIZE)
    axes = figure.add_subplot()
    axes.fill_between(band.x, band.low, band.high, color="0.85", linewidth=0, label="95 % of fits to resampled runs")
    axes.plot(band.x, band.y, color=GREY, label="fit")
    axes.plot(*zip(*points, strict=True), "o", color=COLOURS[0], markersize=5, label="runs")
    axes.set(xlabel=x_label, ylabel=y_label, xscale="log", yscale="log")
    axes.legend()
    _save(figure, path)


def plot_panels(
    path: Path, panels: Mapping[str, Mapping[str, Points]], x_label: str, y_label: str, linear_y: bool = False
) -> None:
    """Draw panels side by side: `panels` maps titles to lines by name. x is logarithmic, and so is y unless `linear_y`.

    All panels share one legend, and a name has the same colour in each of them.
    """
    figure = _figure(4.5 * len(panels) + 3, 6)
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    names = list(dict.fromkeys(name for lines in panels.values() for name in lines))
    drawn: dict[str, Any] = {}
    for panel, (title, lines) in zip(axes, panels.items(), strict=True):
        for name, points in lines.items():
            drawn[name] = _line(panel, points, names.index(name), name)
        panel.set(xlabel=x_label, title=title, xscale="log", yscale="linear" if linear_y else "log")
        _ticks(panel, {x for points in lines.values() for x, _ in points})
    axes[0].set_ylabel(y_label)
    figure.legend([drawn[name] for name in names], names, loc="outside right", fontsize=8)
    _save(figure, path)


def _line(axes: Any, points: Points, number: int, label: str, marked: bool = True) -> Any:
    """Draw points as a line in the style of this number; draw nothing without points."""
    if not points:
        return None
    chosen = _line_style(number)
    style = {"color": chosen.colour, "linestyle": chosen.style, "marker": chosen.marker if marked else ""}
    (line,) = axes.plot(*zip(*points, strict=True), **style, markersize=4, label=_text(label))
    return line


def _ticks(axes: Any, values: set[Number]) -> None:
    """Label a logarithmic x axis at the given values only."""
    axes.set_xticks(sorted(values), labels=[f"{value:g}" for value in sorted(values)])
    axes.set_xticks([], minor=True)


def _points(lines: Sequence[Mapping[str, Any]], name: str) -> list[tuple[Number, Number]]:
    return [(line["step"], line[name]) for line in lines if line.get(name) is not None]


def _plotted(config: Experiment) -> str | None:
    best = config.evaluation.best
    if best != "held_out_loss":
        return best
    of_tasks = [name for name in config.scores if name not in TEACHER_FORCED]
    return of_tasks[0] if of_tasks else None


def _save(figure: Any, path: Path) -> None:
    _add_grids(figure)
    content = io.BytesIO()
    figure.savefig(content, format=path.suffix[1:], dpi=120)
    write_bytes(path, content.getvalue())


# --- Documents --------------------------------------------------------------------------------------------------------


class Series(NamedTuple):
    label: str
    x: Sequence[Number]
    y: Sequence[Number]
    spread: Sequence[Number] | None = None  # to either side
    pale: bool = False  # an unsmoothed curve, drawn behind the series with the same label


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
    """Draw series as an SVG document.

    `logarithmic` applies to x and y. Without `joined`, series with a spread are drawn as dots with error bars. With
    `settled`, the y axis covers the last nine tenths of each curve.
    """
    named = [one for one in series if not one.pale]
    legend = 1 < len(named) <= MOST_NAMED
    lines = sum(max(1, len(textwrap.wrap(one.label, LEGEND))) for one in named) if legend else 0
    figure = _figure(WIDTH, 3.3 + 0.19 * lines)
    axes = figure.add_subplot()
    labels = [one.label for one in named]
    for one in series:
        behind = labels.index(one.label) if one.label in labels else 0
        _draw(axes, one, behind if one.pale else named.index(one), joined)
    axes.set(xlabel=_text(x_label), ylabel=_text(y_label))
    axes.set_title(_text(title, 52), fontsize=10)
    for line in axes.lines if len(named) > MOST_NAMED else ():
        line.set_rasterized(True)
    for axis, is_log in zip(("x", "y"), logarithmic, strict=True):
        if is_log:
            getattr(axes, f"set_{axis}scale")("log")
    if settled:
        late = [y for one in series for x, y in zip(one.x, one.y, strict=True) if x >= 0.1 * one.x[-1]]
        margin = 0.05 * (max(late) - min(late)) or 1.0
        axes.set_ylim(min(late) - margin, max(late) + margin)
    if legend:
        figure.legend(loc="outside lower left", fontsize=8, frameon=False)
    return _svg(figure)


def dots(labels: Sequence[str], values: Sequence[Sequence[Number]], *, title: str, x_label: str) -> str:
    """Draw a row per label, from top to bottom: a dot for each of its values, and a bar at their mean."""
    wrapped = [_text(label, 34) for label in labels]
    figure = _figure(WIDTH, 1.2 + 0.3 * sum(1 + 0.45 * label.count("\n") for label in wrapped))
    axes = figure.add_subplot()
    for row, of_label in enumerate(values):
        axes.plot(of_label, [row] * len(of_label), "o", color=COLOURS[0], markersize=4, alpha=0.6)
        axes.plot([np.mean(of_label)], [row], "|", color=COLOURS[6], markersize=13, markeredgewidth=2)
    axes.set_yticks(range(len(labels)), labels=wrapped, fontsize=8)
    axes.set_ylim(len(labels) - 0.5, -0.5)
    axes.set(xlabel=_text(x_label))
    axes.set_title(_text(title, 52), fontsize=10)
    return _svg(figure)


def smoothed(points: Points, share: Number = SMOOTHED) -> tuple[Points, int]:
    """Return the running mean and the length of its window, which is `share` of all points."""
    window = max(1, round(share * len(points)))
    if not points:
        return [], window
    x, y = np.array(points, float).T
    sums = np.cumsum(np.concatenate([np.zeros(1), y]))
    ends = np.arange(1, len(y) + 1)
    starts = np.maximum(0, ends - window)
    return list(zip(x.tolist(), ((sums[ends] - sums[starts]) / (ends - starts)).tolist(), strict=True)), window


def thinned(points: Points, most: int = MOST_POINTS) -> Points:
    """Reduce points to at most `most` by averaging neighbours."""
    size = -(-len(points) // most)
    groups = [points[start : start + size] for start in range(0, len(points), size)] if size > 1 else []
    return [(float(x), float(y)) for x, y in (np.mean(group, axis=0) for group in groups)] if groups else list(points)


def _text(text: str, width: int = LEGEND) -> str:
    """Break a text into lines; no part of it is taken for mathematics or a control character."""
    return "\n".join(textwrap.wrap(visible(text, ""), width)).replace("$", r"\$")


def _draw(axes: Any, one: Series, number: int, joined: bool) -> None:
    colour, marker, style = _line_style(number)
    if one.pale:
        axes.plot(one.x, one.y, color=colour, alpha=0.3, linewidth=0.8)
        return
    every = max(1, len(one.x) // 8)
    if one.spread is not None and not joined:
        axes.errorbar(
            one.x, one.y, yerr=one.spread, fmt=marker, color=colour, capsize=3, markersize=5, label=_text(one.label)
        )
        axes.plot(one.x, one.y, style, color=colour, linewidth=1)
        return
    axes.plot(
        one.x, one.y, style, color=colour, marker=marker, markevery=(number % every, every), markersize=4,
        linewidth=1.3, label=_text(one.label),
    )  # fmt: skip
    if one.spread is not None:
        low, high = np.array(one.y) - np.array(one.spread), np.array(one.y) + np.array(one.spread)
        axes.fill_between(one.x, low, high, color=colour, alpha=0.12, linewidth=0)


# --- Style ------------------------------------------------------------------------------------------------------------


class LineStyle(NamedTuple):
    colour: str
    marker: str
    style: str


def _line_style(number: int) -> LineStyle:
    """Choose the style of a line by its number: colours repeat with other dashes, and neighbours' markers differ."""
    style = STYLES[number // len(COLOURS) % len(STYLES)]
    return LineStyle(COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)], style)


def _figure(width: Number, height: Number) -> Any:
    import matplotlib.figure  # slow to import, so not at the top

    return matplotlib.figure.Figure(figsize=(width, height), layout="constrained")


def _add_grids(figure: Any) -> None:
    for axes in figure.axes:
        axes.grid(alpha=0.3)


def _svg(figure: Any) -> str:
    import matplotlib

    _add_grids(figure)
    text = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "kintsugi"}):
        figure.savefig(text, format="svg", dpi=120, metadata={"Date": None})
    return text.getvalue()
