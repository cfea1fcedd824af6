"""Lines of text, and of JSON objects in users' files: the one reader of both.

LF or CRLF ends a line, and nothing else does. A byte order mark at the start of a file is no part of its text. Bytes
that are not UTF-8 are refused with their offset; or, by choice, replaced by U+FFFD and counted in a message.
"""

import json
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

from research.config import ConfigError, require
from research.storage import stop

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
REPLACEMENT = "\ufffd"
LINES_BETWEEN_LOOKS = 4096  # for a request to stop
BadBytes = Literal["refuse", "replace"]


class Line(NamedTuple):
    number: int  # from 1
    start: int  # byte offset in the file
    stop: int  # behind its end
    text: str  # with its end

    @property
    def content(self) -> str:
        """The text without the LF or CRLF at its end."""
        return without_end(self.text)


def without_end(text: str) -> str:
    """Return a line without the LF or CRLF at its end."""
    return text[: -2 if text.endswith("\r\n") else -1] if text.endswith("\n") else text


def split_lines(text: str) -> list[str]:
    """Split a text into lines as `text_lines` does, without their ends."""
    return [line.removesuffix("\r") for line in text.split("\n")]


def is_unicode(text: str) -> bool:
    """Return whether UTF-8 can represent a text: it cannot represent a lone half of a surrogate pair."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def text_lines(file: Iterable[bytes], name: str | Path, bad_bytes: BadBytes = "refuse") -> Iterator[Line]:
    """Yield the lines of a file that is open in binary mode, so that LF parts it; it is `name` in messages.

    Raises:
        ConfigError: there are bytes that are not UTF-8, and they are refused.
    """
    start, replaced, first_replaced = 0, 0, ""
    for number, content in enumerate(file, 1):
        if number % LINES_BETWEEN_LOOKS == 0:
            stop.check()
        first = len(BYTE_ORDER_MARK) if number == 1 and content.startswith(BYTE_ORDER_MARK) else 0
        try:
            text = content[first:].decode()
        except UnicodeDecodeError as error:
            offset = first + error.start
            where = f"byte 0x{content[offset]:02x} at offset {start + offset} (line {number})"
            if bad_bytes == "refuse":
                raise ConfigError(f"{name} is not UTF-8 text: {where}; convert it to UTF-8.") from None
            text = content[first:].decode(errors="replace")
            first_replaced = first_replaced or where
            replaced += text.count(REPLACEMENT) - content.count(REPLACEMENT.encode())
        if text:
            yield Line(number, start + first, start + len(content), text)
        start += len(content)
    if replaced:
        places = f"in {replaced:,} places, first {first_replaced}"
        print(f"note: {name} is not UTF-8 text: U+FFFD replaces its bytes {places}.", file=sys.stderr)


def read_text_lines(name: str | Path, bad_bytes: BadBytes = "refuse") -> Iterator[Line]:
    """Yield the lines of a file, or of standard input for "-". Raises ConfigError if there is no such file."""
    if name == "-":
        with open(0, "rb", closefd=False) as file:
            yield from text_lines(file, "standard input", bad_bytes)
        return
    require(Path(name).is_file(), f"{name}: there is no such file.")
    with Path(name).open("rb") as file:
        yield from text_lines(file, name, bad_bytes)


def json_objects(
    name: str | Path, lines: Iterable[Line], called: str = "line"
) -> Iterator[tuple[Line, str, dict[str, Any]]]:
    """Yield (line, its name in errors, its JSON object) for each line that is not blank."""
    for line in lines:
        if not line.text.strip():
            continue
        where = f"{name}, {called} {line.number}"
        try:
            value = json_line_value(line.text)
        except json.JSONDecodeError as error:
            raise ConfigError(
                f"{where} is not JSON ({error.msg} at column {error.colno}): each line must hold one JSON object."
            ) from None
        except (ValueError, RecursionError) as error:  # numbers with too many digits, nesting too deep
            raise ConfigError(f"{where} cannot be read as JSON ({error}).") from None
        require(isinstance(value, dict), f"{where} is not a JSON object but {type(value).__name__}.")
        yield line, where, value


def json_line_value(line: str) -> Any:
    """Parse a line of JSON; whitespace of any kind, also what JSON does not allow, may follow the value."""
    return json.loads(line.rstrip())


def json_value_at(value: Any, name: str, where: str) -> Any:
    """Return the value under a key or, without such a key, under nested ones: "meta/text" or "meta.text".

    Raises:
        ConfigError: there is no such key.
    """
    for key in (name,) if isinstance(value, dict) and name in value else nested_names(name):
        if not isinstance(value, dict) or key not in value:
            keys = value if isinstance(value, dict) else ()
            raise ConfigError(f'{where} has no key "{name}": its keys are {", ".join(map(repr, keys)) or "none"}.')
        value = value[key]
    return value


def nested_names(name: str) -> tuple[str, ...]:
    """Split the name of a key within keys, or of a field within a column."""
    return tuple(re.split("[/.]", name))
