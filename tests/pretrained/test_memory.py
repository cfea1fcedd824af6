"""How much memory reading takes, measured in a process of its own: python tests/pretrained/test_memory.py"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# A T5 v1.1 of 1.3 GB, whose embedding and head, of 270 MB, are its largest tensors; on 2 devices, each
# with half of every matrix.
MEASURE = """
import os, sys, json
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=2"
os.environ["JAX_PLATFORMS"] = "cpu"
from pathlib import Path
import jax, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from research.config import Generation
from research.model.family import preset
from research.model.transformer import abstract_params
from research.pretrained.huggingface import read_config, read_params, write

directory, step = Path(sys.argv[1]), sys.argv[2]
model = preset("t5_v1_1/base", vocab_size=88_000)
shapes = abstract_params(model)
if step == "write":
    write(directory, model, jax.tree.map(lambda leaf: np.full(leaf.shape, 0.5, np.float32), shapes), Generation())
    raise SystemExit

def resident(field):
    status = Path("/proc/self/status").read_text()
    return int(status.split(field + ":")[1].split()[0]) * 1024

mesh = jax.make_mesh((1, 2), ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)
shardings = jax.tree.map(lambda leaf: NamedSharding(mesh, P(*[None] * (leaf.ndim - 1), "fsdp")), shapes)
model = read_config(directory)
jax.block_until_ready(jax.device_put(np.ones(8, np.float32), NamedSharding(mesh, P("fsdp"))))
before = resident("VmRSS")
params = jax.block_until_ready(read_params(directory, model, shardings if step == "mesh" else None))
target = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
largest = params["embedding"].nbytes
print(json.dumps({"before": before, "peak": resident("VmHWM"), "target": target, "largest": largest}))
"""


def run(directory: Path, step: str) -> str:
    command = [sys.executable, "-c", MEASURE, str(directory), step]
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout


def measure(directory: Path) -> dict[str, float]:
    """Bytes that reading took beyond the parameters, as multiples of the largest tensor: onto a mesh, and to NumPy."""
    run(directory / "model", "write")
    found = {}
    for step in ("mesh", "numpy"):
        result = json.loads(run(directory / "model", step))
        found[step] = (result["peak"] - result["before"] - result["target"]) / result["largest"]
    return found


@pytest.mark.slow
def test_reading_takes_little_more_than_the_largest_tensor(tmp_path):
    for step, more in measure(tmp_path).items():
        assert more < 1.2, f"{step}: {more:.2f} times the largest tensor"


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as directory:
        print(measure(Path(directory)))
