"""The manifest of a checkpoint: a hash of every file, since Orbax restores a flipped bit silently.

    MANIFEST.json   blake2b of every file; in a bucket, the MD5 that the bucket stores for every object

It is written before Orbax commits a checkpoint and completed afterwards ("sealed") by the files that Orbax writes last.
"""

import contextlib
import hashlib
import json
import re
from collections.abc import Iterator
from typing import Any

from research.config import ConfigError, parse_json
from research.storage import bucket
from research.storage.bucket import AnyPath, is_remote
from research.storage.files import hash_file, write_text

MANIFEST = "MANIFEST.json"
MD5 = "md5:"
COMMITTED = "commit_success.txt"
WRITTEN_LAST = ("_CHECKPOINT_METADATA", COMMITTED)  # by Orbax, after a checkpoint's manifest


def write(directory: AnyPath, sealed: bool) -> None:
    """Write the manifest of a checkpoint; `sealed` if Orbax adds no more files to it."""
    _write(directory, _digests(directory, exclude=() if sealed else WRITTEN_LAST), sealed)


def seal(directory: AnyPath) -> None:
    """Add the small files that Orbax writes after the manifest to it."""
    listed = json.loads((directory / MANIFEST).read_text())["files"]
    late = {name: digest(directory / name) for name in WRITTEN_LAST if (directory / name).is_file()}
    _write(directory, listed | late, sealed=True)


def _write(directory: AnyPath, files: dict[str, str], sealed: bool) -> None:
    write_text(directory / MANIFEST, _text(files, sealed))


def _text(files: dict[str, str], sealed: bool) -> str:
    own = hashlib.blake2b(json.dumps([sealed, sorted(files.items())]).encode(), digest_size=16).hexdigest()
    return json.dumps({"sealed": sealed, "own": own, "files": files}, indent=1, sort_keys=True)


def _digests(directory: AnyPath, exclude: tuple[str, ...] = ()) -> dict[str, str]:
    files = {name: stored for name, stored in _files(directory).items() if name not in exclude}
    return {name: stored or digest(directory / name) for name, stored in files.items()}


def _files(directory: AnyPath) -> dict[str, str | None]:
    """List the files of a directory by name, without its manifest, with the digest that a bucket stores."""
    if is_remote(directory):
        files = {name: stored and MD5 + stored for name, stored in bucket.digests(directory).items()}
    else:
        files = {str(path.relative_to(directory)): None for path in sorted(directory.rglob("*")) if path.is_file()}
    return {name: stored for name, stored in files.items() if not name.rpartition("/")[2].startswith(MANIFEST)}


def verify(directory: AnyPath, within: str = "") -> str:
    """Compare a checkpoint, or one directory `within` it, with its manifest; return the first problem, or ""."""
    try:
        text = (directory / MANIFEST).read_text()
        manifest = json.loads(text)
        listed, sealed = dict(manifest["files"]), bool(manifest["sealed"])
        if text != _text(listed, sealed):
            return f"{MANIFEST} was changed"
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        return f"{MANIFEST} cannot be read ({type(error).__name__})"
    listed = {name: hash for name, hash in listed.items() if name.startswith(within)}
    present = {name: kept for name, kept in _files(directory).items() if name.startswith(within)}
    late = set() if sealed else set(WRITTEN_LAST)
    for name in sorted(listed.keys() | present.keys() - late):
        if name not in present:
            return f"{name} is missing"
        if name not in listed:
            return f"{name} is not in its manifest"
        if listed[name] != present[name] and listed[name] != digest(directory / name, listed[name].startswith(MD5)):
            return f"{name} was changed"
    return ""


def digest(path: AnyPath, md5: bool = False) -> str:
    """Compute the BLAKE2b of a file; or its MD5, which buckets store, with the prefix `MD5`."""
    value = hashlib.md5(usedforsecurity=False) if md5 else hashlib.blake2b(digest_size=16)
    with path.open("rb") as file:
        hash_file(file, value)
    return MD5 + value.hexdigest() if md5 else value.hexdigest()


# --- The checkpoints of a run -----------------------------------------------------------------------------------------


def steps_on_disk(directory: AnyPath) -> list[int]:
    """List the steps that have a checkpoint in a directory, newest first."""
    if not directory.is_dir():
        return []
    named = [path for path in directory.iterdir() if re.fullmatch("[0-9]+", path.name)]
    steps = [int(path.name) for path in named if not is_remote(path) or (path / COMMITTED).exists()]
    return sorted(steps, reverse=True)


def whole_steps(directory: AnyPath) -> Iterator[int]:
    """Yield the steps with a checkpoint that verifies (see `verify`), newest first; none that cannot be read."""
    with contextlib.suppress(OSError):
        for step in steps_on_disk(directory):
            with contextlib.suppress(OSError):
                if not verify(directory / str(step)):
                    yield step


def newest_record(directory: AnyPath) -> tuple[int, dict[str, Any]] | None:
    """Find the newest checkpoint whose `meta/` verifies and holds a config; return its step and that content."""
    with contextlib.suppress(OSError):
        for step in steps_on_disk(directory):
            if found := record(directory / str(step)):
                return step, found
    return None


def record(checkpoint: AnyPath) -> dict[str, Any] | None:
    """Read the content of a checkpoint's `meta/`, if it verifies and holds a config."""
    path = checkpoint / "meta" / "metadata"
    with contextlib.suppress(OSError, ConfigError):
        if not verify(checkpoint, "meta/"):
            match parse_json(path.read_bytes(), str(path)):
                case {"config": dict()} as content:
                    return content
    return None


def kept(directory: AnyPath) -> str:
    """Name the newest checkpoint that verifies, as a clause of a message about a failure."""
    newest = next(whole_steps(directory), None)
    return "there is no complete checkpoint" if newest is None else f"the checkpoint of step {newest} is complete"
