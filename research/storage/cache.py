"""The cache: directories that are built once and kept, each complete or absent.

An entry is built in a directory of another name and renamed once it is complete and on disk, so a process killed at any
moment leaves nothing that could be taken for an entry. Its key is derived from what it was built from, so it never goes
stale.
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
    """Return the directory of the cache: $KINTSUGI_CACHE, or ~/.cache/kintsugi."""
    configured = os.environ.get("KINTSUGI_CACHE")
    return Path(configured) if configured else Path.home() / ".cache" / "kintsugi"


def file_digest(path: Path) -> str:
    """Compute the SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Entry(NamedTuple):
    """The name of a cache entry. The entry need not exist."""

    kind: str
    key: str

    @property
    def path(self) -> Path:
        """The directory of the entry."""
        return directory() / self.kind / self.key


def entry(kind: str, key: str, build: Callable[[Path], None]) -> Path:
    """Return the directory `kind/key` of the cache; fill it with `build(directory)` if it does not exist yet.

    If several processes need the same entry, one builds it and the others wait.

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
    """Turn an error about writing the cache into a ConfigError with what to do."""
    try:
        yield
    except OSError as error:
        if error.errno not in CANNOT_WRITE:
            raise
        raise ConfigError(
            f"The cache {directory()} cannot be written ({error.strerror}): free disk space, or set KINTSUGI_CACHE to a"
            " writable directory."
        ) from error


def set_aside(path: Path, reason: str) -> None:
    """Rename a damaged entry so that it is built again, and print a message."""
    damaged = path.with_name(path.name + ".damaged")
    with locked(path):
        if path.exists():
            shutil.rmtree(damaged, ignore_errors=True)
            path.rename(damaged)
    print(f"The cache entry {path} is damaged ({reason}): it is moved to {damaged} and built again.", file=sys.stderr)


def drop(path: Path) -> None:
    """Delete a directory if it exists. It is renamed first, so that no part of it can be taken for an entry."""
    dropped = path.with_name(f"{path.name}.dropped-{os.getpid()}")
    with suppress(FileNotFoundError):
        path.rename(dropped)
    shutil.rmtree(dropped, ignore_errors=True)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock of an entry. The kernel releases it when the process ends, even if it is killed."""
    with path.with_name(path.name + ".lock").open("w") as lock:
        if not try_lock(lock):
            print(f"Waiting for another process that is building {path}.", file=sys.stderr, flush=True)
            wait_for_lock(lock)
        yield


def _build(path: Path, build: Callable[[Path], None]) -> None:
    partial = path.with_name(path.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)  # left by a killed process: the lock is ours
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


# Decompressed bytes that are always allowed, and the largest ratio above that. Text and weights stay far below.
ALWAYS_ALLOWED, MAX_RATIO = 2**26, 100


def check_inflation(path: Path, stored: int, inflated: int) -> None:
    """Guard against decompression bombs: compare the `stored` bytes of a file with its `inflated` bytes.

    Raises:
        ConfigError: the file would become more than `ALWAYS_ALLOWED` bytes and more than `MAX_RATIO` times as large.
    """
    message = f"{path} has {stored:,} bytes and would become {inflated:,} or more, over {MAX_RATIO} times as many."
    require(inflated <= max(ALWAYS_ALLOWED, MAX_RATIO * stored), message)
