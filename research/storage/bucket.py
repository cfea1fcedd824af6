"""Runs in buckets: gs://BUCKET/NAME is accepted wherever the path of a run directory is.

A bucket has no appending, renaming or locks. Orbax writes checkpoints directly to the bucket. The other files of a run
are written to a local directory and copied from there: before a checkpoint is committed, every few seconds, and at the
end.
"""

import atexit
import base64
import contextlib
import importlib.util
import json
import os
import shutil
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
LEASE = 60.0  # seconds without renewal after which the holder of a lock is taken to be dead
SETTLE = 1.0  # seconds after which two processes that took a lock at the same time have both written it

EMULATOR = ("STORAGE_EMULATOR_HOST", "TENSORSTORE_GCS_HTTP_URL", "GOOGLE_AUTH_TOKEN_FOR_TESTING")
REQUEST = 300.0  # seconds that the bucket has to answer a request

# Other hosts write to the bucket too, so listings are not cached. Without a limit a lost connection is waited for.
fsspec.config.conf.setdefault("gcs", {}).update(use_listings_cache=False, requests_timeout=REQUEST)


def any_path(address: str) -> AnyPath:
    """Parse a local path or, if it has a scheme, a remote one."""
    return epath.Path(address) if "://" in address else Path(address)


def is_remote(path: AnyPath) -> bool:
    """Tell whether a path is in a bucket."""
    return not isinstance(path, Path)


def check_reachable(path: AnyPath) -> None:
    """Check that a path is local, or in a bucket that can be listed.

    Raises:
        ConfigError: the bucket cannot be listed, the address is not of a bucket, gcsfs is not installed, or the
            variables of an emulator are incomplete.
    """
    if not is_remote(path):
        return
    require(
        str(path).startswith("gs://"),
        f"{path}: only addresses gs://BUCKET/NAME are supported; mount other storage, and give its local path.",
    )
    require(
        importlib.util.find_spec("gcsfs") is not None,
        f"{path} is in a bucket, which needs gcsfs: pip install 'kintsugi[gcs]'.",
    )
    _check_emulator(path)
    with _explain_errors(path):
        _storage().ls(str(path).removeprefix("gs://").split("/")[0])


def _check_emulator(path: AnyPath) -> None:
    """Check that Orbax, which writes the checkpoints, and gcsfs, which writes the rest, use one server."""
    server, orbax_server, token = (os.environ.get(name, "").removesuffix("/") for name in EMULATOR)
    if server and "://" not in server:
        server = f"http://{server}"
    require(
        server == orbax_server and (not server or bool(token)),
        f"{path} is in a bucket: for an emulator set all of {', '.join(EMULATOR)}, the first two to its address and the"
        " last to any text; for Google Cloud Storage set none of them.",
    )


@contextlib.contextmanager
def mirrored(directory: epath.Path) -> Iterator["Mirror"]:
    """Hold a run directory in a bucket, with a local copy. Files of the copy are uploaded as they change.

    Raises:
        ConfigError: the directory cannot be reached or written, another process holds it, or it is not a run directory.
    """
    check_reachable(directory)
    mirror = Mirror(directory)
    with _explain_errors(directory):
        mirror.take()
    try:
        with _explain_errors(directory):
            mirror.fetch()
        renewing = threading.Thread(target=mirror.keep, daemon=True)
        renewing.start()
        try:
            yield mirror
        finally:
            mirror.ended.set()
            renewing.join()
            with _explain_errors(directory, f" What was not uploaded is in {mirror.local}."):
                mirror.publish()
            shutil.rmtree(mirror.local.parent, ignore_errors=True)
    finally:
        mirror.release()


def new_local_path(directory: epath.Path) -> Path:
    """Make a path for a local copy. It keeps the last part of the name, which plots use as their title."""
    return Path(tempfile.mkdtemp(prefix="kintsugi-")) / directory.name


class Lock(NamedTuple):
    """The lock of a run, as stored in the bucket. The token is unique to one start."""

    holder: str
    token: str
    renewed: int = 0


class Mirror:
    """The lock that one start has on a run directory in a bucket, and the local copy of the directory."""

    def __init__(self, directory: epath.Path) -> None:
        self.directory, self.local = directory, Path()
        self.lock = Lock(f"process {os.getpid()} on {socket.gethostname()}", uuid.uuid4().hex)
        self.ended = threading.Event()
        self._lost = ""
        self._copied: dict[Path, tuple[int, int]] = {}
        self._copying = threading.Lock()

    def take(self) -> None:
        """Take the lock; wait until a lock that another process left has expired.

        Raises:
            ConfigError: another process renews its lock, or takes one at the same time.
        """
        held, since = self._read_lock(), time.monotonic()
        if held is not None:
            print(
                f"{self.directory} is locked by {held.holder}: waiting up to {LEASE:.0f} s to see if it still runs.",
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
        """Make the local copy from the files at the top of the directory, since some of them are appended to.

        Files in subdirectories are only written, so they are not fetched.

        Raises:
            ConfigError: the directory is not empty and holds no run.
        """
        entries = {entry["name"].rsplit("/", 1)[1]: entry for entry in _storage().ls(str(self.directory), detail=True)}
        names = entries.keys() - {LOCK}
        require(
            not names or "config.json" in names or "checkpoints" in names,
            f"{self.directory} is not empty and holds no run: give a new or empty --run_dir, nothing is overwritten.",
        )
        self.local = new_local_path(self.directory)
        self.local.mkdir()
        for name in names:
            if entries[name]["type"] == "file":
                (self.local / name).write_bytes(_storage().cat_file(entries[name]["name"]))

    def publish(self) -> None:
        """Upload the files that have changed.

        Raises:
            ConfigError: another process has taken over the run.
        """
        with self._copying:
            require(not self._lost, self._lost)
            for path in sorted(self.local.rglob("*")):
                if path.is_file() and path.name != LOCK and path.suffix != ".tmp":
                    self._copy(path)

    def keep(self) -> None:
        """Renew the lock and upload changed files until `ended` is set."""
        while not self.ended.wait(LEASE / 6):
            try:
                held = self._read_lock()
                if held is None or held.token != self.lock.token:
                    holder = held.holder if held else "another process"
                    self._lost = f"{self.directory} was taken over by {holder}: this process saves nothing more."
                    return
                self.lock = self.lock._replace(renewed=self.lock.renewed + 1)
                self._write_lock()
                self.publish()
            except Exception as error:  # network or server: retry; a save raises it
                print(f"{self.directory} could not be written: {_first_line(error)}; retrying.", flush=True)

    def release(self) -> None:
        """Delete the lock if this start still holds it."""
        with contextlib.suppress(Exception):
            if (held := self._read_lock()) is not None and held.token == self.lock.token:
                _storage().rm_file(self._lock_path)

    def _copy(self, path: Path) -> None:
        before = path.stat()
        state = (before.st_mtime_ns, before.st_size)
        if self._copied.get(path) != state:
            _storage().pipe_file(str(self.directory / str(path.relative_to(self.local))), path.read_bytes())
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
    """List the MD5 (hex) that the bucket stores for each object below a directory, by name; None if it stores none."""
    root = str(directory).removeprefix("gs://") + "/"
    entries = _storage().find(str(directory), detail=True)
    hashes = {path.removeprefix(root): entry.get("md5Hash") for path, entry in entries.items()}
    return {name: base64.b64decode(hash).hex() if hash else None for name, hash in hashes.items()}


def move(directory: epath.Path, target: epath.Path) -> None:
    """Move a directory within buckets: copy it, then delete the original."""
    _storage().copy(str(directory), str(target), recursive=True)
    _storage().rm(str(directory), recursive=True)


def local_file(path: AnyPath) -> Path:
    """Return a local path as it is; download a file or a whole directory of a bucket until the process ends."""
    if not is_remote(path):
        return Path(path)
    copy = new_local_path(path)
    atexit.register(shutil.rmtree, copy.parent, ignore_errors=True)
    _storage().get(str(path), str(copy), recursive=True)
    return copy


def _storage() -> Any:
    return fsspec.filesystem("gcs")


@contextlib.contextmanager
def _explain_errors(path: AnyPath, more: str = "") -> Iterator[None]:
    """Turn errors about credentials, permissions and networks into one ConfigError."""
    try:
        yield
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(
            f"{path} cannot be reached ({_first_line(error)}): check the address and the network, and that this machine"
            " has credentials that may write there (gcloud auth application-default login, or a service account)."
            f"{more}"
        ) from error


def _first_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:200].rstrip(".: ")
