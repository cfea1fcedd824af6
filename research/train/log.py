"""A run while it goes on: progress, metrics as JSON lines and TensorBoard.

Metrics stay on the device until the step after them has been dispatched, so reporting never makes the device wait.
"""

import contextlib
import math
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from research.config import Experiment
from research.config.logger import Logger, LogWriter
from research.config.parts import calling, expect, is_shipped
from research.data.pipeline import Pipeline
from research.model import flops
from research.storage import run_directory
from research.storage.console import console
from research.storage.files import append_lines, read_lines, write_lines
from research.storage.progress import Progress


class NotFiniteError(RuntimeError):
    """Too many updates in a row were skipped because a loss or gradient was not finite."""

    def __init__(self, first: int, count: int) -> None:
        super().__init__(f"{count} updates in a row were not finite, the first at step {first}")
        self.first = first


class Losses:
    """The last finite losses, beside which a step's is a spike. It changes nothing but what is said.

    A spike is above the median by more than ten times the median distance from it, and by a tenth of it. It stays out
    of the window, as what is not finite does, unless half a window of them comes: then the loss is on another level.
    """

    def __init__(self, size: int = 128) -> None:
        self.window: deque[float] = deque(maxlen=size)
        self._in_a_row = 0

    @property
    def usual(self) -> float:
        return float(np.median(self.window))

    def spikes(self, loss: float) -> bool:
        if not math.isfinite(loss):
            return False
        known = len(self.window) == self.window.maxlen
        spread = float(np.median(np.abs(np.array(self.window) - self.usual))) if known else math.inf
        spike = known and loss - self.usual > max(10 * spread, 0.1 * abs(self.usual))
        self._in_a_row = self._in_a_row + 1 if spike else 0
        if not spike or self._in_a_row > len(self.window) // 2:
            self.window.append(loss)
        return spike


class Reporter:
    """Metrics of one run, from `start` on; lines of later steps, left by a killed process, are dropped."""

    def __init__(
        self,
        directory: Path,
        *,
        start: int,
        steps: int,
        every: int,
        nonfinite_limit: int,
        tokens_per_step: int,
        flops_per_step: int,
        peak_flops: float | None,
        logs: Sequence[tuple[Logger, LogWriter]] = (),
    ) -> None:
        self.directory = directory
        self._path = directory / "metrics.jsonl"
        self._every, self._limit = every, nonfinite_limit
        self._tokens, self._flops, self._peak = tokens_per_step, flops_per_step, peak_flops
        self._pending: list[tuple[int, Any, float]] = []
        self._skipped_in_a_row = 0
        self._losses = Losses()
        self._clock = time.perf_counter()
        leads = jax.process_index() == 0
        if leads:
            _keep_up_to(self._path, start)
            _keep_up_to(directory / "samples.jsonl", start)
        self._leads = leads
        self._logs = list(logs)
        self._progress = Progress("Training", steps, "steps", done=start, quiet=0.0, console=console, hidden=not leads)
        self._text = ""

    def step(self, step: int, metrics: Any, data_wait: float) -> None:
        """Takes the metrics of a step, a NamedTuple on the device; writes the line of those before it if one is due."""
        if self._pending and self._pending[-1][0] % self._every == 0:
            self.flush()
        self._pending.append((step, metrics, data_wait))
        self._progress.advance()

    def flush(self) -> None:
        """Writes a line over the steps since the last one; waits for them to finish."""
        if not self._pending:
            return
        steps = [step for step, _, _ in self._pending]
        values = [value._asdict() for value in jax.device_get([metrics for _, metrics, _ in self._pending])]
        now = time.perf_counter()
        seconds = (now - self._clock) / len(steps)
        waits = float(np.mean([wait for _, _, wait in self._pending]))
        self._pending, self._clock = [], now
        line = _mean(values) | {
            "steps": len(steps),
            "step_seconds": seconds,
            "tokens_per_second": self._tokens / seconds,
            "data_wait_seconds": waits,
        }
        made = [(step, value) for step, value in zip(steps, values, strict=True) if not value["skipped"]]
        losses = [(step, float(value["loss"])) for step, value in made]
        spikes = [(step, loss) for step, loss in losses if self._losses.spikes(loss)]
        if self._peak is not None:
            line["mfu"] = self._flops / seconds / self._peak
        self.write(steps[-1], line)
        self._text = _described(line)
        self._progress.note(self._text, last=steps[-1] == self._progress.total)
        for step, loss in spikes:
            usual = f"{self._losses.usual:.4g}, the median of the {len(self._losses.window)} steps before"
            self._event(step, f"the loss of {loss:.4g} spikes above {usual}")
        self._count_skipped(steps, [bool(value["skipped"]) for value in values])

    def write(self, step: int, values: Mapping[str, float | int | None]) -> None:
        """Writes a line; what is not finite, which JSON cannot hold, as null."""
        finite = {name: value for name, value in values.items() if value is not None and math.isfinite(value)}
        if self._leads:
            append_lines(self._path, [{"step": step, **{name: finite.get(name) for name in values}}])
        for logger, writer in list(self._logs):
            try:
                writer.write(step, finite)
            except Exception as error:
                if is_shipped(type(logger)):
                    raise
                self._logs.remove((logger, writer))
                self._event(step, f"{type(logger).__name__} is switched off: {type(error).__name__}: {error}")

    def writing(self, done: int, total: int) -> None:
        """Show how far an evaluation has come with what it writes."""
        self._progress.note(self._text if done == total else f"evaluation: {done:,} of {total:,} examples written")

    def held_out(self, step: int, values: Mapping[str, float]) -> None:
        self.write(step, values)
        said = "  ".join(f"{name.replace('_', ' ')} {value:.4g}" for name, value in values.items())
        self._progress.say(f"step {step}: {said}")

    @property
    def skipping(self) -> bool:
        """Whether the last update that was flushed was skipped."""
        return self._skipped_in_a_row > 0

    @contextlib.contextmanager
    def pause(self) -> Iterator[None]:
        """Leaves what happens inside out of the step time."""
        self.flush()
        yield
        self._clock = time.perf_counter()

    def __enter__(self) -> "Reporter":
        return self

    def __exit__(self, *error: object) -> None:
        """Writes what is left, unless an error is on its way already, and closes."""
        with contextlib.ExitStack() as closing:
            for logger, writer in self._logs:
                closing.callback(_close, logger, writer)
            closing.callback(self._progress.close)
            if error[0] is None:
                self.flush()

    def _count_skipped(self, steps: list[int], skipped: list[bool]) -> None:
        for step, skip in zip(steps, skipped, strict=True):
            self._skipped_in_a_row = self._skipped_in_a_row + 1 if skip else 0
            if self._skipped_in_a_row >= self._limit:
                raise NotFiniteError(step - self._skipped_in_a_row + 1, self._skipped_in_a_row)
        if any(skipped):
            self._event(steps[-1], f"{sum(skipped)} of {len(steps)} updates were not finite and skipped")

    def _event(self, step: int, what: str) -> None:
        self._progress.say(f"step {step}: {what}")
        run_directory.record_event(self.directory, step, what)


def open_logs(directory: Path, config: Experiment, step: int) -> list[tuple[Logger, LogWriter]]:
    """Open every logger of the experiment, on the first host alone.

    Raises ConfigError for a user's logger that raises, or opens what cannot be written to.
    """
    logs: list[tuple[Logger, LogWriter]] = []
    for logger in config.report.loggers if jax.process_index() == 0 else ():
        with calling(logger, "open"):
            writer = logger.open(directory, config, step)
        for name in ("write", "close"):
            returned = f"returned {type(writer).__name__}, which has no {name}()"
            expect(callable(getattr(writer, name, None)), logger, "open", returned)
        logs.append((logger, writer))
    return logs


def _close(logger: Logger, writer: LogWriter) -> None:
    """Close a log. What a user's own raises is printed: the run has ended, well or badly, without it."""
    try:
        writer.close()
    except Exception as error:
        if is_shipped(type(logger)):
            raise
        console.print(f"{type(logger).__name__} could not be closed: {type(error).__name__}: {error}", markup=False)


def open_reporter(directory: Path, config: Experiment, mesh: jax.sharding.Mesh, data: Pipeline, start: int) -> Reporter:
    peak = flops.peak_flops(mesh.devices.flat[0])
    return Reporter(
        directory,
        start=start,
        steps=config.steps,
        every=config.report.every,
        nonfinite_limit=config.guard.nonfinite_limit,
        tokens_per_step=config.batch_size * (data.inputs + data.targets),
        flops_per_step=flops.flops_per_step(config, data.inputs, data.targets),
        peak_flops=None if peak is None else peak * mesh.size,
        logs=open_logs(directory, config, start),
    )


def _described(line: Mapping[str, Any]) -> str:
    loss = "loss -" if line["nll"] is None else f"loss {line['nll']:.4f}"
    mfu = f", MFU {line['mfu']:.1%}" if "mfu" in line else ""
    return f"{loss}, {line['tokens_per_second']:,.0f} tokens/s{mfu}"


def _mean(values: list[dict[str, Any]]) -> dict[str, float | int | None]:
    """Means over the updates that were made, per target token; the count of those that were skipped."""
    made = [value for value in values if not value["skipped"]]
    weights = [value["target_tokens"] for value in made]
    names = [name for name in values[0] if name not in ("skipped", "target_tokens")]
    means: dict[str, float | int | None] = {
        name: float(np.average([value[name] for value in made], weights=weights)) if made else None for name in names
    }
    return means | {"skipped": len(values) - len(made)}


def _keep_up_to(path: Path, step: int) -> None:
    """Drops the lines after a step, one that a kill cut short, and what is no line of a report."""
    if not path.exists():
        return
    lines = [line for line in read_lines(path) if isinstance(line.get("step"), int)]
    write_lines(path, [line for line in lines if line["step"] <= step])
