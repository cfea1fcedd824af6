"""Variants as jobs of SLURM, which is played by stand-ins that start real processes; submitit is the real one."""

import contextlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from importlib.machinery import SourceFileLoader
from pathlib import Path

import fake_slurm
import pytest
from real_runs import EXPERIMENT, ROOT, environment

from research.config import load
from research.sweep import slurm, slurm_task
from research.sweep.local import Sweep
from research.sweep.variants import variants
from scripts import sweep as script

with contextlib.suppress(ImportError):
    # Now, not in a test: it sets logging up anew, at which absl closes the stream of a test that is being captured.
    import submitit

NAMES = ("peak=0.001,seed=0", "peak=0.001,seed=1", "peak=0.002,seed=0", "peak=0.002,seed=1")

# $SLURM_TEST/NAME.ends has an exit code a start; "save" waits for SIGTERM, and then ends as a run does that has saved.
TRAINING = """
import json, os, signal, sys, time
from pathlib import Path
run = Path(sys.argv[sys.argv.index("--run_dir") + 1])
run.mkdir(exist_ok=True)
place = Path(os.environ["PLACE"])
signal.signal(signal.SIGTERM, lambda *_: os._exit(42))
with open(place / f"{run.name}.starts", "a") as starts:
    starts.write(json.dumps({"arguments": sys.argv[1:], "environment": dict(os.environ)}) + "\\n")
print("it runs", flush=True)
ends = json.loads((place / "ends").read_text()).get(run.name, [0]) if (place / "ends").exists() else [0]
count = len((place / f"{run.name}.starts").read_text().splitlines())
code = ends[min(count, len(ends)) - 1]
while code == "save":
    time.sleep(0.02)
if code == 0:
    (run / "metrics.jsonl").write_text('{"step": 6, "nll": 1.5, "step_seconds": 0.5}\\n')
    (run / "RESULT.json").write_text(json.dumps({"status": "done", "step": 6, "reason": ""}))
sys.exit(code)
"""


class Place:
    def __init__(self, folder: Path) -> None:
        self.folder, self.slurm, self.directory = folder, folder / "slurm", folder / "sweep"
        content = EXPERIMENT.format(folder=folder, steps=6)
        content += "\n\ndef sweep():\n    return product(grid({'optimizer.schedule.peak': (1e-3, 2e-3)}), seeds(2))\n"
        (folder / "experiment.py").write_text(content)
        (folder / "training.py").write_text(TRAINING)

    def ends(self, *ends: list) -> None:
        (self.folder / "ends").write_text(json.dumps(dict(zip(NAMES, ends, strict=True))))

    def starts(self, name: str) -> list[dict]:
        path = self.folder / f"{name}.starts"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def counts(self) -> list[int]:
        return [len(self.starts(name)) for name in NAMES]

    def command(self, *arguments: str) -> int:
        return script.main([str(self.folder / "experiment.py"), "--dir", str(self.directory), "--slurm", *arguments])

    def submissions(self) -> int:
        path = self.slurm / "submitted"
        return len(path.read_text().splitlines()) if path.exists() else 0

    def states(self) -> list[str]:
        return [facts["state"] for facts in fake_slurm.jobs(self.slurm).values()]

    def text(self) -> str:
        """Of the newest submission."""
        return max((self.directory / "slurm").glob("*_submission.sh"), key=os.path.getmtime).read_text()


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    pytest.importorskip("submitit")
    (tmp_path / "slurm").mkdir()
    monkeypatch.setenv("PATH", f"{fake_slurm.install(tmp_path / 'programs')}:{os.environ['PATH']}")
    monkeypatch.setenv("FAKE_SLURM", str(tmp_path / "slurm"))
    monkeypatch.setenv("PLACE", str(tmp_path))
    # As it is without the checks of shapes, which cannot be pickled.
    spec = importlib.util.spec_from_file_location(
        slurm_task.__name__, slurm_task.__file__, loader=SourceFileLoader(slurm_task.__name__, slurm_task.__file__)
    )
    plain = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(plain)
    monkeypatch.setitem(sys.modules, slurm_task.__name__, plain)  # where the pickling looks
    monkeypatch.setattr(slurm, "slurm_task", plain)
    monkeypatch.setattr(slurm, "POLL", 0.1)
    monkeypatch.setattr(slurm, "SETTLE", 0.5)
    found = Place(tmp_path)
    monkeypatch.setattr(Sweep, "program", (str(tmp_path / "training.py"),))
    yield found
    for job, facts in fake_slurm.jobs(found.slurm).items():  # what a test that failed has left
        (found.slurm / f"{job}.cancelled").touch()
        if facts["state"] == "RUNNING" and "step" in facts:
            fake_slurm.send(job, signal.SIGKILL, found.slurm)


def until(condition: Callable[[], object]) -> None:
    for _ in range(3000):
        if condition():
            return
        time.sleep(0.01)
    raise TimeoutError


def when(condition: Callable[[], object], act: Callable[[], object]) -> threading.Thread:
    def wait() -> None:
        until(condition)
        act()

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


def ctrl_c() -> None:
    """What the signal calls, without the signal, which would end the tests if it came when the command is over."""
    handler = signal.getsignal(signal.SIGINT)
    assert callable(handler)
    handler(signal.SIGINT, None)


@pytest.mark.slow
def test_every_variant_is_a_task_of_one_array(place: Place, capsys) -> None:
    given = ("--jobs", "3", "--config.batch_size=4", "--partition", "gpu", "--account", "us", "--time", "1-12:00:00")
    others = ("--slurm_option", "qos=long", "--slurm_option", "cpus-per-task=8", "--slurm_option", "exclusive")
    assert place.command(*given, "--gpus", "4", *others) == 0
    assert place.counts() == [1, 1, 1, 1]
    assert place.submissions() == 1
    directives = {line.removeprefix("#SBATCH --") for line in place.text().splitlines() if line.startswith("#SBATCH")}
    assert directives >= {
        "array=0-3%3", "partition=gpu", "account=us", "time=1-12:00:00", "gpus-per-node=4", "qos=long",
        "cpus-per-task=8", "exclusive", "requeue", "signal=USR2@120", "nodes=1", "open-mode=append",
    }  # fmt: skip
    assert "--kill-on-bad-exit=0 --wait=300" in place.text()
    arguments = place.starts(NAMES[1])[0]["arguments"]
    changes = ["--config.batch_size=4", "--config.optimizer.schedule.peak=0.001", "--config.seed=1"]
    assert arguments == [str(place.folder / "experiment.py"), "--run_dir", str(place.directory / NAMES[1]), *changes]
    assert (place.directory / f"{NAMES[1]}.log").read_text() == "it runs\n"
    assert f"{NAMES[3]}  6/6  nll 1.5000    done" in capsys.readouterr().out
    assert place.command("--config.batch_size=4") == 0
    assert place.submissions() == 1


@pytest.mark.slow
def test_what_is_not_said_is_left_to_the_cluster(place: Place) -> None:
    assert place.command() == 0
    for name in ("time", "partition", "account", "gpus", "wckey", "mem", "cpus"):
        assert f"#SBATCH --{name}" not in place.text()
    assert "#SBATCH --array=0-3%4" in place.text()


@pytest.mark.slow
def test_alone_on_its_node_a_training_is_no_task_of_several(place: Place) -> None:
    assert place.command() == 0
    assert "SLURM_STEP_NODELIST" not in place.starts(NAMES[0])[0]["environment"]


@pytest.mark.slow
def test_what_breaks_is_tried_again_or_left_and_the_rest_goes_on(place: Place) -> None:
    place.ends([1, 43, 0], [1, 1, 1, 0], [44], [42, 42, 42, 42, 0])
    assert place.command("--jobs", "2") == 1
    assert place.counts() == [3, 3, 1, 5]
    assert place.submissions() == 1  # each asked SLURM for its next turn by itself
    assert json.loads((place.directory / "slurm.json").read_text())["jobs"] == {}
    place.ends([0], [0], [0], [0])
    assert place.command() == 0  # the same command tries what failed once more, and that alone
    assert place.counts() == [3, 4, 2, 5]


@pytest.mark.slow
def test_who_watches_may_leave_and_come_back(place: Place, capsys) -> None:
    place.ends(*[["save", 0]] * 4)
    leaving = when(lambda: place.counts() == [1, 1, 1, 1], ctrl_c)
    assert place.command() == 1
    leaving.join()
    said = capsys.readouterr().out
    assert "The jobs keep running. The same command watches them again; scancel 7 cancels them." in said
    assert place.states() == ["RUNNING"] * 4
    assert place.command("--config.seed=5") == 2  # another sweep
    coming_back = when(
        lambda: True, lambda: [fake_slurm.send(f"7_{task}", signal.SIGUSR2, place.slurm) for task in range(4)]
    )
    assert place.command() == 0
    coming_back.join()
    assert place.submissions() == 1
    assert place.counts() == [2, 2, 2, 2]


@pytest.mark.slow
def test_before_the_time_is_up_it_saves_and_goes_on_in_its_next_turn(place: Place) -> None:
    """Some clusters send the signal to the training too, which knows nothing of it."""
    place.ends(["save", "save", 0], [0], [0], [0])

    def time_is_up() -> None:
        for count in (1, 2):
            until(lambda count=count: len(place.starts(NAMES[0])) == count)
            time.sleep(0.3)
            fake_slurm.send("7_0", signal.SIGUSR2, place.slurm)

    limit = when(lambda: True, time_is_up)
    assert place.command() == 0
    limit.join()
    assert place.counts() == [3, 1, 1, 1]
    assert not list((place.directory / "slurm").glob("*.failures"))


@pytest.mark.slow
def test_what_is_cancelled_saves_and_stays_so_until_the_next_command(place: Place, capsys) -> None:
    (place.slurm / "no_accounting").touch()
    place.ends(["save", 0], [0], [0], [0])
    cancelling = when(lambda: place.starts(NAMES[0]), lambda: os.system("scancel 7_0"))
    assert place.command() == 1
    cancelling.join()
    assert f"{NAMES[0]}  0/6  nll -    cancelled" in capsys.readouterr().out
    assert place.counts() == [1, 1, 1, 1]
    assert place.command() == 0
    assert place.counts() == [2, 1, 1, 1]
    assert "#SBATCH --array" not in place.text()  # a job alone


def test_the_state_of_an_ended_job_is_asked_of_the_controller_then_of_accounting(place: Place) -> None:
    for job, state in (("7_0", "CANCELLED by 1000"), ("7_1", "NODE_FAIL")):
        fake_slurm.change(job, place.slurm, state=state)
    (place.slurm / "no_accounting").touch()
    assert [slurm.ended_state(job) for job in ("7_0", "7_1", "7_2")] == ["CANCELLED", "NODE_FAIL", ""]
    (place.slurm / "forgotten").touch()
    assert slurm.ended_state("7_0") == ""
    (place.slurm / "no_accounting").unlink()
    assert [slurm.ended_state(job) for job in ("7_0", "7_1", "7_2")] == ["CANCELLED", "NODE_FAIL", ""]


@pytest.mark.slow
def test_what_was_submitted_and_not_noted_is_found_by_its_name(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed between sbatch's answer and slurm.json."""
    (place.slurm / "hold").touch()
    written = slurm.ClusterSweep._write

    def killed(self, submitting=None) -> None:
        if self.jobs:
            raise KeyboardInterrupt
        written(self, submitting)

    monkeypatch.setattr(slurm.ClusterSweep, "_write", killed)
    assert place.command() == 130
    monkeypatch.setattr(slurm.ClusterSweep, "_write", written)
    assert json.loads((place.directory / "slurm.json").read_text())["jobs"] == {}
    (place.slurm / "hold").unlink()
    assert place.command() == 0
    assert place.submissions() == 1
    assert place.counts() == [1, 1, 1, 1]


@pytest.mark.slow
def test_jobs_whose_programs_were_not_in_place_yet_get_them(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed between sbatch's answer and submitit's renaming of the pickles: two jobs have theirs and two do not."""
    (place.slurm / "hold").touch()
    move, moved = submitit.core.utils.JobPaths.move_temporary_file, []

    def killed(self, path: Path, name: str, **options) -> None:
        moved.append(path)
        if name == "submitted_pickle" and len(moved) > 3:  # the first is the script for sbatch
            raise KeyboardInterrupt
        move(self, path, name, **options)

    monkeypatch.setattr(submitit.core.utils.JobPaths, "move_temporary_file", killed)
    assert place.command() == 130
    assert len(list((place.directory / "slurm").glob("*_submitted.pkl"))) == 2
    monkeypatch.setattr(submitit.core.utils.JobPaths, "move_temporary_file", move)
    (place.slurm / "hold").unlink()
    began = time.monotonic()
    assert place.command() == 0
    assert time.monotonic() - began < 50  # a job waits for its program for a minute, and fails
    assert place.submissions() == 1
    assert place.counts() == [1, 1, 1, 1]


def test_warnings_of_submitit_do_not_reach_the_terminal() -> None:
    """In a process of its own, where nothing has imported submitit before."""
    pytest.importorskip("submitit")
    program = "import logging; from research.sweep import slurm; slurm.quiet_submitit()"
    program += "; logging.getLogger('submitit').warning('Bypassing sacct error')"
    printed = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert printed.stdout + printed.stderr == ""


@pytest.mark.slow
def test_while_squeue_does_not_answer_nothing_is_submitted_twice(place: Place) -> None:
    (place.slurm / "hold").touch()
    (place.slurm / "down").touch()
    time_passes = when(place.states, lambda: (time.sleep(2), [(place.slurm / n).unlink() for n in ("hold", "down")]))
    assert place.command() == 0
    time_passes.join()
    assert place.submissions() == 1
    assert place.counts() == [1, 1, 1, 1]


@pytest.mark.slow
@pytest.mark.parametrize(("state", "tries"), [("OUT_OF_MEMORY", 3), ("NODE_FAIL", 5)])
def test_what_was_lost_is_submitted_again(place: Place, state: str, tries: int) -> None:
    """Killed with all that could have asked for another turn; only what is not the variant's fault is not counted."""
    place.ends(["save"] * 4 + [0], [0], [0], [0])

    def lose() -> None:
        for count in range(1, min(tries, 4) + 1):
            until(lambda count=count: len(place.starts(NAMES[0])) == count)
            job = next(job for job, facts in fake_slurm.jobs(place.slurm).items() if facts["state"] == "RUNNING")
            (place.slurm / f"{job}.ends").write_text(state)
            fake_slurm.send(job, signal.SIGKILL, place.slurm)

    losing = when(lambda: True, lose)
    assert place.command() == (1 if tries == 3 else 0)
    losing.join()
    assert place.counts() == [tries, 1, 1, 1]


@pytest.mark.slow
def test_what_left_the_queue_without_a_word_is_waited_for(place: Place) -> None:
    """What it wrote may not be seen here yet."""
    file = str(place.folder / "experiment.py")
    base = load.open_experiment(file).config
    found = variants(base, load.open_experiment(file).sweep)
    made = slurm.ClusterSweep(file, base, found, place.directory, slurm.directives(None, None, None, None, []))
    run = made.runs[0]
    made.jobs, run.tries, run.state = {run.variant.name: "5_0"}, 1, "running"
    with made.held():
        made._update(run, {})
        assert run.state == "running"
        time.sleep(slurm.SETTLE)
        made._update(run, {})
        assert run.state == slurm.RETRY


@pytest.mark.slow
def test_what_ends_while_nobody_watches_is_told_to_who_comes_back(place: Place, capsys) -> None:
    place.ends(["save", 44], [0], [0], ["save", 0])
    leaving = when(lambda: place.counts() == [1, 1, 1, 1], ctrl_c)
    assert place.command() == 1
    leaving.join()
    for task in (0, 3):
        fake_slurm.send(f"7_{task}", signal.SIGUSR2, place.slurm)
    until(lambda: not {"PENDING", "RUNNING"} & set(place.states()))
    capsys.readouterr()
    assert place.command() == 1
    assert f"{NAMES[0]}  0/6  nll -    diverged" in capsys.readouterr().out
    assert place.submissions() == 1


@pytest.mark.slow
def test_here_nothing_is_trained_that_is_a_job_there(place: Place, capsys) -> None:
    place.ends(*[["save", 0]] * 4)
    leaving = when(lambda: all(place.counts()), ctrl_c)
    assert place.command() == 1
    leaving.join()
    capsys.readouterr()
    here = [str(place.folder / "experiment.py"), "--dir", str(place.directory)]
    assert script.main(here) == 2
    assert "has variants in SLURM's queue: add --slurm to watch them" in capsys.readouterr().err


@pytest.mark.slow
def test_what_sbatch_refuses_is_reported(place: Place, capsys) -> None:
    assert place.command("--partition", "nowhere") == 2
    assert "sbatch rejected the jobs: sbatch: error: invalid partition specified: nowhere." in capsys.readouterr().err
    assert place.command() == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--slurm", "--time", "soon"], "--time is soon: it must be minutes, hours:minutes:seconds or days-hours"),
        (["--slurm", "--gpus", "-1"], "--gpus is -1: it must be above 0"),
        (["--slurm", "--slurm_option", "array=1-3"], "--slurm_option array=1-3: the sweep itself sets array"),
        (["--slurm", "--slurm_option=--job-name=a"], "the sweep itself sets --job-name"),
        (["--slurm", "--slurm_option", "=3"], "--slurm_option =3: it must be KEY=VALUE, such as qos=long"),
        (["--partition", "gpu"], "--partition is for jobs of a cluster: add --slurm"),
        (["--slurm", "--trials", "3"], "--trials and --slurm: a search asks for its trials one after another, here"),
    ],
)
def test_options_refused(tmp_path: Path, arguments: list[str], said: str, capsys) -> None:
    Place(tmp_path)
    assert script.main([str(tmp_path / "experiment.py"), "--dir", str(tmp_path / "sweep"), *arguments]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "sweep").exists()


def test_without_submitit_one_sentence_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr(slurm.importlib.util, "find_spec", lambda name: None)
    assert Place(tmp_path).command() == 2
    needed = "error: --slurm needs submitit: pip install 'kintsugi[slurm]'.\n"
    assert capsys.readouterr().err == needed


def test_away_from_a_cluster_one_sentence_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    pytest.importorskip("submitit")
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent))
    assert Place(tmp_path).command() == 2
    assert (
        "--slurm needs sbatch, squeue, srun on the PATH: run it on a machine that submits jobs"
        in capsys.readouterr().err
    )


def test_what_slurm_writes_of_its_queue_is_reported() -> None:
    assert slurm.QueueEntry("PENDING", "Priority", "a").label() == "queued (Priority)"
    assert slurm.QueueEntry("PENDING", "None", "a").label() == "queued"
    assert slurm.QueueEntry("COMPLETING", "None", "a").label() == "completing"


# --- Real training ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_out_of_time_and_back_it_ends_as_if_nothing_had_happened(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("submitit")
    (tmp_path / "slurm").mkdir()
    programs = fake_slurm.install(tmp_path / "programs")
    variables = {"PATH": f"{programs}:{os.environ['PATH']}", "FAKE_SLURM": str(tmp_path / "slurm")}
    file = folder / "clustered.py"
    file.write_text((folder / "experiment.py").read_text() + "\n\ndef sweep():\n    return seeds(1)\n")
    where = folder / "clustered"
    command = [sys.executable, "-m", "scripts.sweep", str(file), "--dir", str(where), "--slurm"]
    watching = subprocess.Popen(command, cwd=ROOT, env=environment(folder) | variables)
    metrics = where / "base" / "metrics.jsonl"
    while not metrics.exists() or not metrics.read_text():
        assert watching.poll() is None
        time.sleep(0.01)
    fake_slurm.send("7", signal.SIGUSR2, tmp_path / "slurm")
    assert watching.wait(timeout=300) == 0
    assert len((where / "base" / "history.jsonl").read_text().splitlines()) == 2
    whole, again = (
        [json.loads(line)["loss"] for line in (path / "metrics.jsonl").read_text().splitlines() if '"loss"' in line]
        for path in (folder / "whole", where / "base")
    )
    assert whole == again
