"""Real runs: processes of one small experiment, which tests kill, stop and damage."""

import contextlib
import json
import os
import random
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from xla_flags import xla_flags

from research.parallel.rules import flatten
from research.storage.bucket import AnyPath
from research.storage.manifest import verify

ROOT = Path(__file__).resolve().parents[2]
STEPS = 24
UNFINISHED = "*.orbax-checkpoint-tmp*"
EXPERIMENT = """
from research import *

def get_config():
    return Experiment(
        model=Model(512, 16, 2, 8, 32, 2, 2, dropout=0.1, compute="float32"),
        data=Denoising((PlainText("{folder}/train.txt", "{folder}/held_out.txt"),), Bytes(), input_length=48),
        optimizer=Adafactor(),
        steps={steps},
        batch_size=8,
        evaluation=Evaluation(every=8, rows=16, samples=1),
        checkpoint=Checkpoint(every=4, keep=2),
        report=Report(every=1),
        guard=Guard(nonfinite_limit=3),
    )
"""


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write an experiment file and its text, and make an uninterrupted run of it."""
    folder = tmp_path_factory.mktemp("train")
    draw = random.Random(0)
    words = [line.split()[0] for line in Path(json.__file__).read_text().splitlines() if line.split()]
    for name, count in (("train", 9000), ("held_out", 900)):
        (folder / f"{name}.txt").write_text(
            "\n\n".join(" ".join(draw.choices(words, k=60)) for _ in range(count // 60))
        )
    (folder / "experiment.py").write_text(EXPERIMENT.format(folder=folder, steps=STEPS))
    assert run(folder, "whole") == 0
    return folder


def start(folder: Path, name: str, *arguments: str, **options) -> subprocess.Popen:
    """Start a training process. With `faults`, which may be empty, it runs `faulty_train.py`."""
    faults = options.pop("faults", None)
    program = ["-m", "scripts.train"] if faults is None else [str(ROOT / "tests" / "helpers" / "faulty_train.py")]
    command = [sys.executable, *program, str(folder / "experiment.py"), "--run_dir", str(folder / name)]
    with open(folder / f"{name}.log", "ab") as log:
        options = {"cwd": ROOT, "env": environment(folder), "stdout": log, "stderr": subprocess.STDOUT} | options
        if faults is not None:
            options["env"] = options["env"] | {"PYTHONPATH": str(ROOT), "ROWS": str(folder / f"{name}.rows"), **faults}
        return subprocess.Popen([*command, *arguments], **options)


def environment(folder: Path, devices: int = 1) -> dict[str, str]:
    """Return the environment of a process. It caches compiled programs and skips XLA's optimisations, for speed."""
    return os.environ | {
        "KINTSUGI_CACHE": str(folder / "cache"),
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": xla_flags(devices),
        "JAX_COMPILATION_CACHE_DIR": str(folder / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }


def run(folder: Path, name: str, *arguments: str, **options) -> int:
    return start(folder, name, *arguments, **options).wait(timeout=300)


def log(folder: Path, name: str) -> str:
    return (folder / f"{name}.log").read_text()


def metrics(folder: Path, name: str) -> list[dict]:
    path = folder / name / "metrics.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return [{key: line[key] for key in line if "second" not in key} for line in lines]


def arrays(checkpoint: AnyPath) -> dict[str, np.ndarray]:
    assert verify(checkpoint) == ""
    with ocp.PyTreeCheckpointer() as checkpointer:
        saved = checkpointer.metadata(checkpoint / "state").item_metadata.tree
        as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), saved)
        tree = checkpointer.restore(checkpoint / "state", restore_args=as_numpy)
    return {path: np.asarray(leaf) for path, leaf in flatten(tree).items()}


def assert_as_if_nothing_had_happened(folder: Path, name: str) -> None:
    assert metrics(folder, name) == metrics(folder, "whole")
    assert_same_end(folder, name, "whole", STEPS)


def assert_same_end(folder: Path, name: str, expected_name: str, steps: int) -> None:
    actual, expected = (folder / run / "checkpoints" / str(steps) for run in (name, expected_name))
    assert_same_arrays(actual, expected)
    assert json.loads((folder / name / "RESULT.json").read_text())["status"] == "done"


def assert_same_arrays(actual_at: AnyPath, expected_at: AnyPath) -> None:
    actual, expected = arrays(actual_at), arrays(expected_at)
    assert expected.keys() == actual.keys()
    for path, leaf in expected.items():
        np.testing.assert_array_equal(actual[path], leaf, err_msg=path, strict=True)


def until(process: subprocess.Popen, happened: Callable[[], bool]) -> None:
    while not happened():
        assert process.poll() is None, "the run ended before what the test waits for"
        time.sleep(0.002)


def names(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()} if directory.is_dir() else set()


def newest_save(checkpoints: Path) -> int:
    return max((int(name) for name in names(checkpoints) if name.isdigit()), default=0)


def newest_step(folder: Path, name: str) -> int:
    return max((line["step"] for line in metrics(folder, name)), default=0)


def began_at(folder: Path, name: str) -> int:
    """Return the step from which the next start resumes, and drop the lines of later steps from the metrics."""
    step = newest_save(folder / name / "checkpoints")
    path = folder / name / "metrics.jsonl"
    if path.exists():
        path.write_text("".join(json.dumps(line) + "\n" for line in metrics(folder, name) if line["step"] <= step))
    return step


def two_hosts(folder: Path) -> list[dict[str, str]]:
    return hosts(folder, 2)


def hosts(folder: Path, count: int, devices: int = 2) -> list[dict[str, str]]:
    """Return the environments of `count` processes with some devices each, as SLURM would start them."""
    job = str(free_port() - 61_440)
    return [
        environment(folder, devices)
        | {"SLURM_JOB_ID": job, "SLURM_STEP_NODELIST": "localhost", "SLURM_NTASKS": str(count)}
        | {"SLURM_PROCID": host, "SLURM_LOCALID": host, "JAX_CPU_COLLECTIVES_IMPLEMENTATION": "gloo"}
        for host in map(str, range(count))
    ]


def free_port() -> int:
    """Find a free port among those from which JAX picks one by the number of a SLURM job."""
    for port in random.sample(range(61_440, 65_536), 100):
        with socket.socket() as tried, contextlib.suppress(OSError):
            tried.bind(("localhost", port))
            return port
    raise AssertionError("no port is free")


def assert_close_to_whole(folder: Path, name: str) -> None:
    for expected, actual in zip(metrics(folder, "whole"), metrics(folder, name), strict=True):
        for key in expected:
            assert actual[key] == pytest.approx(expected[key], rel=1e-5), (expected["step"], key)


def rows_seen(folder: Path, name: str) -> dict[int, dict[int, str]]:
    """Return {step: {row: digest}} for every global row. Asserts that a repeated step saw equal rows."""
    seen: dict[int, dict[int, str]] = {}
    for path in folder.glob(f"{name}.rows.*"):
        for line in path.read_text().splitlines():
            with contextlib.suppress(ValueError):  # the empty first line, and lines truncated by a kill
                step, rows = json.loads(line)
                held = seen.setdefault(step, {})
                for row, digest in rows:
                    assert held.setdefault(row, digest) == digest, (step, row)
    return seen


def assert_every_row_once(folder: Path, name: str, steps: int, batch_size: int = 8) -> None:
    seen = rows_seen(folder, name)
    assert [row for step in range(1, steps + 1) for row in sorted(seen[step])] == list(range(steps * batch_size))
    digests = [digest for step in range(1, steps + 1) for digest in seen[step].values()]
    assert len(set(digests)) == len(digests)  # noise differs in every row
