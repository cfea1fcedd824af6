"""Progress of slow preparation: silent for ten seconds, then a bar on a terminal or a plain line now and then."""

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

QUIET_SECONDS = 10.0  # before anything is shown
LINE_SECONDS = 10.0  # between plain lines


class Progress:
    """Counts `unit`s towards `total`; a context manager, so that a bar is taken down whatever happens."""

    def __init__(self, what: str, total: int, unit: str) -> None:
        self.what, self.total, self.unit = what, total, unit
        self.done = 0
        self.started = time.monotonic()
        self.shown = self.started
        self.console = Console(stderr=True)
        self.bar: Bar | None = None

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.bar is not None:
            self.bar.stop()

    def advance(self, count: int = 1) -> None:
        self.done += count
        now = time.monotonic()
        if now - self.started < QUIET_SECONDS:
            return
        if self.console.is_terminal:
            self._draw(now)
        elif now - self.shown >= LINE_SECONDS:
            self.shown = now
            print(self.line(now), file=sys.stderr, flush=True)

    def rate(self, now: float) -> float:
        return self.done / max(now - self.started, 1e-9)

    def line(self, now: float) -> str:
        rate = self.rate(now)
        left = max(self.total - self.done, 0) / max(rate, 1e-9)
        return f"{self.what}: {self.done:,} of {self.total:,} {self.unit}, {rate:,.0f}/s, {left:,.0f} s left"

    def _draw(self, now: float) -> None:
        if self.bar is None:
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
            rate = TextColumn("{task.fields[unit]}, {task.fields[rate]:,.0f}/s")
            self.bar = Bar(*columns, rate, TimeRemainingColumn(), console=self.console)
            self.bar.add_task(self.what, total=self.total, unit=self.unit, rate=0.0)
            self.bar.start()
        self.bar.update(self.bar.task_ids[0], completed=self.done, rate=self.rate(now))
