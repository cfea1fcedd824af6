"""Measure the cost of saving and restoring checkpoints: python -m scripts.benchmark.checkpoint

It runs whole steps of research.train.step on a synthetic batch, alternately without a checkpoint and after saving one,
as the training loop does: written and hashed in the background. Then it verifies and restores one.
"""

import argparse
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import jax

from research.config import Checkpoint, ConfigError, Experiment, override, require
from research.parallel.hosts import initialize_hosts
from research.parallel.mesh import check_divisible, make_mesh, place_batch
from research.storage.checkpoint import Checkpoints
from research.storage.files import write_json
from research.storage.manifest import steps_on_disk, verify
from research.train.state import abstract_state, new_state
from research.train.step import compile_train_step
from scripts import command_line
from scripts.benchmark import train

EPILOG = """
reading the table
  Figures are medians over the rounds, with the smallest and largest in brackets. A save blocks the loop until the
  arrays are copied off the device; writing and hashing run beside the steps. "Slower" is the extra time of --steps
  steps after a save, the save included, compared with as many steps without, in the same round: on a CPU, writing
  takes cores from the steps. The shares "of --every" divide these times by --every steps without a save, --every being
  the interval between two saves. They are computed, not run, and hold for steps of this length: shorter steps raise
  them. --steps must outlast a save, or "slower" misses a part of it. The hashed files are in the system's memory.

examples
  python -m scripts.benchmark.checkpoint --preset t5/small --input_length 64 --target_length 14 --batch_size 16 \\
      --steps 3 --config.model.compute=float32
  python -m scripts.benchmark.checkpoint --preset t5_v1_1/base --batch_size 128 --steps 40 --mesh data=1,fsdp=8
"""


def main(arguments: list[str] | None = None) -> int:
    options, rest = parser().parse_known_args(arguments)
    try:
        for folder in (options.directory or Path(), (options.json or Path("-")).absolute().parent):
            require(folder.is_dir(), f"--directory or --json: there is no directory {folder}.")
        require(options.every > 0, f"--every is {options.every}: it must be above 0.")
        initialize_hosts()
        result = benchmark(train.experiment_of(options, override.from_arguments(rest)), options)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(table(result))
    if options.json:
        write_json(options.json, result)
    return 0


def parser() -> argparse.ArgumentParser:
    made = command_line.parser("benchmark.checkpoint", __doc__, EPILOG)
    train.add_step_options(made)
    made.set_defaults(preset="t5/small")
    made.add_argument("--every", type=int, default=Checkpoint().every, help="steps from save to save (%(default)s)")
    made.add_argument("--directory", type=Path, help="directory for temporary checkpoints (the system's)")
    return made


# --- Measuring --------------------------------------------------------------------------------------------------------


def benchmark(experiment: Experiment, options: argparse.Namespace) -> dict[str, Any]:
    mesh = make_mesh(experiment.mesh)
    check_divisible(experiment, mesh)
    folder = Path(tempfile.mkdtemp(prefix="checkpoints-", dir=options.directory))
    try:
        loop = Loop(experiment, options, mesh, Checkpoints(folder, Checkpoint(keep=1, keep_best=0)))
        loop.steps(options.warmup)
        loop.save()
        loop.checkpoints.wait()
        rounds = [{**saving(loop, options.steps), **reading(loop)} for _ in range(options.rounds)]
        size = sum(path.stat().st_size for path in files(loop.newest))
        loop.checkpoints.close()
    finally:
        shutil.rmtree(folder)
    measured = {name: [one[name] for one in rounds] for name in rounds[0]}
    every = [options.every * seconds for seconds in measured["step_seconds"]]
    return {
        **train.described(experiment, options, mesh),
        "every": options.every,
        "state_bytes": sum(leaf.nbytes for leaf in jax.tree.leaves(loop.state)),
        "checkpoint_bytes": size,
        **measured,
        "blocked_share": shares(measured["blocked_seconds"], every),
        "slower_share": shares(measured["slower_seconds"], every),
    }


class Loop:
    """The part of the training loop that concerns checkpoints."""

    def __init__(
        self, experiment: Experiment, options: argparse.Namespace, mesh: jax.sharding.Mesh, checkpoints: Checkpoints
    ) -> None:
        batch, self.key = train.synthetic_batch(experiment, options.target_length), jax.random.key(0)
        self.step, self.batch = compile_train_step(experiment, mesh, batch), place_batch(mesh, batch)
        self.state, self.number, self.checkpoints = new_state(experiment, mesh, self.key), 0, checkpoints
        self.abstract = abstract_state(experiment, mesh)

    @property
    def newest(self) -> Path:
        return self.checkpoints.directory / str(max(steps_on_disk(self.checkpoints.directory)))

    def steps(self, count: int) -> float:
        began = time.perf_counter()
        for _ in range(count):
            self.state, metrics = self.step(self.state, self.batch, self.key)
            self.number += 1
            self.checkpoints.check()
        jax.block_until_ready((self.state, metrics))
        return time.perf_counter() - began

    def save(self) -> float:
        began = time.perf_counter()
        self.checkpoints.save(self.number, self.state, {"step": self.number}, {})
        return time.perf_counter() - began


def saving(loop: Loop, count: int) -> dict[str, float]:
    """Time steps without a save, as many after a save, and a save alone until it is finished."""
    without = loop.steps(count)
    blocked = loop.save()
    beside = loop.steps(count)
    loop.checkpoints.wait()
    loop.steps(1)
    began = time.perf_counter()
    loop.save()
    loop.checkpoints.wait()
    return {
        "step_seconds": without / count,
        "blocked_seconds": blocked,
        "slower_seconds": blocked + beside - without,
        "whole_seconds": time.perf_counter() - began,
    }


def reading(loop: Loop) -> dict[str, float]:
    """Time the hashing of the newest checkpoint, and the restoring of its state onto the devices."""
    began = time.perf_counter()
    wrong = verify(loop.newest)
    hashed = time.perf_counter()
    require(wrong == "", f"The checkpoint does not verify: {wrong}.")
    jax.block_until_ready(loop.checkpoints.restore(int(loop.newest.name), loop.abstract))
    return {"hash_seconds": hashed - began, "restore_seconds": time.perf_counter() - hashed}


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def shares(seconds: list[float], every: list[float]) -> list[float]:
    return [part / whole for part, whole in zip(seconds, every, strict=True)]


# --- Reporting --------------------------------------------------------------------------------------------------------


def table(result: dict[str, Any]) -> str:
    hardware, mesh = result["hardware"], result["mesh"]

    def spread(name: str, scale: float, unit: str) -> str:
        values = result[name]
        low, middle, high = (scale * value for value in (min(values), statistics.median(values), max(values)))
        return f"{middle:,.3g}{unit} [{low:,.3g} - {high:,.3g}]"

    rows = {
        "model": f"{result['preset']}, {result['parameters']:,} parameters",
        "batch": f"{result['batch_size']} rows of {result['input_length']} + {result['target_length']} tokens",
        "devices": f"{hardware['devices']} x {hardware['device']}, {', '.join(f'{k}={v}' for k, v in mesh.items())}",
        "state, checkpoint": f"{result['state_bytes'] / 2**20:,.1f} MiB, {result['checkpoint_bytes'] / 2**20:,.1f} MiB",
        "step": spread("step_seconds", 1e3, " ms"),
        "a save blocks": spread("blocked_seconds", 1e3, " ms"),
        "slower by a save": spread("slower_seconds", 1e3, f" ms, of {result['steps']} steps"),
        "a save alone, whole": spread("whole_seconds", 1.0, " s"),
        "hashing": spread("hash_seconds", 1.0, " s"),
        "restoring": spread("restore_seconds", 1.0, " s"),
        f"blocked of {result['every']:,}": spread("blocked_share", 100, " %"),
        f"slower of {result['every']:,}": spread("slower_share", 100, " %"),
        "commit": result["commit"],
        "load average": f"{hardware['load_average']:.1f} on {hardware['cores']} cores",
    }
    return "\n".join(f"{name:<20} {value}" for name, value in rows.items())


if __name__ == "__main__":
    sys.exit(main())
