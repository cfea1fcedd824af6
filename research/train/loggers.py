"""The open loggers of a run."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax

from research.config import Experiment
from research.config.logger import Logger, LogWriter
from research.config.parts import calling, expect, is_shipped
from research.storage.console import console

Logs = list[tuple[Logger, LogWriter]]


class Loggers:
    """The open loggers, each with its writer. A user's writer that raises is switched off."""

    def __init__(self, logs: Logs | None = None) -> None:
        self._logs: Logs = [] if logs is None else logs

    def open(
        self, directory: Path, config: Experiment, step: int, wanted: Callable[[Logger], bool] = lambda logger: True
    ) -> None:
        """Open every logger of the experiment, or those that are `wanted`, on the first host only.

        Raises:
            ConfigError: a user's logger raises, or its writer has no `write` or `close`.
        """
        for logger in filter(wanted, config.report.loggers if jax.process_index() == 0 else ()):
            with calling(logger, "open"):
                writer = logger.open(directory, config, step)
            for name in ("write", "close"):
                returned = f"returned {type(writer).__name__}, which has no {name}()"
                expect(callable(getattr(writer, name, None)), logger, "open", returned)
            self._logs.append((logger, writer))

    def call(self, method: str, *arguments: Any, on_failure: Callable[[str], None]) -> None:
        """Call a method of every writer that has it."""
        for logger, writer in list(self._logs):
            try:
                getattr(writer, method, _nothing)(*arguments)
            except Exception as error:
                if is_shipped(type(logger)):
                    raise
                self._logs.remove((logger, writer))
                on_failure(f"{type(logger).__name__} is switched off: {type(error).__name__}: {error}")

    def close(self, ended: bool = False) -> None:
        """Close the writers, before the run has `ended` only those that have no `end`."""
        closing = [(logger, writer) for logger, writer in self._logs if ended or not hasattr(writer, "end")]
        self._logs = [pair for pair in self._logs if pair not in closing]
        with contextlib.ExitStack() as stack:
            for logger, writer in closing:
                stack.callback(_close, logger, writer)


@contextlib.contextmanager
def loggers(status: Callable[[], str]) -> Iterator[Loggers]:
    """Yield loggers that can be opened. When all files of the run are written, tell them how it ended: `status()`."""
    logs = Loggers()
    try:
        yield logs
    finally:
        logs.call("end", status(), on_failure=_print)
        logs.close(ended=True)


def _nothing(*arguments: Any) -> None:
    pass


def _print(message: str) -> None:
    console.print(message, markup=False)


def _close(logger: Logger, writer: LogWriter) -> None:
    """Close a log. Errors of a user's logger are only printed, so that they do not change how the run ends."""
    try:
        writer.close()
    except Exception as error:
        if is_shipped(type(logger)):
            raise
        _print(f"{type(logger).__name__} could not be closed: {type(error).__name__}: {error}")
