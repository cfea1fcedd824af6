"""Progress display for all slow work: a bar on a terminal, otherwise an occasional line."""

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from research.storage import stop
from research.storage.console import clock

QUIET_SECONDS = 10.0  # before anything is shown
LINE_SECONDS = 10.0  # between plain lines


class Progress:
    """A count of `unit`s towards `total`, with its rate and the time left.

    Nothing is shown in the first `quiet` seconds, so short work is silent. `console` is standard error by default. Use
    it as a context manager, so that the bar is removed even after an error.
    """

    def __init__(
        self,
        what: str,
        total: int,
        unit: str,
        *,
        done: int = 0,
        quiet: float | None = None,
        console: Console | None = None,
        hidden: bool = False,
    ) -> None:
        self.what, self.total, self.unit = what, total, unit
        self.done = self.done_before = done
        self.quiet = QUIET_SECONDS if quiet is None else quiet
        self.console = Console(stderr=True, highlight=False, soft_wrap=True) if console is None else console
        self.hidden = hidden
        self.text = ""
        self.started = self.shown = time.monotonic()
        self.bar: Bar | None = None

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Remove the bar."""
        if self.bar is not None:
            self.bar.stop()

    def advance(self, count: int = 1) -> None:
        """Add to the count and update the display. Where work may be stopped, look for a request to stop."""
        stop.check()
        self.done += count
        self._refresh()

    def note(self, text: str, last: bool = False) -> None:
        """Set the text beside the count. With `last`, show it at once; without a bar this prints a line."""
        self.text = text
        self._refresh(at_once=last)

    def say(self, text: str) -> None:
        """Print a line, above the bar if there is one."""
        if not self.hidden:
            self.console.print(text, markup=False)

    def rate(self, now: float) -> float:
        """Compute the units per second since the display was made, without those done before."""
        return (self.done - self.done_before) / max(now - self.started, 1e-9)

    def line(self, now: float) -> str:
        """Format the count, rate, time left and text as one line."""
        rate = self.rate(now)
        left = clock(max(self.total - self.done, 0) / rate) + " left" if rate > 0 else "time left unknown"
        parts = (f"{self.what}: {self.done:,} of {self.total:,} {self.unit}", _per_second(rate), left, self.text)
        return ", ".join(part for part in parts if part)

    def _refresh(self, at_once: bool = False) -> None:
        now = time.monotonic()
        if self.hidden or now - self.started < self.quiet:
            return
        if self.console.is_terminal:
            self._draw(now)
        elif at_once or now - self.shown >= LINE_SECONDS:
            self.shown = now
            self.say(self.line(now))

    def _draw(self, now: float) -> None:
        if self.bar is None:
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
            facts = TextColumn("{task.fields[unit]}, {task.fields[rate]}")
            left = (TimeRemainingColumn(), TextColumn("left"), TextColumn("{task.fields[text]}"))
            self.bar = Bar(*columns, facts, *left, console=self.console)
            self.bar.add_task(self.what, total=self.total, completed=self.done, unit=self.unit, rate="", text="")
            self.bar.start()
        rate = _per_second(self.rate(now))
        self.bar.update(self.bar.task_ids[0], completed=self.done, rate=rate, text=self.text)


def _per_second(rate: float) -> str:
    return f"{rate:,.0f}/s" if rate >= 10 else f"{rate:.2g}/s"
