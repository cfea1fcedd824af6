"""A run while it goes on: progress, metrics as JSON lines and TensorBoard.

Metrics stay on the device until the step after them has been dispatched, so reporting never makes the device wait.
"""

import contextlib
import json
import math
import os
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from research.config import Experiment
from research.config.logger import Logger, LogWriter
from research.config.parts import calling, expect, is_shipped
from research.data.pipeline import Pipeline
from research.model import flops
from research.storage import run_directory
from research.storage.console import clock, console


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
        self._file = open(self._path if leads else os.devnull, "a")  # noqa: SIM115 (closed on leaving)
        self._logs = list(logs)
        self._progress = _Progress(start, steps)

    def step(self, step: int, metrics: Any, data_wait: float) -> None:
        """Takes the metrics of a step, a NamedTuple on the device; writes the line of those before it if one is due."""
        if self._pending and self._pending[-1][0] % self._every == 0:
            self.flush()
        self._pending.append((step, metrics, data_wait))
        self._progress.advance(step)

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
        self._progress.show(line)
        for step, loss in spikes:
            usual = f"{self._losses.usual:.4g}, the median of the {len(self._losses.window)} steps before"
            self._event(step, f"the loss of {loss:.4g} spikes above {usual}")
        self._count_skipped(steps, [bool(value["skipped"]) for value in values])

    def write(self, step: int, values: Mapping[str, float | int | None]) -> None:
        """Writes a line; what is not finite, which JSON cannot hold, as null."""
        finite = {name: value for name, value in values.items() if value is not None and math.isfinite(value)}
        self._file.write(json.dumps({"step": step, **{name: finite.get(name) for name in values}}) + "\n")
        self._file.flush()
        for logger, writer in list(self._logs):
            try:
                writer.write(step, finite)
            except Exception as error:
                if is_shipped(type(logger)):
                    raise
                self._logs.remove((logger, writer))
                self._event(step, f"{type(logger).__name__} is switched off: {type(error).__name__}: {error}")

    def writing(self, done: int, total: int) -> None:
        """Says how far an evaluation has come with what it writes."""
        self._progress.writing(done, total)

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
                closing.enter_context(_tolerant(logger))
                closing.callback(writer.close)
            closing.callback(self._file.close)
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


class _Progress:
    """A bar in a terminal, a line now and then elsewhere; silent on all hosts but the first."""

    def __init__(self, start: int, steps: int) -> None:
        self._live = console.is_terminal and jax.process_index() == 0
        self._quiet = jax.process_index() != 0
        self._step, self._steps, self._start = start, steps, start
        self._began = self._said = time.perf_counter()
        self._text = ""
        if self._live:
            columns = (
                TextColumn("step"), MofNCompleteColumn(), BarColumn(), TextColumn("{task.fields[text]}"),
                TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(),
            )  # fmt: skip
            self._bar = Progress(*columns, console=console)
            self._task = self._bar.add_task("", total=steps, completed=start, text="")
            self._bar.start()

    def advance(self, step: int) -> None:
        self._step = step
        if self._live:
            self._bar.update(self._task, completed=step)

    def show(self, line: Mapping[str, Any]) -> None:
        loss = "loss  -   " if line["nll"] is None else f"loss {line['nll']:.4f}"
        mfu = f"  MFU {line['mfu']:.1%}" if "mfu" in line else ""
        self._text = f"{loss}  {line['tokens_per_second']:,.0f} tokens/s{mfu}"
        now = time.perf_counter()
        if self._live:
            self._bar.update(self._task, text=self._text)
        elif now - self._said > 10 or self._step == self._steps:
            self._said = now
            rate = (now - self._began) / max(1, self._step - self._start)
            self.say(f"step {self._step}/{self._steps}  {self._text}  left {clock((self._steps - self._step) * rate)}")

    def writing(self, done: int, total: int) -> None:
        said = f"evaluation: {done} of {total} examples written"
        if self._live:
            self._bar.update(self._task, text=self._text if done == total else said)
        elif time.perf_counter() - self._said > 10:
            self._said = time.perf_counter()
            self.say(said)

    def say(self, text: str) -> None:
        if not self._quiet:
            console.print(text, markup=False)

    def close(self) -> None:
        if self._live:
            self._bar.stop()


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


@contextlib.contextmanager
def _tolerant(logger: Logger) -> Iterator[None]:
    """Print what closing a user's log raises; the run has ended well or badly without it."""
    try:
        yield
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
    kept = []
    for line in path.read_text(errors="replace").splitlines():
        with contextlib.suppress(ValueError, KeyError, TypeError, RecursionError):
            if json.loads(line)["step"] <= step:
                kept.append(line + "\n")
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text("".join(kept))
    os.replace(temporary, path)
