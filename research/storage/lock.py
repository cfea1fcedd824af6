"""The lock of a file: the kernel's or, on a file system without locks, a lease that its holder renews.

The kernel releases a lock when its holder ends, even if it is killed. A lease, in a file beside the locked one, expires
when its holder has not renewed it for `LEASE` seconds, or at once if the holder ran on this machine and has ended.
"""

import contextlib
import json
import os
import socket
import sys
import threading
import time
import uuid
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

from research.storage import stop
from research.storage.files import NoLocksError, try_lock, write_text

LEASE = 60.0  # seconds without renewal after which the holder is taken to be dead
SETTLE = 1.0  # seconds after which two processes that took a lease at the same time have both written it


class Lease(NamedTuple):
    """The content of a lease. The token is unique to one taking."""

    holder: str
    machine: str  # and the process namespace, in which `process` is a number
    process: int
    token: str
    renewed: int = 0

    @property
    def dead(self) -> bool:
        """True if the holder ran on this machine and has ended; False if that cannot be known."""
        if self.machine != _machine():
            return False
        try:
            os.kill(self.process, 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            pass
        return False


class FileLock:
    """The lock of a file, which is created. It is not held before `take` returns True."""

    def __init__(self, path: Path, mode: str = "a+") -> None:
        """Open the file. Raises OSError if it cannot be."""
        self.path, self.file = path, path.open(mode)
        self.lease: Lease | None = None
        self.lost = ""  # by whom the lease was taken over
        self._beside = path.with_name(path.name + ".lease")
        self.seen: Lease | None = None
        self._since = 0.0
        self._ended = threading.Event()

    def __enter__(self) -> "FileLock":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.release()

    def take(self) -> bool:
        """Take the lock unless another process holds it; return whether this one holds it.

        Without locks of the kernel, call it again and again, for `LEASE` seconds: a lease that is not renewed expires.
        """
        try:
            return try_lock(self.file)
        except NoLocksError as error:
            return self.lease is not None or self._take_lease(str(error))

    @property
    def leased(self) -> bool:
        """True if the file has a lease of another process, which may have ended."""
        return self.seen is not None

    def is_held_elsewhere(self) -> bool:
        """Tell at once whether another process holds the lock. Takes it briefly, if it is of the kernel."""
        try:
            return not try_lock(self.file)
        except NoLocksError:
            found = self._read()
            with contextlib.suppress(OSError):
                return found is not None and not found.dead and time.time() - self._beside.stat().st_mtime < LEASE
            return False

    def holder(self) -> str:
        """Name the process that holds the lock, for messages."""
        found = self._read()
        if found is not None:
            return found.holder
        self.file.seek(0)
        return self.file.read().strip() or "another process"

    def release(self) -> None:
        self._ended.set()
        found = self._read()
        if self.lease is not None and found is not None and found.token == self.lease.token:
            self._beside.unlink(missing_ok=True)
        self.lease = None
        self.file.close()

    def _take_lease(self, why: str) -> bool:
        found, now = self._read(), time.monotonic()
        if found is not None and not found.dead:
            if found != self.seen:
                self.seen, self._since = found, now
            if now - self._since < LEASE:
                return False
        own = Lease(f"process {os.getpid()} on {socket.gethostname()}", _machine(), os.getpid(), uuid.uuid4().hex)
        self._write(own)
        time.sleep(SETTLE)
        if self._read() != own:
            return False
        self.lease = own
        threading.Thread(target=self._renew, args=(own,), daemon=True).start()
        if self.path.parent not in _told:
            _told.add(self.path.parent)
            print(
                f"{self.path.parent}: this file system has no locks ({why}); a lease is used, which is renewed every"
                f" {LEASE / 6:.0f} s.",
                file=sys.stderr,
                flush=True,
            )
        return True

    def _renew(self, lease: Lease) -> None:
        while not self._ended.wait(LEASE / 6):
            with contextlib.suppress(OSError):  # the next renewal may succeed, well before the lease expires
                found = self._read()
                if found is not None and found.token != lease.token:
                    self.lost = found.holder
                    return
                lease = lease._replace(renewed=lease.renewed + 1)
                if not self._ended.is_set():
                    self._write(lease)

    def _read(self) -> Lease | None:
        try:
            return Lease(*json.loads(self._beside.read_text()))
        except (OSError, ValueError, TypeError):
            return None

    def _write(self, lease: Lease) -> None:
        write_text(self._beside, json.dumps(lease))


def taken_in_time(lock: FileLock) -> bool:
    """Take a lock that was not free, if it is a lease that expires before it is renewed; wait to see that."""
    if lock.leased:
        print(
            f"{lock.path} is leased to {lock.holder()}: waiting up to {LEASE:.0f} s to see if it still runs.",
            flush=True,
        )
    seen, until = lock.seen, time.monotonic() + LEASE + SETTLE
    while lock.leased and lock.seen == seen and time.monotonic() < until:
        time.sleep(min(1.0, LEASE / 10))
        stop.check()
        if lock.take():
            return True
    return False


_told: set[Path] = set()


def _machine() -> str:
    names = [socket.gethostname()]
    with contextlib.suppress(OSError):
        names += [Path("/proc/sys/kernel/random/boot_id").read_text().strip(), os.readlink("/proc/self/ns/pid")]
    return " ".join(names)
