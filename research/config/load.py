"""Experiment files: executed once per command; the values that they return are checked like overrides."""

import contextlib
import dataclasses
import functools
import inspect
import traceback
import types
import typing
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from research.config import ConfigError, Experiment, Published, Search, classes, modules, override, parts, require
from research.config.base import did_you_mean


@dataclass(frozen=True)
class ExperimentFile:
    """An executed experiment file, at one of its sizes. Each of its functions is called at most once.

    Methods raise ConfigError, with file and line, for missing functions and for exceptions of the file.
    """

    path: Path
    size: str | None  # None if get_config() takes no size
    module: types.ModuleType = dataclasses.field(repr=False)

    def __str__(self) -> str:
        return str(self.path) + (f":{self.size}" if self.size else "")

    @property
    def name(self) -> str:
        """The file's name and size, for tables and plots."""
        return self.path.stem + (f":{self.size}" if self.size else "")

    @property
    def namespace(self) -> dict[str, Any]:
        """All names of the file, with the user's classes."""
        return vars(self.module)

    @functools.cached_property
    def config(self) -> Experiment:
        """The experiment that get_config() returns, with the types of all values checked."""
        config = self._call("get_config")
        kind = type(config).__name__
        require(isinstance(config, Experiment), f"get_config() of {self.path} returned {kind}, no Experiment.")
        with _located(self.path):
            override.check(config)
        return config

    def has(self, function: str) -> bool:
        """Tell whether the file has a function of that name: sweep, search or published."""
        return callable(self.namespace.get(function))

    @functools.cached_property
    def sweep(self) -> list[dict[str, str]]:
        """The variants that sweep() returns, with values as text, as on the command line."""
        hint = "; with --trials N its search() is run" if self.has("search") else ""
        message = f"{self.path} has no sweep() that returns a list of dicts of overrides{hint}."
        require(self.has("sweep"), message)
        given = self._list("sweep")
        named = all(isinstance(one, dict) and all(isinstance(name, str) for name in one) for one in given)
        require(named, f"sweep() of {self.path} returned {given[:1]}...: it must return dicts, such as {{'seed': 1}}.")
        require(len(given) > 0, f"sweep() of {self.path} returned no variants.")
        return [{name: _as_text(value) for name, value in one.items()} for one in given]

    @functools.cached_property
    def published(self) -> list[Published]:
        """A paper's numbers for variants of the sweep, from published(); [] without that function."""
        given = self._list("published") if self.has("published") else []
        right = all(isinstance(one, Published) for one in given)
        require(right, f"published() of {self.path} must return a list of Published.")
        return given

    @functools.cached_property
    def columns(self) -> dict[str, dict[str, str]]:
        """The overrides of the variants that measure each column of a paper's tables, from columns(), as text; {}
        without that function.
        """
        given = self._call("columns") if self.has("columns") else {}
        right = isinstance(given, dict) and all(isinstance(one, dict) for one in given.values())
        require(right, f"columns() of {self.path} must return a dict of dicts of overrides, by names of columns.")
        return {
            str(name): {field: _as_text(value) for field, value in changes.items()} for name, changes in given.items()
        }

    @functools.cached_property
    def search(self) -> Search:
        """The search that search() returns."""
        message = f"{self.path} has no search() that returns a Search: it cannot run trials."
        require(self.has("search"), message)
        given = self._call("search")
        require(isinstance(given, Search), f"search() of {self.path} returned {type(given).__name__}, no Search.")
        return given

    def _list(self, function: str) -> list[Any]:
        given = self._call(function)
        message = f"{function}() of {self.path} returned {type(given).__name__}: it must return a list."
        require(isinstance(given, typing.Iterable), message)
        with _located(self.path):
            return list(given)  # a generator runs here

    def _call(self, name: str) -> Any:
        """Call a function of the file, with the size if it takes one."""
        function = self.namespace[name]
        with _located(self.path):
            takes_size = self.size is not None and len(inspect.signature(function).parameters) > 0
            return function(self.size) if takes_size else function()


def open_experiment(text: str | Path) -> ExperimentFile:
    """Execute the file of `path.py` or `path.py:SIZE`; SIZE is an argument of its get_config().

    This executes the file's code: open only files that you trust. Raise ConfigError if the path is not a Python file,
    for any exception of the file, and for an unknown size.
    """
    path, size = _split(str(text))
    require(path.suffix == ".py" and path.is_file(), f"{path} is not an experiment: give the path of a Python file.")
    with _located(path):
        module = modules.load(path)
    for loaded in modules.loaded_modules(path):
        classes.remember(vars(loaded))
    get_config = getattr(module, "get_config", None)
    require(callable(get_config), f"{path} has no get_config() that returns an Experiment.")
    assert get_config is not None
    with _located(path):
        sizes, default = sizes_of(get_config)
    if sizes is None:
        require(size is None, f"{path} has one size: give it without :{size}.")
        return ExperimentFile(path, None, module)
    ways = f"give {path}:{sizes[0]}" + "".join(f" or :{one}" for one in sizes[1:])
    require(size is not None or default is not None, f"{path} has several sizes: {ways}.")
    size = default if size is None else size
    require(size in sizes, f"{path} has no size {size!r}: {ways}{did_you_mean(str(size), sizes) or '.'}")
    return ExperimentFile(path, size, module)


def sizes_of(get_config: Callable[..., Any]) -> tuple[tuple[str, ...] | None, str | None]:
    """Return the sizes of get_config(), or None if it takes none, and the default size."""
    parameters = list(inspect.signature(get_config).parameters.values())
    required = [one.name for one in parameters if one.default is one.empty and one.kind not in override.VARIABLE]
    hints = typing.get_type_hints(get_config) if parameters else {}
    annotation = hints.get(parameters[0].name) if parameters else None
    if typing.get_origin(annotation) is Literal:
        first = parameters[0]
        require(required in ([], [first.name]), f"get_config() needs {', '.join(required)}: it may take only a size.")
        return typing.get_args(annotation), None if first.default is first.empty else first.default
    message = f'get_config() needs {", ".join(required)}: declare a size as size: Literal["small", "base"].'
    require(not required, message)
    return None, None


def _split(text: str) -> tuple[Path, str | None]:
    """Split text into path and size. A colon in the path of an existing file is part of the path."""
    before, colon, size = text.rpartition(":")
    named = bool(colon) and before.endswith(".py") and not Path(text).is_file()
    return (Path(before), size) if named else (Path(text), None)


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else override.as_text(value)


@contextlib.contextmanager
def _located(path: Path) -> Iterator[None]:
    """Turn an exception of a user's code into a ConfigError with its file and line."""
    try:
        yield
    except parts.PartError:
        raise
    except Exception as error:
        place = modules.place_of(error) or str(path)
        message = str(error) if isinstance(error, ConfigError) else _wrong_field(error) or _describe(error)
        raise ConfigError(f"{place}: {message}") from error


def _describe(error: Exception) -> str:
    """Return the class of an exception and the first line of its message."""
    lines = (error.msg if isinstance(error, SyntaxError) else str(error)).splitlines()
    return f"{type(error).__name__}: {lines[0].rstrip('.')}." if lines else f"{type(error).__name__}."


def _wrong_field(error: Exception) -> str | None:
    """Return the message for a field of a wrong type, if that made a config's checks raise, as in `"10" > 0`."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    configs = [frame.f_locals.get("self") for frame in frames if frame.f_code.co_name == "__post_init__"]
    for config in filter(dataclasses.is_dataclass, configs[-1:]):
        try:
            override.check(config, "" if isinstance(config, Experiment) else type(config).__name__)
        except ConfigError as wrong:
            return str(wrong)
    return None
