"""Ends a run that hangs: a collective that waits for a dead host never returns and never raises."""

import faulthandler
import os
import sys
import threading
import time
from collections.abc import Callable


class Watchdog:
    """Exits with `exit_code` when `beat` was not called for `seconds`, after printing every thread's stack.

    The first beat starts it, so that compiling and restoring have the time they need.
    """

    def __init__(self, seconds: float | int, exit_code: int, on_hang: Callable[[], object]) -> None:
        self._seconds, self._exit_code, self._on_hang = seconds, exit_code, on_hang
        self._last: float | None = None
        self._stopped = threading.Event()
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    def beat(self) -> None:
        self._last = time.monotonic()

    def stop(self) -> None:
        self._stopped.set()

    def _watch(self) -> None:
        while not self._stopped.wait(min(1.0, self._seconds / 4)):
            if self._last is not None and time.monotonic() - self._last > self._seconds:
                print(
                    f"No step finished for {self._seconds:.0f} s. Where every thread is:", file=sys.stderr, flush=True
                )
                faulthandler.dump_traceback(all_threads=True)
                # On a thread of its own, since what hangs may be the file system that it writes to.
                saying = threading.Thread(target=self._on_hang, daemon=True)
                saying.start()
                saying.join(10)
                os._exit(self._exit_code)
