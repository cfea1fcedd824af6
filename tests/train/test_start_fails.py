"""A start that fails, at any stage, names the checkpoint that is complete; the next one continues from it."""

import errno
import json
import shutil
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_run as tiny

from research import Checkpoint, Evaluation, Experiment
from research.config import ConfigError
from research.storage import stop
from research.storage.checkpoint import Checkpoints
from research.storage.manifest import steps_on_disk, verify
from research.storage.progress import Progress
from research.train import loop
from research.train.loop import train
from research.train.step import EachShape

STAGES = {
    "the config is written": "research.storage.run_directory.write_json",
    "the history is written": "research.storage.run_directory.append_lines",
    "the checkpoints are opened": "research.train.loop.Checkpoints",
    "the data are prepared": "research.train.loop.prepare_data",
    "the steps are compiled": "research.train.loop.Run",
    "the tokenizer is saved": "research.data.tokenizer.bytes.ByteTokenizer.save",
    "the summary is written": "research.train.loop.write_json",
    "the state is restored": "research.storage.checkpoint.Checkpoints.restore",
    "the metrics are cut": "research.train.log.keep_lines",
    "the first rows are read": "research.train.loop.place_batch",
    "the metrics are written": "research.train.log.append_lines",
}


@pytest.fixture
def run(tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of a whole run. Its steps are compiled once, though it is started again and again."""
    monkeypatch.setenv("KINTSUGI_CACHE", str(tiny_run.parent / "cache"))
    compiled: dict[Any, EachShape] = {}

    def once(compiling: partial, shapes: Any) -> EachShape:
        return compiled.setdefault(compiling.func, EachShape(compiling, shapes))

    monkeypatch.setattr("research.train.run.EachShape", once)
    shutil.copytree(tiny_run, tmp_path / "run")
    return tmp_path / "run"


def ended(config: Experiment, run: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Train; return the exit code and what is said last."""
    try:
        return train(config, run), " ".join(capsys.readouterr().out.split())
    except ConfigError as error:
        return 2, str(error)


@pytest.mark.slow
def test_a_full_disk_at_any_stage_of_a_resume_names_the_checkpoint(
    run: Path, tiny_run: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    def no_space(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    config = tiny.experiment(tiny_run.parent, steps=3)
    for stage, name in STAGES.items():
        with monkeypatch.context() as patch:
            patch.setattr(name, no_space)
            code, said = ended(config, run, capsys)
        assert code == (2 if name.startswith("research.storage.run_directory") else 1), stage
        assert "No space left on device" in said, stage
        assert "the checkpoint of step 2 is complete" in said, stage
        result = json.loads((run / "RESULT.json").read_text())
        assert result["step"] == (3 if stage == "the metrics are written" else 2), stage
        assert verify(run / "checkpoints" / "2") == "", stage
    (run / "launch.json").unlink()
    (run / "launch.json").mkdir()
    code, said = ended(config, run, capsys)
    (run / "launch.json").rmdir()
    assert code == 1
    assert "stopped at step 2: [Errno 21] Is a directory" in said
    assert "the checkpoint of step 2 is complete" in said
    assert train(config, run) == 0
    assert json.loads((run / "RESULT.json").read_text())["step"] == 3


@pytest.mark.slow
def test_a_request_in_preparation_ends_it_at_once_and_nothing_is_lost(
    run: Path, tiny_run: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    """The request is only noted here: a signal would reach JAX too, and end whatever trains next in this process."""
    config = tiny.experiment(tiny_run.parent, steps=3)
    for work in (endless_work, lambda: stop.interruptible(lambda: time.sleep(30))):

        def requested(*_: Any, work: Any = work) -> None:
            stop._requests.received = True
            work()

        with monkeypatch.context() as patch:
            patch.setattr(loop, "prepare_data", requested)
            began = time.monotonic()
            code, said = ended(config, run, capsys)
        assert code == 42
        assert time.monotonic() - began < 20
        assert "Stopped before a step was made; the checkpoint of step 2 is complete: repeat" in said
        result = json.loads((run / "RESULT.json").read_text())
        assert result["status"] == "done"  # at step 2, as before
    assert train(config, run) == 0


def endless_work() -> None:
    with Progress("Reading", 10**9, "documents") as progress:
        for _ in range(10**9):
            time.sleep(0.01)
            progress.advance()


@pytest.mark.slow
def test_a_request_in_an_evaluation_ends_it_between_batches_and_the_next_start_makes_it(
    run: Path, tiny_run: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    """The best is then among what was saved before it was evaluated, and is kept."""
    uninterrupted = Evaluation(every=1, rows=16, samples=1)
    config = tiny.experiment(tiny_run.parent, steps=5, evaluation=uninterrupted, checkpoint=Checkpoint(keep=1))
    shutil.copytree(run, run.parent / "calm")
    assert train(config, run.parent / "calm") == 0
    asked = []

    def reached() -> bool:
        """The points are step 3, between its held-out batches, step 4, and between its, where the request comes."""
        asked.append(len(asked))
        return len(asked) == 4

    with monkeypatch.context() as patch:
        patch.setattr(stop, "reached", reached)
        assert train(config, run) == 42
    result = json.loads((run / "RESULT.json").read_text())
    assert (result["status"], result["step"]) == ("preempted", 4)
    assert [line["step"] for line in lines(run) if "held_out_loss" in line] == [1, 2, 3]
    assert train(config, run) == 0
    assert lines(run) == lines(run.parent / "calm")
    assert (run / "samples.jsonl").read_text() == (run.parent / "calm" / "samples.jsonl").read_text()


def lines(run: Path) -> list[dict[str, Any]]:
    read = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [{name: line[name] for name in line if "second" not in name} for line in read]


def test_a_checkpoint_that_becomes_the_best_after_its_save_is_kept(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "c", Checkpoint(keep=1))
    for step in (1, 2, 3):
        checkpoints.save(step, new_state(float(step)), {"config": {}}, {})
        checkpoints.wait()
        checkpoints.protected = 2
    checkpoints.close()
    assert steps_on_disk(tmp_path / "c") == [3, 2]


def new_state(value: float) -> dict[str, Any]:
    return {"x": np.full(2, value, np.float32)}
