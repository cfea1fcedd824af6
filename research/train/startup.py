"""Startup time: the seconds from the start of a process to its first step, by part."""

import os
import time
from pathlib import Path
from typing import Any

import jax

COMPILED = "/jax/core/compile/backend_compile_duration"  # of compiling a program, or of reading it from the cache
KEPT = "/jax/compilation_cache/cache_hits"
STAT = Path("/proc/self/stat")


class Startup:
    """A timer of consecutive parts: `done` ends one part and begins the next.

    Compilation happens inside other parts but is counted as a part of its own, from JAX's monitoring events.
    """

    def __init__(self, began: float | None = None) -> None:
        self.began = self._last = time.monotonic() if began is None else began
        self.seconds: dict[str, float] = {}
        self.programs, self.kept, self._compiling, self.finished = 0, 0, 0.0, False
        jax.monitoring.register_event_duration_secs_listener(self._on_duration)
        jax.monitoring.register_event_listener(self._on_event)

    def done(self, part: str) -> None:
        """End a part; what follows belongs to the next one."""
        now = time.monotonic()
        self._add(part, now - self._last - self._compiling)
        if self._compiling:
            self._add("compiling", self._compiling)
        self._last, self._compiling = now, 0.0

    def finish(self) -> dict[str, Any]:
        """End the last part; return all parts in the form stored in history.jsonl."""
        self.done("first step")
        self.finished = True
        jax.monitoring.unregister_event_duration_listener(self._on_duration)
        jax.monitoring.unregister_event_listener(self._on_event)
        total = {"all": self._last - self.began}
        rounded = {part: round(seconds, 3) for part, seconds in (self.seconds | total).items()}
        return {"startup_seconds": rounded, "programs": self.programs, "programs_kept": self.kept}

    def compiled(self) -> str:
        """Format the compilation time, for the launch summary."""
        kept = f"{self.kept} of {self.programs} programs from the cache"
        return f"in {self.seconds.get('compiling', 0.0):.1f} s, {kept}"

    def describe(self) -> str:
        """Format all parts, for the message after the first step."""
        parts = ", ".join(f"{part} {seconds:.1f}" for part, seconds in self.seconds.items())
        kept = f"{self.kept} of {self.programs} programs from the cache"
        return f"First step after {self._last - self.began:.1f} s: {parts} ({kept})."

    def _add(self, part: str, seconds: float) -> None:
        self.seconds[part] = self.seconds.get(part, 0.0) + seconds

    def _on_duration(self, event: str, duration_secs: float, **_: Any) -> None:
        if event == COMPILED:
            self.programs += 1
            self._compiling += duration_secs

    def _on_event(self, event: str, **_: Any) -> None:
        self.kept += event == KEPT


def process_began() -> float:
    """Find when this process began, on the clock of `time.monotonic`; without /proc, return the present time."""
    if not STAT.exists():
        return time.monotonic()
    ticks = int(STAT.read_text().rpartition(")")[2].split()[19])  # since the machine started
    age = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    return time.monotonic() - age
