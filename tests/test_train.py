"""Nothing is lost: real processes are killed, stopped, starved of disk and fed damaged checkpoints.

Every process runs the same small experiment; whatever happens to it, the losses and final parameters must equal, bit
for bit, those of a run that nothing happened to.
"""

import contextlib
import json
import os
import random
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import orbax.checkpoint as ocp
import pytest

from research.checkpoint import verify
from research.config import TrainedSentencePiece
from research.data.tokenizer import train_sentencepiece
from research.sharding import flatten
from scripts import evaluate, train

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[1]
STEPS = 24
UNFINISHED = "*.orbax-checkpoint-tmp*"
EXPERIMENT = """
from research.config import *

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


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An experiment file, its text, and an uninterrupted run of it."""
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
    command = [sys.executable, "-m", "scripts.train", str(folder / "experiment.py"), "--run_dir", str(folder / name)]
    with open(folder / f"{name}.log", "ab") as log:
        options = {"cwd": ROOT, "env": environment(folder), "stdout": log, "stderr": subprocess.STDOUT} | options
        return subprocess.Popen([*command, *arguments], **options)


def environment(folder: Path, devices: int = 1) -> dict[str, str]:
    """Most of a small run is compiling, so what is compiled is kept."""
    return os.environ | {
        "KINTSUGI_CACHE": str(folder / "cache"),
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
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


def final_arrays(folder: Path, name: str) -> dict[str, np.ndarray]:
    directory = folder / name / "checkpoints" / str(STEPS)
    assert verify(directory) == ""
    with ocp.PyTreeCheckpointer() as checkpointer:
        tree = checkpointer.restore(directory / "state")
    return {path: np.asarray(leaf) for path, leaf in flatten(tree).items()}


def assert_as_if_nothing_had_happened(folder: Path, name: str) -> None:
    assert metrics(folder, name) == metrics(folder, "whole")
    expected, found = final_arrays(folder, "whole"), final_arrays(folder, name)
    assert expected.keys() == found.keys()
    for path, leaf in expected.items():
        np.testing.assert_array_equal(found[path], leaf, err_msg=path, strict=True)
    assert json.loads((folder / name / "RESULT.json").read_text())["status"] == "done"


def until(process: subprocess.Popen, happened: Callable[[], bool]) -> None:
    while not happened():
        assert process.poll() is None, "the run ended before what the test waits for"
        time.sleep(0.002)


def test_the_run_learns_and_its_directory_tells_all(folder: Path) -> None:
    lines = metrics(folder, "whole")
    assert [line["step"] for line in lines if "loss" in line] == list(range(1, STEPS + 1))
    losses = [line["held_out_loss"] for line in lines if "held_out_loss" in line]
    assert len(losses) == STEPS // 8
    assert losses[-1] < losses[0]
    names = {path.name for path in (folder / "whole").iterdir()}
    assert names >= {
        "config.json",
        "diff.json",
        "history.jsonl",
        "RESULT.json",
        "loss.png",
        "samples.jsonl",
        "tensorboard",
    }
    result = json.loads((folder / "whole" / "RESULT.json").read_text())
    assert (result["status"], result["exit_code"], result["step"]) == ("done", 0, STEPS)


def test_killed_at_random_steps_and_during_a_save(folder: Path) -> None:
    checkpoints = folder / "killed" / "checkpoints"
    for kill_after in random.sample(range(2, 8), 2):
        print("kill", kill_after, "steps on")
        began = began_at(folder, "killed")
        process = start(folder, "killed")
        wanted = began + kill_after
        until(process, lambda wanted=wanted: newest_step(folder, "killed") >= wanted and newest_save(checkpoints) > 0)
        process.kill()
        assert process.wait() == -signal.SIGKILL
    for attempt in range(20):
        shutil.copytree(folder / "killed", folder / "before", dirs_exist_ok=attempt > 0)
        for unfinished in checkpoints.glob(UNFINISHED):
            shutil.rmtree(unfinished)
        process = start(folder, "killed")
        until(process, lambda: any(checkpoints.glob(UNFINISHED)))
        process.kill()
        process.wait()
        if any(checkpoints.glob(UNFINISHED)):
            break  # else the save was over before the kill: try again from where it began
        shutil.rmtree(folder / "killed")
        shutil.move(folder / "before", folder / "killed")
    else:
        raise AssertionError("no kill hit a save")
    assert json.loads((folder / "killed" / "RESULT.json").read_text())["status"] == "running"
    assert run(folder, "killed") == 0
    assert len((folder / "killed" / "history.jsonl").read_text().splitlines()) >= 4
    assert log(folder, "killed").count("Going on from the checkpoint of step") >= 2
    assert_as_if_nothing_had_happened(folder, "killed")


def names(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()} if directory.is_dir() else set()


def newest_save(checkpoints: Path) -> int:
    return max((int(name) for name in names(checkpoints) if name.isdigit()), default=0)


def newest_step(folder: Path, name: str) -> int:
    return max((line["step"] for line in metrics(folder, name)), default=0)


def began_at(folder: Path, name: str) -> int:
    """The step that the next start goes on from; the lines of later ones are dropped, so that what follows is new."""
    step = newest_save(folder / name / "checkpoints")
    path = folder / name / "metrics.jsonl"
    if path.exists():
        path.write_text("".join(json.dumps(line) + "\n" for line in metrics(folder, name) if line["step"] <= step))
    return step


def test_sigterm_saves_and_exits_with_42(folder: Path) -> None:
    process = start(folder, "preempted")
    # JAX looks for the signal once a second, and all the steps may take less: it is sent while the step is compiled.
    until(process, lambda: (folder / "preempted" / "RUN.lock").exists())
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=120) == 42, log(folder, "preempted")
    result = json.loads((folder / "preempted" / "RESULT.json").read_text())
    assert (result["status"], result["exit_code"]) == ("preempted", 42)
    assert verify(folder / "preempted" / "checkpoints" / str(result["step"])) == ""
    assert run(folder, "preempted") == 0
    assert f"Going on from the checkpoint of step {result['step']}." in log(folder, "preempted")
    assert_as_if_nothing_had_happened(folder, "preempted")


def test_a_damaged_newest_checkpoint_is_set_aside_and_the_one_before_taken(folder: Path) -> None:
    shutil.copytree(folder / "whole", folder / "damaged")
    checkpoints = folder / "damaged" / "checkpoints"
    biggest = max((checkpoints / str(STEPS) / "state").rglob("*"), key=lambda path: path.stat().st_size)
    content = bytearray(biggest.read_bytes())
    content[len(content) // 2] ^= 4
    biggest.write_bytes(content)
    assert run(folder, "damaged") == 0
    assert f"Checkpoint {STEPS} does not verify" in log(folder, "damaged")
    assert f"Going on from the checkpoint of step {STEPS - 4}." in log(folder, "damaged")
    assert (folder / "damaged" / "set_aside" / str(STEPS)).is_dir()
    assert_as_if_nothing_had_happened(folder, "damaged")


def test_complete_says_so_and_more_steps_go_on(folder: Path) -> None:
    shutil.copytree(folder / "whole", folder / "longer")
    assert run(folder, "longer") == 0
    assert f"is complete at step {STEPS}" in log(folder, "longer")
    assert run(folder, "longer", f"--config.steps={STEPS + 8}") == 0
    assert [line["step"] for line in metrics(folder, "longer") if "loss" in line] == list(range(1, STEPS + 9))
    assert metrics(folder, "longer")[: len(metrics(folder, "whole"))] == metrics(folder, "whole")


def test_killed_after_the_last_save_the_run_is_still_concluded(folder: Path) -> None:
    shutil.copytree(folder / "whole", folder / "unsaid")
    expected = json.loads((folder / "whole" / "RESULT.json").read_text())
    (folder / "unsaid" / "RESULT.json").write_text(json.dumps(expected | {"status": "running"}))
    (folder / "unsaid" / "samples.jsonl").unlink()
    assert run(folder, "unsaid") == 0
    result = json.loads((folder / "unsaid" / "RESULT.json").read_text())
    assert result | {"time": 0} == expected | {"time": 0}
    assert (folder / "unsaid" / "samples.jsonl").read_text() == (folder / "whole" / "samples.jsonl").read_text()


def test_a_killed_run_stops_when_its_patience_is_at_an_end_and_stays_so(folder: Path) -> None:
    """Nothing is learned, so the first evaluation stays the best; a kill in between changes neither count nor end."""
    nothing = "--config.optimizer=AdamW(schedule=Constant(peak=0.0, warmup=0))"
    every = ["--config.evaluation.every=1", "--config.checkpoint.every=3", "--config.checkpoint.keep=1"]
    arguments = [nothing, *every, "--config.steps=1000", "--config.evaluation.patience=14"]
    checkpoints = folder / "patient" / "checkpoints"
    process = start(folder, "patient", *arguments)
    until(process, lambda: newest_save(checkpoints) >= 3)
    process.kill()
    process.wait()
    assert run(folder, "patient", *arguments) == 0
    lines = metrics(folder, "patient")
    assert [line["step"] for line in lines if "held_out_loss" in line] == list(range(1, 16))
    result = json.loads((folder / "patient" / "RESULT.json").read_text())
    best = lines[1]["held_out_loss"]
    assert result["best"] == {"held_out_loss": best, "step": 1}
    said = f"stopped at step 15 of 1000, since no evaluation of the last 14 was better than held_out_loss {best:.4g}"
    assert (result["status"], result["exit_code"], result["reason"]) == ("done", 0, f"{said} of step 1")
    assert names(checkpoints) == {"1", "15"}
    assert run(folder, "patient", *arguments) == 0
    assert said in log(folder, "patient").splitlines()[-1]
    assert metrics(folder, "patient") == lines
    assert run(folder, "patient", *arguments[:-1], "--config.evaluation.patience=16") == 0
    assert metrics(folder, "patient")[-1]["step"] == 17
    assert metrics(folder, "patient")[: len(lines)] == lines


def test_the_best_by_another_number_is_kept(folder: Path) -> None:
    by = ["--config.evaluation.best=held_out_accuracy", "--config.evaluation.every=2", "--config.checkpoint.keep=1"]
    assert run(folder, "accurate", *by) == 0
    scores = {line["step"]: line["held_out_accuracy"] for line in metrics(folder, "accurate") if len(line) == 3}
    best = max(scores, key=lambda step: (scores[step], -step))
    assert names(folder / "accurate" / "checkpoints") == {str(best), str(STEPS)}
    assert f"checkpoints/{best}, by held_out_accuracy {scores[best]:.4g}" in log(folder, "accurate")


TASKS = """
from research.config import *

def get_config():
    return Experiment(
        model=Model(400, 32, 2, 16, 64, 1, 1, compute="float32"),
        data=Supervised(
            (TextToText(examples=TSVExamples("{folder}/train.tsv", "{folder}/held_out.tsv"), prefix="say: ",
                        metrics=(ChrF(), ROUGE(), Accuracy())),),
            Bytes(), input_length=32, target_length=8,
        ),
        optimizer=AdamW(schedule=Constant(peak=1e-2, warmup=0)),
        steps=12,
        batch_size=4,
        evaluation=Evaluation(every=4, rows=1000, samples=2, generation=Generation(method=Beam(2), max_length=8),
                              examples=13, best="chrf"),
        checkpoint=Checkpoint(every=4, keep=1),
        report=Report(every=1),
    )
"""


@pytest.fixture(scope="module")
def tasks(folder: Path) -> Path:
    """A folder of an experiment of one task, and a run of it."""
    inside = folder / "tasks"
    inside.mkdir()
    draw = random.Random(1)
    for name, count in (("train", 300), ("held_out", 21)):
        words = [draw.choice(["fee", "fie", "foe", "fum", "englishman"]) for _ in range(count)]
        (inside / f"{name}.tsv").write_text(
            "".join(f"{word} {n} words that are long\t{word}\n" for n, word in enumerate(words))
        )
    (inside / "experiment.py").write_text(TASKS.format(folder=inside))
    assert run(inside, "whole") == 0, log(inside, "whole")
    return inside


def test_tasks_are_written_and_scored_at_every_evaluation(tasks: Path) -> None:
    lines = [line for line in metrics(tasks, "whole") if "held_out_loss" in line]
    names_of_scores = {"chrf", "rouge1", "rouge2", "rougeL", "rougeLsum", "sequence_accuracy"}
    assert [line.keys() - {"step"} for line in lines] == [names_of_scores | {"held_out_loss", "held_out_accuracy"}] * 3
    assert max(line["chrf"] for line in lines) > 0
    result = json.loads((tasks / "whole" / "RESULT.json").read_text())
    assert {name: result[name] for name in names_of_scores} == {name: lines[-1][name] for name in names_of_scores}
    best = max(lines, key=lambda line: (line["chrf"], -line["step"]))
    assert result["best"] == {"chrf": best["chrf"], "step": best["step"]}
    assert names(tasks / "whole" / "checkpoints") == {str(best["step"]), "12"}
    held_out = [line.split("\t") for line in (tasks / "held_out.tsv").read_text().splitlines()]
    samples = [json.loads(line) for line in (tasks / "whole" / "samples.jsonl").read_text().splitlines()]
    assert [(row["source"], row["reference"]) for row in samples] == [(f"say: {a}", b) for a, b in held_out[:2]]


def test_what_a_run_said_of_itself_is_what_scripts_evaluate_says(tasks: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of one, so that the last batch is whole, and every held-out example in the loss."""
    assert run(tasks, "single", "--config.batch_size=1", "--config.steps=5") == 0, log(tasks, "single")
    monkeypatch.setenv("KINTSUGI_CACHE", str(tasks / "cache"))
    for output, count in (("all", 21), ("some", 13)):
        arguments = ["--split=held_out", f"--output={tasks / output}", f"--examples={count}"]
        assert evaluate.main([str(tasks / "single"), *arguments]) == 0
    every, some = (json.loads((tasks / name / "scores.json").read_text()) for name in ("all", "some"))
    (every,), (some,) = every["results"].values(), some["results"].values()
    said = json.loads((tasks / "single" / "RESULT.json").read_text())
    assert every["loss"] == pytest.approx(said["held_out_loss"], rel=1e-5)
    assert some["scores"] == {name: pytest.approx(said[name]) for name in some["scores"]}
    rows = [json.loads(line) for line in (tasks / "some" / "predictions.jsonl").read_text().splitlines()]
    samples = [json.loads(line) for line in (tasks / "single" / "samples.jsonl").read_text().splitlines()]
    assert [row["prediction"] for row in rows[:2]] == [row["written"] for row in samples]


def test_two_hosts_write_and_score_the_same(tasks: Path) -> None:
    hosts = [start(tasks, "hosts", "--config.mesh.fsdp=2", env=env) for env in two_hosts(tasks)]
    assert [host.wait(timeout=300) for host in hosts] == [0, 0], log(tasks, "hosts")
    for expected, found in zip(metrics(tasks, "whole"), metrics(tasks, "hosts"), strict=True):
        assert found == {name: pytest.approx(value, rel=1e-4, abs=1e-6) for name, value in expected.items()}
    written = [(tasks / name / "samples.jsonl").read_text() for name in ("whole", "hosts")]
    assert written[0] == written[1]


def test_a_run_of_tasks_that_writes_none_shows_some_at_its_end(tasks: Path) -> None:
    arguments = ["--config.evaluation.generation=None", "--config.evaluation.best=held_out_loss"]
    assert run(tasks, "silent", *arguments, "--config.steps=4") == 0, log(tasks, "silent")
    assert len((tasks / "silent" / "samples.jsonl").read_text().splitlines()) == 2
    assert "chrf" not in (tasks / "silent" / "metrics.jsonl").read_text()


def two_hosts(folder: Path) -> list[dict[str, str]]:
    """The environments of two processes of two devices each, as SLURM would start them."""
    job = str(free_port() - 61_440)
    return [
        environment(folder, devices=2)
        | {"SLURM_JOB_ID": job, "SLURM_STEP_NODELIST": "localhost", "SLURM_NTASKS": "2"}
        | {"SLURM_PROCID": host, "SLURM_LOCALID": host, "JAX_CPU_COLLECTIVES_IMPLEMENTATION": "gloo"}
        for host in "01"
    ]


def test_a_relative_run_directory_is_as_good(folder: Path) -> None:
    arguments = ["-m", "scripts.train", "experiment.py", "--run_dir", "runs/relative", "--config.steps=2"]
    path = {"PYTHONPATH": str(ROOT)}
    assert subprocess.run([sys.executable, *arguments], cwd=folder, env=environment(folder) | path).returncode == 0
    assert verify(folder / "runs" / "relative" / "checkpoints" / "2") == ""


def test_other_devices_go_on_to_within_rounding(folder: Path) -> None:
    shutil.copytree(folder / "whole", folder / "moved")
    for step in (STEPS, STEPS - 4):
        assert (folder / "moved" / "checkpoints" / str(step)).is_dir()
    shutil.rmtree(folder / "moved" / "checkpoints" / str(STEPS))
    arguments = ["--config.mesh.fsdp=2", "--config.mesh.tensor=2"]
    assert run(folder, "moved", *arguments, env=environment(folder, devices=4)) == 0
    assert_close_to_whole(folder, "moved")


def test_two_hosts_stop_together_and_one_goes_on_to_within_rounding(folder: Path) -> None:
    """The signal reaches the second alone."""
    environments = two_hosts(folder)
    hosts = [start(folder, "hosts", "--config.mesh.fsdp=2", env=env) for env in environments]
    try:
        until(hosts[0], lambda: (folder / "hosts" / "RUN.lock").exists())  # and both hosts have found each other
        hosts[1].send_signal(signal.SIGTERM)
        assert [host.wait(timeout=200) for host in hosts] == [42, 42], log(folder, "hosts")
    finally:
        for host in hosts:
            host.kill()
    assert run(folder, "hosts") == 0
    assert_close_to_whole(folder, "hosts")


def test_an_axis_that_crosses_hosts_gives_the_same_losses(folder: Path) -> None:
    """Both hosts then hold all the rows of a batch."""
    wide = ["--config.model.heads=4", "--config.model.head_width=4", "--config.steps=3"]
    mesh = ["--config.mesh.data=1", "--config.mesh.tensor=4"]
    hosts = [start(folder, "crossed", *mesh, *wide, env=env) for env in two_hosts(folder)]
    assert [host.wait(timeout=200) for host in hosts] == [0, 0], log(folder, "crossed")
    assert run(folder, "alone", *wide) == 0
    crossed, alone = (metrics(folder, name)[-1]["held_out_loss"] for name in ("crossed", "alone"))
    np.testing.assert_allclose(crossed, alone, rtol=1e-5)


def test_hosts_that_are_named_meet_and_those_that_disagree_are_told_so(folder: Path) -> None:
    port = free_port()

    def named(host: int) -> list[str]:
        return ["--coordinator", f"127.0.0.1:{port}", "--num_hosts", "2", "--host_id", str(host)]

    together = {"env": environment(folder) | {"JAX_CPU_COLLECTIVES_IMPLEMENTATION": "gloo"}}
    hosts = [start(folder, "disagree", *named(host), f"--config.seed={host}", **together) for host in range(2)]
    assert [host.wait(timeout=200) for host in hosts] == [2, 2], log(folder, "disagree")
    assert "error: Hosts disagree about the experiment: host 1 differs from host 0." in log(folder, "disagree")
    assert not (folder / "disagree").exists()


def test_hosts_that_do_not_meet_say_so(folder: Path) -> None:
    code = (
        "from research.sharding import Cluster, initialize_hosts; initialize_hosts(Cluster('127.0.0.1:{}', 2, {}), 2)"
    )
    for host in range(2):
        alone = [sys.executable, "-c", code.format(free_port(), host)]
        ended = subprocess.run(alone, cwd=ROOT, env=environment(folder), capture_output=True, text=True, timeout=100)
        assert ended.returncode == 2
        assert ended.stderr.splitlines()[-1].startswith("error: 2 hosts did not meet at 127.0.0.1:")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--num_hosts", "2"], "--coordinator, --num_hosts and --host_id belong together"),
        (
            ["--coordinator", "here:1", "--num_hosts", "2", "--host_id", "2"],
            "--host_id is 2: of 2 hosts they are 0 to 1.",
        ),
        (
            ["--coordinator", "here", "--num_hosts", "2", "--host_id", "0"],
            "--coordinator is here: it must be address:port",
        ),
    ],
)
def test_half_a_cluster_is_refused(folder: Path, arguments: list[str], said: str, capsys) -> None:
    assert train.main([str(folder / "experiment.py"), "--run_dir", str(folder / "half"), *arguments]) == 2
    assert said in capsys.readouterr().err


def free_port() -> int:
    """One of those among which JAX picks a SLURM job's, by its number."""
    for port in random.sample(range(61_440, 65_536), 100):
        with socket.socket() as tried, contextlib.suppress(OSError):
            tried.bind(("localhost", port))
            return port
    raise AssertionError("no port is free")


def assert_close_to_whole(folder: Path, name: str) -> None:
    for expected, found in zip(metrics(folder, "whole"), metrics(folder, name), strict=True):
        for key in expected:
            assert found[key] == pytest.approx(expected[key], rel=1e-5), (expected["step"], key)


def test_another_experiment_in_the_directory_is_refused_by_its_fields(folder: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in (folder / "whole").rglob("*") if path.name != "RUN.lock"}
    changes = {"batch_size": (8, 16), "seed": (0, 1), "model.width": (16, 32), "optimizer.schedule.peak": (0.01, 0.5)}
    arguments = [f"--config.{name}={now}" for name, (_, now) in changes.items()]
    assert run(folder, "whole", *arguments, f"--config.steps={STEPS + 1}") == 2
    last = log(folder, "whole").splitlines()[-1]
    assert all(f"{name} was {was} and is now {now}" in last for name, (was, now) in changes.items())
    assert before == {path: path.stat().st_mtime_ns for path in before}


def test_changed_text_under_the_same_name_is_refused(folder: Path) -> None:
    shutil.copytree(folder / "whole", folder / "retold")
    original = (folder / "train.txt").read_text()
    try:
        (folder / "train.txt").write_text(original + "\n\none more document, of some length\n")
        assert run(folder, "retold", f"--config.steps={STEPS + 1}") == 2
    finally:
        (folder / "train.txt").write_text(original)
    assert "data.corpora was" in log(folder, "retold").splitlines()[-1]


def test_another_tokenizer_of_the_same_size_is_refused(folder: Path) -> None:
    models = [str(folder / f"{name}.model") for name in ("a", "b")]
    for model, text in zip(models, ("train", "held_out"), strict=True):
        train_sentencepiece([(folder / f"{text}.txt").read_text()], TrainedSentencePiece(pieces=330), model)
    shutil.copy(models[0], folder / "tokenizer.model")
    arguments = [f'--config.data.tokenizer=SentencePiece("{folder}/tokenizer.model")', "--config.steps=1"]
    assert run(folder, "renamed", *arguments) == 0, log(folder, "renamed")
    shutil.copy(models[1], folder / "tokenizer.model")
    assert run(folder, "renamed", *arguments[:1], "--config.steps=4") == 2
    assert "data.tokenizer was" in log(folder, "renamed").splitlines()[-1]


def test_a_checkpoint_of_another_model_is_refused_by_field(folder: Path) -> None:
    """Where it was put under a config.json that is not its own."""
    shutil.copytree(folder / "whole", folder / "grafted")
    config = folder / "grafted" / "config.json"
    config.write_text(config.read_text().replace('"width": 16', '"width": 32'))
    assert run(folder, "grafted", f"--config.steps={STEPS + 1}", "--config.model.width=32") == 2
    assert "model.width was 16 and is now 32" in log(folder, "grafted").splitlines()[-1]


def test_a_second_run_in_the_directory_is_refused(folder: Path) -> None:
    first = start(folder, "shared", "--config.steps=100000")
    until(first, lambda: len(metrics(folder, "shared")) > 0)
    assert run(folder, "shared", "--config.steps=100000") == 2
    assert f"is in use by process {first.pid} on" in log(folder, "shared")
    assert first.poll() is None
    first.kill()
    first.wait()


def test_a_full_disk_ends_the_run_at_once_and_keeps_the_last_good_checkpoint(folder: Path) -> None:
    result = starved(folder, "full", 100_000, "--config.checkpoint.every=50", "--config.evaluation.every=1000")
    assert_failed_at_once(result, folder / "full")


def test_a_disk_too_full_for_metrics_ends_the_run_too(folder: Path) -> None:
    result = starved(folder, "fuller", 20_000, "--config.checkpoint.every=1000", "--config.evaluation.every=1000")
    assert f"fuller stopped at step {result['step']}: [Errno 27] File too large; the checkpoint of" in result["reason"]
    assert STEPS < result["step"] < STEPS + 500
    assert verify(folder / "fuller" / "checkpoints" / str(STEPS)) == ""


def starved(folder: Path, name: str, limit: int, *arguments: str) -> dict:
    """RESULT.json of a run that goes on where a file may have `limit` bytes; it must end by itself and say why last."""
    shutil.copytree(folder / "whole", folder / name)
    process = start(folder, name, f"--config.steps={STEPS + 1000}", *arguments, stdout=subprocess.PIPE, text=True)
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (limit, limit))
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 1, said
    result = json.loads((folder / name / "RESULT.json").read_text())
    assert said.strip().splitlines()[-1] == result["reason"]
    return result


def test_a_directory_that_cannot_be_written_any_more_ends_the_run_at_once(folder: Path) -> None:
    shutil.copytree(folder / "whole", folder / "gone")
    checkpoints = folder / "gone" / "checkpoints"
    process = start(folder, "gone", f"--config.steps={STEPS + 100_000}", "--config.checkpoint.every=50")
    until(process, lambda: newest_step(folder, "gone") > STEPS)
    checkpoints.rename(folder / "gone" / "moved")
    checkpoints.touch()  # a file where the directory was: this binds root too, unlike permissions
    assert process.wait(timeout=120) == 1
    result = json.loads((folder / "gone" / "RESULT.json").read_text())
    assert log(folder, "gone").strip().splitlines()[-1] == result["reason"]
    checkpoints.unlink()
    (folder / "gone" / "moved").rename(checkpoints)
    assert re.search(r"The checkpoint of step \d+ could not be written: .*Not a directory", result["reason"])
    assert verify(checkpoints / str(STEPS)) == ""


def assert_failed_at_once(result: dict, directory: Path) -> None:
    """It stopped when the save had failed, long before the next was due, and left a whole checkpoint."""
    assert result["status"] == "failed"
    (failed,) = re.findall(r"The checkpoint of step (\d+) could not be written", result["reason"])
    (kept,) = re.findall(r"the checkpoint of step (\d+) is whole", result["reason"])
    assert int(kept) < int(failed) <= result["step"] < int(failed) + 40
    assert verify(directory / "checkpoints" / kept) == ""


def test_losses_that_stay_not_finite_stop_the_run_with_44(folder: Path) -> None:
    arguments = ["--config.optimizer=AdamW(schedule=Constant(peak=1e37, warmup=6))", "--config.checkpoint.every=1"]
    assert run(folder, "nan", *arguments) == 44, log(folder, "nan")
    result = json.loads((folder / "nan" / "RESULT.json").read_text())
    assert result["status"] == "not finite"
    assert "3 updates in a row were not finite" in result["reason"]
    # Nothing was saved over what stood before the first bad step, though a save was due at every step.
    (first,) = re.findall(r"the first at step (\d+)", result["reason"])
    assert f"go back to the checkpoint of step {int(first) - 1};" in result["reason"]
    assert verify(folder / "nan" / "checkpoints" / str(int(first) - 1)) == ""
    assert max(int(path.name) for path in (folder / "nan" / "checkpoints").iterdir()) == int(first) - 1
    assert [line["skipped"] for line in metrics(folder, "nan") if line["step"] >= int(first)] == [1, 1, 1]


def test_dry_run_writes_nothing(folder: Path) -> None:
    assert run(folder, "dry", "--dry_run") == 0
    assert "Launch" in log(folder, "dry")
    assert not (folder / "dry").exists()


def test_bad_input_is_one_sentence(
    folder: Path, tasks: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(folder, "bad", "--config.data.input_length=1") == 2
    assert log(folder, "bad").splitlines()[-1].startswith("error: data.input_length is 1")
    monkeypatch.setenv("KINTSUGI_CACHE", str(folder / "cache"))
    for arguments, said in (
        (["--config.model.vocab_size=100"], "model.vocab_size is 100: it must be at least the tokenizer's size"),
        (["--config.mesh.fsdp=3"], "mesh is data"),
        ([f"--config.data.corpora.0.train={folder}/absent.txt"], "absent.txt"),
        (["--stesp=3"], "--stesp=3 is not understood"),
        (["--config.evaluation.best=bleu"], "gives held_out_loss, held_out_accuracy."),
        (["--config.evaluation.generation=Generation()"], "evaluation.generation is for data of tasks"),
    ):
        assert train.main([str(folder / "experiment.py"), "--run_dir", str(folder / "bad"), *arguments]) == 2
        last = capsys.readouterr().err.splitlines()[-1]
        assert last.startswith("error: ")
        assert said in last
        assert not (folder / "bad" / "metrics.jsonl").exists()
    unwritten = [str(tasks / "experiment.py"), "--run_dir", str(tasks / "bad"), "--config.evaluation.generation=None"]
    assert train.main(unwritten) == 2
    assert "with evaluation.generation the metrics of the tasks too." in capsys.readouterr().err
