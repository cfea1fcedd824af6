"""Files on a disk: atomic writes, the kernel's locks, and JSON lines.

Buckets have no renaming, but each write of an object is atomic there.
"""

import contextlib
import fcntl
import json
import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any, BinaryIO, NamedTuple

from etils import epath

from research.storage import stop

PIECE_BYTES = 1 << 22
UNFINISHED = ".tmp"  # suffix of files that are being written


# --- Whole files ------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def whole(path: Path) -> Iterator[BinaryIO]:
    """Open a file that replaces `path` once it is complete and on disk.

    If the process is killed, the old file stays, perhaps beside a file with the suffix UNFINISHED. If the block raises,
    only the old file stays.
    """
    unfinished = path.with_name(f"{path.name}.{threading.get_native_id()}{UNFINISHED}")
    try:
        with unfinished.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
        sync(path.parent)
    finally:
        unfinished.unlink(missing_ok=True)


def write_bytes(path: Path | epath.Path, content: bytes) -> None:
    """Write a file atomically."""
    if isinstance(path, Path):
        with whole(path) as file:
            file.write(content)
    else:
        path.write_bytes(content)


def write_text(path: Path | epath.Path, text: str) -> None:
    """Write text as UTF-8, atomically."""
    write_bytes(path, text.encode())


def write_json(path: Path | epath.Path, value: Any) -> None:
    """Write an indented JSON document atomically."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def sync(path: Path) -> None:
    """Flush a file, or the names in a directory, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(tree: Path) -> None:
    """Flush a directory and everything below it to disk."""
    for folder, _, names in os.walk(tree):
        for name in names:
            sync(Path(folder, name))
        sync(Path(folder))


def hash_file(file: Any, hash: Any) -> Any:
    """Add the rest of a file, open on a disk or in a bucket, to a hash and return it.

    Between pieces it looks for a request to stop.
    """
    while piece := file.read(PIECE_BYTES):
        hash.update(piece)
        stop.check()
    return hash


# --- Locks ------------------------------------------------------------------------------------------------------------


class NoLocksError(OSError):
    """A file system that has no locks, or on which they do not work."""


def try_lock(file: IO[Any]) -> bool:
    """Lock an open file unless another process has locked it; return whether this process has the lock.

    The lock ends when the file is closed or the process ends, even if it is killed.

    Raises:
        NoLocksError: the file system has no locks.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        raise NoLocksError(error.strerror) from error
    return True


# --- Lines of JSON ----------------------------------------------------------------------------------------------------


def utf8(text: str) -> bytes:
    """Encode text as UTF-8. A lone surrogate, which UTF-8 cannot encode, becomes a JSON escape."""
    return text.encode(errors="backslashreplace")


def json_text(value: Any) -> str:
    """Write a value as JSON on one line, also for readers that end lines at the three letters that are escaped here."""
    text = json.dumps(value, ensure_ascii=False)
    return text.replace("\x85", "\\u0085").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def json_line(value: Any) -> bytes:
    """Encode a value as one line of JSON."""
    return utf8(json_text(value) + "\n")


class Lines(NamedTuple):
    """The lines of a file: JSON objects, and those that are none."""

    values: list[dict[str, Any]]
    damaged: list[bytes]


def parse_lines(content: bytes) -> Lines:
    """Parse JSON objects, one per line; LF alone ends a line. Blank lines are none."""
    lines = Lines([], [])
    for line in content.split(b"\n"):
        try:
            value = json.loads(line.decode())
        except (ValueError, RecursionError):
            value = None
        if isinstance(value, dict):
            lines.values.append(value)
        elif line.strip():
            lines.damaged.append(line)
    return lines


def iterate_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Read a file of JSON objects, one per line; nothing without a file. Damaged lines are left out, with a message.

    A last line without its end is left out silently: it is being written, or a kill has cut it short.
    """
    if not path.is_file():
        return
    count = 0
    with path.open("rb") as file:
        for line in file:
            values, damaged = parse_lines(line)
            count += len(damaged) if line.endswith(b"\n") else 0
            yield from values
    if count and _reported.get(path) != count:
        _reported[path] = count
        print(f"{path}: {count} lines are not JSON objects and are left out.", file=sys.stderr)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Read a small file of JSON objects as `iterate_lines` does."""
    return list(iterate_lines(path))


_reported: dict[Path, int] = {}  # the damaged lines of files that are read again and again


def keep_lines(path: Path, keep: Callable[[dict[str, Any]], bool] = lambda value: True) -> int:
    """Drop the lines that are not to be kept. Damaged lines are moved to a file beside it; return their number.

    It is for the one process that writes the file. `keep` raises ValueError for a line that is damaged too.
    """
    if not path.is_file():
        return 0
    damaged, dropped = [], False
    for line, is_kept in _judged(path, keep):
        if is_kept is None:
            damaged.append(line)
        dropped = dropped or not is_kept
    if damaged:
        aside = path.with_name(path.name + ".damaged")
        with aside.open("ab") as file:
            file.writelines(damaged)
            file.flush()
            os.fsync(file.fileno())
        print(f"{path}: {len(damaged)} lines cannot be read; they are moved to {aside}.", file=sys.stderr)
    if dropped:
        with whole(path) as file:
            file.writelines(line for line, is_kept in _judged(path, keep) if is_kept)
    return len(damaged)


def _judged(path: Path, keep: Callable[[dict[str, Any]], bool]) -> Iterator[tuple[bytes, bool | None]]:
    """Yield each line that is not blank, and whether it is to be kept; None if it is damaged."""
    with path.open("rb") as file:
        for line in file:
            values, damaged = parse_lines(line)
            is_kept: bool | None = None
            with contextlib.suppress(ValueError):
                is_kept = keep(values[0]) if values else None
            if values or damaged:
                yield line.rstrip(b"\n") + b"\n", is_kept


def append_lines(path: Path, values: Iterable[dict[str, Any]]) -> None:
    """Append JSON objects to a file, one per line. A last line that a kill cut short is ended first."""
    with path.open("a+b") as file:
        if file.tell() > 0:
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                file.write(b"\n")
        file.writelines(json_line(value) for value in values)


def write_lines(path: Path, values: Iterable[dict[str, Any]]) -> None:
    """Write JSON objects, one per line, atomically."""
    with whole(path) as file:
        file.writelines(json_line(value) for value in values)
