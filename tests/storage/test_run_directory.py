"""A run directory belongs to one process and one experiment."""

import dataclasses
import json
import multiprocessing
import types
from pathlib import Path

import pytest

from research import TFDS, Adafactor, Checkpoint, Denoising, Experiment, Model
from research.config import ConfigError
from research.config.load import ExperimentFile
from research.config.override import apply, from_json
from research.storage.run_directory import claim, commit, is_done, write_result

CONFIG = Experiment(
    model=Model(128, 16, 2, 8, 32, 2, 2),
    data=Denoising(corpora=(TFDS("python_docs"),)),
    optimizer=Adafactor(),
    steps=10,
    batch_size=8,
)


def begin(directory: Path, config: Experiment = CONFIG) -> None:
    module = types.ModuleType("mine")
    module.get_config = lambda size: CONFIG
    with claim(directory, config, ExperimentFile(Path("mine.py"), "base", module)):
        (directory / "metrics.jsonl").write_text('{"step": 1}\n')


def test_the_directory_tells_what_was_run(tmp_path: Path) -> None:
    run = tmp_path / "a" / "run"
    begin(run, dataclasses.replace(CONFIG, steps=20))
    assert from_json((run / "config.json").read_text()) == dataclasses.replace(CONFIG, steps=20)
    assert json.loads((run / "diff.json").read_text()) == {"steps": ["10", "20"]}
    (start,) = [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]
    assert start["packages"].keys() >= {"jax", "flax", "optax"}
    assert start["command"]
    assert start["experiment"] == "mine.py:base"
    assert start["commit"]


def test_without_git_the_commit_is_what_the_image_says(monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(commit().split("+")[0]) == 40
    monkeypatch.setenv("PATH", "/nowhere")
    assert commit() == "unknown"
    monkeypatch.setenv("KINTSUGI_COMMIT", "abc")
    assert commit() == "abc"


def test_a_second_process_is_refused(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    with claim(tmp_path / "run", CONFIG):
        held = context.Process(target=_expect_in_use, args=(tmp_path / "run",))
        held.start()
        held.join()
    assert held.exitcode == 0
    begin(tmp_path / "run")  # free again


def _expect_in_use(directory: Path) -> None:
    with pytest.raises(ConfigError, match=r"in use by process \d+ on"), claim(directory, CONFIG):
        pass


def test_another_experiment_is_refused_by_field(tmp_path: Path) -> None:
    begin(tmp_path / "run")
    before = (tmp_path / "run" / "config.json").read_text()
    other = apply(CONFIG, {"model.width": "32", "batch_size": "16", "steps": "99"})
    with pytest.raises(ConfigError) as error, claim(tmp_path / "run", other):
        pass
    assert "model.width was 16 and is now 32; batch_size was 8 and is now 16." in str(error.value)
    assert "steps" not in str(error.value)
    assert (tmp_path / "run" / "config.json").read_text() == before


def test_what_decides_no_number_may_change(tmp_path: Path) -> None:
    begin(tmp_path / "run")
    begin(tmp_path / "run", dataclasses.replace(CONFIG, steps=99, checkpoint=Checkpoint(every=7)))


def test_an_experiment_that_never_began_may_be_replaced(tmp_path: Path) -> None:
    with claim(tmp_path / "run", CONFIG):
        pass
    begin(tmp_path / "run", dataclasses.replace(CONFIG, batch_size=16))


def test_what_is_no_run_directory_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match="is not empty and holds no run"), claim(tmp_path, CONFIG):
        pass
    with pytest.raises(ConfigError, match="is a file"), claim(tmp_path / "notes.txt", CONFIG):
        pass
    with pytest.raises(ConfigError, match="cannot be written"), claim(tmp_path / "notes.txt" / "run", CONFIG):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_what_cannot_be_read_is_reported(tmp_path: Path) -> None:
    with (
        pytest.raises(ConfigError, match=r"cannot be written \(File name too long\)"),
        claim(tmp_path / ("x" * 300), CONFIG),
    ):
        pass
    begin(tmp_path / "run")
    (tmp_path / "run" / "config.json").write_text('{"model": ')
    with pytest.raises(ConfigError, match=r"config\.json is damaged"), claim(tmp_path / "run", CONFIG):
        pass
    (tmp_path / "RESULT.json").write_text("")
    with pytest.raises(ConfigError, match=r"RESULT\.json is damaged"):
        is_done(tmp_path, 7)


def test_dropout_ties_a_run_to_its_microbatches(tmp_path: Path) -> None:
    dropped = dataclasses.replace(CONFIG, model=dataclasses.replace(CONFIG.model, dropout=0.1))
    begin(tmp_path / "plain")
    begin(tmp_path / "plain", dataclasses.replace(CONFIG, microbatches=2))
    begin(tmp_path / "dropped", dropped)
    with (
        pytest.raises(ConfigError, match="microbatches was 1 and is now 2"),
        claim(tmp_path / "dropped", dataclasses.replace(dropped, microbatches=2)),
    ):
        pass


def test_result_says_how_it_ended(tmp_path: Path) -> None:
    assert write_result(tmp_path, "preempted", 7, "SIGTERM") == 42
    result = json.loads((tmp_path / "RESULT.json").read_text())
    assert (result["status"], result["exit_code"], result["step"], result["reason"]) == ("preempted", 42, 7, "SIGTERM")


EARLY = "stopped at step 5 of 10, since no evaluation of the last 2 was better than held_out_loss 4 of step 3"


@pytest.mark.parametrize(
    ("status", "step", "reason", "facts", "expected"),
    [
        ("done", 10, "reached step 10", {"stopped_early": False}, True),
        ("done", 5, "reached step 5", {"stopped_early": False}, False),  # steps was raised since
        ("done", 5, EARLY, {"stopped_early": True}, True),
        ("done", 5, "in other words", {"stopped_early": True}, True),
        ("done", 5, EARLY, {"stopped_early": False}, False),
        ("failed", 10, "x stopped at step 5: disk full", {}, False),
        ("preempted", 5, "", {}, False),
        ("running", 10, "", {"stopped_early": True}, False),
        # Written before there was the field:
        ("done", 10, "reached step 10", {}, True),
        ("done", 5, "reached step 5", {}, False),
        ("done", 5, EARLY, {}, True),
    ],
)
def test_a_run_is_done_at_its_last_step_or_out_of_patience(
    tmp_path: Path, status: str, step: int, reason: str, facts: dict[str, bool], expected: bool
) -> None:
    assert not is_done(tmp_path, 10)
    write_result(tmp_path, status, step, reason, **facts)
    assert is_done(tmp_path, 10) is expected
