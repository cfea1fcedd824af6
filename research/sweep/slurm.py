"""A sweep's variants as tasks of an array job on SLURM, through submitit. Who watches may leave, and come back.

DIR/slurm.json   which job trains which variant     DIR/slurm/   what submitit keeps of every job
"""

import contextlib
import getpass
import importlib.util
import logging
import os
import re
import shutil
import subprocess
import threading
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from research.config import ConfigError, Experiment, parse_json, require
from research.storage.files import write_json
from research.sweep import slurm_task
from research.sweep.local import OVER, TRIES, Sweep, VariantRun
from research.sweep.variants import Variant

POLL = 10.0  # seconds between two looks at the queue
SETTLE = 60.0  # seconds after which a job that left the queue without a word is lost: accounts and file systems lag
SAVING = 120  # seconds before the time is up, for a step and a save
TIME = re.compile(r"\d+-\d+(:\d+){0,2}|\d+(:\d+){0,2}")
OURS = ("array", "output", "error", "open_mode", "job_name", "signal", "requeue", "ntasks", "ntasks_per_node")
AGAIN = "to be tried again"
NOT_ITS_FAULT = ("PREEMPTED", "NODE_FAIL", "BOOT_FAIL")  # states after which a try is not counted


def directives(
    partition: str | None, time_limit: str | None, gpus: int | None, account: str | None, others: Sequence[str]
) -> dict[str, Any]:
    """As submitit takes them; what is None the cluster decides. Raises ConfigError for what cannot be."""
    require(
        time_limit is None or TIME.fullmatch(time_limit) is not None,
        f"--time is {time_limit}: it must be minutes, hours:minutes:seconds or days-hours, as SLURM reads them.",
    )
    require(gpus is None or gpus > 0, f"--gpus is {gpus}: it must be above 0.")
    found: dict[str, Any] = {"requeue": True}
    for text in others:
        key, equals, value = text.partition("=")
        name = key.removeprefix("--").replace("-", "_")
        require(bool(re.fullmatch(r"\w+", name)), f"--slurm_option {text}: it must be KEY=VALUE, such as qos=long.")
        require(name not in OURS, f"--slurm_option {text}: the sweep itself sets {key}.")
        found[name] = value if equals else True
    named = {"partition": partition, "time": time_limit, "gpus_per_node": gpus, "account": account}
    return {**named, "wckey": None, "additional_parameters": found}


class Queued(NamedTuple):
    state: str  # as SLURM calls it
    reason: str
    job_name: str

    def said(self) -> str:
        if self.state != "PENDING":
            return self.state.lower()
        return "queued" if self.reason in ("None", "") else f"queued ({self.reason})"


def in_queue() -> dict[str, Queued] | None:
    """This user's jobs, and tasks of arrays, by their ids; None where SLURM does not answer."""
    command = ["squeue", "--noheader", "--array", "--user", getpass.getuser(), "--format", "%i|%T|%r|%j"]
    try:
        lines = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.splitlines()
    except (OSError, subprocess.SubprocessError):
        return None
    cells = [line.strip().split("|", 3) for line in lines if line.count("|") >= 3]
    return {job: Queued(*others) for job, *others in cells}


def recorded(directory: Path) -> dict[str, Any]:
    path = directory / "slurm.json"
    return parse_json(path.read_bytes(), str(path)) if path.is_file() else {"jobs": {}, "submitting": None}


def check_none(directory: Path) -> None:
    """Raises ConfigError where variants were given to SLURM, and nobody has seen them end."""
    known = recorded(directory)
    require(
        not known["jobs"] and not known["submitting"],
        f"{directory} has variants in SLURM's queue: say --slurm to watch them, or delete {directory / 'slurm.json'}"
        " when they are cancelled.",
    )


class ClusterSweep(Sweep):
    def __init__(
        self,
        file: str,
        base: Experiment,
        found: Sequence[Variant],
        directory: Path,
        parameters: Mapping[str, Any],
        published: Sequence[dict[str, Any]] = (),
    ) -> None:
        """Raises ConfigError where this is no place to submit from."""
        super().__init__(file, base, found, directory, published=published)
        require(
            importlib.util.find_spec("submitit") is not None,
            "--slurm needs submitit: pip install 'kintsugi[slurm]'.",
        )
        missing = [name for name in ("sbatch", "squeue", "srun") if shutil.which(name) is None]
        require(not missing, f"--slurm needs {', '.join(missing)} on the PATH: start it where jobs are submitted.")
        logging.getLogger("submitit").setLevel(logging.ERROR)
        self.parameters = parameters
        self.jobs: dict[str, str] = {}  # by the variants' names
        self._gone: dict[str, float] = {}  # since when a job is in the queue no more
        self._error: ConfigError | None = None

    def train(self, jobs: int | None) -> bool:
        """Submits what is neither done nor in the queue, so many at a time or all, and watches. Returns whether all
        are done. Raises ConfigError where SLURM takes no job."""
        with self._stopping_on_signals():
            self._attach()
            self._submit([run for run in self.runs if run.state == "waiting"], jobs)
            following = threading.Thread(target=self._follow, args=(jobs,))
            following.start()
            self._watch([following])
        if self._error is not None:
            raise self._error
        if left := [self.jobs[run.variant.name] for run in self.runs if run.state not in OVER]:
            ids = " ".join(sorted({job.split("_")[0] for job in left}))
            print(f"The jobs go on. The same command watches them again; scancel {ids} ends them.", flush=True)
        return all(run.state == "done" for run in self.runs)

    def _attach(self) -> None:
        """Finds the variants that are done or were given to SLURM before."""
        known = recorded(self.directory)
        self.jobs = dict(known["jobs"])
        if known["submitting"]:
            self.jobs |= self._adopted(known["submitting"])
        for run in self.runs:
            run.state = "submitted" if run.variant.name in self.jobs else "waiting"
            if run.is_done():
                self._end(run, "done")
        self._write()

    def _adopted(self, submitting: Mapping[str, Any]) -> dict[str, str]:
        """The jobs that a command submitted which was killed before it could note their ids."""
        queue = in_queue()
        if queue is None:
            raise ConfigError("squeue does not answer, so nobody knows what is in the queue: try again later.")
        ours = [job for job, queued in queue.items() if queued.job_name == submitting["job_name"]]
        names = submitting["variants"]
        return {names[int(job.partition("_")[2] or 0)]: job for job in ours}

    def _submit(self, runs: Sequence[VariantRun], parallel: int | None) -> None:
        if not runs:
            return
        import cloudpickle
        import submitit

        cloudpickle.register_pickle_by_value(slurm_task)
        name = f"{self.directory.resolve().name}-{uuid.uuid4().hex[:8]}"
        self._write({"job_name": name, "variants": [run.variant.name for run in runs]})
        try:
            executor = submitit.SlurmExecutor(self.directory / "slurm")
            executor.update_parameters(
                job_name=name,
                signal_delay_s=SAVING,
                array_parallelism=parallel or len(runs),
                setup=['export SRUN_CPUS_PER_TASK="${SLURM_CPUS_PER_TASK:-1}"'],  # srun asks for one by itself
                srun_args=["--kill-on-bad-exit=0", "--wait=300"],  # so that exit codes of several hosts stand
                **self.parameters,
            )
            with executor.batch():
                submitted = [executor.submit(slurm_task.turn, *self._turn(run, name)) for run in runs]
        except (RuntimeError, OSError) as error:
            if not self._stop.is_set():  # else Ctrl-C ended sbatch too, perhaps after it had submitted
                self._write()
            raise ConfigError(f"sbatch took no job: {error}.") from error
        for run, job in zip(runs, submitted, strict=True):
            self.jobs[run.variant.name] = job.job_id
            run.state, run.tries = "submitted", run.tries + 1
        self._write()

    def _turn(self, run: VariantRun, submission: str) -> tuple[Sequence[str], str, str, str, int]:
        """What slurm_task.turn is given."""
        failures = self.directory / "slurm" / f"{submission}.{run.variant.name}.failures"
        log = Path(f"{run.directory}.log").resolve()
        return self.command(run), os.getcwd(), str(log), str(failures.resolve()), TRIES

    def _follow(self, parallel: int | None) -> None:
        """Until all variants have ended or nobody wants to know."""
        try:
            while True:
                queue = in_queue()
                for run in self.runs:
                    if queue is not None and run.state not in OVER:
                        self._look(run, queue)
                self._submit([run for run in self.runs if run.state == AGAIN], parallel)
                if all(run.state in OVER for run in self.runs) or self._stop.wait(POLL):
                    return
        except ConfigError as error:
            self._error = error

    def _look(self, run: VariantRun, queue: Mapping[str, Queued]) -> None:
        name = run.variant.name
        if self.jobs[name] in queue:
            run.state = queue[self.jobs[name]].said()
            self._gone.pop(name, None)
        elif (state := self._ended(run)) is not None:
            self._end(run, state)
            self._write()

    def _ended(self, run: VariantRun) -> str | None:
        """The state of a variant whose job has left the queue; None while that may still come to be known."""
        import submitit

        job: Any = submitit.SlurmJob(self.directory / "slurm", self.jobs[run.variant.name])
        if run.is_done():
            return "done"
        if job.paths.result_pickle.exists():
            with contextlib.suppress(RuntimeError):  # submitit's own: the task could not ask for its next turn
                return slurm_task.ENDS.get(job.result(), "failed")
        ended = job.watcher.get_state(job.job_id, mode="force")
        if ended.startswith("CANCELLED"):
            return "cancelled"
        since = self._gone.setdefault(run.variant.name, time.monotonic())
        if time.monotonic() - since < SETTLE:
            return None
        if ended in NOT_ITS_FAULT:
            run.tries -= 1
        return "failed" if run.tries >= TRIES else AGAIN

    def _end(self, run: VariantRun, state: str) -> None:
        run.state = state
        self.jobs.pop(run.variant.name, None)
        self._gone.pop(run.variant.name, None)

    def _write(self, submitting: Mapping[str, Any] | None = None) -> None:
        write_json(self.directory / "slurm.json", {"jobs": self.jobs, "submitting": submitting})
