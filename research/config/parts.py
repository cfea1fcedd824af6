"""Parts: classes that users may subclass, and errors with the file and line of a part.

A part is a frozen dataclass that subclasses Objective, Corpus, Task, Metric or another base, all of which subclass
`Part`. Methods of a part are called inside `calling`, and `expect` checks their results, so that a mistake in a user's
file gives one sentence, such as

    my_experiment.py:31: NGramMasking.corrupt raised IndexError: index 64 is out of bounds.

Errors of shipped parts pass unchanged.
"""

import ast
import sys
import sysconfig
import traceback
from abc import ABC
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from types import FunctionType
from typing import Any, TypeVar

from research.config.base import ConfigError
from research.config.modules import shown

PACKAGE = Path(__file__).resolve().parents[1]
LIBRARIES = tuple({Path(path).resolve() for path in map(sysconfig.get_path, ("stdlib", "purelib", "platlib"))})
SHOWN = 300  # characters of an exception in an error

Self = TypeVar("Self", bound="Part")


class PartError(ConfigError):
    """A mistake in a user's part. The message begins with the file and line in the user's file, if known."""


class Part(ABC):  # noqa: B024 (its subclasses have the abstract methods)
    """The base of all parts. A class that lacks a method, or is not a dataclass, cannot be constructed."""

    def __new__(cls: type[Self], *arguments: Any, **fields: Any) -> Self:
        missing = ", ".join(f"{name}()" for name in sorted(cls.__abstractmethods__))
        if missing:
            raise PartError(f"{place(cls)}{cls.__name__} lacks {missing}: {_base(cls)} needs it.")
        if "__dataclass_fields__" not in vars(cls):
            raise PartError(f"{place(cls)}{cls.__name__} is no dataclass: write @dataclass(frozen=True) above it.")
        return object.__new__(cls)


@contextmanager
def calling(part: object, method: str) -> Iterator[None]:
    """Turn an exception of a user's part into a ConfigError with the innermost line of the user's files.

    A ConfigError, and any exception of a shipped part, passes unchanged.
    """
    try:
        yield
    except ConfigError:
        raise
    except Exception as error:
        if is_shipped(type(part)):
            raise
        reason = " ".join(str(error).split())[:SHOWN]
        message = f"{type(error).__name__}: {reason}" if reason else type(error).__name__
        where = _innermost(part, error) or place(type(part), method)
        raise PartError(f"{where}{type(part).__name__}.{method} raised {message.rstrip('.')}.") from error


def expect(condition: bool, part: object, method: str, message: str) -> None:
    """Raise ConfigError unless the condition holds, with the method's file, line and name before the message.

    `expect(False, part, "corrupt", "returned int, no Batch")` raises "FILE:LINE: NGramMasking.corrupt returned int, no
    Batch.".
    """
    if not condition:
        raise PartError(f"{place(type(part), method)}{type(part).__name__}.{method} {message}.")


def shipped(name: str) -> Any:
    """Make a shipped part with its defaults, by its exported name in `research`.

    It serves the defaults of fields: research.config does not import the packages that depend on it.
    """
    return getattr(import_module("research"), name)()


def is_shipped(cls: type) -> bool:
    """Tell whether a class belongs to this package."""
    return cls.__module__.split(".")[0] == PACKAGE.name


def place(cls: type, method: str | None = None) -> str:
    """Return the file and line of a class or its method, as "FILE:LINE: ", or "" if unknown."""
    function = _plain(getattr(cls, method, None)) if method else None
    if function is not None and not _is_ours(function.__code__.co_filename):
        return f"{shown(Path(function.__code__.co_filename))}:{function.__code__.co_firstlineno}: "
    file = _file(cls)
    line = _class_line(file, cls) if file else None
    return "" if file is None else f"{shown(Path(file))}: " if line is None else f"{shown(Path(file))}:{line}: "


def _base(cls: type) -> str:
    """Return the name of the closest shipped base of a user's class."""
    return next(above.__name__ for above in cls.__mro__ if is_shipped(above))


def _plain(function: Any) -> FunctionType | None:
    """Return the function inside decorators and properties, or None."""
    while hasattr(function, "__wrapped__"):
        function = function.__wrapped__
    function = getattr(function, "fget", function)
    return function if isinstance(function, FunctionType) else None


def _innermost(part: object, error: Exception) -> str:
    """Return the innermost line of a traceback in a user's file: the part's own, or any file outside libraries."""
    own = _file(type(part))
    frames = [
        (frame.f_code.co_filename, line)
        for frame, line in list(traceback.walk_tb(error.__traceback__))[2:]  # without `calling` and its caller
        if frame.f_code.co_filename == own or not _is_library(frame.f_code.co_filename)
    ]
    return f"{shown(Path(frames[-1][0]))}:{frames[-1][1]}: " if frames else ""


def _file(cls: type) -> str | None:
    """Return the file of a class: of its module, or of one of its methods."""
    named = getattr(sys.modules.get(cls.__module__), "__file__", None)
    functions = filter(None, map(_plain, vars(cls).values()))
    files = (function.__code__.co_filename for function in functions)
    return named or next((file for file in files if not file.startswith("<")), None)


def _class_line(file: str, cls: type) -> int | None:
    try:
        nodes = ast.walk(ast.parse(Path(file).read_text()))
    except (OSError, ValueError, SyntaxError):
        return None
    lines = [node.lineno for node in nodes if isinstance(node, ast.ClassDef) and node.name == cls.__name__]
    return lines[0] if lines else None


def _is_ours(file: str) -> bool:
    return file.startswith("<") or Path(file).resolve().is_relative_to(PACKAGE)


def _is_library(file: str) -> bool:
    path = Path(file).resolve()
    return _is_ours(file) or any(path.is_relative_to(library) for library in LIBRARIES)
