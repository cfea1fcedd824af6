"""Restoring streams: every host reads what its devices hold, and no device ever holds the whole."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from xla_flags import xla_flags

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = """
import json, sys
from pathlib import Path
import jax
from jax.sharding import NamedSharding, PartitionSpec
from research.storage.checkpoint import Checkpoints
from research.config import Checkpoint
from research.parallel.hosts import Cluster, initialize_hosts

directory, address, hosts, host = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
initialize_hosts(Cluster(address, hosts, host) if hosts > 1 else None)

def known(file, name):
    return int(next(line for line in open(f"/proc/self/{file}") if line.startswith(name + ":")).split()[1])

sharding = NamedSharding(jax.make_mesh((8,), ("fsdp",)), PartitionSpec(None, "fsdp"))
draw = lambda: {name: jax.random.normal(jax.random.key(0), (2048, 4096)) for name in "abcd"}
state = jax.jit(draw, out_shardings=sharding)()
checkpoints = Checkpoints(directory, Checkpoint())
checkpoints.save(1, state, {}, {})
checkpoints.wait()
whole = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
abstract = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), state)
del state

Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here
held, read = known("status", "VmRSS"), known("io", "rchar")
restored = jax.block_until_ready(checkpoints.restore(1, abstract, strict=False))
grown, taken = 1024 * (known("status", "VmHWM") - held), known("io", "rchar") - read
shapes = {shard.data.shape for leaf in restored.values() for shard in leaf.addressable_shards}
print(json.dumps({"grown": grown / whole, "read": taken / whole, "shapes": sorted(shapes)}))
checkpoints.close()
"""


@pytest.mark.parametrize("hosts", [1, 2])
def test_a_host_reads_and_holds_its_shards_alone(tmp_path: Path, hosts: int) -> None:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": xla_flags(8 // hosts), "NPROC": "8"}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(tmp_path / "checkpoints"), address, str(hosts), str(host)],
            cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True,
        )
        for host in range(hosts)
    ]  # fmt: skip
    for process in started:
        found = json.loads(process.communicate(timeout=300)[0].splitlines()[-1])
        assert process.returncode == 0
        assert found["shapes"] == [[2048, 512]]
        assert found["read"] < 1.2 / hosts
        assert found["grown"] < 2.5 / hosts  # the whole on every device would be eight times as much
