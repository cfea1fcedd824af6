"""Measure the speed of a training step on synthetic batches: python -m scripts.benchmark.train --preset t5_v1_1/small

It times whole steps of research.train.step (forward, backward, optimizer) on the local devices. In the same rounds it
times a large matrix product on each device, the practical upper limit of these devices. It reads no data, and needs
only jax, flax, optax and jaxtyping.
"""

import argparse
import dataclasses
import gzip
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from research import PlainText, config
from research.config import ConfigError, Experiment, override, require
from research.data.batch import Batch
from research.model.attention_backends import backends_text, recorded
from research.model.family import preset
from research.model.flops import parameter_count, peak_flops, train_flops
from research.model.transformer import abstract_params
from research.parallel.mesh import check_divisible, make_mesh, place_batch
from research.storage import run_directory
from research.storage.files import write_bytes, write_json
from research.train.optimizers import Adafactor, AdamW, RMSScaledAdamW
from research.train.schedules import Constant
from research.train.state import TrainState, new_state
from research.train.step import compile_train_step
from scripts import command_line

OPTIMIZERS: dict[str, config.Optimizer] = {
    "adafactor": Adafactor(),
    "adamw": AdamW(schedule=Constant(peak=1e-4)),
    "rms_scaled_adamw": RMSScaledAdamW(schedule=Constant(peak=1e-3)),
}
PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy")

EPILOG = """
reading the table
  Figures are medians over the rounds, with the slowest and fastest round in brackets. Model FLOPs count every matrix
  product once forward and twice backward (research/model/flops.py), without recomputation by remat. MFU is model FLOPs
  a second divided by the devices' limit: by their data sheet, if known, and by the matrix product of the same round.
  Memory is for one device: as planned by the compiler, and the peak that the device reports, if it does.

lengths
  T5's span corruption makes 512 inputs and 114 targets; 1024 and 229; 256 and 58; 128 and 29.

examples
  python -m scripts.benchmark.train --preset t5_v1_1/base --batch_size 128
  python -m scripts.benchmark.train --preset t5_v1_1/large --batch_size 64 --mesh data=1,fsdp=8 --json large.json
  python -m scripts.benchmark.train --preset t5_v1_1/base --batch_size 512 --config.microbatches=4
  python -m scripts.benchmark.train --preset t5_v1_1/base --config.model.unroll=12 --config.model.remat=dots
  python -m scripts.benchmark.train --preset t5_v1_1/base --packed 4 --config.model.dropout=0.1
  NPROC=32 XLA_FLAGS=--xla_force_host_platform_device_count=8 python -m scripts.benchmark.train \\
      --batch_size 8 --input_length 128 --target_length 29 --mesh data=2,fsdp=2,tensor=2 --steps 2   (simulated devices)
"""


def main(arguments: list[str] | None = None) -> int:
    options, rest = parser().parse_known_args(arguments)
    try:
        for name in ("json", "hlo"):
            folder = (getattr(options, name) or Path("-")).absolute().parent
            require(folder.is_dir(), f"--{name} {getattr(options, name)}: there is no directory {folder}.")
        result = benchmark(experiment_of(options, override.from_arguments(rest)), options)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(table(result))
    if options.json:
        write_json(options.json, result)
    return 0


def parser() -> argparse.ArgumentParser:
    made = command_line.parser("benchmark.train", __doc__, EPILOG)
    add_step_options(made)
    made.add_argument("--gemm", type=int, help="side of the multiplied matrices (8192; on a CPU 1024)")
    made.add_argument("--packed", type=int, default=0, help="examples packed into a row, as in fine-tuning (none)")
    made.add_argument("--hlo", type=Path, help="write the compiled program's text, gzipped, into this file")
    return made


def add_step_options(made: argparse.ArgumentParser) -> None:
    made.add_argument("--preset", default="t5_v1_1/small", help="a published model's sizes, family/size (%(default)s)")
    made.add_argument("--batch_size", type=int, default=8, help="rows a step, over all devices (%(default)s)")
    made.add_argument("--input_length", type=int, default=512, help="encoder tokens a row (%(default)s)")
    made.add_argument("--target_length", type=int, default=114, help="decoder tokens a row (%(default)s)")
    made.add_argument(
        "--mesh", default="data=-1", help="devices along each axis, such as data=2,fsdp=2,tensor=2; -1 takes the rest"
    )
    made.add_argument("--optimizer", choices=OPTIMIZERS, default="adafactor")
    made.add_argument("--steps", type=int, default=10, help="steps a round (%(default)s)")
    made.add_argument("--rounds", type=int, default=5, help="number of rounds; at least 5 for a spread (%(default)s)")
    made.add_argument("--warmup", type=int, default=3, help="steps before the clock starts (%(default)s)")
    made.add_argument(
        "--json", type=Path, help="write all figures, every round, versions, hardware and commit into this file"
    )
    made.add_argument_group("--config.FIELD=VALUE", "any other field of the experiment, as for scripts.train")


# --- Measuring --------------------------------------------------------------------------------------------------------


def experiment_of(options: argparse.Namespace, overrides: dict[str, str]) -> Experiment:
    for name in ("input_length", "target_length", "steps", "rounds"):
        require(getattr(options, name) > 0, f"--{name} is {getattr(options, name)}: it must be above 0.")
    made = Experiment(
        model=preset(options.preset),
        data=config.Denoising(corpora=(PlainText(train="synthetic"),), input_length=options.input_length),
        optimizer=OPTIMIZERS[options.optimizer],
        steps=1_000_000,
        batch_size=options.batch_size,
        mesh=mesh_of(options.mesh),
    )
    return override.apply(made, overrides)


def mesh_of(text: str) -> config.Mesh:
    """Parse data=2,fsdp=4 into Mesh(data=2, fsdp=4). An axis that is not named has 1 device."""
    sizes = {field.name: 1 for field in dataclasses.fields(config.Mesh)}
    for part in text.split(","):
        axis, _, size = part.partition("=")
        require(
            axis in sizes and size.lstrip("-").isdigit(),
            f"--mesh has {part!r}: give a list such as data=2,fsdp=2,tensor=2.",
        )
        sizes[axis] = int(size)
    return config.Mesh(**sizes)


def synthetic_batch(experiment: Experiment, target_length: int, packed: int = 0) -> Batch:
    """Draw full rows without segments, like those of pretraining, or of so many examples of about equal length."""
    random, rows, inputs = np.random.default_rng(0), experiment.batch_size, experiment.data.input_length

    def tokens(length: int) -> np.ndarray:
        return random.integers(2, experiment.model.vocab_size, (rows, length), dtype=np.int32)

    batch = Batch(tokens(inputs), tokens(target_length), tokens(target_length))
    if not packed:
        return batch
    require(
        0 < packed <= min(inputs, target_length),
        f"--packed is {packed}: a row has {inputs} and {target_length} tokens.",
    )

    def segments_and_positions(length: int) -> tuple[np.ndarray, np.ndarray]:
        segment = np.arange(length) * packed // length
        positions = np.arange(length) - np.searchsorted(segment, segment)
        return np.tile(np.int32(segment + 1), (rows, 1)), np.tile(np.int32(positions), (rows, 1))

    weights = np.ones((rows, target_length), np.float32)
    return Batch(*batch[:3], weights, *segments_and_positions(inputs), *segments_and_positions(target_length))


class CompiledStep(NamedTuple):
    """A training step compiled for a synthetic batch, with what it needs to run."""

    experiment: Experiment
    mesh: jax.sharding.Mesh
    program: jax.stages.Compiled
    batch: Batch  # on the devices
    seconds: float  # of tracing and compiling
    attention: str  # the backends that were chosen

    def new_state(self) -> TrainState:
        return new_state(self.experiment, self.mesh, jax.random.key(0))

    def run(self, state: TrainState, steps: int) -> tuple[TrainState, float]:
        """Run some steps and return the new state and the seconds of a step.

        Raises:
            ConfigError: the last step was skipped.
        """
        key = jax.random.key(0)
        began = time.perf_counter()
        for _ in range(steps):
            state, metrics = self.program(state, self.batch, key)
        jax.block_until_ready((state, metrics))
        seconds = (time.perf_counter() - began) / steps
        require(int(metrics.skipped) == 0, "The last step was skipped: its loss or gradient was not finite.")
        return state, seconds


def compiled_step(experiment: Experiment, target_length: int, packed: int = 0) -> CompiledStep:
    """Compile the training step of an experiment for synthetic batches."""
    mesh = make_mesh(experiment.mesh)
    check_divisible(experiment, mesh)
    batch = synthetic_batch(experiment, target_length, packed)
    began = time.perf_counter()
    with recorded() as choices:
        program = compile_train_step(experiment, mesh, batch)
    seconds = time.perf_counter() - began
    return CompiledStep(experiment, mesh, program, place_batch(mesh, batch), seconds, backends_text(choices))


def benchmark(experiment: Experiment, options: argparse.Namespace) -> dict[str, Any]:
    step = compiled_step(experiment, options.target_length, options.packed)
    mesh, state = step.mesh, step.new_state()
    if options.hlo:
        write_bytes(options.hlo, gzip.compress((step.program.as_text() or "").encode()))
    if options.warmup:
        state, _ = step.run(state, options.warmup)
    size = options.gemm or (1024 if jax.default_backend() == "cpu" else 8192)
    product = matrix_product(size, experiment.model.compute, mesh)
    step_seconds, ceilings = [], []
    for _ in range(options.rounds):
        ceilings.append(mesh.size * 2 * size**3 / seconds_each(product, 10))
        state, seconds = step.run(state, options.steps)
        step_seconds.append(seconds)
    measured = {
        "packed": options.packed,
        "compile_seconds": step.seconds,
        "attention": step.attention,
        "step_seconds": step_seconds,
        "ceiling_flops": ceilings,
        "gemm": f"{size} x {size} x {size} in {experiment.model.compute} on every device",
        "memory": memory(step.program, mesh),
    }
    return {**described(experiment, options, mesh), **measured, **derived(experiment, options, mesh, measured)}


def matrix_product(size: int, dtype: str, mesh: jax.sharding.Mesh) -> Callable[[], Any]:
    """Return a function that starts a product of square matrices on every device; the caller waits for its result."""
    keys = jax.random.split(jax.random.key(1), 2)
    operands = [jax.random.normal(key, (size, size), jnp.float32).astype(dtype) for key in keys]
    placed = [jax.device_put(operands, device) for device in mesh.devices.flat]
    multiply = jax.jit(jnp.matmul)
    return lambda: [multiply(*pair) for pair in placed]


def seconds_each(call: Callable[[], Any], times: int) -> float:
    jax.block_until_ready(call())
    began = time.perf_counter()
    for _ in range(times):
        results = call()
    jax.block_until_ready(results)
    return (time.perf_counter() - began) / times


def memory(step: jax.stages.Compiled, mesh: jax.sharding.Mesh) -> dict[str, int | None]:
    """Return the bytes a device needs by the compiler's analysis, and its reported peak, if the backend has one."""
    analysis, reported = step.memory_analysis(), mesh.devices.flat[0].memory_stats()
    if analysis is not None:
        needed = analysis.argument_size_in_bytes + analysis.output_size_in_bytes - analysis.alias_size_in_bytes
    return {
        "foreseen_bytes": None if analysis is None else needed + analysis.temp_size_in_bytes,
        "temporary_bytes": None if analysis is None else analysis.temp_size_in_bytes,
        "peak_bytes": None if reported is None else reported["peak_bytes_in_use"],
    }


# --- Reporting --------------------------------------------------------------------------------------------------------


def described(experiment: Experiment, options: argparse.Namespace, mesh: jax.sharding.Mesh) -> dict[str, Any]:
    """Return the settings, hardware and versions of a benchmark, so that it can be repeated."""
    device = mesh.devices.flat[0]
    return {
        "preset": options.preset,
        "parameters": parameter_count(abstract_params(experiment.model)),
        "batch_size": experiment.batch_size,
        "input_length": experiment.data.input_length,
        "target_length": options.target_length,
        "mesh": dict(mesh.shape),
        "steps": options.steps,
        "experiment": json.loads(override.to_json(experiment)),
        "hardware": {
            "device": device.device_kind,
            "devices": mesh.size,
            "backend": jax.default_backend(),
            "processor": platform.machine(),
            "cores": os.cpu_count(),
            "load_average": os.getloadavg()[0],
        },
        "versions": {"python": platform.python_version(), **run_directory.installed(PACKAGES)},
        "command": run_directory.command(),
        "commit": run_directory.commit(),
    }


def derived(
    experiment: Experiment, options: argparse.Namespace, mesh: jax.sharding.Mesh, measured: dict[str, Any]
) -> dict[str, Any]:
    rows, inputs, targets = experiment.batch_size, experiment.data.input_length, options.target_length
    flops = train_flops(experiment.model, inputs, targets)
    peak = peak_flops(mesh.devices.flat[0])
    rounds = measured["step_seconds"]
    achieved = [rows * flops / seconds for seconds in rounds]
    return {
        "flops_per_sequence": flops,
        "sequences_per_second": [rows / seconds for seconds in rounds],
        "tokens_per_second": [rows * (inputs + targets) / seconds for seconds in rounds],
        "flops_per_second": achieved,
        "mfu_by_data_sheet": None if peak is None else [value / (peak * mesh.size) for value in achieved],
        "mfu_by_matrix_product": [
            value / ceiling for value, ceiling in zip(achieved, measured["ceiling_flops"], strict=True)
        ],
    }


def table(result: dict[str, Any]) -> str:
    hardware, mesh, room = result["hardware"], result["mesh"], result["memory"]

    def spread(values: list[float] | None, scale: float = 1.0, unit: str = "") -> str:
        if values is None:
            return "unknown for this device"
        low, middle, high = (scale * value for value in (min(values), statistics.median(values), max(values)))
        return f"{middle:,.4g}{unit} [{low:,.4g} - {high:,.4g}]"

    def gibibytes(size: int | None) -> str:
        return "not reported" if size is None else f"{size / 2**30:,.3f} GiB"

    rows = {
        "model": f"{result['preset']}, {result['parameters']:,} parameters",
        "batch": f"{result['batch_size']} rows of {result['input_length']} + {result['target_length']} tokens"
        + (f", {result['packed']} examples packed into each" if result["packed"] else ""),
        "devices": f"{hardware['devices']} x {hardware['device']}, {', '.join(f'{k}={v}' for k, v in mesh.items())}",
        "compile": f"{result['compile_seconds']:.2f} s",
        "attention": result["attention"],
        "step": spread(result["step_seconds"], 1e3, " ms"),
        "sequences/s": spread(result["sequences_per_second"]),
        "tokens/s": spread(result["tokens_per_second"]),
        "model FLOP/s": spread(result["flops_per_second"], 1e-12, " TFLOP/s"),
        "matrix product": spread(result["ceiling_flops"], 1e-12, " TFLOP/s"),
        "MFU, data sheet": spread(result["mfu_by_data_sheet"], 100, " %"),
        "MFU, matrix product": spread(result["mfu_by_matrix_product"], 100, " %"),
        "memory, compiled": f"{gibibytes(room['foreseen_bytes'])}, temporary {gibibytes(room['temporary_bytes'])}",
        "memory, peak": gibibytes(room["peak_bytes"]),
        "versions": ", ".join(f"{name} {version}" for name, version in result["versions"].items()),
        "commit": result["commit"],
        "load average": f"{hardware['load_average']:.1f} on {hardware['cores']} cores",
    }
    return "\n".join(f"{name:<20} {value}" for name, value in rows.items())


if __name__ == "__main__":
    sys.exit(main())
