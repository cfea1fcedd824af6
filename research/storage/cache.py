"""The cache: directories that are built once and kept, each complete or absent.

An entry is built in a directory of another name and renamed once it is complete and on disk, so a process killed at any
moment leaves nothing that could be taken for an entry. Its key is derived from what it was built from, so it never goes
stale. CONTENTS.json lists its files with their sizes and hashes: an entry that has lost or changed one is built again.
A large file that is read here and there has a hash for each of its parts too, in PARTS.json: see parts.py.
"""

import errno
import hashlib
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from research.config import ConfigError, require
from research.storage import stop
from research.storage.files import hash_file, sync, sync_tree, write_json
from research.storage.lock import FileLock

CHUNK_BYTES = 1 << 20
CONTENTS = "CONTENTS.json"
PARTS = "PARTS.json"
PART_BYTES = 1 << 26
VERIFIED_BYTES = 1 << 28  # larger files may be verified by parts, when these are read
LOOK_EVERY = 0.2  # seconds, while another process builds an entry
CANNOT_WRITE = (
    errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.ENOTDIR, errno.EEXIST,
)  # fmt: skip


def directory() -> Path:
    """Return the directory of the cache: $KINTSUGI_CACHE, or ~/.cache/kintsugi."""
    configured = os.environ.get("KINTSUGI_CACHE")
    return Path(configured) if configured else Path.home() / ".cache" / "kintsugi"


def file_digest(path: Path) -> str:
    """Compute the SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hash_file(file, hashlib.sha256()).hexdigest()


def content_digest(content: bytes) -> str:
    """Compute the BLAKE2b of bytes, in hex."""
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def _digests(path: Path) -> tuple[str, list[str]]:
    """Compute the BLAKE2b of a file and, if it is large, of each of its parts."""
    whole, parts = hashlib.blake2b(digest_size=16), []
    with path.open("rb") as file:
        if path.stat().st_size <= VERIFIED_BYTES:
            return hash_file(file, whole).hexdigest(), []
        while part := file.read(PART_BYTES):
            whole.update(part)
            parts.append(content_digest(part))
            stop.check()
    return whole.hexdigest(), parts


class Entry(NamedTuple):
    """The name of a cache entry. The entry need not exist."""

    kind: str
    key: str

    @property
    def path(self) -> Path:
        """The directory of the entry."""
        return directory() / self.kind / self.key

    @property
    def complete(self) -> bool:
        """True if the entry exists and no file of it is missing or cut; their bytes are not read."""
        return self.path.exists() and not damage(self.path, unread=lambda name: True, max_unread=-1)


def _none(name: str) -> bool:
    return False


def contains(path: Path) -> bool:
    """Return whether a file is one of an entry."""
    return (path.parent / CONTENTS).is_file() and path.is_relative_to(directory())


def entry(kind: str, key: str, build: Callable[[Path], None], by_parts: Callable[[str], bool] = _none) -> Path:
    """Return the directory `kind/key` of the cache; fill it with `build(directory)` if it does not exist or is damaged.

    If several processes need the same entry, one builds it and the others wait. Large files that `by_parts` names are
    not verified here: who reads them does it, by `Parts` or by hashes of their own.

    Raises:
        ConfigError: the cache cannot be written, or the disk is full.
    """
    path = Entry(kind, key).path
    if path.exists() and not damage(path, by_parts):
        return path
    with writable():
        path.parent.mkdir(parents=True, exist_ok=True)
        with locked(path):
            if path.exists() and (problem := damage(path, by_parts)):
                set_aside(path, problem)
            if not path.exists():
                _build(path, build)
    return path


def damage(path: Path, unread: Callable[[str], bool] = _none, max_unread: int | None = None) -> str:
    """Compare an entry with its CONTENTS.json; return the first problem, or "".

    Files that `unread` names are not hashed if they are larger than `max_unread`, by default VERIFIED_BYTES.
    """
    largest = VERIFIED_BYTES if max_unread is None else max_unread
    try:
        listed = json.loads((path / CONTENTS).read_text())
        for name, (size, hash) in listed.items():
            if (path / name).stat().st_size != size:
                return f"{name} has another size"
            if not (unread(name) and size > largest) and _digests(path / name)[0] != hash:
                return f"{name} was changed"
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except (OSError, ValueError, TypeError, AttributeError) as error:
        return f"{type(error).__name__}: {error}"
    return ""


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
    """Rename a damaged entry, of which this process has the lock, and print a message."""
    damaged = path.with_name(path.name + ".damaged")
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
    """Hold the lock of an entry. It ends with the process, even if it is killed."""
    with FileLock(path.with_name(path.name + ".lock")) as lock:
        if not lock.take():
            print(f"Waiting for another process that is building {path}.", file=sys.stderr, flush=True)
            while not lock.take():
                time.sleep(LOOK_EVERY)
                stop.check()
        yield


def _build(path: Path, build: Callable[[Path], None]) -> None:
    partial = path.with_name(path.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)  # left by a killed process: the lock is ours
    partial.mkdir()
    try:
        build(partial)
        _list_contents(partial)
        sync_tree(partial)
        partial.rename(path)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    sync(path.parent)


def _list_contents(folder: Path) -> None:
    files = {str(path.relative_to(folder)): path for path in sorted(folder.rglob("*")) if path.is_file()}
    digests = {name: _digests(path) for name, path in files.items() if path.name not in (CONTENTS, PARTS)}
    if any(parts for _, parts in digests.values()):
        write_json(folder / PARTS, {name: parts for name, (_, parts) in digests.items() if parts})
        files[PARTS] = folder / PARTS
        digests[PARTS] = _digests(folder / PARTS)
    listed = {name: (files[name].stat().st_size, whole) for name, (whole, _) in digests.items()}
    write_json(folder / CONTENTS, listed)


def part_digests(path: Path) -> list[str]:
    """Return the hashes of the parts of a file of an entry; [] for a small one.

    A large file of an earlier version's entry has none yet: it is verified whole, and they are added; or kept in memory
    if the cache cannot be written.

    Raises:
        ConfigError: such a file was changed.
    """
    status, parts = path.stat(), path.parent / PARTS
    known = path, status.st_ino, status.st_mtime_ns
    if status.st_size <= VERIFIED_BYTES or known in _in_memory:
        return _in_memory.get(known, [])
    try:
        if not parts.exists():
            with locked(path.parent):
                if not parts.exists():  # another process may have added them
                    _require_whole(path.parent, damage(path.parent))
                    _list_contents(path.parent)
        return json.loads(parts.read_text())[path.name]
    except OSError as error:
        if error.errno not in CANNOT_WRITE:
            raise
    whole, digests = _digests(path)
    listed = json.loads((path.parent / CONTENTS).read_text())[path.name][1]
    _require_whole(path.parent, "" if whole == listed else f"{path.name} was changed")
    return _in_memory.setdefault(known, digests)


# The hashes of parts that could not be added to their entries, by the file with its inode and modification time.
_in_memory: dict[tuple[Path, int, int], list[str]] = {}


def _require_whole(folder: Path, problem: str) -> None:
    require(not problem, f"The cache entry {folder} is damaged ({problem}): delete it to build it again.")


# Decompressed bytes that are always allowed, and the largest ratio above that. Text and weights stay far below.
ALWAYS_ALLOWED, MAX_RATIO = 2**26, 100


def check_inflation(path: Path | str, stored: int, inflated: int) -> None:
    """Guard against decompression bombs: compare the `stored` bytes of a file with its `inflated` bytes.

    Raises:
        ConfigError: the file would become more than `ALWAYS_ALLOWED` bytes and more than `MAX_RATIO` times as large.
    """
    message = f"{path} has {stored:,} bytes and would become {inflated:,} or more, over {MAX_RATIO} times as many."
    require(inflated <= max(ALWAYS_ALLOWED, MAX_RATIO * stored), message)
