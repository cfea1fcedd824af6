"""The curves of a run as a picture."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

from research.config import FORCED, Experiment, require


def plot_loss(directory: Path, unigram_entropy: float, config: Experiment) -> Path:
    """Draws loss.png: training loss, held-out loss, and the entropy that a model blind to context can reach.

    Below them the number that evaluations are judged by or, where that is the loss, the first of the tasks' scores.
    """
    if jax.process_index() != 0:
        return directory / "loss.png"
    plt = _pyplot()
    lines = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
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
