"""The one error of bad input, and the checks that raise it."""

import json
import math
from typing import Any


class ConfigError(ValueError):
    """What a person asked for cannot be done; the message is one sentence saying what and what is allowed."""


def parse_json(text: str | bytes) -> Any:
    """What JSON says. Raises ValueError for anything else, and for what is nested too deep to be read."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deep") from error


def require(condition: bool, message: str) -> None:
    if not condition:
        raise ConfigError(message)


def require_positive(section: str, config: object, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        require(0 < value < math.inf, f"{section}{name} is {value}: it must be above 0 and finite.")


def require_not_negative(section: str, config: object, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        require(0 <= value < math.inf, f"{section}{name} is {value}: it must be 0 or above, and finite.")
