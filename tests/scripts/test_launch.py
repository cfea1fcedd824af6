"""scripts/launch: what each way of ending a run leads to, and that JAX finds the hosts in what a scheduler sets.

SLURM is played by stand-ins: `srun` starts real processes for two tasks, with the variables that SLURM would give them,
`scontrol` notes what it is asked, and the training is a shell script that ends as it is told to.
"""

import contextlib
import math
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib.metadata import metadata
from pathlib import Path
from typing import Any

import pytest
import yaml
from jax._src import clusters
from jax._src.clusters import cloud_tpu_cluster

import research.train.loop
from research import Experiment
from research.config import load, override
from research.storage.run_directory import EXIT_CODES
from scripts import train

ROOT = Path(__file__).resolve().parents[2]
LAUNCH = ROOT / "scripts" / "launch"
COMMAND = ["experiments/quickstart.py", "--run_dir", "runs/a name", "--config.data.corpora=[PlainText(train='*.txt')]"]

DONE, FAILED, BAD_INPUT = EXIT_CODES["done"], EXIT_CODES["failed"], EXIT_CODES["bad input"]
PREEMPTED, HUNG, NOT_FINITE = EXIT_CODES["preempted"], EXIT_CODES["hung"], EXIT_CODES["not finite"]
LOST = EXIT_CODES["host lost"]
ABORTED, KILLED = 128 + signal.SIGABRT, 128 + signal.SIGKILL

# In the place of .venv/bin/python. $ENDS has a word for each start, of a number for each task: how it ends, above 128
# by a signal. "save" waits for SIGTERM or Ctrl-C and then ends as a run does that has saved.
TRAINING = f"""#!/usr/bin/env bash
cd "$PLACE"
task=${{SLURM_PROCID:-0}}
trap 'echo signal >> signals-$task; exit {PREEMPTED}' TERM INT
words=($ENDS)
starts=$(cat starts-$task 2> /dev/null | wc -l)
IFS=, read -ra ends <<< "${{words[starts]}}"
printf '%s\\0' "$@" > arguments-$task
env -0 > environment-$task
echo $$ >> starts-$task
while [ "${{ends[task]}}" = save ]; do sleep 0.02; done
if [ "${{ends[task]}}" -gt 128 ]; then ulimit -c 0; kill -$((ends[task] - 128)) $$; fi
exit "${{ends[task]}}"
"""

# SIGTERM makes it kill its tasks, as it does the real one. It ends with the highest exit code, where a signal counts as
# 128 and its number.
SRUN = f"""#!{sys.executable} -S
import os, signal, subprocess, sys
command = sys.argv[1:]
while command[0].startswith("--"):
    assert command.pop(0).split("=")[0] in ("--kill-on-bad-exit", "--wait", "--cpus-per-task")
step = {{
    "SLURM_STEP_ID": "0", "SLURM_STEPID": "0", "SLURM_STEP_NODELIST": os.environ["SLURM_JOB_NODELIST"],
    "SLURM_STEP_NUM_NODES": "2", "SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_TASKS_PER_NODE": "1(x2)",
    "SLURM_NTASKS": "2", "SLURM_NPROCS": "2", "SLURM_LOCALID": "0",
}}
place = lambda task: {{"SLURM_PROCID": str(task), "SLURM_NODEID": str(task), "SLURMD_NODENAME": f"node00{{task + 1}}"}}
tasks = [subprocess.Popen(command, env=os.environ | step | place(task)) for task in range(2)]
signal.signal(signal.SIGTERM, lambda *_: [task.kill() for task in tasks])
codes = [task.wait() for task in tasks]
sys.exit(max(code if code >= 0 else 128 - code for code in codes))
"""

SCONTROL = """#!/usr/bin/env bash
echo "$*" >> "$PLACE/asked"
[ -z "${REQUEUE_IS_OFF:-}" ]
"""

# A shell cannot trap what was ignored when it started, as these are in the background and under nohup.
HEARING = """
import os, signal, sys
for number in signal.SIGINT, signal.SIGHUP:
    signal.signal(number, signal.SIG_DFL)
os.execvp(sys.argv[1], sys.argv[1:])
"""

JOB = {
    "SLURM_JOB_ID": "123456", "SLURM_JOB_NODELIST": "node[001-002]", "SLURM_NNODES": "2", "SLURM_NTASKS_PER_NODE": "1",
    "SLURM_NODEID": "0", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_GPUS_ON_NODE": "8",
    "SLURM_CPUS_PER_TASK": "32",
}  # fmt: skip


class Place:
    """Where launchers run under the stand-ins, and what the training noted there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.started: list[subprocess.Popen[bytes]] = []
        for name, text in (("training", TRAINING), ("srun", SRUN), ("scontrol", SCONTROL)):
            (folder / name).write_text(text)
            (folder / name).chmod(0o755)

    def start(self, launcher: str, ends: str, **variables: str) -> subprocess.Popen[bytes]:
        ours = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "JAX_"))}
        path = f"{self.folder}:{os.environ['PATH']}"
        stand_ins = {"PATH": path, "PYTHON": str(self.folder / "training"), "PLACE": str(self.folder), "ENDS": ends}
        command = [sys.executable, "-S", "-c", HEARING, "bash", str(LAUNCH / launcher), *COMMAND]
        environment = ours | stand_ins | variables
        self.started.append(subprocess.Popen(command, cwd=self.folder, env=environment, start_new_session=True))
        return self.started[-1]

    def clear(self) -> None:
        """Ends what a test that failed has left."""
        trainings = [int(line) for path in self.folder.glob("starts-*") for line in self.lines(path.name)]
        for launcher in self.started:
            if launcher.poll() is None:
                os.killpg(launcher.pid, signal.SIGKILL)
            for process in trainings:
                with contextlib.suppress(ProcessLookupError):
                    if os.getsid(process) == launcher.pid:
                        os.kill(process, signal.SIGKILL)
            launcher.wait()

    def job(self, ends: str) -> Iterator[tuple[int, bool]]:
        """slurm.sbatch as SLURM runs it, and again for as long as it asks; its exit codes, and whether it asked."""
        for restarts in range(len(ends.split())):
            asked = len(self.lines("asked"))
            restarted = {"SLURM_RESTART_COUNT": str(restarts)} if restarts else {}
            code = self.start("slurm.sbatch", ends, **JOB, **restarted).wait(20)
            requeued = self.lines("asked")[asked:] == ["requeue 123456"]
            yield code, requeued
            if not requeued:
                return

    def lines(self, name: str) -> list[str]:
        path = self.folder / name
        return path.read_text().splitlines() if path.exists() else []

    def processes(self, tasks: int) -> list[int]:
        """The processes of the training, one a task, once they have started."""
        for _ in range(2000):
            if all(found := [self.lines(f"starts-{task}") for task in range(tasks)]):
                return [int(starts[-1]) for starts in found]
            time.sleep(0.01)
        raise TimeoutError

    def noted(self, name: str) -> list[str]:
        return (self.folder / name).read_text().removesuffix("\0").split("\0")

    def variables(self, task: int) -> dict[str, str]:
        return dict(item.split("=", 1) for item in self.noted(f"environment-{task}"))


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    place = Place(tmp_path)
    yield place
    place.clear()


@pytest.fixture
def enter(monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, str]], None]:
    """A function that gives this process a scheduler's variables, and no others of any."""
    scheduled = re.compile("SLURM|OMPI|TPU|MEGASCALE|KUBERNETES|JAX_COORDINATOR|JAX_LOCAL")

    def entered(variables: dict[str, str]) -> None:
        for name in filter(scheduled.match, list(os.environ)):
            monkeypatch.delenv(name)
        for name in filter(scheduled.match, variables):
            monkeypatch.setenv(name, variables[name])

    return entered


def detected(local_devices: list[int] | None = None) -> tuple[Any, ...]:
    """What jax.distributed.initialize() finds: coordinator, number of processes, which one this is, its devices."""
    return clusters.ClusterEnv.auto_detect_unset_distributed_params(None, None, None, local_devices, None, 1)


def taken(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> tuple[Experiment, Path]:
    """The experiment and run directory that scripts.train trains for these arguments."""
    trained: list[tuple[Experiment, Path]] = []

    def note(config: Experiment, directory: Path, **_: object) -> int:
        trained.append((config, directory))
        return DONE

    monkeypatch.setattr(research.train.loop, "train", note)
    monkeypatch.chdir(ROOT)
    assert train.main(arguments) == DONE
    return trained[0]


def read_yaml(name: str) -> Any:
    return yaml.safe_load((LAUNCH / name).read_text())


def test_every_file_is_in_the_readme() -> None:
    readme = (LAUNCH / "README.md").read_text()
    files = {path.name for path in LAUNCH.iterdir()} - {"README.md", "Dockerfile.dockerignore"}
    assert {name for name in files if f"| `{name}` |" not in readme} == set()


@pytest.mark.parametrize("name", ["gpus.sh", "slurm.sbatch"])
def test_shell_files_parse(name: str) -> None:
    subprocess.run(["bash", "-n", str(LAUNCH / name)], check=True)


@pytest.mark.parametrize("part", ["setup", "run"])
def test_shell_of_skypilot_parses(part: str) -> None:
    subprocess.run(["bash", "-n"], input=read_yaml("skypilot.yaml")[part], text=True, check=True)


# --- One host ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ends", "starts"),
    [
        ([DONE], 1),
        ([FAILED], 1),
        ([BAD_INPUT], 1),
        ([NOT_FINITE], 1),
        ([PREEMPTED, PREEMPTED, PREEMPTED, PREEMPTED, PREEMPTED, DONE], 6),
        ([HUNG, PREEMPTED, ABORTED, BAD_INPUT], 4),
        ([HUNG, KILLED, LOST, HUNG, DONE], 4),
    ],
)
def test_one_host_starts_again_after_preemptions_and_three_failures(place: Place, ends: list[int], starts: int) -> None:
    """It ends with the exit code of the last start, every one of which was given the same command."""
    assert place.start("gpus.sh", " ".join(map(str, ends))).wait(20) == ends[starts - 1]
    assert len(place.lines("starts-0")) == starts
    assert place.noted("arguments-0") == ["-m", "scripts.train", *COMMAND]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_one_host_stops_when_asked(place: Place, number: signal.Signals) -> None:
    """The run hears of it once, also where a terminal tells a whole process group; then it is not started again."""
    launcher = place.start("gpus.sh", "save save")
    place.processes(1)
    os.killpg(launcher.pid, number)
    assert launcher.wait(20) == PREEMPTED
    assert len(place.lines("starts-0")) == len(place.lines("signals-0")) == 1


def test_one_host_is_no_task_of_slurm(place: Place, enter: Callable[[dict[str, str]], None]) -> None:
    """In an interactive shell of srun JAX would take one of the GPUs."""
    shell = JOB | {"SLURM_STEP_NODELIST": "node001", "SLURM_NTASKS": "1"}
    enter(shell)
    assert detected()[1:] == (1, 0, [0])
    assert place.start("gpus.sh", str(DONE), **shell).wait(20) == DONE
    enter(place.variables(0))
    assert detected() == (None, None, None, None)


# --- SLURM ------------------------------------------------------------------------------------------------------------


def directives() -> dict[str, str]:
    found = re.findall(r"^#SBATCH --([\w-]+)=?(.*)$", (LAUNCH / "slurm.sbatch").read_text(), re.MULTILINE)
    return dict(found)


@pytest.mark.parametrize(
    ("codes", "requeued"),
    [
        ((DONE, DONE), False),
        ((FAILED, FAILED), False),
        ((BAD_INPUT, BAD_INPUT), False),
        ((NOT_FINITE, NOT_FINITE), False),
        ((PREEMPTED, PREEMPTED), True),
        ((HUNG, HUNG), True),
        ((HUNG, ABORTED), True),
        ((LOST, LOST), True),
        ((LOST, ABORTED), True),
        ((FAILED, LOST), True),
        ((FAILED, ABORTED), True),
        ((KILLED, ABORTED), True),
    ],
)
def test_a_job_requeues_itself_where_that_helps(place: Place, codes: tuple[int, int], requeued: bool) -> None:
    """The others of a host that failed or was lost are aborted by JAX, and srun ends with the highest code of all."""
    ((code, asked),) = place.job(",".join(map(str, codes)))
    assert asked == requeued
    assert code == (0 if requeued else max(codes))
    assert [place.noted(f"arguments-{task}") for task in range(2)] == [["-m", "scripts.train", *COMMAND]] * 2


def test_a_job_requeues_itself_after_three_failures_and_any_number_of_preemptions(place: Place) -> None:
    ends = [HUNG, PREEMPTED, PREEMPTED, PREEMPTED, PREEMPTED, KILLED, HUNG, PREEMPTED, HUNG]
    assert [asked for _, asked in place.job(" ".join(f"{end},{end}" for end in ends))] == [True] * 8 + [False]


def test_a_job_that_is_stopped_by_hand_ends_with_the_code_of_its_run(place: Place) -> None:
    """With Requeue=0, as the page says."""
    assert place.start("slurm.sbatch", "42,42", **JOB, REQUEUE_IS_OFF="yes").wait(20) == PREEMPTED


@pytest.mark.parametrize("name", ["slurm.sbatch", "prepare.sbatch"])
def test_what_a_job_writes_into_the_repository_is_ignored_by_git(name: str) -> None:
    text = (LAUNCH / name).read_text()
    (log,) = re.findall(r"^#SBATCH --output=(.*)$", text, re.MULTILINE)
    counts = re.findall('="(slurm-.*)"$', text, re.MULTILINE)
    written = [re.sub(r"%.|[$]\w+", "123", path) for path in (log, *counts)]
    assert len(written) == (2 if name == "slurm.sbatch" else 1)
    ignored = subprocess.run(["git", "check-ignore", *written], cwd=ROOT, capture_output=True, text=True)
    assert ignored.stdout.split() == written


def test_a_job_that_is_requeued_keeps_its_log() -> None:
    assert "requeue" in directives()
    assert directives()["open-mode"] == "append"


def test_a_job_whose_time_is_nearly_up_saves_and_is_requeued(place: Place) -> None:
    """SLURM sends the signal to what srun started; with "B:" to the shell alone. srun itself would kill its tasks."""
    ((target, number, seconds),) = re.findall(r"^(B:)?(\w+)@(\d+)$", directives()["signal"])
    job = place.start("slurm.sbatch", "save,save", **JOB)
    tasks = place.processes(2)
    for process in [job.pid] if target else tasks:
        os.kill(process, signal.Signals[f"SIG{number}"])
    assert job.wait(20) == 0
    assert place.lines("asked") == ["requeue 123456"]
    assert place.lines("signals-0") == place.lines("signals-1") == ["signal"]
    assert int(seconds) >= 60


def test_jax_finds_the_hosts_of_a_job_and_all_their_gpus(place: Place, enter: Callable[[dict[str, str]], None]) -> None:
    assert directives()["ntasks-per-node"] == "1"
    assert directives()["gpus-per-node"] == JOB["SLURM_GPUS_ON_NODE"]
    list(place.job("0,0"))
    for task in range(2):
        enter(place.variables(task))
        assert clusters.SlurmCluster.is_env_present()
        coordinator = f"node001:{123456 % 4096 + 61440}"
        devices = list(map(int, os.environ["JAX_LOCAL_DEVICE_IDS"].split(",")))
        assert detected(devices) == (coordinator, 2, task, list(range(8)))
        assert detected() == (coordinator, 2, task, [0])  # what JAX makes of it without that variable


# --- Kubernetes -------------------------------------------------------------------------------------------------------


def slice_job() -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """The JobSet, its one Job, and the pod of that."""
    jobset = read_yaml("jobset.yaml")
    (replicated,) = jobset["spec"]["replicatedJobs"]
    assert replicated["replicas"] == 1
    job = replicated["template"]["spec"]
    return jobset, job, job["template"]["spec"]


def chips() -> int:
    _, _, pod = slice_job()
    return math.prod(map(int, pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"].split("x")))


def test_a_jobset_has_a_pod_for_each_host_of_its_topology() -> None:
    jobset, job, pod = slice_job()
    assert (jobset["apiVersion"], jobset["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    assert pod["nodeSelector"]["cloud.google.com/gke-tpu-accelerator"] == "tpu-v5-lite-podslice"
    (container,) = pod["containers"]
    hosts, rest = divmod(chips(), container["resources"]["limits"]["google.com/tpu"])
    assert (job["parallelism"], job["completions"], rest) == (hosts, hosts, 0)


def test_a_jobset_ends_on_final_codes_and_counts_no_preemption() -> None:
    """The first rule that matches a pod decides; a failure that none matches restarts all hosts, and is counted."""
    jobset, job, pod = slice_job()
    on_codes = {
        code: rule["action"]
        for rule in job["podFailurePolicy"]["rules"]
        if "onExitCodes" in rule
        for code in rule["onExitCodes"]["values"]
    }
    assert on_codes == {BAD_INPUT: "FailJob", NOT_FINITE: "FailJob", PREEMPTED: "Ignore"}
    *others, last = job["podFailurePolicy"]["rules"]
    assert last == {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}
    for rule in others:
        codes = rule["onExitCodes"]
        assert (codes["containerName"], codes["operator"]) == (pod["containers"][0]["name"], "In")
        assert codes["values"] == sorted(codes["values"])  # or Kubernetes refuses it
    policy = jobset["spec"]["failurePolicy"]
    assert [(rule["action"], rule["onJobFailureReasons"]) for rule in policy["rules"]] == [
        ("FailJobSet", ["PodFailurePolicy"])
    ]
    assert policy["maxRestarts"] > 0
    assert (job["backoffLimit"], pod["restartPolicy"]) == (0, "Never")
    assert pod["terminationGracePeriodSeconds"] >= 60


def test_a_jobset_writes_to_its_bucket(monkeypatch: pytest.MonkeyPatch) -> None:
    """scripts.train takes the arguments; the cache of each host is where the run's bucket is mounted."""
    _, job, pod = slice_job()
    (container,), (volume,) = pod["containers"], pod["volumes"]
    (mount,) = container["volumeMounts"]
    assert mount["name"] == volume["name"]
    config, directory = taken(container["args"], monkeypatch)
    assert str(directory).startswith(f"gs://{volume['csi']['volumeAttributes']['bucketName']}/")
    assert config.mesh.fsdp == chips()
    assert config.batch_size // config.microbatches % chips() == 0
    host, cache = container["env"]
    assert cache == {"name": "KINTSUGI_CACHE", "value": f"{mount['mountPath']}/cache/$({host['name']})"}
    assert job["template"]["metadata"]["annotations"]["gke-gcsfuse/volumes"] == "true"


def test_jax_finds_the_hosts_of_a_slice(
    enter: Callable[[dict[str, str]], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the names that JobSet gives to pods and GKE lists in their environment, on machines that have TPUs."""
    jobset, job, _ = slice_job()
    name, part = jobset["metadata"]["name"], jobset["spec"]["replicatedJobs"][0]["name"]
    pods = [f"{name}-{part}-0-{index}.{name}" for index in range(job["completions"])]
    monkeypatch.setattr(cloud_tpu_cluster, "running_in_cloud_tpu_vm", True)
    monkeypatch.setattr(clusters.cluster, "running_in_cloud_tpu_vm", True)
    monkeypatch.setattr(cloud_tpu_cluster, "get_metadata", lambda key: ("", 404))  # this is no TPU machine's own
    monkeypatch.setattr(cloud_tpu_cluster.BaseTpuCluster, "wait_for_coordinator", lambda *_: None)
    for index in range(len(pods)):
        enter({"TPU_WORKER_HOSTNAMES": ",".join(pods), "TPU_WORKER_ID": str(index), "KUBERNETES_SERVICE_HOST": "x"})
        assert detected() == (f"{pods[0]}:8482", len(pods), index, None)


# --- Data -------------------------------------------------------------------------------------------------------------


def test_an_array_makes_every_shard() -> None:
    variables = {"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_COUNT": "16", "SLURM_CPUS_PER_TASK": "8"}
    variables |= {"PYTHON": "echo"}
    command = ["bash", str(LAUNCH / "prepare.sbatch"), "experiments/quickstart.py", "--config.seed=1"]
    said = subprocess.run(command, env=os.environ | variables, capture_output=True, text=True, check=True).stdout
    assert said.split() == ["-m", "scripts.prepare", *command[2:], "--jobs", "8", "--shard", "3/16"]
    text = (LAUNCH / "prepare.sbatch").read_text()
    assert "#SBATCH --array=1-" in text  # shards are counted from 1, as prepare.share does


def test_an_indexed_job_makes_every_shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And what bad input ends with ends the job."""
    job = read_yaml("prepare.yaml")["spec"]
    (container,) = job["template"]["spec"]["containers"]
    variables = {entry["name"]: entry["value"] for entry in container["env"]}
    assert int(variables["N"]) == job["completions"]
    (tmp_path / "python").write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    (tmp_path / "python").chmod(0o755)
    variables |= {"JOB_COMPLETION_INDEX": str(job["completions"] - 1), "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    command = [*container["command"], *container["args"]]
    said = subprocess.run(command, env=variables, capture_output=True, text=True, check=True).stdout.splitlines()
    assert said == ["-m", "scripts.prepare", *container["args"], "--shard", f"{variables['N']}/{variables['N']}"]
    overrides = [argument for argument in container["args"][1:] if argument.startswith("--config.")]
    override.apply(load.open_experiment(ROOT / container["args"][0]).config, override.from_arguments(overrides))
    refused, _ = job["podFailurePolicy"]["rules"]
    assert refused["onExitCodes"] == {"containerName": container["name"], "operator": "In", "values": [2]}
    (volume,) = job["template"]["spec"]["volumes"]
    (mount,) = container["volumeMounts"]
    assert mount["name"] == volume["name"]
    assert variables["KINTSUGI_CACHE"].startswith(mount["mountPath"])


# --- SkyPilot ---------------------------------------------------------------------------------------------------------


def test_skypilot_recovers_what_can_go_on() -> None:
    assert read_yaml("skypilot.yaml")["resources"]["job_recovery"] == {"recover_on_exit_codes": [PREEMPTED, HUNG, LOST]}


def test_skypilot_writes_to_its_bucket(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """scripts.train takes the arguments; the cache of each host is where the run's bucket is mounted."""
    task = read_yaml("skypilot.yaml")
    ((mount, bucket),) = task["file_mounts"].items()
    assert (bucket["source"], bucket["mode"]) == ("gs://BUCKET", "MOUNT")
    (place.folder / ".venv" / "bin").mkdir(parents=True)
    (place.folder / ".venv" / "bin" / "python").symlink_to(place.folder / "training")
    variables = {"SKYPILOT_NODE_RANK": "1", "PLACE": str(place.folder), "ENDS": str(PREEMPTED)}
    (place.folder / "run").write_text(task["run"])
    run = subprocess.Popen(["bash", "run"], cwd=place.folder, env=os.environ | variables)
    assert run.wait(20) == PREEMPTED
    assert place.lines("starts-0") == [str(run.pid)]  # signals reach the training
    assert place.variables(0)["KINTSUGI_CACHE"] == f"{mount}/cache/1"
    module, arguments = place.noted("arguments-0")[:2], place.noted("arguments-0")[2:]
    assert module == ["-m", "scripts.train"]
    config, directory = taken(arguments, monkeypatch)
    assert str(directory).startswith(f"{bucket['source']}/")
    assert task["resources"]["accelerators"].endswith(f":{config.mesh.fsdp}")
    assert config.batch_size // config.microbatches % config.mesh.fsdp == 0
    assert task["envs"]["JAX_EXTRA"] in metadata("jax").get_all("Provides-Extra", [])


# --- The image --------------------------------------------------------------------------------------------------------


def instructions() -> list[tuple[str, str]]:
    lines = [line for line in (LAUNCH / "Dockerfile").read_text().splitlines() if line and not line.startswith("#")]
    return [(line.split(maxsplit=1)[0], line.split(maxsplit=1)[1]) for line in lines]


def test_the_image_copies_what_is_there_and_a_run_needs() -> None:
    copied = {path for name, text in instructions() if name == "COPY" for path in text.split()[:-1]}
    assert copied == {"pyproject.toml", "requirements.txt", "research", "experiments", "scripts"}
    assert all((ROOT / path).exists() for path in copied)
    everything, *but = (LAUNCH / "Dockerfile.dockerignore").read_text().splitlines()
    assert everything == "*"
    assert {f"!{path}" for path in copied} <= set(but)


def test_the_image_is_the_training_run_by_no_root() -> None:
    *_, entry = [text for name, text in instructions() if name == "ENTRYPOINT"]
    assert yaml.safe_load(entry) == ["python", "-m", "scripts.train"]
    assert [text for name, text in instructions() if name == "USER"][-1] not in ("root", "0")


def test_the_image_and_the_readme_name_extras_of_jax() -> None:
    text = (LAUNCH / "Dockerfile").read_text() + (LAUNCH / "README.md").read_text()
    named = {extra for extras in re.findall(r"JAX_EXTRA=([\w,]+)|jax\[([\w,]+)\]", text) for extra in extras if extra}
    extras = {extra for names in named for extra in names.split(",")}
    assert {"tpu", "cuda13", "k8s"} <= extras <= set(metadata("jax").get_all("Provides-Extra", []))
