"""Requests to stop a run: SIGTERM, SIGHUP and Ctrl-C, found between the parts of slow work.

Slow work calls `check` between its parts, at least twice a second. It raises only in the main thread inside
`stoppable`, so that nothing is cut off while a run trains or ends. In training and evaluation, where all hosts must
stop at the same place, they agree on it with `reached`.
"""

import contextlib
import faulthandler
import itertools
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

T = TypeVar("T")

EVERY = 0.2  # seconds between two looks of a host for a request of its own
ASK_EVERY = 1.0  # seconds between two looks for a request to another host
KEY = "kintsugi/stop"  # in JAX's coordination service: set once any host was asked to stop


class Stopped(BaseException):
    """A request to stop, found between two parts of slow work. What is complete is kept."""


class _Requests:
    """The requests that this process has received since it listens."""

    def __init__(self) -> None:
        self.received = self.told_others = False
        self.read_end, self.write_end = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self.looked = self.asked = 0.0
        self.listening = self.stoppable = False

    def found(self) -> bool:
        """Tell whether this host was asked to stop, or another one."""
        now = time.monotonic()
        if self.received or now - self.looked < EVERY:
            return self.received
        self.looked = now
        self.received = bool(select.select([self.read_end], [], [], 0)[0]) or self._others(now)
        return self.received

    def _others(self, now: float) -> bool:
        client = _client()
        if client is None or now - self.asked < ASK_EVERY:
            return False
        self.asked = now
        with contextlib.suppress(Exception):  # the key is not set
            return bool(client.key_value_try_get(KEY))
        return False

    def tell_others(self) -> None:
        """Let the other hosts know, once."""
        client = _client()
        if client is not None and not self.told_others:
            self.told_others = True
            client.key_value_set(KEY, "1", allow_overwrite=True)

    def clear(self) -> None:
        self.received = False
        with contextlib.suppress(BlockingIOError):
            while os.read(self.read_end, 4096):
                pass


_requests = _Requests()
_points = itertools.count(1)


def check() -> None:
    """Raise Stopped, inside `stoppable`, if this process or another host of its run was asked to stop."""
    in_main_thread = threading.current_thread() is threading.main_thread()
    if _requests.stoppable and in_main_thread and _requests.found():
        _requests.tell_others()
        raise Stopped


@contextlib.contextmanager
def stoppable() -> Iterator[None]:
    """Let `check` raise, if this process listens."""
    before, _requests.stoppable = _requests.stoppable, _requests.listening
    try:
        check()
        yield
    finally:
        _requests.stoppable = before


@contextlib.contextmanager
def listening() -> Iterator[None]:
    """Take SIGTERM, SIGHUP and the first Ctrl-C as requests to stop. The second Ctrl-C ends the process at once.

    A SIGHUP that is ignored, as under nohup, stays ignored. Inside another `listening` this does nothing.
    """
    if _requests.listening:
        yield
        return
    handlers: dict[int, Any] = {signal.SIGTERM: _on_sigterm, signal.SIGINT: _on_ctrl_c, signal.SIGHUP: _on_hang_up}
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        del handlers[signal.SIGHUP]
    if _jax_listens():
        del handlers[signal.SIGTERM]
    _requests.clear()
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    _requests.listening = True
    if _jax_listens():
        follow_jax()
    try:
        yield
    finally:
        _requests.listening = False
        faulthandler.unregister(signal.SIGTERM)
        for number, handler in before.items():
            if number != signal.SIGTERM or not _jax_listens():
                signal.signal(number, handler)


def follow_jax() -> None:
    """Note SIGTERM again, after JAX's runtime has put a handler of its own in the place of ours.

    Python cannot call a handler in C, so faulthandler does: it writes to our pipe, and calls the handler before it.
    """
    if _requests.listening:
        faulthandler.register(signal.SIGTERM, file=_requests.write_end, all_threads=False, chain=True)


def _on_sigterm(number: int, frame: Any) -> None:
    _requests.received = True


def _on_hang_up(number: int, frame: Any) -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def _on_ctrl_c(number: int, frame: Any) -> None:
    signal.signal(signal.SIGINT, _on_second_ctrl_c)
    # Not by print, which may be what was interrupted.
    _write_error("\nStopping at the next safe point, and saving what there is. Ctrl-C again to stop at once.\n")
    os.kill(os.getpid(), signal.SIGTERM)


def _on_second_ctrl_c(number: int, frame: Any) -> None:
    _write_error("\x1b[?25h\n" if os.isatty(2) else "\n")  # shows the cursor, which a progress bar has hidden
    os._exit(130)


def _write_error(text: str) -> None:
    with contextlib.suppress(OSError):
        os.write(2, text.encode())


# --- Waiting ----------------------------------------------------------------------------------------------------------


def interruptible(work: Callable[[], T]) -> T:
    """Do work that cannot look for a request itself, on another thread, and stop waiting for it on a request."""
    if not _requests.stoppable:
        return work()
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(work())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(EVERY)
        check()
    if errors:
        raise errors[0]
    return results[0]


# --- Hosts ------------------------------------------------------------------------------------------------------------


def together(work: Callable[[], T]) -> T:
    """Do a part of the start, which every host does. If one host stops in it, all raise Stopped after it."""
    import jax  # importing it takes seconds, in which a request can come
    import numpy as np
    from jax.experimental import multihost_utils

    result: list[T] = []
    with contextlib.suppress(Stopped), stoppable():
        result.append(work())
    stopped = not result
    if jax.process_count() > 1:
        stopped = bool(np.any(multihost_utils.process_allgather(np.array(stopped))))
    if stopped:
        raise Stopped
    return result[0]


def reached() -> bool:
    """Tell whether all hosts have agreed to stop here. Every host calls it at the same points of a run.

    JAX chooses the point after the last one that any host has told it: so points are numbered one by one.
    """
    from jax.experimental import multihost_utils

    return multihost_utils.reached_preemption_sync_point(next(_points))


def _jax_listens() -> bool:
    if "jax" not in sys.modules:
        return False
    from jax._src import distributed  # the public module shows neither this nor the client

    return distributed.global_state.preemption_sync_manager is not None


def _client() -> Any:
    """Return the client of JAX's coordination service, if there are several hosts."""
    if "jax" not in sys.modules:
        return None
    from jax._src import distributed

    return distributed.global_state.client if (distributed.global_state.num_processes or 1) > 1 else None
