"""Reading and checking of vocabulary files, with errors that name the file."""

import json
from pathlib import Path
from typing import Any

from research.config import ConfigError, parse_json, require


def read(path: Path, what: str) -> bytes:
    """Read a file. Raises ConfigError, "The `what` `path` cannot be read", if that fails."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"The {what} {path} cannot be read: {error.strerror}.") from error


def read_object(path: Path, what: str) -> dict[str, Any]:
    """Read a JSON object from a file. Raises ConfigError if the file is missing or holds something else."""
    content = parse_json(read(path, what), f"The {what} {path}")
    require(isinstance(content, dict), f"The {what} {path} is not a JSON object.")
    return content


def read_ids(path: Path, what: str) -> dict[str, int]:
    """Read a JSON object of piece -> id. Raises ConfigError unless the ids are 0, 1, 2 ..., each once."""
    return check_ids(read_object(path, what), f"The {what} {path}")


def check_ids(vocabulary: Any, origin: str) -> dict[str, int]:
    whole = isinstance(vocabulary, dict) and all(type(id) is int for id in vocabulary.values())
    require(
        whole and sorted(vocabulary.values()) == list(range(len(vocabulary))),
        f"{origin} must give each piece an id, each of 0, 1, 2 ... once.",
    )
    return vocabulary


def utf8(text: str) -> bytes:
    return text.encode("utf-8", errors="replace")


def json_bytes(content: Any) -> bytes:
    """Encode content as JSON. Lone surrogates, which some vocabularies hold, stay as escapes."""
    return (json.dumps(content, indent=1) + "\n").encode()
