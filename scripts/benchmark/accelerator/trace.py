"""A profiler's trace of training steps, in one archive."""

import tarfile
import tempfile
from pathlib import Path

import jax

from research.config import override
from scripts.benchmark import train
from scripts.benchmark.accelerator.phase import Figures, Keep, TableRows

ARCHIVE = "trace.tar.gz"


def measure(arguments: list[str], keep: Keep, folder: Path) -> Figures:
    options, rest = train.parser().parse_known_args(arguments)
    step = train.compiled_step(
        train.experiment_of(options, override.from_arguments(rest)), options.target_length, options.packed
    )
    state, _ = step.run(step.new_state(), max(options.warmup, 1))
    settings = jax.profiler.ProfileOptions()
    settings.python_tracer_level, settings.host_tracer_level = 0, 1  # their events would fill the file
    with tempfile.TemporaryDirectory() as made:
        with jax.profiler.trace(made, profiler_options=settings):
            _, seconds = step.run(state, options.steps)
        with tarfile.open(folder / ARCHIVE, "w:gz") as archive:
            archive.add(made, "trace")
    size = (folder / ARCHIVE).stat().st_size
    return {"steps": options.steps, "seconds": seconds, "preset": options.preset, "file": ARCHIVE, "bytes": size}


def rows(figures: Figures) -> TableRows:
    text = f"{figures['file']}, {figures['bytes'] / 2**20:.1f} MiB: {figures['steps']} steps of {figures['preset']}"
    return [("trace", f"{text}, {1e3 * figures['seconds']:,.4g} ms each while traced")]
