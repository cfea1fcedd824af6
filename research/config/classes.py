"""Classes by name: those of the experiment's own files, then those that `research` exports.

Overrides and JSON name a class; a field's annotation says what it must be. An annotation that is a base class, such as
`Objective`, takes every dataclass that subclasses it.
"""

import dataclasses
import inspect
import sys
import types
import typing
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from research.config import modules

# Names of classes in configs and overrides of earlier commits -> today's names.
RENAMED = {"Apart": "SeparateStacks", "OneStack": "DecoderOnly", "Separate": "UntiedHead"}

PLAIN = (int, float, bool, str, type(None))

_namespaces: list[Mapping[str, Any]] = []  # of the files loaded so far; the latest comes last and counts first


def remember(namespace: Mapping[str, Any]) -> None:
    """Make the classes of a loaded file known by name, before those of all files loaded earlier."""
    _namespaces[:] = [other for other in _namespaces if other is not namespace] + [namespace]


@contextmanager
def using(*namespaces: Mapping[str, Any]) -> Iterator[None]:
    """Make classes known by name inside a `with` block alone, before all others."""
    before = list(_namespaces)
    for namespace in namespaces:
        remember(namespace)
    try:
        yield
    finally:
        _namespaces[:] = before


def find(name: str, bases: tuple[type, ...]) -> type | None:
    """The dataclass of that name which is one of the bases or subclasses one; None if there is none."""
    users = (namespace.get(name) for namespace in reversed(_namespaces))
    renamed = RENAMED.get(name, name)  # after users' own classes, which may have an old name of a shipped one
    for value in (*users, _exported(renamed), *bases):
        if is_config(value) and value.__name__ in (name, renamed) and issubclass(value, bases):
            return value
    return None


def named(name: str) -> type | None:
    """The dataclass of that name, whatever it is for; None if there is none."""
    return find(name, (object,))


def allowed(base: type) -> list[type]:
    """The concrete classes that an annotation `base` takes, in order of their names."""
    package = import_module("research")
    exported = [getattr(package, name) for name in package.__all__ if name[0].isupper()]  # functions may need JAX
    own = [value for namespace in _namespaces for value in namespace.values()]
    found = {value.__name__: value for value in (*exported, *own, base) if is_config(value) and issubclass(value, base)}
    return [found[name] for name in sorted(found) if not inspect.isabstract(found[name])]


def is_exported(name: str) -> bool:
    """Tell whether a name in a config's JSON is one of this package's own classes."""
    return _exported(RENAMED.get(name, name)) is not None


def own(config: Any) -> list[type]:
    """The classes of users' files of which a config holds instances, each once."""
    found = [type(config)] if modules.is_loaded(type(config).__module__) else []
    if is_config(type(config)):
        for field in dataclasses.fields(config):
            found += own(getattr(config, field.name))
    elif isinstance(config, tuple):
        for item in config:
            found += own(item)
    return list(dict.fromkeys(found))


def namespaces_of(config: Any) -> list[Mapping[str, Any]]:
    """The namespaces of the users' files whose classes a config holds."""
    names = dict.fromkeys(cls.__module__ for cls in own(config))
    return [vars(sys.modules[name]) for name in names if name in sys.modules]


def is_config(value: Any) -> bool:
    """Whether a value is a class of configs: a dataclass, not an instance of one."""
    return isinstance(value, type) and dataclasses.is_dataclass(value)


def takes_configs(option: Any) -> bool:
    """Whether an annotation names a class of configs, or the base of some."""
    return isinstance(option, type) and option not in PLAIN


def options(annotation: Any) -> tuple[Any, ...]:
    """The members of a union; anything else is its own only member."""
    union = typing.get_origin(annotation) in (types.UnionType, typing.Union)
    return typing.get_args(annotation) if union else (annotation,)


def of(annotation: Any) -> tuple[type, ...]:
    """The classes of configs, and bases of such, that an annotation names."""
    return tuple(option for option in options(annotation) if takes_configs(option))


def _exported(name: str) -> Any:
    package = import_module("research")
    return getattr(package, name) if name in package.__all__ else None
