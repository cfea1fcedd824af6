"""The one error of bad input, and the checks that raise it."""

import difflib
import hashlib
import json
import math
from collections.abc import Iterable
from typing import Any


class ConfigError(ValueError):
    """What a person asked for cannot be done; the message is one sentence saying what and what is allowed."""


def require(condition: bool, message: str) -> None:
    if not condition:
        raise ConfigError(message)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The end of a message about a name that is not known: "; did you mean ...?", or nothing where none is like it."""
    like = closest(name, known)
    return "" if like is None else f"; did you mean {like}?"


def closest(name: str, known: Iterable[str]) -> str | None:
    """The known name that resembles the one given, if any does."""
    return next(iter(difflib.get_close_matches(name, list(known), n=1)), None)


def require_positive(section: str, config: object, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        require(0 < value < math.inf, f"{section}{name} is {value}: it must be above 0 and finite.")


def require_at_most(section: str, config: object, most: int, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        require(value is None or value <= most, f"{section}{name} is {value}: it must be at most {most:,}.")


def require_not_negative(section: str, config: object, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        require(0 <= value < math.inf, f"{section}{name} is {value}: it must be 0 or above, and finite.")


def parse_json(text: str | bytes, what: str) -> Any:
    """What JSON text holds; `what` names it in the error. Nesting without end is refused as damage is."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:  # of the encoding and of endless numbers too
        raise ConfigError(f"{what} is not JSON: {error}.") from error


def digest(value: object) -> str:
    """SHA-256, in hex, of a value that JSON can hold."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
