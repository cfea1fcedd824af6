"""Watchdog for runs that hang: a collective that waits for a dead host never returns and never raises."""

import faulthandler
import os
import sys
import threading
from collections.abc import Callable


class Watchdog:
    """A thread that exits with `exit_code` if `beat` is not called for `seconds`.

    It prints what work `unfinished` names or, if that is "", the stacks of all threads. It starts at the first
    beat, so that compiling and restoring may take any time, and ends with the `with` block, also by an exception. Time
    in which the whole process is suspended, as by Ctrl-Z or with a laptop, does not count.
    """

    def __init__(
        self,
        seconds: float | int,
        exit_code: int,
        on_hang: Callable[[], object],
        unfinished: Callable[[], str] = lambda: "",
    ) -> None:
        self._seconds, self._exit_code, self._on_hang, self._unfinished = seconds, exit_code, on_hang, unfinished
        self._beats = 0
        self._stopped = threading.Event()
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    def beat(self) -> None:
        """Report progress."""
        self._beats += 1

    def stop(self) -> None:
        """End the watch."""
        self._stopped.set()

    def __enter__(self) -> "Watchdog":
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def _watch(self) -> None:
        interval, idle, seen = min(1.0, self._seconds / 4), 0.0, 0
        while not self._stopped.wait(interval):
            idle = idle + interval if seen == self._beats else 0.0  # in rounds: clocks count suspensions
            seen = self._beats
            if seen > 0 and idle > self._seconds:
                self._report()
                # On another thread, since the file system that it writes to may be what hangs.
                reporting = threading.Thread(target=self._on_hang, daemon=True)
                reporting.start()
                reporting.join(10)
                os._exit(self._exit_code)

    def _report(self) -> None:
        if unfinished := self._unfinished():
            advice = "check the network and the storage, then repeat the command"
            print(f"{unfinished} did not finish in {self._seconds:.0f} s: {advice}.", file=sys.stderr, flush=True)
        else:
            print(f"No step finished for {self._seconds:.0f} s. Stacks of all threads:", file=sys.stderr, flush=True)
            faulthandler.dump_traceback(all_threads=True)
