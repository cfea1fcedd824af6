"""Files at addresses (https://, gs://, s3://, hf://, ...), copied whole into the cache by fsspec.

The key of a copy has the size of the original and what its server tells of its version, such as an ETag, so an original
that has changed is copied anew. A copy that was interrupted resumes where it stopped, if its server can send the rest.
"""

import hashlib
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from research.config import ConfigError, require
from research.config.base import digest
from research.storage import cache
from research.storage.copies import DIGEST, ORIGIN, Copy, UnreachableError, reason_of, recall, remember
from research.storage.files import PIECE_BYTES, hash_file
from research.storage.progress import Progress

KIND = "remote"  # of the cache's entries
GCS, HUB = "'kintsugi[gcs]'", "'kintsugi[hub]'"
DRIVERS = {"http": "aiohttp", "https": "aiohttp", "gs": GCS, "gcs": GCS, "s3": "s3fs", "hf": HUB}
# What file systems call the version of a file, in small letters.
VERSIONS = {
    *("etag", "content-md5", "digest", "md5hash", "crc32c", "generation", "versionid", "blob_id", "lfs", "checksum"),
    *("last-modified", "lastmodified", "last_modified", "updated", "mtime"),
}
TRIES = 5  # of a connection that breaks, without progress between them
SILENCE = 300.0  # seconds without a byte after which a connection is taken to be broken
WAIT = 1.0  # seconds before the second try, doubled each time


class RemoteFile(NamedTuple):
    """A file at an address, as its server describes it."""

    system: Any  # of fsspec
    path: str
    address: str
    size: int | None
    version: str

    @property
    def copy(self) -> Copy:
        return Copy(self.address, digest([self.address, self.size, self.version]))


def is_address(pattern: str) -> bool:
    return "://" in pattern


def remote_copies(pattern: str) -> list[Path]:
    """Return copies of the files at an address, or at those that match a pattern, sorted; make what is missing.

    Raises:
        ConfigError: there is none, a driver is not installed, or the server does not answer and there is no copy.
    """
    try:
        files = list_files(pattern)
    except UnreachableError as error:
        if known := recall(KIND, pattern, pattern):
            return [copied(copy) for copy in known]
        raise ConfigError(f"{error}, and the cache has no copy of it.") from None
    require(len(files) > 0, f"No file matches the pattern {pattern}.")
    for file in files:
        cache.entry(KIND, file.copy.key, partial(_fill, file), lambda name: True)
    remember(KIND, pattern, [file.copy for file in files])
    return [copied(file.copy) for file in files]


def copied(copy: Copy) -> Path:
    """Return the path of a copy. It has the suffix of the original, and no other part of its name."""
    return cache.Entry(KIND, copy.key).path / f"copy{PurePosixPath(copy.origin).suffix}"


def list_files(pattern: str) -> list[RemoteFile]:
    """Ask the server for the files that match a pattern, sorted like the paths of local files."""
    system, path = _open(pattern)
    with explained(pattern):
        system.invalidate_cache()
        if not any(letter in path for letter in "*["):
            found = system.info(path)
            what = f"{pattern} is a directory: name a file, or a pattern such as {pattern}/*."
            require(found["type"] == "file", what)
            return [_described(system, path, found, pattern)]
        listed = {name: info for name, info in system.glob(path, detail=True).items() if info["type"] == "file"}
        names = sorted(listed, key=lambda name: name.split("/"))
        return [_described(system, name, listed[name], system.unstrip_protocol(name)) for name in names]


def _described(system: Any, path: str, found: dict[str, Any], address: str) -> RemoteFile:
    """Describe a file; what a listing does not tell is asked for."""
    if found.get("size") is None or not _version(found):
        found = system.info(path)
    if not (version := _version(found)):
        note = f"note: the server of {address} tells no version of it: a change that keeps its size is not noticed."
        print(note, file=sys.stderr, flush=True)
    return RemoteFile(system, path, address, found.get("size"), version)


def _version(found: dict[str, Any]) -> str:
    told = sorted((name.lower(), str(value)) for name, value in found.items() if name.lower() in VERSIONS and value)
    return repr(told) if told else ""


def _open(pattern: str) -> tuple[Any, str]:
    """Open the file system of an address. Raises ConfigError if its driver is not installed, or there is none."""
    import fsspec

    protocol = pattern.partition("://")[0]
    try:
        return fsspec.core.url_to_fs(pattern, **(_http_options() if protocol in ("http", "https") else {}))
    except ImportError as error:
        what = f"pip install {DRIVERS[protocol]}" if protocol in DRIVERS else reason_of(error)
        raise ConfigError(f"{pattern} needs the driver of {protocol}://: {what}.") from None
    except ValueError as error:
        raise ConfigError(f"{pattern} is no address that fsspec knows ({reason_of(error)}).") from None


def _http_options() -> dict[str, Any]:
    """Return options with which the bytes are those of the file, large ones have time, and proxies are used."""
    import aiohttp

    timeout = aiohttp.ClientTimeout(total=None, sock_connect=60, sock_read=SILENCE)
    client = {"timeout": timeout, "auto_decompress": False, "trust_env": True}
    return {"headers": {"Accept-Encoding": "identity"}, "client_kwargs": client}


@contextmanager
def explained(address: str) -> Iterator[None]:
    """Turn the errors of file systems into one sentence. Raises ConfigError, or UnreachableError."""
    try:
        yield
    except ConfigError:
        raise
    except FileNotFoundError as error:
        cause = error.__cause__  # over HTTP the error may be any
        absent = not address.startswith("http") or not cause or getattr(cause, "status", 0) in (404, 410)
        if absent or isinstance(cause, FileNotFoundError):
            raise ConfigError(f"There is no file {address}.") from None
        raise UnreachableError(f"{address} cannot be reached ({reason_of(cause or error)})") from None
    except PermissionError as error:
        raise ConfigError(f"{address} may not be read by the credentials that are set ({reason_of(error)}).") from None
    except Exception as error:  # each driver has its own
        raise UnreachableError(f"{address} cannot be reached ({reason_of(error)})") from None


def _fill(file: RemoteFile, folder: Path) -> None:
    """Copy a file into its entry. A part of it is kept beside the entry, with the key of this version."""
    part = folder.with_name(f"{file.copy.key}.download")
    hash = _download(file, part)
    length = part.stat().st_size
    whole = file.size is None or length == file.size
    if not whole or _open_again(file) != file.version:
        part.unlink()
        raise ConfigError(f"{file.address} changed while it was copied ({length:,} bytes of {file.size}): start again.")
    part.replace(folder / copied(file.copy).name)
    (folder / ORIGIN).write_text(file.address)
    (folder / DIGEST).write_text(hash.hexdigest())


def _open_again(file: RemoteFile) -> str:
    with explained(file.address):
        file.system.invalidate_cache()
        return _version(file.system.info(file.path))


def _download(file: RemoteFile, part: Path) -> Any:
    """Write a file, from where an earlier process stopped; return the hash of its bytes."""
    failures = 0
    with Progress(f"Copying {file.address}", file.size or 0, "bytes") as progress:
        while True:
            before = part.stat().st_size if part.exists() else 0
            try:
                return _continue(file, part, progress)
            except UnreachableError:
                failures = failures + 1 if part.stat().st_size <= before else 1
                if failures == TRIES:
                    raise
                time.sleep(WAIT * 2 ** (failures - 1))


def _continue(file: RemoteFile, part: Path, progress: Progress) -> Any:
    """Append the rest of a file, or write all of it if the server cannot send the rest; return the hash."""
    hash = hashlib.sha256()
    with part.open("a+b") as written:
        written.seek(0)
        hash_file(written, hash)
        progress.done = progress.done_before = written.tell()
        if 0 < written.tell() == file.size:
            return hash
        pieces = _pieces(file, written.tell())
        try:
            piece = next(pieces, b"")
        except NotResumableError:
            written.truncate(0)
            hash, progress.done, pieces = hashlib.sha256(), 0, _pieces(file, 0)
            piece = next(pieces, b"")
        while piece:
            written.write(piece)
            hash.update(piece)
            progress.advance(len(piece))
            piece = next(pieces, b"")
    return hash


class NotResumableError(ConfigError):
    """A server that sends only whole files."""


def _pieces(file: RemoteFile, start: int) -> Iterator[bytes]:
    """Yield the bytes of a file from an offset."""
    streamed = {"block_size": 0} if start == 0 and file.address.startswith("http") else {}
    with explained(file.address), file.system.open(file.path, "rb", **streamed) as opened:
        try:
            if start:
                opened.seek(start)
            piece = opened.read(PIECE_BYTES)
        except ValueError as error:
            raise NotResumableError(f"{file.address} cannot be read ({reason_of(error)}).") from None
        while piece:
            yield piece
            piece = opened.read(PIECE_BYTES)
