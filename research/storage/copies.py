"""Copies in the cache of what is elsewhere: files at addresses, and data sets of a hub.

A copy is an entry of the cache whose key has the version of its original. A source that cannot be reached is known by
the list of copies that was written when it could.
"""

import json
import sys
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from research.config.base import ConfigError, digest
from research.storage import cache
from research.storage.files import write_json

ORIGIN, DIGEST = "origin", "sha256"  # files of an entry: the name of the original, and the digest of its bytes


class UnreachableError(ConfigError):
    """A source that does not answer, or must not be asked."""


class Copy(NamedTuple):
    """A part of a source, and the key of the entry with its copy."""

    origin: str
    key: str


def origin_of(path: Path) -> str:
    """Return the name of a file in messages: that of the original, if it is a copy."""
    kept = path.with_name(ORIGIN)
    return kept.read_text() if cache.contains(path) and kept.exists() else str(path)


def remember(kind: str, source: str, copies: list[Copy]) -> None:
    """Write the list of a source's copies."""
    with suppress(OSError):  # of a cache that is only read, and has the copies
        write_json(_list_path(kind, source), copies)


def recall(kind: str, source: str, called: str) -> list[Copy]:
    """Return the copies of a source that cannot be reached, with a note; none if one is missing."""
    copies: list[Copy] = []
    with suppress(OSError, ValueError, TypeError):
        copies = [Copy(*each) for each in json.loads(_list_path(kind, source).read_text())]
    if not copies or not all(cache.Entry(kind, each.key).complete for each in copies):
        return []
    print(f"note: {called} cannot be reached: its copy in the cache is read.", file=sys.stderr, flush=True)
    return copies


def reason_of(error: BaseException) -> str:
    """Return the message of a library's error in one line."""
    return " ".join(str(error).split())[:300].rstrip(". ") or type(error).__name__


def _list_path(kind: str, source: str) -> Path:
    return cache.directory() / kind / f"{digest(source)}.json"
