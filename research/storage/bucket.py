"""Runs in buckets: gs://BUCKET/NAME stands wherever the path of a run directory does.

A bucket has no appending, no renaming and no locks. So checkpoints go there straight, by Orbax, while a run's other
files lie in a directory here, from which they are copied: before a checkpoint counts, every
few seconds, and at the end.
"""

import base64
import contextlib
import importlib.util
import json
import os
import socket
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import fsspec.config
from etils import epath

from research.config import ConfigError, require

AnyPath: TypeAlias = Path | epath.Path

LOCK = "RUN.lock"
LEASE = 60.0  # seconds: of a lock that was not renewed for so long the holder is dead
SETTLE = 1.0  # seconds in which of two that take a lock at once both have written

fsspec.config.conf.setdefault("gcs", {})["use_listings_cache"] = False  # other hosts write there too


def any_path(address: str) -> AnyPath:
    """A path here or, where it has a scheme, the address of one elsewhere."""
    return epath.Path(address) if "://" in address else Path(address)


def is_remote(path: AnyPath) -> bool:
    return not isinstance(path, Path)


def check_reachable(path: AnyPath) -> None:
    """Raises ConfigError for an address of a bucket that cannot be listed, or of something else than a bucket."""
    if not is_remote(path):
        return
    require(
        str(path).startswith("gs://"),
        f"{path}: of addresses only gs://BUCKET/NAME are known; mount other storage, and give the path where it is.",
    )
    require(
        importlib.util.find_spec("gcsfs") is not None,
        f"{path} is in a bucket, for which gcsfs is needed: pip install 'kintsugi[gcs]'.",
    )
    with _explained(path):
        _storage().ls(str(path).removeprefix("gs://").split("/")[0])


@contextlib.contextmanager
def mirrored(directory: epath.Path) -> Iterator["Mirror"]:
    """Holds a run directory in a bucket, and a copy of its files here from which they are copied as they change.

    Raises:
        ConfigError: it cannot be reached or written, another process holds it, or it is no run directory.
    """
    check_reachable(directory)
    mirror = Mirror(directory)
    with _explained(directory):
        mirror.take()
    try:
        with _explained(directory):
            mirror.fetch()
        renewing = threading.Thread(target=mirror.keep, daemon=True)
        renewing.start()
        try:
            yield mirror
        finally:
            mirror.ended.set()
            renewing.join()
            with _explained(directory):
                mirror.publish()
    finally:
        mirror.release()


def here(directory: epath.Path) -> Path:
    """A new place for a copy: the name's last part stays, since plots have it as their title."""
    return Path(tempfile.mkdtemp(prefix="kintsugi-")) / directory.name


class Lock(NamedTuple):
    """Who holds a run, as the bucket says; the token is of one start alone."""

    holder: str
    token: str
    renewed: int = 0


class Mirror:
    """One start's hold of a run directory in a bucket, and its copy here."""

    def __init__(self, directory: epath.Path) -> None:
        self.directory, self.here = directory, here(directory)
        self.lock = Lock(f"process {os.getpid()} on {socket.gethostname()}", uuid.uuid4().hex)
        self.ended = threading.Event()
        self._lost = ""
        self._copied: dict[Path, tuple[int, int]] = {}
        self._copying = threading.Lock()

    def take(self) -> None:
        """Raises ConfigError where another process renews its lock, or takes one in the same moment."""
        held, since = self._read_lock(), time.monotonic()
        if held is not None:
            print(
                f"{self.directory} is locked by {held.holder}: within {LEASE:.0f} s it shows whether that still runs.",
                flush=True,
            )
        while held is not None and time.monotonic() - since < LEASE:
            time.sleep(min(1.0, LEASE / 10))
            now = self._read_lock()
            self._require_own(now is None or now == held, now)
            held = now
        self._write_lock()
        time.sleep(SETTLE)
        now = self._read_lock()
        self._require_own(now == self.lock, now)

    def fetch(self) -> None:
        """Makes the copy: the files at the top, of which some are gone on with. Others are only written."""
        there = {entry["name"].rsplit("/", 1)[1]: entry for entry in _storage().ls(str(self.directory), detail=True)}
        names = there.keys() - {LOCK}
        require(
            not names or "config.json" in names,
            f"{self.directory} is not empty and holds no run: give a new or empty --run_dir, nothing is overwritten.",
        )
        self.here.mkdir()
        for name in names:
            if there[name]["type"] == "file":
                (self.here / name).write_bytes(_storage().cat_file(there[name]["name"]))

    def publish(self) -> None:
        """Copies what has changed. Raises ConfigError where the run is another process's by now."""
        with self._copying:
            require(not self._lost, self._lost)
            for path in sorted(self.here.rglob("*")):
                if path.is_file() and path.name != LOCK and path.suffix != ".tmp":
                    self._copy(path)

    def keep(self) -> None:
        """Until the end: renews the lock, and copies what has changed."""
        while not self.ended.wait(LEASE / 6):
            try:
                held = self._read_lock()
                if held is None or held.token != self.lock.token:
                    holder = held.holder if held else "another process"
                    self._lost = f"{self.directory} was taken over by {holder}: this one saves nothing more."
                    return
                self.lock = self.lock._replace(renewed=self.lock.renewed + 1)
                self._write_lock()
                self.publish()
            except Exception as error:  # of a network or a server: it is tried again, and a save says what is wrong
                print(f"{self.directory} could not be written: {_first_line(error)}; it is tried again.", flush=True)

    def release(self) -> None:
        with contextlib.suppress(Exception):
            if (held := self._read_lock()) is not None and held.token == self.lock.token:
                _storage().rm_file(self._lock_path)

    def _copy(self, path: Path) -> None:
        before = path.stat()
        state = (before.st_mtime_ns, before.st_size)
        if self._copied.get(path) != state:
            _storage().pipe_file(str(self.directory / str(path.relative_to(self.here))), path.read_bytes())
            self._copied[path] = state

    @property
    def _lock_path(self) -> str:
        return str(self.directory / LOCK)

    def _read_lock(self) -> Lock | None:
        try:
            return Lock(*json.loads(_storage().cat_file(self._lock_path)))
        except FileNotFoundError:
            return None

    def _write_lock(self) -> None:
        _storage().pipe_file(self._lock_path, json.dumps(self.lock).encode())

    def _require_own(self, own: bool, held: Lock | None) -> None:
        holder = "another process" if held is None else held.holder
        require(own, f"{self.directory} is in use by {holder}: wait for it, or give another --run_dir.")


def digests(directory: epath.Path) -> dict[str, str | None]:
    """MD5 in hex of each object below it, by name, as the bucket keeps it; None where it keeps none."""
    root = str(directory).removeprefix("gs://") + "/"
    found = _storage().find(str(directory), detail=True)
    kept = {path.removeprefix(root): entry.get("md5Hash") for path, entry in found.items()}
    return {name: base64.b64decode(hash).hex() if hash else None for name, hash in kept.items()}


def move(directory: epath.Path, target: epath.Path) -> None:
    _storage().copy(str(directory), str(target), recursive=True)
    _storage().rm(str(directory), recursive=True)


def local_file(path: AnyPath) -> Path:
    """The file itself or, of a bucket's, a copy here; of a directory all files in it."""
    if not is_remote(path):
        return Path(path)
    copy = here(path)
    _storage().get(str(path), str(copy), recursive=True)
    return copy


def _storage() -> Any:
    return fsspec.filesystem("gcs")


@contextlib.contextmanager
def _explained(path: AnyPath) -> Iterator[None]:
    """Whatever libraries raise of credentials, rights and networks, as one sentence."""
    try:
        yield
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(
            f"{path} cannot be reached ({_first_line(error)}): check the address and the network, and that this machine"
            " has credentials that may write there (gcloud auth application-default login, or a service account)."
        ) from error


def _first_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:200].rstrip(".")
