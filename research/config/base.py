"""The one error of bad input, and the checks that raise it."""

import math


class ConfigError(ValueError):
    """What a person asked for cannot be done; the message is one sentence saying what and what is allowed."""


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
