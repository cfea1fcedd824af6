"""Logger that writes TensorBoard event files."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from research.config.logger import Logger, LogWriter


@dataclass(frozen=True)
class TensorBoard(Logger):
    """Logger of every number, as a scalar, to tensorboard/ in the run directory."""

    def open(self, directory: Path, experiment: Any, step: int) -> LogWriter:
        return _Events(directory / "tensorboard", step + 1)


class _Events:
    """Writer of one event file, without a thread: tensorboardX's own thread hangs for ever on a full disk."""

    def __init__(self, directory: Path, first_step: int) -> None:
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event, SessionLog

        directory.mkdir(exist_ok=True)
        self._writer = EventsWriter(str(directory / "events"))
        # Makes TensorBoard drop what an earlier process wrote for this step and later ones.
        self._write(Event(step=first_step, session_log=SessionLog(status=SessionLog.START)))

    def write(self, step: int, numbers: Mapping[str, float | int]) -> None:
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.summary import scalar

        for name, value in numbers.items():
            self._write(Event(step=step, summary=scalar(name, value)))
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()

    def _write(self, event: Any) -> None:
        event.wall_time = time.time()
        self._writer.write_event(event)
