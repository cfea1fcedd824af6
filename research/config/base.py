"""ConfigError, the error for bad input, and the checks that raise it."""

import difflib
import hashlib
import json
import math
from collections.abc import Iterable
from typing import Any


class ConfigError(ValueError):
    """Bad user input. The message is one sentence that names the bad value and the allowed ones."""


def require(condition: bool, message: str) -> None:
    """Raise ConfigError with the message unless the condition holds."""
    if not condition:
        raise ConfigError(message)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return the end of a message about an unknown name: "; did you mean ...?", or "" if no known name is similar."""
    similar = closest(name, known)
    return "" if similar is None else f"; did you mean {similar}?"


def closest(name: str, known: Iterable[str]) -> str | None:
    """Return the known name most similar to `name`, or None."""
    return next(iter(difflib.get_close_matches(name, list(known), n=1)), None)


def require_positive(section: str, config: object, *names: str) -> None:
    """Raise ConfigError unless the named fields are above 0 and finite."""
    for name in names:
        value = getattr(config, name)
        require(0 < value < math.inf, f"{section}{name} is {value}: it must be above 0 and finite.")


def require_at_most(section: str, config: object, most: int, *names: str) -> None:
    """Raise ConfigError unless the named fields are None or at most `most`."""
    for name in names:
        value = getattr(config, name)
        require(value is None or value <= most, f"{section}{name} is {value}: it must be at most {most:,}.")


def require_not_negative(section: str, config: object, *names: str) -> None:
    """Raise ConfigError unless the named fields are 0 or above, and finite."""
    for name in names:
        value = getattr(config, name)
        require(0 <= value < math.inf, f"{section}{name} is {value}: it must be 0 or above, and finite.")


def parse_json(text: str | bytes, what: str) -> Any:
    """Parse JSON text. Raise ConfigError, which calls the text `what`, if it is invalid or nested too deeply."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:  # ValueError: also bad encodings and too long numbers
        raise ConfigError(f"{what} is not JSON: {error}.") from error


def digest(value: object) -> str:
    """Return the SHA-256, in hex, of a JSON-serialisable value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
