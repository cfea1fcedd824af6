"""Reports of a running experiment: progress, and metrics as JSON lines and in loggers such as TensorBoard.

Metrics stay on the device until the step after them has been dispatched, so reporting never makes the device wait.
"""

import contextlib
import math
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from research.config import Experiment
from research.data.pipeline import Pipeline
from research.model import flops
from research.storage import run_directory
from research.storage.console import console
from research.storage.files import append_lines, keep_lines
from research.storage.progress import Progress
from research.train.loggers import Loggers


class NotFiniteError(RuntimeError):
    """Error after too many consecutive updates that were skipped because a loss or gradient was not finite."""

    def __init__(self, first: int, count: int) -> None:
        super().__init__(f"{count} updates in a row were not finite, the first at step {first}")
        self.first = first


class Losses:
    """A window of the last finite losses, to detect spikes. Spikes are only reported; training is not affected.

    A spike exceeds the median by more than ten times the median absolute deviation, and by a tenth of the median.
    Spikes and losses that are not finite do not enter the window. If spikes fill half a window in a row, the loss is at
    a new level, and they enter it.
    """

    def __init__(self, size: int = 128) -> None:
        self.window: deque[float] = deque(maxlen=size)
        self._in_a_row = 0

    @property
    def median(self) -> float:
        """Median of the window."""
        return float(np.median(self.window))

    def is_spike(self, loss: float) -> bool:
        """Tell whether a loss is a spike, and add it to the window."""
        if not math.isfinite(loss):
            return False
        known = len(self.window) == self.window.maxlen
        spread = float(np.median(np.abs(np.array(self.window) - self.median))) if known else math.inf
        spike = known and loss - self.median > max(10 * spread, 0.1 * abs(self.median))
        self._in_a_row = self._in_a_row + 1 if spike else 0
        if not spike or self._in_a_row > len(self.window) // 2:
            self.window.append(loss)
        return spike


class Reporter:
    """Metrics of one run from step `start`.

    Lines of what is done again, which a killed process left, are dropped: those of later steps and, if its evaluation
    is due, the scores of this one.
    """

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
        evaluation_due: bool = False,
        logs: Loggers | None = None,
    ) -> None:
        self.directory = directory
        self._path = directory / "metrics.jsonl"
        self._every, self._limit = every, nonfinite_limit
        self._tokens, self._flops, self._peak = tokens_per_step, flops_per_step, peak_flops
        self._pending: list[tuple[int, Any, float]] = []
        self._untimed = 0  # of these, steps whose time is not counted
        self._skipped_in_a_row = 0
        self._losses = Losses()
        self._clock = time.perf_counter()
        leads = jax.process_index() == 0
        if leads:
            for name, due in (("metrics.jsonl", evaluation_due), ("samples.jsonl", False)):
                if damaged := _keep_up_to(directory / name, start, due):
                    run_directory.record_event(directory, start, f"{damaged} lines of {name} could not be read")
        self._leads = leads
        self._logs = Loggers() if logs is None else logs
        self._progress = Progress("Training", steps, "steps", done=start, quiet=0.0, console=console, hidden=not leads)
        self._text = ""

    def step(self, step: int, metrics: Any, data_wait: float) -> None:
        """Add the metrics of a step, a NamedTuple on the device; first write the line of earlier steps if it is due.

        Few steps, as those after a resume may be, join the next line: it would be an outlier of every curve.
        """
        if self._pending and self._pending[-1][0] % self._every == 0 and 2 * len(self._pending) > self._every:
            self.flush()
        self._pending.append((step, metrics, data_wait))
        self._progress.advance()

    def begin_timing(self) -> None:
        """Leave the steps so far, whose time includes the start of the run, out of the step time."""
        self._untimed, self._clock = len(self._pending), time.perf_counter()

    def flush(self) -> None:
        """Write a line for the steps since the last line; wait for them to finish."""
        if not self._pending:
            return
        steps = [step for step, _, _ in self._pending]
        values = [value._asdict() for value in jax.device_get([metrics for _, metrics, _ in self._pending])]
        line = _mean(values) | {"steps": len(steps)} | self._times()
        made = [(step, value) for step, value in zip(steps, values, strict=True) if not value["skipped"]]
        losses = [(step, float(value["loss"])) for step, value in made]
        spikes = [(step, loss) for step, loss in losses if self._losses.is_spike(loss)]
        self.write(steps[-1], line)
        self._text = _describe(line)
        self._progress.note(self._text, last=steps[-1] == self._progress.total)
        for step, loss in spikes:
            reference = f"{self._losses.median:.4g}, the median of the {len(self._losses.window)} steps before"
            self._event(step, f"the loss of {loss:.4g} spikes above {reference}")
        self._count_skipped(steps, [bool(value["skipped"]) for value in values])

    def _times(self) -> dict[str, float]:
        """Take the time a step of the pending steps, which are none after this; {} if none is timed."""
        waits = [wait for _, _, wait in self._pending[self._untimed :]]
        now = time.perf_counter()
        elapsed = now - self._clock
        self._pending, self._untimed, self._clock = [], 0, now
        if not waits:
            return {}
        seconds = elapsed / len(waits)
        mfu = {} if self._peak is None else {"mfu": self._flops / seconds / self._peak}
        rates = {"step_seconds": seconds, "tokens_per_second": self._tokens / seconds}
        return rates | {"data_wait_seconds": float(np.mean(waits))} | mfu

    def write(self, step: int, values: Mapping[str, float | int | None]) -> None:
        """Write a line. Values that are not finite, which JSON cannot represent, become null."""
        finite = {name: value for name, value in values.items() if value is not None and math.isfinite(value)}
        if self._leads:
            append_lines(self._path, [{"step": step, **{name: finite.get(name) for name in values}}])
        self._logs.call("write", step, finite, on_failure=partial(self._event, step))

    def show_evaluation(self, done: int, total: int) -> None:
        """Show how many examples an evaluation has generated."""
        self._progress.note(self._text if done == total else f"evaluation: {done:,} of {total:,} examples written")

    def held_out(self, step: int, values: Mapping[str, float]) -> None:
        """Write and print the scores of an evaluation."""
        self.write(step, values)
        scores = "  ".join(f"{name.replace('_', ' ')} {value:.4g}" for name, value in values.items())
        self._progress.say(f"step {step}: {scores}")

    def samples(self, step: int, rows: Sequence[Mapping[str, str]]) -> None:
        """Give the samples of an evaluation to the loggers that take them."""
        self._logs.call("samples", step, rows, on_failure=partial(self._event, step))

    @property
    def skipping(self) -> bool:
        """True if the last flushed update was skipped."""
        return self._skipped_in_a_row > 0

    @contextlib.contextmanager
    def pause(self) -> Iterator[None]:
        """Exclude the time of a `with` block from the step time."""
        self.flush()
        yield
        self._clock = time.perf_counter()

    def __enter__(self) -> "Reporter":
        return self

    def __exit__(self, *error: object) -> None:
        """Write the pending steps, unless an error is being raised, and close the logs that need not know the end."""
        with contextlib.ExitStack() as closing:
            closing.callback(self._logs.close)
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


def open_reporter(
    directory: Path,
    config: Experiment,
    mesh: jax.sharding.Mesh,
    data: Pipeline,
    start: int,
    evaluation_due: bool,
    logs: Loggers,
) -> Reporter:
    """Make the reporter of a run that starts at a step, the evaluation of which may be due, and open its loggers."""
    logs.open(directory, config, start)
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
        evaluation_due=evaluation_due,
        logs=logs,
    )


def _describe(line: Mapping[str, Any]) -> str:
    nll = "nll -" if line["nll"] is None else f"nll {line['nll']:.4f}"
    rate = f", {line['tokens_per_second']:,.0f} tokens/s" if "tokens_per_second" in line else ""
    mfu = f", MFU {line['mfu']:.1%}" if "mfu" in line else ""
    return f"{nll}{rate}{mfu}"


def _mean(values: list[dict[str, Any]]) -> dict[str, float | int | None]:
    """Average metrics per target token over the updates that were made; count the skipped ones."""
    made = [value for value in values if not value["skipped"]]
    weights = [value["target_tokens"] for value in made]
    unused = ("skipped", "target_tokens")
    names = [name for name, value in values[0].items() if name not in unused and value is not None]
    means: dict[str, float | int | None] = {
        name: float(np.average([value[name] for value in made], weights=weights)) if made else None for name in names
    }
    return means | {"skipped": len(values) - len(made)}


def _keep_up_to(path: Path, step: int, evaluation_due: bool = False) -> int:
    """Drop lines of later steps, and the scores of this one if its evaluation is due.

    Lines that cannot be read or have no step are moved to a file beside it; return their number.
    """

    def keep(line: dict[str, Any]) -> bool:
        if not isinstance(line.get("step"), int):
            raise ValueError
        return line["step"] < step or (line["step"] == step and not (evaluation_due and "held_out_loss" in line))

    return keep_lines(path, keep)
