"""The task that SLURM runs for one variant of a sweep: train it, and requeue the job if another run would help.

This module is pickled by value into the job, so it imports nothing from this project. SIGUSR2 arrives before the time
limit: the training saves a checkpoint, and the job requeues itself. SIGTERM means cancellation or preemption: the
training saves, and SLURM decides if the job is requeued. It follows scripts/launch/slurm.sbatch.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

FINAL_CODES = {0: "done", 2: "refused", 44: "diverged"}  # exit codes for which a retry is pointless
SAVED = 42


def turn(command: Sequence[str], directory: str, log: str, failures: str, tries: int) -> int:
    """Run the command in the directory and return its final exit code; exit the process if the job is requeued.

    `failures` is a file with one line per crash or hang; after `tries` of them the job is not requeued.
    """
    code, stop_signal = _train(command, directory, log)
    if code in FINAL_CODES:
        return code
    if stop_signal == signal.SIGTERM:
        sys.exit(SAVED)
    if os.environ.get("SLURM_PROCID", "0") != "0":
        sys.exit(code)  # with several hosts, only the first one requeues the job
    if code != SAVED and _count(failures, code) >= tries:
        return code
    subprocess.run(["scontrol", "requeue", job_id(os.environ)], check=True)
    sys.exit(SAVED)


def _train(command: Sequence[str], directory: str, log: str) -> tuple[int, int | None]:
    """Train; return the exit code and the signal that requested a save, if any."""
    received: list[int] = []
    process: subprocess.Popen | None = None

    def pass_on(number: int, frame: Any) -> None:
        received.append(number)
        if process is not None and process.poll() is None:
            process.send_signal(signal.SIGTERM)

    for number in (signal.SIGTERM, signal.SIGUSR2):
        signal.signal(number, pass_on)
    with open(log, "ab") as out:
        process = subprocess.Popen(
            command,
            cwd=directory,
            env=variables(os.environ),
            stdout=out,
            stderr=out,
            # Some clusters send SIGUSR2 to every process of the job, which would kill the training unsaved.
            preexec_fn=lambda: signal.signal(signal.SIGUSR2, signal.SIG_IGN),
        )
        if received:  # before the training had started
            process.send_signal(signal.SIGTERM)
        return process.wait(), received[0] if received else None


def _count(failures: str, code: int) -> int:
    with open(failures, "a+") as file:
        file.write(f"exit code {code}, job {job_id(os.environ)}\n")
        file.seek(0)
        return len(file.readlines())


def job_id(environment: Mapping[str, str]) -> str:
    """Return the job's ID, as ARRAY_TASK for a task of an array.

    The plain ID of an array's last task refers to the whole array, so it cannot name the task.
    """
    if "SLURM_ARRAY_JOB_ID" in environment:
        return f"{environment['SLURM_ARRAY_JOB_ID']}_{environment['SLURM_ARRAY_TASK_ID']}"
    return environment["SLURM_JOB_ID"]


def variables(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment variables for the training.

    On one node, hide from JAX that this is a SLURM step, so it does not start in distributed mode. On several nodes,
    give it all GPUs of the node: by default JAX uses only the GPU with the number of the task.
    """
    changed = dict(environment)
    if changed.get("SLURM_STEP_NUM_NODES", "1") == "1":
        changed.pop("SLURM_STEP_NODELIST", None)
    elif gpus := changed.get("SLURM_GPUS_ON_NODE"):
        changed["JAX_LOCAL_DEVICE_IDS"] = ",".join(str(number) for number in range(int(gpus)))
    return changed
