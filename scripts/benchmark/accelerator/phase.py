"""One phase of the measurements: what it is, how its process runs it, and the record that it leaves.

A phase is a module with two functions. `measure(arguments, keep, folder)` measures and returns figures that JSON can
hold; it hands what it has so far to `keep`, so that a kill loses little. A list `wrong` among the figures has a
sentence for everything that should not be so. `rows(figures)` formats the figures for the table.
"""

import os
import platform
import sys
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from research.storage.files import append_lines, read_lines

Figures = dict[str, Any]
Keep = Callable[[Figures], None]
TableRows = list[tuple[str, str]]  # name and value of a row of the table

RECORDS = "phases.jsonl"
PACKAGES = (
    *("jax", "jaxlib", "flax", "optax", "numpy", "torch", "transformers"),
    *("jax-cuda12-plugin", "jax-cuda13-plugin", "nvidia-cudnn-cu12", "nvidia-cudnn-cu13", "nvidia-cublas"),
)


class Phase(NamedTuple):
    """A phase. Arguments of `smoke` follow the others, and replace them."""

    name: str
    module: str
    limit: float | int  # seconds
    arguments: tuple[str, ...] = ()
    smoke: tuple[str, ...] = ()
    environment: tuple[tuple[str, str], ...] = ()

    def command(self, folder: Path, smoke: bool) -> list[str]:
        """Return the command of the process that runs it."""
        given = [*self.arguments, *(self.smoke if smoke else ())]
        return [sys.executable, "-m", __name__, self.name, self.module, str(folder), "--smoke" * smoke, *given]


def main() -> None:
    name, module, folder, smoke, *arguments = sys.argv[1:]
    began = time.perf_counter()
    path = Path(folder) / RECORDS

    def record(figures: Figures, **state: Any) -> None:
        line = {"phase": name, "smoke": bool(smoke), "seconds": time.perf_counter() - began, "figures": figures}
        append_lines(path, [line | state])

    figures = import_module(module).measure(arguments, lambda found: record(found, finished=False), Path(folder))
    record(figures, finished=True, arguments=arguments, about=about())


def about() -> dict[str, Any]:
    """Return the hardware, versions and commit of this process's figures."""
    import jax  # not before: the processes that a phase starts need the accelerator's memory

    from research.storage import run_directory

    device = jax.devices()[0]
    return {
        "device": device.device_kind,
        "devices": jax.device_count(),
        "backend": device.platform,
        "processor": platform.machine(),
        "cores": os.cpu_count(),
        "load_average": os.getloadavg()[0],
        "versions": {"python": platform.python_version(), **run_directory.installed(PACKAGES)},
        "commit": run_directory.commit(),
    }


def records(folder: Path) -> dict[str, dict[str, Any]]:
    """Read the last record of each phase. One that failed or was stopped has the figures that it had kept."""
    found: dict[str, dict[str, Any]] = {}
    for line in read_lines(folder / RECORDS):
        before = found.get(line["phase"], {})
        kept = before.get("figures", {}) if "error" in line and not before.get("finished") else {}
        found[line["phase"]] = {"figures": kept} | line
    return found


if __name__ == "__main__":
    main()
