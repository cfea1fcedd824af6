"""ConfigError, the error for bad input, and the checks that raise it."""

import difflib
import hashlib
import json
import math
import re
from collections.abc import Iterable
from typing import Any

LONGEST_MESSAGE = 4000  # letters; of a quoted value, or a word, it has 300
_LONG = re.compile(r"""(?<!\w)'[^']{300,}'(?!\w)|(?<!\w)"[^"]{300,}"(?!\w)|[^\s/]{300,}""")
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


class ConfigError(ValueError):
    """Bad user input. The message is one sentence that names the bad value and the allowed ones.

    Values that it quotes are shortened, and their control characters are escaped.
    """

    def __init__(self, message: str) -> None:
        super().__init__(sentence(message))


def sentence(message: str) -> str:
    """Shorten the long values of a message, and write it on one line."""
    short = _LONG.sub(lambda match: _middle_out(match[0], 300), visible(message, ""))
    return _middle_out(short, LONGEST_MESSAGE)


def _middle_out(text: str, limit: int) -> str:
    """Leave out the middle of a text with more letters than `limit`."""
    if len(text) <= limit:
        return text
    return f"{text[: limit // 2]} ... ({len(text):,} letters) ... {text[-limit // 4 :]}"


def visible(text: str, kept: str = "\n\t") -> str:
    """Escape control characters, such as NUL, ESC and the ends of lines, and lone surrogates."""
    return _CONTROL.sub(lambda one: one[0] if one[0] in kept else one[0].encode("unicode_escape").decode(), text)


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
