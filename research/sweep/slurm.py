"""A sweep on SLURM: its variants are tasks of an array job, submitted with submitit.

The command that submitted them can be stopped; started again, it continues to watch the jobs.

DIR/slurm.json   the job of each variant     DIR/slurm/   submitit's files for every job
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
from research.sweep.local import FINAL_STATES, TRIES, Sweep, VariantRun
from research.sweep.variants import Variant

POLL = 10.0  # seconds between two queries of the queue
SETTLE = 60.0  # seconds after which a job that left the queue without a result is lost: accounting and files lag
SAVING = 120  # seconds before the time limit at which SLURM sends the signal: time for a step and a checkpoint
TIME = re.compile(r"\d+-\d+(:\d+){0,2}|\d+(:\d+){0,2}")
RESERVED = ("array", "output", "error", "open_mode", "job_name", "signal", "requeue", "ntasks", "ntasks_per_node")
RETRY = "to be tried again"
UNCOUNTED = ("PREEMPTED", "NODE_FAIL", "BOOT_FAIL")  # SLURM states after which a try is not counted


def directives(
    partition: str | None, time_limit: str | None, gpus: int | None, account: str | None, others: Sequence[str]
) -> dict[str, Any]:
    """Convert options to the parameters of submitit; the cluster decides those that are None.

    Raises ConfigError for invalid options.
    """
    require(
        time_limit is None or TIME.fullmatch(time_limit) is not None,
        f"--time is {time_limit}: it must be minutes, hours:minutes:seconds or days-hours, as for sbatch.",
    )
    require(gpus is None or gpus > 0, f"--gpus is {gpus}: it must be above 0.")
    additional: dict[str, Any] = {"requeue": True}
    for text in others:
        key, equals, value = text.partition("=")
        name = key.removeprefix("--").replace("-", "_")
        require(bool(re.fullmatch(r"\w+", name)), f"--slurm_option {text}: it must be KEY=VALUE, such as qos=long.")
        require(name not in RESERVED, f"--slurm_option {text}: the sweep itself sets {key}.")
        additional[name] = value if equals else True
    named = {"partition": partition, "time": time_limit, "gpus_per_node": gpus, "account": account}
    return {**named, "wckey": None, "additional_parameters": additional}


class QueueEntry(NamedTuple):
    state: str  # SLURM's name of it
    reason: str
    job_name: str

    def label(self) -> str:
        if self.state != "PENDING":
            return self.state.lower()
        return "queued" if self.reason in ("None", "") else f"queued ({self.reason})"


def read_queue() -> dict[str, QueueEntry] | None:
    """Return this user's jobs and array tasks by ID; None if SLURM does not answer."""
    command = ["squeue", "--noheader", "--array", "--user", getpass.getuser(), "--format", "%i|%T|%r|%j"]
    try:
        lines = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.splitlines()
    except (OSError, subprocess.SubprocessError):
        return None
    cells = [line.strip().split("|", 3) for line in lines if line.count("|") >= 3]
    return {job: QueueEntry(*others) for job, *others in cells}


def ended_state(job: str) -> str:
    """Return SLURM's state of a job that left the queue, such as CANCELLED; "" if it is not known any more.

    The controller knows it for some minutes, also on a cluster without accounting.
    """
    controller = ["scontrol", "show", "job", "--oneliner", job]
    accounting = ["sacct", "--noheader", "--parsable2", "--allocations", "--format=State", f"--jobs={job}"]
    for command, pattern in ((controller, r"\bJobState=(\w+)"), (accounting, r"(\w+)")):
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            text = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
            if state := re.search(pattern, text):
                return state[1]
    return ""


def quiet_submitit() -> Any:
    """Import submitit, and let it print errors only. Its import sets its logging up, so the level is set after it."""
    import cloudpickle
    import submitit

    logging.getLogger("submitit").setLevel(logging.ERROR)
    cloudpickle.register_pickle_by_value(slurm_task)
    return submitit


def read_jobs(directory: Path) -> dict[str, Any]:
    path = directory / "slurm.json"
    return parse_json(path.read_bytes(), str(path)) if path.is_file() else {"jobs": {}, "submitting": None}


def check_none(directory: Path) -> None:
    """Raise ConfigError if variants of the sweep were submitted to SLURM and are not known to have ended."""
    known = read_jobs(directory)
    require(
        not known["jobs"] and not known["submitting"],
        f"{directory} has variants in SLURM's queue: add --slurm to watch them, or delete {directory / 'slurm.json'}"
        " if they were cancelled.",
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
        """Create a sweep on SLURM. Raises ConfigError if this machine cannot submit jobs."""
        super().__init__(file, base, found, directory, published=published)
        require(
            importlib.util.find_spec("submitit") is not None,
            "--slurm needs submitit: pip install 'kintsugi[slurm]'.",
        )
        missing = [name for name in ("sbatch", "squeue", "srun") if shutil.which(name) is None]
        require(not missing, f"--slurm needs {', '.join(missing)} on the PATH: run it on a machine that submits jobs.")
        self.parameters = parameters
        self.jobs: dict[str, str] = {}  # job ID by variant name
        self._gone: dict[str, float] = {}  # time at which a variant's job was first missing from the queue
        self._error: ConfigError | None = None

    def train(self, jobs: int | None) -> bool:
        """Submit the variants that are neither done nor in the queue, and watch all of them.

        At most `jobs` run at a time; None sets no limit. Returns True if all are done. Raises ConfigError if SLURM
        rejects a job.
        """
        with self._stopping_on_signals():
            self._attach()
            self._submit([run for run in self.runs if run.state == "waiting"], jobs)
            following = threading.Thread(target=self._follow, args=(jobs,))
            following.start()
            self._watch([following])
        if self._error is not None:
            raise self._error
        if left := [self.jobs[run.variant.name] for run in self.runs if run.state not in FINAL_STATES]:
            ids = " ".join(sorted({job.split("_")[0] for job in left}))
            print(
                f"The jobs keep running. The same command watches them again; scancel {ids} cancels them.", flush=True
            )
        return all(run.state == "done" for run in self.runs)

    def _attach(self) -> None:
        """Find the variants that are done or were submitted before."""
        known = read_jobs(self.directory)
        self.jobs = dict(known["jobs"])
        if known["submitting"]:
            self.jobs |= self._unrecorded_jobs(known["submitting"])
            self._give_programs(known["submitting"]["job_name"])
        for run in self.runs:
            run.state = "submitted" if run.variant.name in self.jobs else "waiting"
            if run.is_done():
                self._end(run, "done")
        self._write()

    def _unrecorded_jobs(self, submitting: Mapping[str, Any]) -> dict[str, str]:
        """Find the jobs of a submission that was killed before it recorded their IDs."""
        queue = read_queue()
        if queue is None:
            raise ConfigError("squeue does not answer, so the jobs in the queue are unknown: try again later.")
        ours = [job for job, queued in queue.items() if queued.job_name == submitting["job_name"]]
        names = submitting["variants"]
        return {names[int(job.partition("_")[2] or 0)]: job for job in ours}

    def _give_programs(self, submission: str) -> None:
        """Write the pickles that jobs wait for where submitit was killed before it had moved them to their names."""
        submitit = quiet_submitit()
        for run in self.runs:
            if job := self.jobs.get(run.variant.name):
                path = submitit.SlurmJob(self.directory / "slurm", job).paths.submitted_pickle
                if not path.exists():
                    with submitit.core.utils.temporary_save_path(path) as unfinished:
                        arguments = self._turn(run, submission)
                        submitit.core.utils.DelayedSubmission(slurm_task.turn, *arguments).dump(unfinished)

    def _submit(self, runs: Sequence[VariantRun], parallel: int | None) -> None:
        if not runs:
            return
        submitit = quiet_submitit()
        name = f"{self.directory.resolve().name}-{uuid.uuid4().hex[:8]}"
        self._write({"job_name": name, "variants": [run.variant.name for run in runs]})
        try:
            executor = submitit.SlurmExecutor(self.directory / "slurm")
            executor.update_parameters(
                job_name=name,
                signal_delay_s=SAVING,
                array_parallelism=parallel or len(runs),
                setup=['export SRUN_CPUS_PER_TASK="${SLURM_CPUS_PER_TASK:-1}"'],  # by default srun requests one
                srun_args=["--kill-on-bad-exit=0", "--wait=300"],  # keep the exit codes of all hosts
                **self.parameters,
            )
            with executor.batch():
                submitted = [executor.submit(slurm_task.turn, *self._turn(run, name)) for run in runs]
        except (RuntimeError, OSError) as error:
            if not self._stop.is_set():  # else Ctrl-C stopped sbatch too, perhaps after it submitted
                self._write()
            raise ConfigError(f"sbatch rejected the jobs: {error}.") from error
        for run, job in zip(runs, submitted, strict=True):
            self.jobs[run.variant.name] = job.job_id
            run.state, run.tries = "submitted", run.tries + 1
        self._write()

    def _turn(self, run: VariantRun, submission: str) -> tuple[Sequence[str], str, str, str, int]:
        """Return the arguments of slurm_task.turn."""
        failures = self.directory / "slurm" / f"{submission}.{run.variant.name}.failures"
        log = Path(f"{run.directory}.log").resolve()
        return self.command(run), os.getcwd(), str(log), str(failures.resolve()), TRIES

    def _follow(self, parallel: int | None) -> None:
        """Update states and resubmit until all variants have ended or the user stops watching."""
        try:
            while True:
                queue = read_queue()
                for run in self.runs:
                    if queue is not None and run.state not in FINAL_STATES:
                        self._update(run, queue)
                self._submit([run for run in self.runs if run.state == RETRY], parallel)
                if all(run.state in FINAL_STATES for run in self.runs) or self._stop.wait(POLL):
                    return
        except ConfigError as error:
            self._error = error

    def _update(self, run: VariantRun, queue: Mapping[str, QueueEntry]) -> None:
        name = run.variant.name
        if self.jobs[name] in queue:
            run.state = queue[self.jobs[name]].label()
            self._gone.pop(name, None)
        elif (state := self._final_state(run)) is not None:
            self._end(run, state)
            self._write()

    def _final_state(self, run: VariantRun) -> str | None:
        """Return the state of a variant after its job left the queue; None while its result may still arrive."""
        job: Any = quiet_submitit().SlurmJob(self.directory / "slurm", self.jobs[run.variant.name])
        if run.is_done():
            return "done"
        if job.paths.result_pickle.exists():
            with contextlib.suppress(RuntimeError):  # submitit raises it if the task failed to requeue itself
                return slurm_task.FINAL_CODES.get(job.result(), "failed")
        ended = ended_state(job.job_id)
        if ended == "CANCELLED":
            return "cancelled"
        since = self._gone.setdefault(run.variant.name, time.monotonic())
        if time.monotonic() - since < SETTLE:
            return None
        if ended in UNCOUNTED:
            run.tries -= 1
        return "failed" if run.tries >= TRIES else RETRY

    def _end(self, run: VariantRun, state: str) -> None:
        run.state = state
        self.jobs.pop(run.variant.name, None)
        self._gone.pop(run.variant.name, None)

    def _write(self, submitting: Mapping[str, Any] | None = None) -> None:
        write_json(self.directory / "slurm.json", {"jobs": self.jobs, "submitting": submitting})
