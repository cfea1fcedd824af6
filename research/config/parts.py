"""Parts: what users may write themselves, and errors that name the file and line of a part.

A part is a frozen dataclass that subclasses Objective, Corpus, Task, Metric or another base, all of which subclass
`Part`. Methods of a part are called inside `calling`, and `expect` checks what they return, so that a mistake in a
user's file is one sentence, such as

    my_experiment.py:31: NGramMasking.corrupt raised IndexError: index 64 is out of bounds.

Parts that are shipped here raise their errors as they are.
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
SHOWN = 300  # letters of an exception, in an error

Self = TypeVar("Self", bound="Part")


class PartError(ConfigError):
    """A user's part is wrong; the message begins with the place in the user's file, where it is known."""


class Part(ABC):  # noqa: B024 (the bases that subclass it have the abstract methods)
    """The base of all parts. A class that lacks a method, or is no frozen dataclass, cannot be constructed."""

    def __new__(cls: type[Self], *arguments: Any, **fields: Any) -> Self:
        missing = ", ".join(f"{name}()" for name in sorted(cls.__abstractmethods__))
        if missing:
            raise PartError(f"{place(cls)}{cls.__name__} lacks {missing}: {_base(cls)} needs it.")
        if "__dataclass_fields__" not in vars(cls):
            raise PartError(f"{place(cls)}{cls.__name__} is no dataclass: write @dataclass(frozen=True) above it.")
        return object.__new__(cls)


@contextmanager
def calling(part: object, method: str) -> Iterator[None]:
    """Turn any exception of a user's part into a ConfigError that names the innermost line of the user's files.

    A ConfigError passes as it is, and so does everything that a shipped part raises.
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
    """Raise a ConfigError unless the condition holds; the message follows the method's place and name.

    `expect(False, part, "corrupt", "returned int, no Batch")` says "FILE:LINE: NGramMasking.corrupt returned int, no
    Batch.".
    """
    if not condition:
        raise PartError(f"{place(type(part), method)}{type(part).__name__}.{method} {message}.")


def shipped(name: str) -> Any:
    """Make a shipped part, with its defaults, by the name under which `research` exports it.

    For defaults of fields: config imports no room below itself.
    """
    return getattr(import_module("research"), name)()


def is_shipped(cls: type) -> bool:
    """Tell whether a class is one of this package's own."""
    return cls.__module__.split(".")[0] == PACKAGE.name


def place(cls: type, method: str | None = None) -> str:
    """The file and line of a class or of its method, as "FILE:LINE: "; empty where they cannot be known."""
    function = _plain(getattr(cls, method, None)) if method else None
    if function is not None and not _is_ours(function.__code__.co_filename):
        return f"{shown(Path(function.__code__.co_filename))}:{function.__code__.co_firstlineno}: "
    file = _file(cls)
    line = _class_line(file, cls) if file else None
    return "" if file is None else f"{shown(Path(file))}: " if line is None else f"{shown(Path(file))}:{line}: "


def _base(cls: type) -> str:
    """The name of the shipped class from which a user's class descends."""
    return next(above.__name__ for above in cls.__mro__ if is_shipped(above))


def _plain(function: Any) -> FunctionType | None:
    """The function itself, below decorators."""
    while hasattr(function, "__wrapped__"):
        function = function.__wrapped__
    function = getattr(function, "fget", function)
    return function if isinstance(function, FunctionType) else None


def _innermost(part: object, error: Exception) -> str:
    """The last line of a traceback that lies in a file of the user's: the part's own, or any that is no library."""
    own = _file(type(part))
    frames = [
        (frame.f_code.co_filename, line)
        for frame, line in list(traceback.walk_tb(error.__traceback__))[2:]  # without `calling` and who used it
        if frame.f_code.co_filename == own or not _is_library(frame.f_code.co_filename)
    ]
    return f"{shown(Path(frames[-1][0]))}:{frames[-1][1]}: " if frames else ""


def _file(cls: type) -> str | None:
    """The file of a class: its module's, or its methods'."""
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
