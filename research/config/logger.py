"""Loggers: destinations of a run's metrics during training, besides metrics.jsonl."""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from research.config.parts import Part


@runtime_checkable
class LogWriter(Protocol):
    """An open log of a run."""

    def write(self, step: int, numbers: Mapping[str, float | int]) -> None:
        """Write the finite numbers of one line of metrics.jsonl, by name, at a training step counted from 1."""

    def close(self) -> None:
        """Flush and close. Called once, also if the run ends with an error."""


@dataclass(frozen=True)
class Logger(Part):
    """A destination of a run's metrics. Subclass it in the experiment's file and list it in `report.loggers`:

        @dataclass(frozen=True)
        class CSV(Logger):
            name: str = "numbers.csv"

            def open(self, directory, experiment, step):
                return CSVWriter(directory / self.name, step)

        class CSVWriter:
            def __init__(self, path, step):
                self.file = open(path, "a")

            def write(self, step, numbers):
                for name, value in numbers.items():
                    print(step, name, value, sep=",", file=self.file)

            def close(self):
                self.file.close()

        Report(every=10, loggers=(TensorBoard(), CSV()))

    A writer may have two more methods:

        def samples(self, step, rows):  # samples of an evaluation, as samples.jsonl has them
        def end(self, status):  # how the run ended, as in RESULT.json: "done", "failed", "preempted" ...

    `end` is called before `close`, when all files of the run directory are written: RESULT.json, report.html, loss.png.
    Without it `close` is called as soon as training ends. From `open` on, the directory has config.json (the fields),
    diff.json (those that differ from the experiment's file) and history.jsonl (the commit and the command).

    Only the first host logs. An exception in `open` stops the run before the first step, with its file and line. A
    writer that raises later is disabled, with a line in events.jsonl, and training continues.
    """

    def check(self) -> None:
        """Raise ConfigError if something is missing, such as a package. Called before data are prepared."""

    @abstractmethod
    def open(self, directory: Path, experiment: Any, step: int) -> LogWriter:
        """Open a new or existing log in the run directory. A killed process may have logged steps after `step`.

        `experiment` is the run's Experiment; `step` is 0, or the step of the checkpoint from which the run resumes.
        """
