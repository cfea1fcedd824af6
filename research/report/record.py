"""Reading a run directory for reports: missing files count as empty, and damaged lines are skipped."""

import contextlib
import json
import math
import os
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from research.config import Experiment, Supervised, require, score_names, task_labels
from research.data.shapes import row_lengths
from research.model import flops
from research.storage import run_directory
from research.storage.best import merit
from research.storage.files import UNFINISHED, iterate_lines, read_lines

MOST_LINES = 2000  # of training: more than a screen can show


class RunRecord(NamedTuple):
    """The contents of one run directory."""

    directory: Path
    config: Experiment
    changes: dict[str, tuple[str, str]]  # by dotted name: the experiment file's value and the run's
    lines: list[dict[str, Any]]  # metrics.jsonl, as `read_metrics` returns it
    result: dict[str, Any]
    starts: list[dict[str, Any]]  # history.jsonl
    events: list[dict[str, Any]]
    samples: list[dict[str, Any]]
    launch: dict[str, str]  # launch.json: the summary printed before the first step
    evaluations: dict[str, dict[str, Any]]  # scores.json of scripts.evaluate by the name of its directory

    @property
    def name(self) -> str:
        return self.directory.absolute().name

    @property
    def step(self) -> int:
        return max((line["step"] for line in self.lines), default=0)

    @property
    def status(self) -> str:
        """The status in RESULT.json, or "interrupted" if that is "running" but no process of this machine trains it."""
        recorded = str(self.result.get("status", "not started"))
        return "interrupted" if recorded == "running" and not run_directory.is_held(self.directory) else recorded

    @property
    def reason(self) -> str:
        """The reason why the run ended before it was done."""
        return str(self.result.get("reason", "")) if self.status not in ("done", "running", "interrupted") else ""

    @property
    def seconds(self) -> float:
        """The time of the steps, without evaluations and saves."""
        timed = [line for line in self.lines if is_number(line.get("step_seconds"))]
        return sum((line["steps"] * line["step_seconds"] for line in timed), 0.0)

    @property
    def flops_per_step(self) -> int:
        return flops.flops_per_step(self.config, *row_lengths(self.config))

    @property
    def tokens_per_step(self) -> int:
        """The tokens of all encoder and decoder rows of a step, padding included."""
        return self.config.batch_size * sum(row_lengths(self.config))

    def curve(self, name: str) -> list[tuple[int, float]]:
        """Return (step, value) of every line of metrics.jsonl that has a number under this name."""
        return [(line["step"], float(line[name])) for line in self.lines if is_number(line.get(name))]

    def clock(self) -> list[tuple[int, float]]:
        """Return (step, seconds of steps until then), without evaluations, saves and time between starts."""
        seconds, ends = 0.0, [(0, 0.0)]
        for line in self.lines:
            if is_number(line.get("step_seconds")):
                seconds += line["steps"] * line["step_seconds"]
                ends.append((line["step"], seconds))
        return ends

    def scores(self) -> dict[str, float]:
        """Return the scores of the best evaluation in training, and those of scripts.evaluate.

        Without a best evaluation the last one counts. Scores of scripts.evaluate have names such as "test rougeL",
        "test ranked accuracy" or, with several tasks, "test multi30k bleu"; of several evaluations of a split, the one
        at the newest step counts.
        """
        evaluated = [line for line in self.lines if any(is_number(line.get(name)) for name in self.config.scores)]
        chosen = self.best_line(evaluated)
        scores = {name: float(chosen[name]) for name in self.config.scores if is_number(chosen.get(name))}
        for _, scored in sorted(self.evaluations.items(), key=lambda item: item[1].get("step") or 0):
            parts = scored.get("results", {})
            for task, part in parts.items():
                values = {"loss": part.get("loss")} | part.get("scores", {})
                prefix = " ".join(str(scored[name]) for name in ("split", "answers") if name in scored)
                prefix += f" {task}" if len(parts) > 1 else ""
                scores |= {f"{prefix} {name}": value for name, value in values.items() if is_number(value)}
        return scores

    def result_of_tasks(self) -> float | None:
        """Return the metric of the best evaluation or, of several tasks, T5's average; None if an evaluation lacks.

        The average is the mean over the tasks of the mean of a task's metrics, each task at its own best evaluation
        (arXiv:1910.10683, 3.1.2). A task without metrics does not count.
        """
        config = self.config
        if not isinstance(config.data, Supervised) or len(config.data.tasks) == 1:
            return self.scores().get(config.evaluation.best)
        named = zip(task_labels(config.data.tasks), config.data.tasks, strict=True)
        names = [[label + name for name in score_names(task.metrics)] for label, task in named if task.metrics]
        means = [
            [statistics.mean(line[name] for name in of_task) for line in self.lines if _has(line, of_task)]
            for of_task in names
        ]
        return statistics.mean(map(max, means)) if means and all(means) else None

    def best_line(self, evaluated: list[dict[str, Any]]) -> dict[str, Any]:
        """Return the line of the best evaluation; the last line if none has the metric, or an empty dict."""
        name = self.config.evaluation.best
        judged = [line for line in evaluated if is_number(line.get(name))]
        return max(judged, key=lambda line: merit(name, line[name]), default=evaluated[-1] if evaluated else {})


def shown_files(directory: Path) -> dict[Path, os.stat_result]:
    """Find the files that a page of the directory shows, with their status. Those that a run is writing are not."""
    found = {}
    for path in [*directory.glob("*.json*"), *directory.glob("evaluations/*/scores.json")]:
        with contextlib.suppress(FileNotFoundError):  # it was replaced since it was listed
            if path.suffix != UNFINISHED:
                found[path] = path.stat()
    return found


def read(directory: Path) -> RunRecord:
    """Read a run directory. Raises ConfigError if it is not one, or its config cannot be parsed."""
    require(directory.is_dir(), f"{directory}: there is no such directory.")
    is_run = (directory / "config.json").is_file() or (directory / "checkpoints").is_dir()
    require(is_run, f"{directory} holds no run: a run directory has a config.json, a sweep has a sweep.json.")
    changes = read_object(directory / "diff.json")
    score_files = sorted((directory / "evaluations").glob("*/scores.json"))
    return RunRecord(
        directory=directory,
        config=run_directory.read_last_config(directory),
        changes={name: (str(pair[0]), str(pair[1])) for name, pair in changes.items() if len(pair) == 2},
        lines=read_metrics(directory),
        result=read_object(directory / "RESULT.json"),
        starts=read_lines(directory / "history.jsonl"),
        events=read_lines(directory / "events.jsonl"),
        samples=read_lines(directory / "samples.jsonl"),
        launch={name: str(text) for name, text in read_object(directory / "launch.json").items()},
        evaluations={path.parent.name: read_object(path) for path in score_files},
    )


def read_all(directories: Sequence[Path]) -> list[RunRecord]:
    """Read several run directories. Raises ConfigError if one is given twice, or as `read` does."""
    paths = [directory.resolve() for directory in directories]
    twice = sorted({str(one) for one, path in zip(directories, paths, strict=True) if paths.count(path) > 1})
    require(not twice, f"{', '.join(twice)} is given twice: give each run once.")
    return [read(directory) for directory in directories]


def read_metrics(directory: Path) -> list[dict[str, Any]]:
    """Return the lines of metrics.jsonl that have a step: those of training, averaged by `Windows`, then the others."""
    windows, others = Windows(), list[dict[str, Any]]()
    for line in iterate_lines(directory / "metrics.jsonl"):
        if isinstance(line.get("step"), int):
            trained = is_number(line.get("steps")) and line["steps"] > 0
            (windows.add if trained else others.append)(line)
    return windows.all() + others


class Windows:
    """At most 2 * MOST_LINES averages over consecutive lines of training, with similar numbers of steps.

    A line of few steps, which an evaluation or a resume leaves, is averaged with the next one.
    """

    def __init__(self) -> None:
        self._size, self._last, self._many = 0, 0, 1  # steps of a line, and of the last one; lines of a window
        self._closed: list[dict[str, Any]] = []
        self._open: list[dict[str, Any]] = []
        self._steps = 0  # of the open ones

    def add(self, line: dict[str, Any]) -> None:
        if line["steps"] > self._size or line["steps"] == self._last:  # report.every may become less
            self._size = line["steps"]
        self._last = line["steps"]
        self._take(line)

    def _take(self, line: dict[str, Any]) -> None:
        self._open.append(line)
        self._steps += line["steps"]
        if 2 * self._steps > (2 * self._many - 1) * self._size:  # half a line less is enough
            self._close()
        if len(self._closed) == 2 * MOST_LINES:
            self._many, closed, self._closed = 2 * self._many, self._closed, []
            for one in closed:
                self._take(one)

    def all(self) -> list[dict[str, Any]]:
        """Return the windows. The last few steps, fewer than half a window, belong to the one before them."""
        if self._open:
            self._open[:0] = [self._closed.pop()] if self._closed else []
            self._close()
        return self._closed

    def _close(self) -> None:
        self._closed.append(_average(self._open) if len(self._open) > 1 else self._open[0])
        self._open, self._steps = [], 0


def _average(lines: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Average numbers by steps; counts are added."""
    steps = sum(line["steps"] for line in lines)
    average: dict[str, Any] = {"step": lines[-1]["step"]}
    for name in dict.fromkeys(name for line in lines for name in line if name != "step"):
        known = [(line[name], line["steps"]) for line in lines if is_number(line.get(name))]
        counted = sum(weight for _, weight in known)
        average[name] = sum(value * weight for value, weight in known) / counted if counted else None
    return average | {
        "steps": steps,
        "skipped": sum(line["skipped"] for line in lines if is_number(line.get("skipped"))),
    }


def _has(line: dict[str, Any], names: Sequence[str]) -> bool:
    return all(is_number(line.get(name)) for name in names)


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def read_object(path: Path) -> dict[str, Any]:
    with contextlib.suppress(OSError, ValueError, RecursionError):
        content = json.loads(path.read_bytes())
        return content if isinstance(content, dict) else {}
    return {}
