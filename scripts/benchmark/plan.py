"""Compare plans with steps measured on this machine: python -m scripts.benchmark.plan

scripts.benchmark.train times steps of models of several shapes, each in its own process. Beside them is the bound of
research/plan/roofline.py for a device with the measured speed of this one in matrix products and memory copies. The
bound is for fused kernels on accelerators, so on a CPU the ratio means little; the order of shapes must hold. Memory is
the estimate of research/plan/memory.py beside the compiler's allocation.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from research.config import Mesh, override
from research.parallel.hardware import Chip, Hardware
from research.plan import memory, roofline
from research.storage import run_directory
from research.storage.files import write_json
from scripts import command_line

# Layers of both stacks, width, feed-forward width, rows of the vocabulary, rows a step, inputs, targets.
SHAPES = (
    (2, 128, 256, 4_096, 4, 128, 29),
    (2, 128, 256, 32_128, 4, 128, 29),
    (4, 128, 512, 4_096, 8, 256, 58),
    (2, 256, 512, 4_096, 4, 128, 29),
    (4, 256, 1_024, 8_192, 4, 256, 58),
    (4, 256, 1_024, 8_192, 16, 128, 29),
    (6, 256, 512, 16_384, 8, 128, 29),
    (4, 512, 1_024, 8_192, 4, 128, 29),
    (4, 512, 1_024, 8_192, 8, 256, 58),
    (8, 512, 1_024, 32_128, 4, 128, 29),
    (2, 512, 2_048, 32_128, 8, 256, 58),
    (8, 128, 1_024, 4_096, 4, 512, 114),
)
COPIED = 2**28  # bytes


def main(arguments: list[str] | None = None) -> int:
    parser = command_line.parser("benchmark.plan", __doc__)
    parser.add_argument("--rounds", type=int, default=5, help="rounds of one step for every shape (%(default)s)")
    parser.add_argument(
        "--shapes", type=int, default=len(SHAPES), help="number of shapes, from the first on (%(default)s)"
    )
    parser.add_argument("--json", type=Path, help="write all figures, versions and commit into this file")
    options = parser.parse_args(arguments)
    copied, comparisons = copy_bandwidth(), []
    for number, shape in enumerate(SHAPES[: options.shapes], 1):
        comparisons.append(compared(shape, measured(shape, options.rounds), copied))
        print(f"{number}/{options.shapes} {line(comparisons[-1])}", file=sys.stderr, flush=True)
    correlations = {name: correlation(comparisons, name) for name in ("seconds", "temporary_bytes")}
    result = {
        "rank_correlation": correlations,
        "copied_bytes_per_second": copied,
        "shapes": comparisons,
        "command": run_directory.command(),
        "commit": run_directory.commit(),
    }
    print("\n".join([HEADER, *map(line, comparisons)]))
    print("rank correlation: " + ", ".join(f"{name} {value:.3f}" for name, value in correlations.items()))
    if options.json:
        write_json(options.json, result)
    return 0


def measured(shape: tuple[int, ...], rounds: int) -> dict[str, Any]:
    layers, width, hidden, vocabulary, rows, inputs, targets = shape
    model: dict[str, Any] = {
        "encoder_layers": layers, "decoder_layers": layers, "width": width, "heads": width // 64,
        "feed_forward": hidden, "vocab_size": vocabulary, "compute": "float32",
    }  # fmt: skip
    sizes = {"batch_size": rows, "input_length": inputs, "target_length": targets}
    sizes |= {"steps": 1, "warmup": 1, "rounds": rounds}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "measured.json"
        command = [sys.executable, "-m", "scripts.benchmark.train", f"--json={path}"]
        command += [f"--{name}={value}" for name, value in sizes.items()]
        command += [f"--config.model.{name}={value}" for name, value in model.items()]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        return json.loads(path.read_text())


def copy_bandwidth() -> float:
    """Measure the bytes a second that a copy reads and writes."""
    source = jnp.ones(COPIED // 4, jnp.float32)
    copy = jax.jit(lambda array: array + 1)
    jax.block_until_ready(copy(source))
    began = time.perf_counter()
    for _ in range(5):
        jax.block_until_ready(copy(source))
    return 5 * 2 * COPIED / (time.perf_counter() - began)


def compared(shape: tuple[int, ...], timing: dict[str, Any], copied: float | int) -> dict[str, Any]:
    experiment = override.from_json(json.dumps(timing["experiment"]))
    product = statistics.median(timing["ceiling_flops"])
    # A chip's peak is for bfloat16, twice that of float32, and roofline assumes that a product reaches `REACHED` of it.
    chip = Chip(2 * product / roofline.REACHED, 2**40, copied, 1, 1, 1, 1)
    device = Hardware("this device", chip, 1)
    experiment = override.apply(experiment, {"mesh.data": "1"})
    lengths = timing["input_length"], timing["target_length"]
    times = roofline.step_times(experiment, device, Mesh(data=1), *lengths)
    working = memory.working_bytes(experiment)
    return {
        "shape": shape,
        "seconds": {"foreseen": times.step, "measured": statistics.median(timing["step_seconds"])},
        "step_seconds": timing["step_seconds"],
        "limit": times.limit,
        "temporary_bytes": {"foreseen": working, "measured": timing["memory"]["temporary_bytes"]},
    }


def correlation(comparisons: list[dict[str, Any]], name: str) -> float:
    """Compute Spearman's rank correlation between estimates and measurements."""
    estimated, measured = (np.array([each[name][kind] for each in comparisons]) for kind in ("foreseen", "measured"))
    return float(np.corrcoef(estimated.argsort().argsort(), measured.argsort().argsort())[0, 1])


HEADER = (
    f"{'layers, width, f, v, b, s, t':<34} {'bound':>9} {'measured':>9} {'ratio':>6} {'estimate':>10} {'compiler':>10}"
)


def line(each: dict[str, Any]) -> str:
    seconds, room = each["seconds"], each["temporary_bytes"]
    return (
        f"{' '.join(map(str, each['shape'])):<34} {seconds['foreseen']:>7.3f} s {seconds['measured']:>7.3f} s"
        f" {seconds['measured'] / seconds['foreseen']:>6.2f} {room['foreseen'] / 2**20:>6.0f} MiB"
        f" {room['measured'] / 2**20:>6.0f} MiB"
    )


if __name__ == "__main__":
    sys.exit(main())
