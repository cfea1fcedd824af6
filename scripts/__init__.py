"""Thin entry points. A Ctrl-C ends each of them without a traceback, also while it is imported or ends."""

import os
import sys
import threading
from typing import Any

_excepthook, _unraisablehook = sys.excepthook, sys.unraisablehook


def _except(kind: type[BaseException], error: BaseException, trace: Any) -> None:
    # Writes of a save that has failed, and whose error is raised elsewhere, end after the loop that awaited them.
    late = str(error) == "Event loop is closed" and threading.current_thread() is not threading.main_thread()
    if not issubclass(kind, KeyboardInterrupt) and not late:
        _excepthook(kind, error, trace)


def _unraisable(arguments: Any) -> None:
    """End the process at a Ctrl-C that reached code from which no exception passes on: it would be lost."""
    if not issubclass(arguments.exc_type, KeyboardInterrupt):
        return _unraisablehook(arguments)
    os._exit(130)


if "pytest" not in sys.modules:
    sys.excepthook, sys.unraisablehook = _except, _unraisable
