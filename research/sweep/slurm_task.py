"""What SLURM runs for one variant of a sweep: its training, and the request to run it again where that helps.

Pickled by value into the job, so it imports nothing of this project. SIGUSR2 comes before the time is up: the training
saves, and the job asks for its next turn. SIGTERM comes from who cancels or preempts: the training saves, and whether
the job goes back into the queue is SLURM's to decide. The model is scripts/launch/slurm.sbatch.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

ENDS = {0: "done", 2: "refused", 44: "diverged"}  # exit codes that no further try would change
SAVED = 42


def turn(command: Sequence[str], directory: str, log: str, failures: str, tries: int) -> int:
    """Runs the command in the directory, and returns the exit code that ended it; exits where another turn is to come.

    `failures` is a file with a line for every crash or hang: `tries` of those are all.
    """
    code, asked = _train(command, directory, log)
    if code in ENDS:
        return code
    if asked == signal.SIGTERM:
        sys.exit(SAVED)
    if os.environ.get("SLURM_PROCID", "0") != "0":
        sys.exit(code)  # of several hosts the first one speaks for all
    if code != SAVED and _count(failures, code) >= tries:
        return code
    subprocess.run(["scontrol", "requeue", job_id(os.environ)], check=True)
    sys.exit(SAVED)


def _train(command: Sequence[str], directory: str, log: str) -> tuple[int, int | None]:
    """The exit code, and the signal by which the training was asked to save."""
    asked: list[int] = []
    process: subprocess.Popen | None = None

    def pass_on(number: int, frame: Any) -> None:
        asked.append(number)
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
            # Some clusters send it to every process of the job, and a training would end of it unsaved.
            preexec_fn=lambda: signal.signal(signal.SIGUSR2, signal.SIG_IGN),
        )
        if asked:  # before there was a training to pass it on to
            process.send_signal(signal.SIGTERM)
        return process.wait(), asked[0] if asked else None


def _count(failures: str, code: int) -> int:
    with open(failures, "a+") as file:
        file.write(f"exit code {code}, job {job_id(os.environ)}\n")
        file.seek(0)
        return len(file.readlines())


def job_id(environment: Mapping[str, str]) -> str:
    """The number of an array's last task alone stands for the whole array, so a task is named by both."""
    if "SLURM_ARRAY_JOB_ID" in environment:
        return f"{environment['SLURM_ARRAY_JOB_ID']}_{environment['SLURM_ARRAY_TASK_ID']}"
    return environment["SLURM_JOB_ID"]


def variables(environment: Mapping[str, str]) -> dict[str, str]:
    """What the training sees. On one node it is no task of several; on more, JAX would give each the one GPU that has
    the task's number."""
    found = dict(environment)
    if found.get("SLURM_STEP_NUM_NODES", "1") == "1":
        found.pop("SLURM_STEP_NODELIST", None)
    elif gpus := found.get("SLURM_GPUS_ON_NODE"):
        found["JAX_LOCAL_DEVICE_IDS"] = ",".join(str(number) for number in range(int(gpus)))
    return found
