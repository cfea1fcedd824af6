"""The mean of a run's last checkpoints, stored as a run directory that can be read but not trained further.

The parameters of neighbouring checkpoints average to a better model than any of them (Junczys-Dowmunt et al.,
arXiv:1605.04809, 4; fairseq's average_checkpoints.py).
"""

from pathlib import Path
from typing import Any

import jax
import numpy as np

from research.config import require
from research.parallel.rules import flatten, unflatten
from research.pretrained import find
from research.pretrained.files import new_directory
from research.pretrained.run_files import run_of
from research.storage import run_directory
from research.storage.bucket import AnyPath
from research.storage.checkpoint import OF_PARAMETERS, write_parameters
from research.storage.files import write_json
from research.storage.manifest import steps_on_disk
from research.storage.progress import Progress


def average(run: AnyPath, target: Path, last: int) -> list[int]:
    """Write the mean of the newest `last` checkpoints of `run` to a new directory; return their steps.

    Sums are in float64, with one checkpoint in memory at a time. If the run keeps a moving average of its parameters,
    that is averaged instead.

    Raises:
        ConfigError: `run` is not a run directory or has too few checkpoints, one is damaged, or `target` exists.
    """
    require(last > 0, f"--last is {last}: it must be above 0.")
    weights = find.find(run)
    require(run_of(run) == run, f"{run} is not a run directory: only a run has several checkpoints.")
    steps = steps_on_disk(run / "checkpoints")[:last]
    require(
        len(steps) == last,
        f"{run} keeps {len(steps)} checkpoints, fewer than --last {last}: lower it, or train with"
        f" --config.checkpoint.keep={last}.",
    )
    gaps = np.diff(steps[::-1])
    experiment, record = run_directory.read_recorded(run)
    every = experiment.checkpoint.every
    require(
        max(gaps.tolist(), default=0) <= every,
        f"The newest {last} checkpoints of {run} are of steps {', '.join(map(str, steps[::-1]))}, further apart than"
        f" the checkpoint interval of {every} steps: lower --last, or train with --config.checkpoint.keep={last}.",
    )
    with new_directory(target) as unfinished:
        kept = {name: record[name] for name in OF_PARAMETERS if name in record}
        write_parameters(unfinished / "checkpoints", steps[0], weights.stored_as, _mean(run, steps), kept)
        write_json(unfinished / "config.json", run_directory.as_data(experiment))
        weights.tokenizer().save(unfinished / "tokenizer.model")
        message = f"the mean of the checkpoints of steps {', '.join(map(str, steps[::-1]))} of {run}"
        run_directory.write_result(unfinished, "done", steps[0], message)
    return steps


def _mean(run: AnyPath, steps: list[int]) -> Any:
    total: dict[str, np.ndarray] = {}
    with Progress("Averaging", len(steps), "checkpoints") as progress:
        for step in steps:
            for path, leaf in flatten(find.find(run / "checkpoints" / str(step)).params()).items():
                total[path] = np.add(total.get(path, 0.0), leaf, dtype=np.float64)
            progress.advance()
    return jax.tree.map(lambda leaf: (leaf / len(steps)).astype(np.float32), unflatten(total))
