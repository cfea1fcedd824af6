"""Files on a disk: written whole or not at all, locked, and read and written as lines of JSON.

The file systems of buckets have no renaming, but there an object is whole by itself.
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

UNFINISHED = ".tmp"  # how the names of files end that are being written


# --- Whole files ------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def whole(path: Path) -> Iterator[BinaryIO]:
    """Open a file that takes the place of `path` once it is complete and on the disk.

    A process that is killed leaves the old file, and beside it perhaps one whose name ends in UNFINISHED. Where the
    block raises, the old file stays and nothing else does.
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
    """Write a file, whole or not at all."""
    if isinstance(path, Path):
        with whole(path) as file:
            file.write(content)
    else:
        path.write_bytes(content)


def write_text(path: Path | epath.Path, text: str) -> None:
    """Write text as UTF-8, whole or not at all."""
    write_bytes(path, text.encode())


def write_json(path: Path | epath.Path, value: Any) -> None:
    """Write an indented JSON document, whole or not at all."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def sync(path: Path) -> None:
    """Wait until a file, or a directory's list of names, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# --- Locks ------------------------------------------------------------------------------------------------------------


def try_lock(file: IO[Any]) -> bool:
    """Lock an open file unless another process has it locked; tell whether it is locked now.

    The lock ends when the file is closed or the process ends, however it ends.
    """
    try:
        _flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def wait_for_lock(file: IO[Any]) -> None:
    """Lock an open file, as soon as no other process has it locked."""
    _flock(file, fcntl.LOCK_EX)


def _flock(file: IO[Any], operation: int) -> None:
    try:
        fcntl.flock(file, operation)
    except BlockingIOError:
        raise
    except OSError as error:
        raise ConfigError(
            f"{file.name} cannot be locked ({error.strerror}): use a file system that has locks."
        ) from error


# --- Lines of JSON ----------------------------------------------------------------------------------------------------


def utf8(text: str) -> bytes:
    """Encode text; half a surrogate pair, which UTF-8 cannot hold, becomes the escape that JSON reads."""
    return text.encode(errors="backslashreplace")


def json_line(value: Any) -> bytes:
    return utf8(json.dumps(value, ensure_ascii=False) + "\n")


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The JSON objects of a file, one a line; damaged lines, as a kill leaves one, are left out. [] without a file."""
    if not path.is_file():
        return []
    values = []
    for line in path.read_bytes().split(b"\n"):
        with contextlib.suppress(ValueError, RecursionError):
            values.append(json.loads(line.decode(errors="replace")))
    return [value for value in values if isinstance(value, dict)]


def append_lines(path: Path, values: Iterable[dict[str, Any]]) -> None:
    """Add JSON objects to a file, one a line; one that a kill cut short is ended first, so that it spoils no other."""
    with path.open("a+b") as file:
        if file.tell() > 0:
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                file.write(b"\n")
        file.writelines(json_line(value) for value in values)


def write_lines(path: Path, values: Iterable[dict[str, Any]]) -> None:
    """Write JSON objects, one a line, whole or not at all."""
    with whole(path) as file:
        file.writelines(json_line(value) for value in values)
