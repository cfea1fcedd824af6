"""Thin entry points. A Ctrl-C ends each of them without a traceback, also while it is imported or ends."""

import os
import signal
import sys
import threading
from types import FrameType
from typing import Any

_excepthook, _unraisablehook = sys.excepthook, sys.unraisablehook


def _late(error: BaseException | None) -> bool:
    """Return whether a write of a save that failed, and raised elsewhere, ended after the loop that awaited it."""
    return str(error) == "Event loop is closed" and threading.current_thread() is not threading.main_thread()


def _except(kind: type[BaseException], error: BaseException, trace: Any) -> None:
    if not issubclass(kind, KeyboardInterrupt) and not _late(error):
        _excepthook(kind, error, trace)


def _unraisable(arguments: Any) -> None:
    """End the process at a Ctrl-C that reached code from which no exception passes on: it would be lost."""
    if issubclass(arguments.exc_type, KeyboardInterrupt):
        os._exit(130)
    if not _late(arguments.exc_value):
        _unraisablehook(arguments)


def _interrupt(number: int, frame: FrameType | None) -> None:
    """Raise KeyboardInterrupt but, during an import, end at once: there it would be wrapped, or crash code in C++."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            os._exit(130)
        frame = frame.f_back
    signal.default_int_handler(number, frame)


if os.environ.get("TF_CPP_MIN_LOG_LEVEL", "1") == "1":  # which JAX sets, also for children of a process that uses it
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"  # JAX's runtime would log every SIGTERM as a warning
if "pytest" not in sys.modules:
    sys.excepthook, sys.unraisablehook = _except, _unraisable
    if (
        signal.getsignal(signal.SIGINT) is signal.default_int_handler
        and threading.current_thread() is threading.main_thread()
    ):
        signal.signal(signal.SIGINT, _interrupt)
