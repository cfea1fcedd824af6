"""Persistent compilation cache: the next start of the same program need not compile it again.

This is JAX's cache, in a directory of the project's cache. JAX keys its entries by everything that they depend on: the
program, options and XLA_FLAGS, versions, devices, and on CPUs the machine's instruction set.
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


def enable_compilation_cache(by_names: bool = False) -> None:
    """Enable JAX's compilation cache on all hosts. If it cannot be used, warn and continue without it.

    With `by_names`, the names of scopes and files are part of the key, so that a profile shows the current ones.

    JAX's own variables apply: JAX_COMPILATION_CACHE_DIR sets another directory, JAX_ENABLE_COMPILATION_CACHE=0 disables
    the cache.
    """
    directory = cache.directory() / "compiled"
    settings: Any = jax.config
    settings.update("jax_compilation_cache_include_metadata_in_key", by_names)
    free = settings.jax_enable_compilation_cache and settings.jax_compilation_cache_dir is None
    obstacle = _obstacle(directory) if free else ""
    if jax.process_count() > 1 and not _is_shared(directory, free and not obstacle):
        obstacle = obstacle or f"the hosts do not share {directory}"
    if free and obstacle:
        _print_to_stderr(
            f"Compiled programs are not cached: {obstacle}. Set KINTSUGI_CACHE to a writable directory of all hosts."
        )
    elif free:
        settings.update("jax_compilation_cache_dir", str(directory))
        if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
            settings.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        _drop_corrupt_entries(directory)


def _obstacle(directory: Path) -> str:
    """Find out why files cannot be written to a directory; "" if they can."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory):
            return ""
    except OSError as error:
        return f"{directory} cannot be written ({error.strerror})"


def _is_shared(directory: Path, usable: bool) -> bool:
    """Tell whether all hosts see the files that the first host writes to a directory.

    In JAX only the first host writes the cache. On GPUs the hosts also share the trials by which XLA chooses kernels,
    so a host that finds an entry which the others lack would leave them waiting.
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


def _drop_corrupt_entries(directory: Path) -> None:
    """Delete cache entries that JAX cannot read. JAX only warns, compiles the program again and never replaces them."""
    show = warnings.showwarning

    def drop_corrupt_entry(
        message: Warning | str, category: Any, filename: str, lineno: int, file: Any = None, line: str | None = None
    ) -> None:
        damaged = UNREADABLE.match(str(message))
        if damaged is None:
            return show(message, category, filename, lineno, file, line)
        for entry in directory.glob(f"{damaged[1]}-*-cache"):
            entry.unlink(missing_ok=True)
        _print_to_stderr(f"The cached program {damaged[1]} in {directory} is damaged: it is compiled again.")

    warnings.showwarning = drop_corrupt_entry


def _print_to_stderr(text: str) -> None:
    """Print on the first host, to standard error, since standard output may hold a program's results."""
    if jax.process_index() == 0:
        print(text, file=sys.stderr)
