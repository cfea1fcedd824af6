"""Trackers get all of a run's records, from their own processes, and never stop or delay the run."""

import json
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from tiny_run import experiment

from research import Logger, MLflow, Report, TensorBoard, Trackio, WandB
from research.config import ConfigError, override
from research.report.trackers import follow
from research.report.trackers.follow import Follower, read_end, tracked_run
from research.report.trackers.tracker import Client, End, MetricsLine, State, TrackedRun
from research.storage.files import append_lines, write_json
from research.storage.run_directory import as_data
from research.train.loggers import loggers
from research.train.loop import train

CHANGES = {"steps": ["10", "20"]}


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A run directory as `open` finds it, with two lines of metrics."""
    run = tmp_path / "sweeps" / "widths" / "width=16,seed=3"
    run.mkdir(parents=True)
    write_json(run.parent / "sweep.json", {})
    write_json(run / "config.json", as_data(experiment(tmp_path, seed=3)))
    write_json(run / "diff.json", CHANGES)
    append_lines(run / "history.jsonl", [{"commit": "abc", "command": "kintsugi train"}])
    add(run, {"step": 1, "nll": 3.0, "mfu": None}, {"step": 2, "nll": 2.0})
    return run


def add(run: Path, *lines: dict[str, Any], file: str = "metrics.jsonl") -> None:
    append_lines(run / file, lines)


class Recorded(Client):
    """A tracker's client that keeps what it gets, and fails as often as it is told to."""

    def __init__(self, sent: int | None = None) -> None:
        self.sent, self.failures = sent, 0
        self.calls: list[Any] = []

    def log(self, lines: Sequence[MetricsLine]) -> None:
        if self.failures:
            self.failures -= 1
            raise ConnectionError("no route")
        self.calls += [(line.step, line.numbers) for line in lines]

    def samples(self, step: int, rows: Sequence[Mapping[str, str]]) -> None:
        self.calls.append((step, [dict(row) for row in rows]))

    def end(self, end: End) -> None:
        self.calls.append(end)


@dataclass(frozen=True)
class Recording(WandB):
    """A tracker in this process, with one client for all starts."""

    def connect(self, run: TrackedRun) -> Any:
        return CLIENTS[-1]


CLIENTS: list[Recorded] = []


def follower(run: Path, client: Recorded) -> Follower:
    CLIENTS.append(client)
    state = State(run, "recording")
    state.write()
    return Follower(Recording(), tracked_run(run, state.id), state)


# --- The records ------------------------------------------------------------------------------------------------------


def test_a_run_is_described_by_its_directory(directory: Path) -> None:
    run = tracked_run(directory, "1a")
    assert (run.name, run.group, run.variant, run.seed) == ("width=16,seed=3", "widths", "width=16", 3)
    assert (run.commit, run.command, run.changes) == ("abc", "kintsugi train", {"steps": "10 -> 20"})
    assert (run.config["model.width"], run.config["data.corpora.0.type"], run.config["seed"]) == (16, "PlainText", 3)
    (directory.parent / "sweep.json").unlink()
    assert tracked_run(directory, "1a")[3:5] == (None, None)


def test_samples_stay_in_the_order_of_steps_if_the_tracker_is_far_behind(directory: Path) -> None:
    client = Recorded()
    add(directory, *({"step": step, "nll": 1.0} for step in range(3, 9)))
    add(directory, *({"step": step, "input": str(step)} for step in (1, 2, 4, 6, 8)), file="samples.jsonl")
    follower(directory, client).send()
    steps = [call[0] for call in client.calls]
    assert steps == sorted(steps)
    assert [step for step, sent in client.calls if isinstance(sent, list)] == [1, 2, 4, 6, 8]


def test_lines_are_sent_once_in_the_order_of_steps_with_their_samples(directory: Path) -> None:
    client = Recorded()
    sending = follower(directory, client)
    sending.send()
    add(directory, {"step": 2, "held_out_loss": 2.5}, {"step": 3, "nll": 1.5})
    add(directory, {"step": 2, "input": "a", "filled": "b"}, {"step": 2, "input": "c"}, file="samples.jsonl")
    with (directory / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "nll": ')  # being written
    sending.send()
    sending.send()
    assert client.calls == [
        (1, {"nll": 3.0}),
        (2, {"nll": 2.0}),
        (2, {"held_out_loss": 2.5}),
        (2, [{"input": "a", "filled": "b"}, {"input": "c"}]),
        (3, {"nll": 1.5}),
    ]


def test_what_fails_is_sent_again(directory: Path) -> None:
    client = Recorded()
    sending = follower(directory, client)
    client.failures = 2
    for _ in range(2):
        with pytest.raises(ConnectionError):
            sending.send()
    add(directory, {"step": 3, "nll": 1.5})
    sending.send()
    assert [step for step, _ in client.calls] == [1, 2, 3]


def test_steps_that_are_made_again_after_a_resume_are_sent_once(directory: Path) -> None:
    """A killed run had sent steps 1 to 4; it resumes from step 2, whose evaluation is made again too."""
    add(directory, {"step": 2, "held_out_loss": 2.5}, {"step": 3, "nll": 1.5}, {"step": 4, "nll": 1.0})
    first, second = Recorded(), Recorded()
    before = follower(directory, first)
    before.send()
    lines = (directory / "metrics.jsonl").read_text().splitlines(keepends=True)
    after = follower(directory, second)
    assert before.run.id == after.run.id
    after.send()  # before the file is cut
    (directory / "cut").write_text("".join(lines[:2]))
    (directory / "cut").replace(directory / "metrics.jsonl")
    after.send()
    add(directory, {"step": 2, "held_out_loss": 2.5}, *({"step": step, "nll": 1.0} for step in (3, 4, 5)))
    after.send()
    assert [step for step, _ in first.calls] == [1, 2, 2, 3, 4]
    assert second.calls == [(5, {"nll": 1.0})]
    longer = [{"step": step, "x" * 300: 1.0} for step in (6, 7)]  # cut and longer than before, between two looks
    (directory / "cut").write_text("".join(json.dumps(line) + "\n" for line in longer))
    (directory / "cut").replace(directory / "metrics.jsonl")
    after.send()
    assert [step for step, _ in second.calls] == [5, 6, 7]


def test_the_scores_of_a_step_are_sent_if_only_its_training_metrics_were(directory: Path) -> None:
    follower(directory, Recorded()).send()
    add(directory, {"step": 2, "held_out_loss": 2.5})
    client = Recorded()
    follower(directory, client).send()
    assert client.calls == [(2, {"held_out_loss": 2.5})]


def test_a_tracker_that_knows_its_last_step_gets_what_it_lacks(directory: Path) -> None:
    follower(directory, Recorded()).send()
    client = Recorded(sent=1)
    follower(directory, client).send()
    assert [step for step, _ in client.calls] == [2]


def test_a_damaged_state_begins_again(directory: Path) -> None:
    state = State(directory, "recording")
    state.write()
    assert State(directory, "recording").id == state.id
    state.path.write_text("{")
    assert State(directory, "recording").id != state.id


def test_what_a_finished_run_has_not_sent_is_known(directory: Path, tmp_path: Path) -> None:
    config = replace(experiment(tmp_path), report=Report(loggers=(Trackio("a"), Trackio("b"))))
    assert Trackio("b").lacks(directory, config)
    state = State(directory, "trackio-2")
    state.metrics = (1, 0)
    assert state.unsent() == (1, 2)
    for metrics, ended, lacks in (((1, 0), True, True), ((2, 0), False, True), ((2, 0), True, False)):
        state.metrics, state.ended = metrics, ended
        state.write()
        assert Trackio("b").lacks(directory, config) == lacks
    assert Trackio("a").lacks(directory, config)


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        ({"status": "done", "exit_code": 0, "step": 9, "reason": "reached step 9"}, ("done", 0, 9)),
        ({"status": "preempted", "exit_code": 42, "step": 4, "reason": "..."}, ("preempted", 42, 4)),
        ({"status": "running", "exit_code": 1, "step": 4, "reason": "process 7"}, ("killed", 1, 4)),
        (None, ("killed", 1, 0)),
    ],
)
def test_the_end_is_that_of_the_result(directory: Path, result: Any, expected: Any) -> None:
    if result:
        write_json(directory / "RESULT.json", result)
    (directory / "loss.png").touch()
    end = read_end(directory)
    assert end[:3] == expected
    assert end.files == [directory / "loss.png"]


def test_the_end_is_sent_after_all_records_and_a_failure_reported_once(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reports: list[str] = []
    monkeypatch.setattr(follow, "report", reports.append)
    monkeypatch.setattr(follow, "EVERY", 0.01)
    client, over = Recorded(), threading.Event()
    client.failures = 3
    over.set()
    follow.follow(follower(directory, client), over)
    assert [call[0] for call in client.calls] == [1, 2, "killed"]
    assert reports == ["is not reached, and is tried again: ConnectionError: no route"]


# --- Loggers ----------------------------------------------------------------------------------------------------------


class FullWriter:
    """A user's writer with the two optional methods."""

    def __init__(self) -> None:
        self.calls: list[Any] = []

    def write(self, step, numbers):
        self.calls.append((step, dict(numbers)))

    def samples(self, step, rows):
        self.calls.append((step, list(rows)))

    def end(self, status):
        self.calls.append(status)

    def close(self):
        self.calls.append("closed")


class PlainWriter:
    """A user's writer as it has always been."""

    def __init__(self) -> None:
        self.calls: list[Any] = []

    def write(self, step, numbers):
        self.calls.append((step, dict(numbers)))

    def close(self):
        self.calls.append("closed")


@dataclass(frozen=True)
class Own(Logger):
    full: bool

    def open(self, directory, experiment, step):
        writer = FullWriter() if self.full else PlainWriter()
        OPENED.append(writer)
        return writer


OPENED: list[Any] = []


def test_a_writer_with_more_methods_gets_samples_and_the_end(directory: Path, tmp_path: Path) -> None:
    config = replace(experiment(tmp_path), report=Report(loggers=(Own(full=True), Own(full=False))))
    OPENED.clear()

    def fail(message: str) -> None:
        raise AssertionError(message)

    with loggers(lambda: "done") as logs:
        logs.open(directory, config, 0)
        logs.call("write", 1, {"nll": 2.0}, on_failure=fail)
        logs.call("samples", 1, [{"input": "a"}], on_failure=fail)
        logs.close()
        full, plain = OPENED
        assert plain.calls == [(1, {"nll": 2.0}), "closed"]
        assert full.calls == [(1, {"nll": 2.0}), (1, [{"input": "a"}])]
    assert plain.calls[2:] == []
    assert full.calls[2:] == ["done", "closed"]


def test_trackers_are_settings_like_others(tmp_path: Path) -> None:
    text = '(TensorBoard(), WandB("t5", mode="offline"), MLflow(uri="http://x", artifacts=True), Trackio("t5"))'
    config = override.apply(experiment(tmp_path), {"report.loggers": text})
    expected = (
        TensorBoard(),
        WandB(project="t5", mode="offline"),
        MLflow(uri="http://x", artifacts=True),
        Trackio("t5"),
    )
    assert config.report.loggers == expected
    assert override.from_json(override.to_json(config)) == config
    with pytest.raises(ConfigError, match=r"^WandB\.close_seconds is 0: it must be above 0"):
        WandB(close_seconds=0)


# --- Before the run ---------------------------------------------------------------------------------------------------


@pytest.fixture
def no_account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "MLFLOW_TRACKING_URI",
        *("WANDB_API_KEY", "WANDB_MODE", "WANDB_IDENTITY_TOKEN_FILE", "WANDB_BASE_URL"),
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path))


@pytest.mark.parametrize("tracker", [WandB(mode="offline"), MLflow(uri="http://x"), Trackio()])
def test_a_missing_package_is_named_with_what_to_install(tracker: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    name = type(tracker).__name__
    with pytest.raises(ConfigError, match=rf"^{name} needs {name.lower()}: pip install 'kintsugi\[track\]'\.$"):
        tracker.check()


def test_an_address_is_needed(no_account: None, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        ConfigError, match=r"^MLflow has no address: give MLflow\(uri=...\), or set MLFLOW_TRACKING_URI"
    ):
        MLflow().check()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://x")
    MLflow().check()


@pytest.mark.parametrize(
    ("tracker", "message"),
    [
        (
            MLflow("ftp://x"),
            r"^MLflow cannot write to ftp://x: give one of http, https, .*, or a directory\.$",
        ),
        (MLflow("runs", experiment=""), r"^MLflow\.experiment is empty"),
        (Trackio(" "), r"^Trackio\.project is empty"),
    ],
)
def test_an_address_or_a_name_that_cannot_be(tracker: MLflow | Trackio, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        tracker.check()


@pytest.mark.parametrize("uri", ["mlruns", "file:mlruns", "sqlite:///a.db", "mysql+pymysql://u@h/d", "https://x"])
def test_addresses_of_mlflow(uri: str) -> None:
    MLflow(uri).check()


def test_what_is_missing_is_named_before_the_run_directory_is_made(no_account: None, tmp_path: Path) -> None:
    config = replace(experiment(tmp_path), report=Report(loggers=(TensorBoard(), MLflow())))
    with pytest.raises(ConfigError, match="MLflow has no address"):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_key_is_needed_to_be_online(no_account: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"^WandB has no key for its server: run `wandb login`, set "):
        WandB().check()
    WandB(mode="offline").check()
    monkeypatch.setenv("WANDB_MODE", "offline")
    WandB().check()
    with pytest.raises(ConfigError, match="no key"):
        WandB(mode="online").check()
    (tmp_path / ".netrc").write_text("machine api.wandb.ai login user password 0\n")
    WandB(mode="online").check()
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example")
    with pytest.raises(ConfigError, match="no key"):
        WandB(mode="online").check()
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    WandB(mode="online").check()
