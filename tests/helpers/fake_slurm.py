"""A SLURM cluster of one machine: sbatch, squeue, sacct, scancel, srun and scontrol with real processes.

$FAKE_SLURM has a file with the state of each job, or task of an array. While a file `hold` exists there, nothing
starts; while `down` exists, squeue does not answer; with `no_accounting`, sacct does not; with `forgotten`, scontrol.
"""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

NAMES = ("sbatch", "squeue", "sacct", "scancel", "srun", "scontrol")
HERE = Path(os.environ.get("FAKE_SLURM", "."))


def install(folder: Path) -> Path:
    """Write the executables; return their directory."""
    (folder / "bin").mkdir(parents=True)
    for name in NAMES:
        path = folder / "bin" / name
        path.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S "{Path(__file__).resolve()}" {name} "$@"\n')
        path.chmod(0o755)
    return folder / "bin"


def jobs(here: Path | None = None) -> dict[str, dict]:
    states = {}
    for path in sorted((here or HERE).glob("*.job")):
        with contextlib.suppress(ValueError):
            states[path.stem] = json.loads(path.read_text())
    return states


def change(job: str, here: Path | None = None, **facts) -> None:
    path = (here or HERE) / f"{job}.job"
    before = json.loads(path.read_text()) if path.exists() else {}
    temporary = path.with_suffix(f".{os.getpid()}")
    temporary.write_text(json.dumps(before | facts))
    temporary.replace(path)


def requested(job: str, what: str, here: Path | None = None) -> bool:
    return ((here or HERE) / f"{job}.{what}").exists()


def sbatch(script: str) -> None:
    lines = re.findall(r"^#SBATCH --([\w-]+)(?:=(.*))?$", Path(script).read_text(), re.MULTILINE)
    directives = {name: value.strip("'") for name, value in lines}
    if directives.get("partition") == "nowhere":
        sys.exit("sbatch: error: invalid partition specified: nowhere")
    with (HERE / "submitted").open("a") as submitted:
        submitted.write(f"{script}\n")
    number = len((HERE / "submitted").read_text().splitlines()) + 6
    first, last, most = 0, 0, 1
    if "array" in directives:
        first, last, most = map(int, re.fullmatch(r"(\d+)-(\d+)%(\d+)", directives["array"]).groups())
    names = [f"{number}_{task}" for task in range(first, last + 1)] if "array" in directives else [str(number)]
    for name in names:
        change(name, state="PENDING", name=directives["job-name"], output=directives["output"])
    (HERE / f"{number}.sh").write_text(Path(script).read_text())
    subprocess.Popen(
        [sys.executable, "-S", __file__, "controller", str(number), str(most)],
        start_new_session=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    print(f"Submitted batch job {number}")


def controller(number: str, most: str) -> None:
    mine = [job for job in jobs() if job.split("_")[0] == number]
    running: dict[str, subprocess.Popen] = {}
    while running or any(jobs()[job]["state"] == "PENDING" for job in mine):
        for job in mine:
            state = jobs()[job]["state"]
            if state == "PENDING" and requested(job, "cancelled"):
                change(job, state="CANCELLED by 1000")
            elif state == "PENDING" and len(running) < int(most) and not (HERE / "hold").exists():
                change(job, state="RUNNING")
                running[job] = start(number, job)
            elif job in running and (code := running[job].poll()) is not None:
                del running[job]
                change(job, state=ended(job, code))
        time.sleep(0.02)


def ended(job: str, code: int) -> str:
    """Return the state of a job after its script has ended."""
    if requested(job, "requeued"):
        (HERE / f"{job}.requeued").unlink()
        (HERE / f"{job}.cancelled").unlink(missing_ok=True)  # otherwise the job would be cancelled again
        return "PENDING"
    if requested(job, "ends"):
        state = (HERE / f"{job}.ends").read_text()
        (HERE / f"{job}.ends").unlink()
        return state
    if requested(job, "cancelled"):
        return "CANCELLED by 1000"
    return "FAILED" if code else "COMPLETED"


def start(number: str, job: str) -> subprocess.Popen:
    array, _, task = job.partition("_")
    variables = {"SLURM_JOB_ID": str(int(number) * 100 + int(task or 0)), "SLURM_JOB_NUM_NODES": "1", "FAKE_JOB": job}
    if task:
        variables |= {"SLURM_ARRAY_JOB_ID": array, "SLURM_ARRAY_TASK_ID": task}
    else:
        variables["SLURM_JOB_ID"] = array
    with open(HERE / f"{job}.out", "ab") as log:
        command = ["bash", str(HERE / f"{number}.sh")]
        return subprocess.Popen(command, env=os.environ | variables, stdout=log, stderr=log, start_new_session=True)


def srun(*arguments: str) -> None:
    options, command = {}, list(arguments)
    while command[0].startswith("--"):
        name, equals, value = command.pop(0).partition("=")
        options[name] = value if equals else command.pop(0) if name in ("--output", "--error") else ""
    assert options.keys() <= {"--unbuffered", "--output", "--error", "--kill-on-bad-exit", "--wait"}, options
    job = os.environ["FAKE_JOB"]
    array, _, task = job.partition("_")
    step = {"SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0", "SLURM_NTASKS": "1"}
    step |= {"SLURM_STEP_NODELIST": "node001", "SLURM_STEP_NUM_NODES": "1", "SLURM_STEP_NUM_TASKS": "1"}

    def opened(name: str):
        path = options[name].replace("%A", array).replace("%a", task).replace("%j", job).replace("%t", "0")
        return open(path, "ab")

    process = subprocess.Popen(command, env=os.environ | step, stdout=opened("--output"), stderr=opened("--error"))
    change(job, step=process.pid)
    code = process.wait()
    sys.exit(code if code >= 0 else 128 - code)


def in_step(job: str, here: Path | None = None) -> list[int]:
    """Return the processes that srun started for a job, and their descendants."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has ended
            parents[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
    in_tree = [jobs(here)[job]["step"]]
    for process in in_tree:
        in_tree += [child for child, parent in parents.items() if parent == process]
    return in_tree


def send(job: str, number: int, here: Path | None = None) -> None:
    """Send a signal to every process of the step, as some clusters do."""
    for process in in_step(job, here):
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, number)


def squeue(*arguments: str) -> None:
    assert arguments[arguments.index("--format") + 1] == "%i|%T|%r|%j"
    if (HERE / "down").exists():
        sys.exit("slurm_load_jobs error: Unable to contact slurm controller (connect failure)")
    for job, facts in jobs().items():
        if facts["state"] in ("PENDING", "RUNNING"):
            print(f"{job}|{facts['state']}|{'Priority' if facts['state'] == 'PENDING' else 'None'}|{facts['name']}")


def sacct(*arguments: str) -> None:
    if (HERE / "no_accounting").exists():
        sys.exit("Slurm accounting storage is disabled")
    if "--noheader" in arguments:
        assert {"--parsable2", "--allocations", "--format=State"} < set(arguments)
        print(*(facts["state"] for job, facts in jobs().items() if f"--jobs={job}" in arguments))
        return
    asked_for = {arguments[place + 1] for place, argument in enumerate(arguments) if argument == "-j"}
    print("JobID|State|NodeList")
    for job, facts in jobs().items():
        if job.split("_")[0] in asked_for:
            print(f"{job}|{facts['state']}|node001")


def scancel(*names: str) -> None:
    for job, facts in jobs().items():
        if job in names or job.split("_")[0] in names:
            (HERE / f"{job}.cancelled").touch()
            if facts["state"] == "RUNNING":
                send(job, signal.SIGTERM)


def scontrol(what: str, *others: str) -> None:
    *rest, job = others
    if what == "show":
        assert rest == ["job", "--oneliner"]
        if (HERE / "forgotten").exists() or job not in jobs():
            sys.exit("slurm_load_jobs error: Invalid job id specified")
        print(f"JobId={job} JobName=x JobState={jobs()[job]['state'].split()[0]} Reason=None")
        return
    assert (what, rest) == ("requeue", [])
    assert job in jobs(), f"{job} is no job, or a whole array"
    (HERE / f"{job}.requeued").touch()


if __name__ == "__main__":
    {function.__name__: function for function in (sbatch, controller, srun, squeue, sacct, scancel, scontrol)}[
        sys.argv[1]
    ](*sys.argv[2:])
