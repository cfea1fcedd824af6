"""A trace of some steps of a run: what ran when, on the device and on the host, by the names of the model's parts."""

from pathlib import Path
from typing import Any

import jax

from research.config import Profile
from research.storage.console import say


class Trace:
    """Written by the first host. It changes no number: all that the compiled step has of it is names."""

    def __init__(self, config: Profile | None, directory: Path, start: int) -> None:
        """`start` is the step from which this process goes on."""
        self._directory, self._tracing = directory, False
        self._steps, self._missed = range(0), ""
        if config is not None and jax.process_index() == 0:
            before = start + config.first - 1
            self._steps = range(before, before + config.steps)
            self._missed = f"Nothing was traced: the run ended before step {before + 1}."

    def begin(self, done: int, state: Any) -> None:
        """Called before every step: what those before it left to do is not in the trace."""
        if done == self._steps.start and self._steps:
            jax.block_until_ready(state)
            jax.profiler.start_trace(self._directory)
            self._tracing, self._missed = True, ""

    def end(self, done: int, metrics: Any) -> None:
        """Called after every step: all of the last one is in the trace."""
        if self._tracing and done == self._steps.stop:
            jax.block_until_ready(metrics)
            self._stop()

    def __enter__(self) -> "Trace":
        return self

    def __exit__(self, *error: object) -> None:
        """A run that ends amid the steps leaves what was traced."""
        if self._tracing:
            self._stop()
        elif self._missed:
            say(self._missed)

    def _stop(self) -> None:
        self._tracing = False
        jax.profiler.stop_trace()
        say(
            f"A trace of {len(self._steps)} steps is in {self._directory}. To see it: pip install xprof, then xprof"
            f" --logdir {self._directory}; or its .trace.json.gz in https://ui.perfetto.dev."
        )
