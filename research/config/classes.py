"""Lookup of config classes by name: first in the user's files, then in the exports of `research`.

Overrides and JSON name a class; a field's annotation restricts it. An annotation that is a base class, such as
`Objective`, allows every dataclass that subclasses it.
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

_namespaces: list[Mapping[str, Any]] = []  # of the loaded files; the last has priority


def remember(namespace: Mapping[str, Any]) -> None:
    """Register the classes of a loaded file, with priority over those of files loaded earlier."""
    _namespaces[:] = [other for other in _namespaces if other is not namespace] + [namespace]


@contextmanager
def using(*namespaces: Mapping[str, Any]) -> Iterator[None]:
    """Register classes inside a `with` block only, with priority over all others."""
    before = list(_namespaces)
    for namespace in namespaces:
        remember(namespace)
    try:
        yield
    finally:
        _namespaces[:] = before


def find(name: str, bases: tuple[type, ...]) -> type | None:
    """Return the dataclass of that name that is one of the bases or a subclass of one, or None."""
    users = (namespace.get(name) for namespace in reversed(_namespaces))
    renamed = RENAMED.get(name, name)  # looked up after users' classes: one may have the old name of a shipped class
    for value in (*users, _exported(renamed), *bases):
        if is_config(value) and value.__name__ in (name, renamed) and issubclass(value, bases):
            return value
    return None


def named(name: str) -> type | None:
    """Return the dataclass of that name, of any base, or None."""
    return find(name, (object,))


def allowed(base: type) -> list[type]:
    """Return the concrete classes that an annotation `base` allows, sorted by name."""
    package = import_module("research")
    exported = [getattr(package, name) for name in package.__all__ if name[0].isupper()]  # functions may import JAX
    own = [value for namespace in _namespaces for value in namespace.values()]
    by_name = {
        value.__name__: value for value in (*exported, *own, base) if is_config(value) and issubclass(value, base)
    }
    return [by_name[name] for name in sorted(by_name) if not inspect.isabstract(by_name[name])]


def is_exported(name: str) -> bool:
    """Tell whether a class name in a config's JSON is exported by this package."""
    return _exported(RENAMED.get(name, name)) is not None


def own(config: Any) -> list[type]:
    """Return the distinct classes from users' files whose instances a config contains."""
    found = [type(config)] if modules.is_loaded(type(config).__module__) else []
    if is_config(type(config)):
        for field in dataclasses.fields(config):
            found += own(getattr(config, field.name))
    elif isinstance(config, tuple):
        for item in config:
            found += own(item)
    return list(dict.fromkeys(found))


def namespaces_of(config: Any) -> list[Mapping[str, Any]]:
    """Return the namespaces of the users' files that define classes of a config."""
    names = dict.fromkeys(cls.__module__ for cls in own(config))
    return [vars(sys.modules[name]) for name in names if name in sys.modules]


def is_config(value: Any) -> bool:
    """Tell whether a value is a config class: a dataclass, not an instance of one."""
    return isinstance(value, type) and dataclasses.is_dataclass(value)


def takes_configs(option: Any) -> bool:
    """Tell whether an annotation is a config class, or a base of config classes."""
    return isinstance(option, type) and option not in PLAIN


def options(annotation: Any) -> tuple[Any, ...]:
    """Return the members of a union, or the annotation itself if it is not a union."""
    union = typing.get_origin(annotation) in (types.UnionType, typing.Union)
    return typing.get_args(annotation) if union else (annotation,)


def of(annotation: Any) -> tuple[type, ...]:
    """Return the config classes, and bases of config classes, in an annotation."""
    return tuple(option for option in options(annotation) if takes_configs(option))


def _exported(name: str) -> Any:
    package = import_module("research")
    return getattr(package, name) if name in package.__all__ else None
