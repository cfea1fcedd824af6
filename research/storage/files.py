"""Files on a disk: atomic writes, locks, and JSON lines.

Buckets have no renaming, but each write of an object is atomic there.
"""

import contextlib
import fcntl
import json
import os
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any, BinaryIO

from etils import epath

from research.config import ConfigError

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


# --- Locks ------------------------------------------------------------------------------------------------------------


def try_lock(file: IO[Any]) -> bool:
    """Lock an open file unless another process has locked it; return whether this process has the lock.

    The lock ends when the file is closed or the process ends, even if it is killed.
    """
    try:
        _flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def wait_for_lock(file: IO[Any]) -> None:
    """Lock an open file; wait while another process has it locked."""
    _flock(file, fcntl.LOCK_EX)


def _flock(file: IO[Any], operation: int) -> None:
    try:
        fcntl.flock(file, operation)
    except BlockingIOError:
        raise
    except OSError as error:
        raise ConfigError(
            f"{file.name} cannot be locked ({error.strerror}): use a file system that supports locks."
        ) from error


# --- Lines of JSON ----------------------------------------------------------------------------------------------------


def utf8(text: str) -> bytes:
    """Encode text as UTF-8. A lone surrogate, which UTF-8 cannot encode, becomes a JSON escape."""
    return text.encode(errors="backslashreplace")


def json_line(value: Any) -> bytes:
    """Encode a value as one line of JSON."""
    return utf8(json.dumps(value, ensure_ascii=False) + "\n")


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Read a file of JSON objects, one per line. Damaged lines, as after a kill, are skipped. [] without a file."""
    if not path.is_file():
        return []
    values = []
    for line in path.read_bytes().split(b"\n"):
        with contextlib.suppress(ValueError, RecursionError):
            values.append(json.loads(line.decode(errors="replace")))
    return [value for value in values if isinstance(value, dict)]


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
