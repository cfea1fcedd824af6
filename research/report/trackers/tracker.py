"""The base of all trackers, the run that they describe, and the process that sends its records."""

import importlib.util
import json
import os
import secrets
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple

from research.config import ConfigError, parse_json, require
from research.config.base import require_positive
from research.config.logger import Logger, LogWriter
from research.storage.console import say
from research.storage.files import read_lines, write_json

ROOT = Path(__file__).resolve().parents[3]
QUIET = {
    "WANDB_SILENT": "true", "WANDB_ERROR_REPORTING": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_ENABLE_ASYNC_LOGGING": "false",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1", "GRADIO_ANALYTICS_ENABLED": "False",
}  # fmt: skip


class MetricsLine(NamedTuple):
    """A line of metrics.jsonl."""

    step: int
    numbers: dict[str, float | int]
    time: float  # when it was read


class TrackedRun(NamedTuple):
    """A run as its trackers show it."""

    id: str  # constant over the starts of the run
    directory: Path
    name: str
    group: str | None  # the sweep of which it is a variant
    variant: str | None  # its name in the sweep, without the seed
    seed: int
    config: dict[str, Any]  # fields by their dotted names
    changes: dict[str, str]  # fields that differ from the experiment's file: "old -> new"
    commit: str
    command: str


class End(NamedTuple):
    """The end of a run."""

    status: str  # as in RESULT.json; "killed" if its process ended without writing one
    exit_code: int
    step: int
    reason: str
    files: list[Path]  # the plot and the page
    best: Path | None  # the best checkpoint of a finished run, unless it is in a bucket


class Client(ABC):
    """A tracker's open run. Its methods may raise: what was not sent is sent again later."""

    url: str | None = None
    sent: int | None = None  # last step that the tracker already has, if it knows

    @abstractmethod
    def log(self, lines: Sequence[MetricsLine]) -> None:
        """Send metrics, steps in ascending order."""

    @abstractmethod
    def samples(self, step: int, rows: Sequence[Mapping[str, str]]) -> None:
        """Send the samples of an evaluation as a table."""

    @abstractmethod
    def end(self, end: End) -> None:
        """Send how the run ended, and close it."""


@dataclass(frozen=True, kw_only=True)
class Tracker(Logger):
    """A logger that sends a run's records to a tracker from a process of its own.

    The run neither waits for it nor fails with it. Only the end of the run waits until all is sent, at most
    `close_seconds`. Metrics that are not sent by then are sent when the run is resumed.
    """

    artifacts: bool = False  # sends the best checkpoint too, when the run is finished
    close_seconds: int = 60  # longest wait for the tracker when the run ends

    package = ""  # imported in the tracker's own process

    def __post_init__(self) -> None:
        require_positive(f"{type(self).__name__}.", self, "close_seconds")

    def check(self) -> None:
        found = importlib.util.find_spec(self.package) is not None
        require(found, f"{type(self).__name__} needs {self.package}: pip install 'kintsugi[track]'.")

    def open(self, directory: Path, experiment: Any, step: int) -> LogWriter:
        self.check()
        return _FollowProcess(self, directory, self._file_name(experiment))

    def lacks(self, directory: Path, experiment: Any) -> bool:
        """Tell whether records of a run that has ended were not sent."""
        state = State(directory, self._file_name(experiment))
        return not state.ended or state.unsent()[0] > 0

    def _file_name(self, experiment: Any) -> str:
        number = [other for other in experiment.report.loggers if type(other) is type(self)].index(self)
        return f"{self.package}-{number + 1}" if number else self.package

    @abstractmethod
    def connect(self, run: TrackedRun) -> Client:
        """Create the run in the tracker, or open it again. Called in the tracker's own process."""


def as_table(rows: Sequence[Mapping[str, str]]) -> tuple[list[str], list[list[str]]]:
    """Return the names of all columns, and each row's texts in their order."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    return names, [[row.get(name, "") for name in names] for row in rows]


class State:
    """A tracker's file in a run directory, trackers/NAME.json: the run's id, and how much of its records is sent.

    Without a readable file the id is new.
    """

    def __init__(self, directory: Path, name: str) -> None:
        self.path = directory / "trackers" / f"{name}.json"
        self.metrics, self.samples = (0, 0), 0  # last line sent, as `order` gives it; step of the last samples sent
        self.ended = False  # whether the end of the last start was sent
        try:
            content = parse_json(self.path.read_bytes(), str(self.path))
            self.id, self.samples = str(content["id"]), int(content["samples"])
            self.metrics = (int(content["metrics"][0]), int(content["metrics"][1]))
            self.ended = content["ended"] is True
        except (FileNotFoundError, ConfigError, KeyError, IndexError, TypeError, ValueError):
            self.id = secrets.token_hex(4)

    def write(self) -> None:
        self.path.parent.mkdir(exist_ok=True)
        content = {"id": self.id, "metrics": self.metrics, "samples": self.samples, "ended": self.ended}
        write_json(self.path, content)

    def unsent(self) -> tuple[int, int]:
        """Count the lines of metrics.jsonl that were not sent, and all."""
        lines = read_lines(self.path.parents[1] / "metrics.jsonl")
        return sum(order(line) > self.metrics for line in lines), len(lines)


def order(line: Mapping[str, Any]) -> tuple[int, int]:
    """Return the place of a line in metrics.jsonl: the scores of a step come after its training metrics."""
    return int(line["step"]), int("held_out_loss" in line)


class _FollowProcess:
    """The parent's side of a tracker's process.

    The process learns from the end of its standard input that the run has ended, however that happened. Its standard
    output has a line for each event, which is never waited for.
    """

    def __init__(self, tracker: Tracker, directory: Path, file_name: str) -> None:
        self.tracker, self.directory, self.step = tracker, directory, 0
        self.name, self.file_name = type(tracker).__name__, file_name
        state = State(directory, file_name)
        state.ended = False
        state.write()  # the run's id, before the tracker has it
        self._deadline: float | None = None
        self._rest = b""
        request = {"tracker": self.name, "fields": asdict(tracker), "directory": str(directory), "file": file_name}
        path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        with (directory / "trackers" / f"{file_name}.log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "research.report.trackers.follow", json.dumps(request)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=os.environ | QUIET | {"PYTHONPATH": path},
                start_new_session=True,  # Ctrl-C in a terminal reaches the run alone
            )
        os.set_blocking(self._output.fileno(), False)

    def write(self, step: int, numbers: Mapping[str, float | int]) -> None:
        """Report what has happened in the process; it reads the numbers from metrics.jsonl."""
        self.step = step
        self._report_events()

    def end(self, status: str) -> None:
        """Let the process send the rest and finish."""
        self._deadline = time.monotonic() + self.tracker.close_seconds
        assert self._process.stdin is not None
        with suppress(OSError):
            self._process.stdin.close()

    def close(self) -> None:
        """Wait for the process until the deadline that began with `end`, then kill it."""
        if self._deadline is None:
            self.end("failed")
        assert self._deadline is not None
        try:
            self._process.wait(max(0.0, self._deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            self._report_events()
            self._event(f"did not finish within {self.tracker.close_seconds} s. {self._unsent()}")
        else:
            self._report_events()
        self._process.kill()  # what it has started ends with it
        self._process.wait()
        self._output.close()

    @property
    def _output(self) -> IO[bytes]:
        assert self._process.stdout is not None
        return self._process.stdout

    def _report_events(self) -> None:
        with suppress(BlockingIOError):
            while piece := os.read(self._output.fileno(), 65536):
                self._rest += piece
        *lines, self._rest = self._rest.split(b"\n")
        for line in lines:
            self._event(line.decode(errors="replace"))
        if self._process.poll() not in (None, 0) and not self._is_over:
            self._is_over = True
            self._event(f"stopped with exit code {self._process.returncode}: see trackers/{self.file_name}.log.")

    _is_over = False

    def _event(self, what: str) -> None:
        from research.storage import run_directory  # imports JAX, which the tracker's process does without

        say(f"{self.name} {what}")
        with suppress(OSError):
            run_directory.record_event(self.directory, self.step, f"{self.name} {what}")

    def _unsent(self) -> str:
        count, all_lines = State(self.directory, self.file_name).unsent()
        return f"{count} of {all_lines} lines of metrics.jsonl were not sent: repeat the command to send the rest."
