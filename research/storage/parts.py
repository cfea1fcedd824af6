"""The parts of a large file of the cache: each is verified when it is first read, for hashing all of it takes long."""

import os
import threading
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

import numpy as np
from jaxtyping import Int64

from research.config import ConfigError
from research.storage import cache

Offsets = Int64[np.ndarray, " n"]


class Parts:
    """The parts of a file of a cache entry. Small files have none: they are verified when the entry is opened.

    Give `mapped` for a file that is read through a memory map: like that, its parts are read even if the entry is
    deleted. Other files, of which there may be thousands, are open only while a part is verified.
    """

    def __init__(self, path: Path, mapped: bool = False) -> None:
        self.path = path
        self._hashes: Sequence[str] = cache.part_digests(path)
        self._mapped = path.open("rb") if mapped and self._hashes else None
        self._unread = set(range(len(self._hashes)))
        self._lock = threading.Lock()

    def check(self, starts: Offsets, stops: Offsets) -> None:
        """Verify the parts that hold the bytes from each start to its stop, unless that is done.

        Raises:
            ConfigError: one was changed. The entry is then set aside, so that the next start builds it again.
        """
        if not self._unread:
            return
        size = cache.PART_BYTES
        for first, last in {(start // size, (stop - 1) // size) for start, stop in zip(starts, stops, strict=True)}:
            for number in range(int(first), int(last) + 1):
                with self._lock:
                    if number in self._unread:
                        self._verify(number)
                        self._unread.remove(number)

    def check_all(self) -> None:
        """Verify every part. Errors are as in `check`."""
        for number in range(len(self._hashes)):
            start = np.array([number * cache.PART_BYTES])
            self.check(start, start + 1)

    def _verify(self, number: int) -> None:
        start = number * cache.PART_BYTES
        with nullcontext(self._mapped) if self._mapped else self.path.open("rb") as file:
            content, status = os.pread(file.fileno(), cache.PART_BYTES, start), os.fstat(file.fileno())
        if cache.content_digest(content) == self._hashes[number]:
            return
        reason = f"bytes {start:,} to {start + len(content):,} of {self.path.name} were changed"
        with cache.writable(), cache.locked(self.path.parent):
            if self.path.exists() and os.path.samestat(status, self.path.stat()):
                cache.set_aside(self.path.parent, reason)
        raise ConfigError(
            f"The cache entry {self.path.parent} is damaged ({reason}): the same command builds it again."
        )
