"""How well a plan foresees steps that can be measured here: python -m scripts.benchmark.plan

Steps of models of several shapes, each timed by scripts.benchmark.train in a process of its own, beside the bound of
research/plan/roofline.py for a device that multiplies matrices and copies memory as fast as this one was measured to.
The bound is for fused kernels on accelerators, so on a CPU the ratio says little; the order of shapes must hold.
Memory is the estimate of research/plan/memory.py beside what the compiler allocates.
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
    parser.add_argument("--rounds", type=int, default=5, help="of one step each, for every shape (%(default)s)")
    parser.add_argument("--shapes", type=int, default=len(SHAPES), help="only the first so many (%(default)s)")
    parser.add_argument("--json", type=Path, help="write all figures, versions and commit there")
    options = parser.parse_args(arguments)
    copied, found = copy_bandwidth(), []
    for number, shape in enumerate(SHAPES[: options.shapes], 1):
        found.append(compared(shape, measured(shape, options.rounds), copied))
        print(f"{number}/{options.shapes} {line(found[-1])}", file=sys.stderr, flush=True)
    correlations = {name: correlation(found, name) for name in ("seconds", "temporary_bytes")}
    result = {
        "rank_correlation": correlations,
        "copied_bytes_per_second": copied,
        "shapes": found,
        "command": run_directory.command(),
        "commit": run_directory.commit(),
    }
    print("\n".join([HEADER, *map(line, found)]))
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
    """Bytes a second that a copy reads and writes."""
    source = jnp.ones(COPIED // 4, jnp.float32)
    copy = jax.jit(lambda array: array + 1)
    jax.block_until_ready(copy(source))
    began = time.perf_counter()
    for _ in range(5):
        jax.block_until_ready(copy(source))
    return 5 * 2 * COPIED / (time.perf_counter() - began)


def compared(shape: tuple[int, ...], said: dict[str, Any], copied: float | int) -> dict[str, Any]:
    experiment = override.from_json(json.dumps(said["experiment"]))
    product = statistics.median(said["ceiling_flops"])
    # A chip's figure is for bfloat16, twice that of float32, and `REACHED` of it is what a product is taken to reach.
    chip = Chip(2 * product / roofline.REACHED, 2**40, copied, 1, 1, 1, 1)
    here = Hardware("this device", chip, 1)
    experiment = override.apply(experiment, {"mesh.data": "1"})
    lengths = said["input_length"], said["target_length"]
    times = roofline.step_times(experiment, here, Mesh(data=1), *lengths)
    working = memory.working_bytes(experiment)
    return {
        "shape": shape,
        "seconds": {"foreseen": times.step, "measured": statistics.median(said["step_seconds"])},
        "step_seconds": said["step_seconds"],
        "limit": times.limit,
        "temporary_bytes": {"foreseen": working, "measured": said["memory"]["temporary_bytes"]},
    }


def correlation(found: list[dict[str, Any]], name: str) -> float:
    """Spearman's, of what was foreseen and what was measured."""
    foreseen, measured = (np.array([each[name][kind] for each in found]) for kind in ("foreseen", "measured"))
    return float(np.corrcoef(foreseen.argsort().argsort(), measured.argsort().argsort())[0, 1])


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
