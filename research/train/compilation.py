"""What was compiled is kept on disk, so that the next start of the same program need not compile it again.

This is JAX's persistent cache, in the project's own. JAX tells entries apart by all that they follow from: the program,
options and XLA_FLAGS, versions, devices, and on CPUs the instructions that the machine has.
"""

import os
import re
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from research.storage import cache

UNREADABLE = re.compile(r"Error reading persistent compilation cache entry for '(\w+)'")


def keep_compiled(by_names: bool = False) -> None:
    """Turns it on, on all hosts together. Where nothing can be kept that is said, and the run goes on without.

    By names, programs differ by those of their scopes and files too, as a trace of them will show them.

    JAX's own variables are heeded: JAX_COMPILATION_CACHE_DIR names another directory, JAX_ENABLE_COMPILATION_CACHE=0
    turns it off.
    """
    directory = cache.directory() / "compiled"
    settings: Any = jax.config
    settings.update("jax_compilation_cache_include_metadata_in_key", by_names)
    free = settings.jax_enable_compilation_cache and settings.jax_compilation_cache_dir is None
    obstacle = _obstacle(directory) if free else ""
    if jax.process_count() > 1 and not _shared(directory, free and not obstacle):
        obstacle = obstacle or f"the hosts share no {directory}"
    if free and obstacle:
        _say(f"What is compiled is not kept: {obstacle}. Set KINTSUGI_CACHE to a directory where it can be.")
    elif free:
        settings.update("jax_compilation_cache_dir", str(directory))
        if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
            settings.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        _drop_damaged(directory)


def _obstacle(directory: Path) -> str:
    """Why nothing can be kept there, if so."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory):
            return ""
    except OSError as error:
        return f"{directory} cannot be written ({error.strerror})"


def _shared(directory: Path, usable: bool) -> bool:
    """Whether all hosts see there what the first one writes.

    JAX lets the first host alone write. One that found what others do not would besides leave them waiting for it:
    GPUs' hosts divide the trials by which XLA chooses kernels.
    """
    name = np.frombuffer(os.urandom(8), np.uint8)
    mark = directory / f"shared-{bytes(multihost_utils.broadcast_one_to_all(name)).hex()}"
    if usable and jax.process_index() == 0:
        mark.touch()
    multihost_utils.sync_global_devices("the first host has written")
    seen = multihost_utils.process_allgather(np.bool_(usable and mark.exists()))
    if jax.process_index() == 0:
        mark.unlink(missing_ok=True)
    return bool(np.all(seen))


def _drop_damaged(directory: Path) -> None:
    """JAX compiles anew what it cannot read, with a warning, but would leave it there for good."""
    show = warnings.showwarning

    def mend(
        message: Warning | str, category: Any, filename: str, lineno: int, file: Any = None, line: str | None = None
    ) -> None:
        damaged = UNREADABLE.match(str(message))
        if damaged is None:
            return show(message, category, filename, lineno, file, line)
        for entry in directory.glob(f"{damaged[1]}-*-cache"):
            entry.unlink(missing_ok=True)
        _say(f"What was kept of {damaged[1]} in {directory} is damaged: it is compiled again.")

    warnings.showwarning = mend


def _say(text: str) -> None:
    """On the first host, beside the output: some programs write what they are asked for there."""
    if jax.process_index() == 0:
        print(text, file=sys.stderr)
