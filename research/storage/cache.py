"""What is made once and kept: directories under the cache, each whole or absent.

An entry is built in a directory of another name and renamed when it is whole and on the disk, so a process killed at
any moment leaves nothing that could be taken for an entry. Its key says what it was made from, so it never goes stale.
"""

import errno
import hashlib
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from research.config import ConfigError, require
from research.storage.files import sync, try_lock, wait_for_lock

CHUNK_BYTES = 1 << 20
CANNOT_WRITE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.ENOTDIR)


def directory() -> Path:
    """$KINTSUGI_CACHE, or ~/.cache/kintsugi."""
    configured = os.environ.get("KINTSUGI_CACHE")
    return Path(configured) if configured else Path.home() / ".cache" / "kintsugi"


def file_digest(path: Path) -> str:
    """SHA-256, in hex, of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Entry(NamedTuple):
    """The name of one, there or not."""

    kind: str
    key: str

    @property
    def path(self) -> Path:
        return directory() / self.kind / self.key


def entry(kind: str, key: str, build: Callable[[Path], None]) -> Path:
    """The directory `kind/key` of the cache, filled by `build(directory)` if it is not there yet.

    Of several processes that want the same entry one builds it and the others wait for it.

    Raises:
        ConfigError: the cache cannot be written, or the disk is full.
    """
    path = Entry(kind, key).path
    if path.exists():
        return path
    with writable():
        path.parent.mkdir(parents=True, exist_ok=True)
        with locked(path):
            if not path.exists():
                _build(path, build)
    return path


@contextmanager
def writable() -> Iterator[None]:
    """Says what to do where the cache cannot be written."""
    try:
        yield
    except OSError as error:
        if error.errno not in CANNOT_WRITE:
            raise
        raise ConfigError(
            f"The cache {directory()} cannot be written ({error.strerror}): make room there, or set KINTSUGI_CACHE to a"
            " directory that can be written."
        ) from error


def set_aside(path: Path, reason: str) -> None:
    """Renames a damaged entry, aloud, so that it is built again."""
    damaged = path.with_name(path.name + ".damaged")
    with locked(path):
        if path.exists():
            shutil.rmtree(damaged, ignore_errors=True)
            path.rename(damaged)
    print(f"The cache entry {path} is damaged ({reason}): it is now {damaged} and is built again.", file=sys.stderr)


def drop(path: Path) -> None:
    """Deletes what is there, if anything, so that at no moment a part of it could be taken for it."""
    dropped = path.with_name(f"{path.name}.dropped-{os.getpid()}")
    with suppress(FileNotFoundError):
        path.rename(dropped)
    shutil.rmtree(dropped, ignore_errors=True)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds the lock of an entry; the kernel releases it when the process ends, however it ends."""
    with path.with_name(path.name + ".lock").open("w") as lock:
        if not try_lock(lock):
            print(f"Waiting for another process that is building {path}.", file=sys.stderr, flush=True)
            wait_for_lock(lock)
        yield


def _build(path: Path, build: Callable[[Path], None]) -> None:
    partial = path.with_name(path.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)  # left by a process that was killed: the lock says nobody is at it now
    partial.mkdir()
    try:
        build(partial)
        _flush(partial)
        partial.rename(path)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    sync(path.parent)


def _flush(tree: Path) -> None:
    for folder, _, names in os.walk(tree):
        for name in names:
            sync(Path(folder, name))
        sync(Path(folder))


ROOM, RATIO = 2**26, 100  # bytes that any file may become, and how often its own size; text and weights are far below


def check_inflation(path: Path, stored: int, becomes: int) -> None:
    """Raises ConfigError where so many `stored` bytes would become too many."""
    said = f"{path} has {stored:,} bytes and would become {becomes:,} or more, over {RATIO} times as many."
    require(becomes <= max(ROOM, RATIO * stored), said)
