"""Profiler trace of some steps of a run, on devices and hosts, with the names of the model's parts."""

from pathlib import Path
from typing import Any

import jax

from research.config import Profile
from research.storage.bucket import AnyPath
from research.storage.console import say


class Trace:
    """A trace, written by the first host. It changes no number: the compiled step differs in names only."""

    def __init__(self, config: Profile | None, directory: Path, start: int, address: AnyPath | None = None) -> None:
        """Plan the trace of a process that starts at step `start`. Messages name the directory by its address."""
        self._directory, self._address, self._tracing = directory, address or directory, False
        self._steps, self._missed = range(0), ""
        if config is not None and jax.process_index() == 0:
            before = start + config.first - 1
            self._steps = range(before, before + config.steps)
            self._missed = f"Nothing was traced: the run ended before step {before + 1}."

    def begin(self, done: int, state: Any) -> None:
        """Start the trace if it is due, before a step. Earlier steps finish first, so that they are not in it."""
        if done == self._steps.start and self._steps:
            jax.block_until_ready(state)
            jax.profiler.start_trace(self._directory)
            self._tracing, self._missed = True, ""

    def end(self, done: int, metrics: Any) -> None:
        """Stop the trace if it is due, after a step. This step finishes first, so that all of it is in the trace."""
        if self._tracing and done == self._steps.stop:
            jax.block_until_ready(metrics)
            self._stop()

    def __enter__(self) -> "Trace":
        return self

    def __exit__(self, *error: object) -> None:
        """Write the steps traced so far if the run ends early; report if none were traced."""
        if self._tracing:
            self._stop()
        elif self._missed:
            say(self._missed)

    def _stop(self) -> None:
        self._tracing = False
        jax.profiler.stop_trace()
        say(
            f"A trace of {len(self._steps)} steps is in {self._address}. To see it: pip install xprof, then xprof"
            f" --logdir {self._address}; or its .trace.json.gz in https://ui.perfetto.dev."
        )
