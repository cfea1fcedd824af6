"""Thin entry points. A Ctrl-C ends each of them without a traceback, also while it is imported or ends."""

import os
import sys
from typing import Any

_excepthook, _unraisablehook = sys.excepthook, sys.unraisablehook


def _except(kind: type[BaseException], error: BaseException, trace: Any) -> None:
    if not issubclass(kind, KeyboardInterrupt):
        _excepthook(kind, error, trace)


def _unraisable(arguments: Any) -> None:
    """End the process at a Ctrl-C that reached code from which no exception passes on: it would be lost."""
    if not issubclass(arguments.exc_type, KeyboardInterrupt):
        return _unraisablehook(arguments)
    os._exit(130)


if "pytest" not in sys.modules:
    sys.excepthook, sys.unraisablehook = _except, _unraisable
