"""What a run directory says of its run, read for people: what is missing is empty, a damaged line is left out."""

import contextlib
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from research.config import Experiment, require
from research.data.shapes import row_lengths
from research.model import flops
from research.storage import run_directory
from research.storage.checkpoint import merit
from research.storage.files import read_lines


class RunRecord(NamedTuple):
    """One run."""

    directory: Path
    config: Experiment
    changes: dict[str, tuple[str, str]]  # by dotted name: the experiment file's value and the run's
    lines: list[dict[str, Any]]  # metrics.jsonl
    result: dict[str, Any]
    starts: list[dict[str, Any]]  # history.jsonl
    events: list[dict[str, Any]]
    samples: list[dict[str, Any]]
    launch: dict[str, str]  # what was printed before the first step
    evaluations: dict[str, dict[str, Any]]  # what scripts.evaluate found, by its directory's name

    @property
    def name(self) -> str:
        return self.directory.absolute().name

    @property
    def step(self) -> int:
        return max((line["step"] for line in self.lines), default=0)

    @property
    def status(self) -> str:
        """As RESULT.json has it; "broken off" where it says "running" and no process of this machine trains."""
        said = str(self.result.get("status", "not begun"))
        return "broken off" if said == "running" and not run_directory.is_held(self.directory) else said

    @property
    def reason(self) -> str:
        """Why it ended before it was done."""
        return str(self.result.get("reason", "")) if self.status not in ("done", "running", "broken off") else ""

    @property
    def flops_per_step(self) -> int:
        return flops.flops_per_step(self.config, *row_lengths(self.config))

    @property
    def tokens_per_step(self) -> int:
        """Of the encoder's and the decoder's rows."""
        return self.config.batch_size * sum(row_lengths(self.config))

    def curve(self, name: str) -> list[tuple[int, float]]:
        """(step, value) wherever the metrics have a number by this name."""
        return [(line["step"], float(line[name])) for line in self.lines if is_number(line.get(name))]

    def scores(self) -> dict[str, float]:
        """Of its best evaluation, or of the last one where none is the best, and those that scripts.evaluate found.

        The latter by names such as "test rougeL", and of one among several tasks "test multi30k bleu"; of several
        evaluations of a split that of the newest step counts.
        """
        evaluated = [line for line in self.lines if any(is_number(line.get(name)) for name in self.config.scores)]
        chosen = self.best_line(evaluated)
        found = {name: float(chosen[name]) for name in self.config.scores if is_number(chosen.get(name))}
        for _, scored in sorted(self.evaluations.items(), key=lambda item: item[1].get("step") or 0):
            parts = scored.get("results", {})
            for task, part in parts.items():
                values = {"loss": part.get("loss")} | part.get("scores", {})
                said = f"{scored.get('split', '')} {task}" if len(parts) > 1 else str(scored.get("split", ""))
                found |= {f"{said} {name}": value for name, value in values.items() if is_number(value)}
        return found

    def best_line(self, evaluated: list[dict[str, Any]]) -> dict[str, Any]:
        name = self.config.evaluation.best
        judged = [line for line in evaluated if is_number(line.get(name))]
        return max(judged, key=lambda line: merit(name, line[name]), default=evaluated[-1] if evaluated else {})


def read(directory: Path) -> RunRecord:
    """Raises ConfigError where the directory is none of a run, or its config cannot be understood."""
    require(directory.is_dir(), f"{directory}: there is no such directory.")
    is_run = (directory / "config.json").is_file()
    require(is_run, f"{directory} holds no run: a run directory has a config.json, a sweep a sweep.json.")
    changes = _object(directory / "diff.json")
    found = sorted((directory / "evaluations").glob("*/scores.json"))
    return RunRecord(
        directory=directory,
        config=run_directory.read_config(directory),
        changes={name: (str(pair[0]), str(pair[1])) for name, pair in changes.items() if len(pair) == 2},
        lines=read_metrics(directory),
        result=_object(directory / "RESULT.json"),
        starts=read_lines(directory / "history.jsonl"),
        events=read_lines(directory / "events.jsonl"),
        samples=read_lines(directory / "samples.jsonl"),
        launch={name: str(text) for name, text in _object(directory / "launch.json").items()},
        evaluations={path.parent.name: _object(path) for path in found},
    )


def read_all(directories: Sequence[Path]) -> list[RunRecord]:
    """Raises ConfigError where one is given twice, or as `read` does."""
    places = [directory.resolve() for directory in directories]
    twice = sorted({str(one) for one, place in zip(directories, places, strict=True) if places.count(place) > 1})
    require(not twice, f"{', '.join(twice)} is given twice: each run counts once.")
    return [read(directory) for directory in directories]


def read_metrics(directory: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl that say of which step they are."""
    return [line for line in read_lines(directory / "metrics.jsonl") if isinstance(line.get("step"), int)]


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _object(path: Path) -> dict[str, Any]:
    with contextlib.suppress(OSError, ValueError, RecursionError):
        found = json.loads(path.read_bytes())
        return found if isinstance(found, dict) else {}
    return {}
