"""Configs as text: dotted overrides, parsed by annotation; JSON; and the difference of two configs.

An override's value is a Python literal, or a constructor of a config class (`AdamW(schedule=Cosine(peak=1e-3))`). It is
parsed as data, never evaluated. Text for a string field needs no quotes.
"""

import ast
import dataclasses
import inspect
import json
import typing
from collections.abc import Callable
from functools import cache
from typing import Any, Literal

from research.config import ConfigError, Experiment, classes, parse_json, require
from research.config.base import did_you_mean

VARIABLE = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
SHOWN = 200  # characters of a value in an error

type_hints: Callable[[Any], dict[str, Any]] = cache(typing.get_type_hints)  # of a class; it takes a millisecond

EXAMPLES = {
    "--config.": "optimizer.schedule.peak=3e-3",
    "--generation.": "max_length=200",
    "--model.": "activation=silu",
}


@typing.runtime_checkable
class File(typing.Protocol):
    """A local path, or an epath path in a bucket (epath is slow to import)."""

    def read_bytes(self) -> bytes: ...


def from_arguments(arguments: list[str], prefix: str = "--config.") -> dict[str, str]:
    """Parse `--config.a.b=value` arguments into {dotted path: text}. Raise ConfigError for any other argument."""
    overrides = {}
    for argument in arguments:
        name, equals, text = argument.partition("=")
        require(
            name.startswith(prefix) and bool(equals),
            f"{argument} is not understood: overrides look like {prefix}{EXAMPLES[prefix]}; see --help.",
        )
        overrides[name.removeprefix(prefix)] = text
    return overrides


def check_overrides(schema: Any, overrides: dict[str, str], values: bool) -> None:
    """Check overrides against a config class, before a config exists.

    Raise ConfigError for an unknown field, and with `values` also for a value of a wrong type.
    """
    hints = type_hints(schema)
    for path, text in overrides.items():
        name, dot, _ = path.partition(".")
        require(name in _names(schema), f"{name} is no field: the config has {_listed(_names(schema), name)}")
        if values and not dot:
            _parse(hints[name], text, name)


def apply(config: Any, overrides: dict[str, str]) -> Any:
    """Apply overrides, {dotted path: text}, to a config. Raise ConfigError for an unknown path or a wrong type."""
    with classes.using(*classes.namespaces_of(config)):
        return _apply(type(config), config, {tuple(path.split(".")): text for path, text in overrides.items()}, "")


def parse(annotation: Any, text: str, path: str) -> Any:
    """Parse the text of an override's value. Raise ConfigError if it does not fit the annotation."""
    return _parse(annotation, text, path)


def check(config: Any, path: str = "") -> None:
    """Raise ConfigError, with the message for overrides, if a value does not have its field's type."""
    _check(type(config), config, path)


def to_json(config: Any) -> str:
    """Serialise a config to JSON; `from_json` returns an equal config."""
    return json.dumps(_encode(type(config), config), indent=2) + "\n"


def from_json(text: str | bytes, annotation: Any = Experiment) -> Any:
    """Parse a config from JSON. Raise ConfigError if the text is not JSON or does not fit the annotation."""
    return _decode(annotation, parse_json(text, "The config"), "config")


def read(path: File) -> Any:
    """Read the experiment of a run's config.json. Raise ConfigError, with the file's name, if it is invalid."""
    try:
        return from_json(path.read_bytes())
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def diff(before: Any, after: Any, path: str = "") -> dict[str, tuple[Any, Any]]:
    """Return {dotted path: (before, after)} of all values that differ. A change of class is one entry."""
    if before == after and type(before) is type(after):
        return {}
    if dataclasses.is_dataclass(before) and type(before) is type(after):
        pairs = {name: (getattr(before, name), getattr(after, name)) for name in _names(before)}
    elif isinstance(before, tuple) and isinstance(after, tuple) and len(before) == len(after):
        pairs = {str(index): pair for index, pair in enumerate(zip(before, after, strict=True))}
    else:
        return {path: (before, after)}
    changes: dict[str, tuple[Any, Any]] = {}
    for name, (old, new) in pairs.items():
        changes |= diff(old, new, f"{path}.{name}".lstrip("."))
    return changes


def as_text(value: Any) -> str:
    """Format a value as an override; a constructor omits fields that have their defaults."""
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(as_text, value))}]"
    if not dataclasses.is_dataclass(value):
        return repr(value)
    given = {field.name: getattr(value, field.name) for field in dataclasses.fields(value) if field.init}
    shown = {
        field.name: given[field.name]
        for field in dataclasses.fields(value)
        if field.init and (_required(field) or given[field.name] != field.default)
    }
    return f"{type(value).__name__}({', '.join(f'{name}={as_text(one)}' for name, one in shown.items())})"


# --- Overrides --------------------------------------------------------------------------------------------------------


def _apply(annotation: Any, value: Any, overrides: dict[tuple[str, ...], str], path: str) -> Any:
    if () in overrides:
        value = _parse(annotation, overrides[()], path)
    nested: dict[str, dict[tuple[str, ...], str]] = {}
    for (name, *rest), text in ((key, text) for key, text in overrides.items() if key):
        nested.setdefault(name, {})[tuple(rest)] = text
    if not nested:
        return value
    children = _children(annotation, value)
    for name in nested:
        where = path or "the config"
        if name not in children:
            raise ConfigError(f"{_join(path, name)} is no field: {where} has {_listed(children, name)}")
    changed = {name: _apply(children[name], _child(value, name), nested[name], _join(path, name)) for name in nested}
    if isinstance(value, tuple):
        return tuple(changed.get(str(index), item) for index, item in enumerate(value))
    return dataclasses.replace(value, **changed)


def _children(annotation: Any, value: Any) -> dict[str, Any]:
    """Return the annotations of a value's children by name: fields of a dataclass, or indices of a tuple."""
    if dataclasses.is_dataclass(value):
        hints = type_hints(type(value))
        return {name: hints[name] for name in _names(value)}
    if isinstance(value, tuple):
        item = _item(annotation)
        return {str(index): item for index in range(len(value))}
    return {}


def _child(value: Any, name: str) -> Any:
    return value[int(name)] if isinstance(value, tuple) else getattr(value, name)


def _parse(annotation: Any, text: str, path: str) -> Any:
    try:
        literal = _from_syntax(ast.parse(text.strip(), mode="eval").body)
        json.dumps(literal)  # refuse values that JSON cannot hold
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError):  # MemoryError: too deep nesting
        literal = text
    for candidate in (literal, {"true": True, "false": False}.get(text, text), text):
        if _fits(annotation, candidate):
            return _decode(annotation, candidate, path)
    return _decode(annotation, literal, path)  # raises, with the allowed values


def _from_syntax(node: ast.expr) -> Any:
    """Convert a literal to JSON data; a constructor becomes {"type": its name, **its arguments}."""
    match node:
        case ast.Call(func=ast.Name(id=name), args=arguments, keywords=keywords):
            given = dict(zip(_positional(name), arguments, strict=False))
            if len(given) < len(arguments):
                raise ValueError(f"{name} does not take {len(arguments)} arguments by position")
            given |= {str(item.arg): item.value for item in keywords}
            return {"type": name} | {field: _from_syntax(value) for field, value in given.items()}
        case ast.Name(id=name) if name[0].isupper():
            return {"type": name}
        case ast.Tuple(elts=items) | ast.List(elts=items):
            return [_from_syntax(item) for item in items]
    value = ast.literal_eval(node)
    # A float field accepts integers too, so 1e4 can be either.
    whole = isinstance(value, float) and abs(value) < 2**63 and value.is_integer()
    return int(value) if whole else value


def _positional(name: str) -> list[str]:
    """Return the fields that a constructor takes by position, in order."""
    named = classes.named(name)
    return [one.name for one in _parameters(named) if one.kind is one.POSITIONAL_OR_KEYWORD] if named else []


@cache
def _parameters(config: type) -> list[inspect.Parameter]:
    """Return what the constructor of a config takes: its fields or, if it has an `__init__` of its own, fewer."""
    return list(inspect.signature(config).parameters.values())


# --- JSON -------------------------------------------------------------------------------------------------------------


def _encode(annotation: Any, value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        hints = type_hints(type(value))
        tag = {} if classes.of(annotation) == (type(value),) else {"type": type(value).__name__}
        return tag | {name: _encode(hints[name], getattr(value, name)) for name in _names(value)}
    if isinstance(value, tuple):
        item = _item(annotation)
        return [_encode(item, element) for element in value]
    return value


def _decode(annotation: Any, value: Any, path: str) -> Any:
    for option in classes.options(annotation):
        if _fits(option, value):
            return _build(option, value, path)
    allowed = " or ".join(_describe(option) for option in classes.options(annotation))
    shown = f"{value['type']}(...)" if isinstance(value, dict) and "type" in value else repr(value)
    shown = shown if len(shown) <= SHOWN else f"{shown[:SHOWN]}..."
    raise ConfigError(f"{path} is {shown}: allowed is {allowed}{_suggestion(annotation, value) or '.'}")


def _suggestion(annotation: Any, value: Any) -> str:
    """Return "; did you mean ...?" for a misspelt class or choice, or ""."""
    options = classes.options(annotation)
    if isinstance(value, dict):
        given = value.get("type")
        known = [one.__name__ for option in options if classes.takes_configs(option) for one in classes.allowed(option)]
    else:
        given = value
        known = [item for option in options if typing.get_origin(option) is Literal for item in typing.get_args(option)]
    return did_you_mean(given, filter(_is_text, known)) if _is_text(given) else ""


def _is_text(value: Any) -> typing.TypeGuard[str]:
    return isinstance(value, str)


def _item(annotation: Any) -> Any:
    """Return the annotation of a tuple's items."""
    (item,) = {typing.get_args(one)[0] for one in classes.options(annotation) if typing.get_origin(one) is tuple}
    return item


def _fits(annotation: Any, value: Any) -> bool:
    """Tell whether a JSON value fits an annotation, without checking its contents."""
    options = classes.options(annotation)
    if len(options) > 1:
        return any(_fits(option, value) for option in options)
    (option,) = options
    if classes.takes_configs(option):
        return isinstance(value, dict) and _named(option, value) is not None
    if typing.get_origin(option) is Literal:
        return value in typing.get_args(option)
    if typing.get_origin(option) is tuple:
        return isinstance(value, list | tuple)
    if option in (int, float) and type(value) is int:
        return abs(value) < 2**63  # larger integers do not fit in NumPy's int64
    return type(value) is option


def _named(option: type, value: dict[str, Any]) -> type | None:
    """Return the class of a JSON object if it is `option` or a subclass, else None."""
    named = classes.find(value["type"], (option,)) if isinstance(value.get("type"), str) else option
    return None if named is None or inspect.isabstract(named) else named


def _build(option: Any, value: Any, path: str) -> Any:
    if typing.get_origin(option) is tuple:
        return tuple(_decode(typing.get_args(option)[0], item, _join(path, str(i))) for i, item in enumerate(value))
    if classes.takes_configs(option):
        option = _named(option, value)
        hints = type_hints(option)
        fields = {name: item for name, item in value.items() if name != "type"}
        names = _names(option)
        for name in fields:
            if name not in names:
                raise ConfigError(f"{_join(path, name)} is no field: {option.__name__} has {_listed(names, name)}")
        decoded = {name: _decode(hints[name], item, _join(path, name)) for name, item in fields.items()}
        needed = [one.name for one in _parameters(option) if one.default is one.empty and one.kind not in VARIABLE]
        missing = [name for name in needed if name not in fields]
        require(not missing, f"{path} needs {', '.join(missing)}: {option.__name__} has no default for it.")
        return option(**decoded)
    return float(value) if option is float else value


# --- Types of values from Python code ----------------------------------------------------------------------------


def _check(annotation: Any, value: Any, path: str) -> None:
    options = [option for option in classes.options(annotation) if _is_of(option, value)]
    if not options:
        require(
            type(value) is not list or not any(_is_of(option, ()) for option in classes.options(annotation)),
            f"{path} is a list: write a tuple, (a, b).",
        )
        allowed = " or ".join(_describe(option) for option in classes.options(annotation))
        raise ConfigError(f"{path} is {_shown(value, annotation)}: allowed is {allowed}.")
    if dataclasses.is_dataclass(value):
        hints = type_hints(type(value))
        for name in _names(value):
            _check(hints[name], getattr(value, name), _join(path, name))
    elif isinstance(value, tuple) and (items := typing.get_args(options[0])):
        for index, item in enumerate(value):
            _check(items[0], item, _join(path, str(index)))


def _is_of(option: Any, value: Any) -> bool:
    """Tell whether a value has a type, without checking its parts."""
    if option in (int, float, bool, str, type(None)) or typing.get_origin(option) is Literal:
        return _fits(option, value)
    kind = typing.get_origin(option) or option
    return isinstance(value, kind) if isinstance(kind, type) else True


def _shown(value: Any, annotation: Any) -> str:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        name, module = type(value).__name__, type(value).__module__.rpartition(".")[2]
        same_name = any(one.__name__ == name for base in classes.of(annotation) for one in classes.allowed(base))
        return f"{name}(...)" + (f" of {module}, which is another class" if same_name else "")
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


def _required(field: dataclasses.Field) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _describe(option: Any) -> str:
    if typing.get_origin(option) is Literal:
        return " or ".join(repr(choice) for choice in typing.get_args(option))
    if typing.get_origin(option) is tuple:
        return f"a list of {' or '.join(_describe(item) for item in classes.options(typing.get_args(option)[0]))}"
    if classes.takes_configs(option):
        return " or ".join(f"{one.__name__}({_taken(one)})" for one in classes.allowed(option))
    plain = {int: "an integer", float: "a number", bool: "True or False", str: "text", type(None): "None"}
    return plain.get(option, str(option))  # such as Callable, for values that only Python code can set


def _taken(config: type) -> str:
    """List what a constructor takes, with ... for any other field."""
    return ", ".join("..." if one.kind in VARIABLE else one.name for one in _parameters(config))


def _names(value: Any) -> list[str]:
    """Return the fields that a config or its class is made from, without those that an experiment fills in."""
    return [field.name for field in dataclasses.fields(value) if field.init]


def _listed(names: typing.Iterable[str], unknown: str) -> str:
    """List the names, with a suggestion for the unknown name."""
    return (", ".join(names) or "no fields") + (did_you_mean(unknown, names) or ".")


def _join(path: str, name: str) -> str:
    return f"{path}.{name}".lstrip(".")
