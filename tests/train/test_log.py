"""What a run reports: averages a target token, nothing of a step that was skipped, and never a wait for the device."""

import json
import re
import struct
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tensorboardX.proto.event_pb2 import Event

from research import Logger, Report, TensorBoard
from research.config import ConfigError
from research.config.load import open_experiment
from research.train import log
from research.train.log import Losses, NotFiniteError, Reporter
from research.train.loggers import Loggers
from research.train.step import Metrics

ROOT = Path(__file__).resolve().parents[2]


def metrics(nll: float, tokens: float = 10.0, skipped: int = 0) -> Metrics:
    values = dict.fromkeys(Metrics._fields, np.float32(1.0))
    return Metrics(**values | {"nll": np.float32(nll), "target_tokens": np.float32(tokens), "skipped": skipped})


SKIPPED = metrics(0.0, tokens=0.0, skipped=1)


def open_reporter(directory: Path, **settings: Any) -> Reporter:
    defaults = dict(start=0, steps=100, every=2, nonfinite_limit=3, tokens_per_step=30, flops_per_step=6)
    board = TensorBoard()
    logs = Loggers([(board, board.open(directory, None, settings.get("start", 0)))])
    return Reporter(directory, **defaults | {"peak_flops": None, "logs": logs} | settings)


def lines(directory: Path) -> list[dict]:
    return [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]


def test_a_line_averages_its_steps_by_their_target_tokens(tmp_path: Path) -> None:
    with open_reporter(tmp_path, peak_flops=4.0) as reporter:
        for step, given in enumerate([metrics(1.0, 10), metrics(4.0, 30), metrics(8.0, 10)], 1):
            reporter.step(step, given, data_wait=0.25)
    first, last = lines(tmp_path)
    assert (first["step"], first["steps"], first["nll"]) == (2, 2, pytest.approx(3.25))
    assert (last["step"], last["steps"], last["nll"]) == (3, 1, 8.0)
    assert first["data_wait_seconds"] == 0.25
    assert first["tokens_per_second"] == pytest.approx(30 / first["step_seconds"])
    assert first["mfu"] == pytest.approx(6 / first["step_seconds"] / 4.0)


def test_few_steps_after_a_resume_join_the_next_line(tmp_path: Path) -> None:
    with open_reporter(tmp_path, every=10, start=9) as reporter:
        for step in range(10, 31):
            reporter.step(step, metrics(float(step)), 0.0)
    assert [(line["step"], line["steps"]) for line in lines(tmp_path)] == [(20, 11), (30, 10)]


def test_the_time_of_a_start_is_in_no_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(log.time, "perf_counter", lambda: clock[0])
    with open_reporter(tmp_path, every=4) as reporter:
        for step in range(1, 6):
            clock[0] += 100.0 if step == 1 else 0.5
            reporter.step(step, metrics(1.0), 80.0 if step == 1 else 0.25)
            if step == 1:
                reporter.begin_timing()
        clock[0] += 0.5
    first, _ = lines(tmp_path)
    assert (first["steps"], first["data_wait_seconds"]) == (4, 0.25)
    assert first["step_seconds"] == pytest.approx(2.0 / 3)  # written when step 5 has been dispatched
    (tmp_path / "other").mkdir()
    with open_reporter(tmp_path / "other", start=5) as reporter:
        reporter.step(6, metrics(1.0), 80.0)
        reporter.begin_timing()
    assert "step_seconds" not in lines(tmp_path / "other")[-1]


def test_the_console_calls_a_metric_by_the_name_of_its_line(tmp_path: Path) -> None:
    """`loss` of a line has the z-loss and label smoothing in it; the console shows `nll`."""
    with open_reporter(tmp_path) as reporter:
        reporter.step(1, metrics(2.5), 0.0)
        reporter.step(2, metrics(2.5), 0.0)
        reporter.flush()
        assert reporter._text.startswith("nll 2.5000, ")
    assert (lines(tmp_path)[0]["nll"], lines(tmp_path)[0]["loss"]) == (2.5, 1.0)


def test_a_skipped_step_is_counted_and_in_no_average(tmp_path: Path) -> None:
    with open_reporter(tmp_path) as reporter:
        for step, given in enumerate([metrics(2.0), SKIPPED, SKIPPED, metrics(3.0)], 1):
            reporter.step(step, given, 0.0)
        reporter.flush()
        assert not reporter.skipping
        reporter.step(5, SKIPPED, 0.0)
        reporter.step(6, SKIPPED, 0.0)
        reporter.flush()
        assert reporter.skipping
    assert [(line["skipped"], line["nll"]) for line in lines(tmp_path)] == [(1, 2.0), (1, 3.0), (2, None)]


def test_too_many_in_a_row_stop_the_run_across_lines(tmp_path: Path) -> None:
    def run() -> None:
        with open_reporter(tmp_path) as reporter:
            for step, given in enumerate([metrics(1.0), SKIPPED, SKIPPED, SKIPPED, metrics(1.0)], 1):
                reporter.step(step, given, 0.0)

    with pytest.raises(NotFiniteError) as error:
        run()
    assert error.value.first == 2
    assert "3 updates in a row were not finite, the first at step 2" in str(error.value)


def test_metrics_are_not_fetched_before_the_next_step_is_under_way(tmp_path: Path, monkeypatch) -> None:
    fetched = []

    def device_get(values: Any) -> Any:
        fetched.append(len(values))
        return values

    monkeypatch.setattr(log.jax, "device_get", device_get)
    with open_reporter(tmp_path) as reporter:
        for step in range(1, 6):
            reporter.step(step, metrics(1.0), 0.0)
            # Step 2 ends a line, which is written when step 3 has been dispatched; so do 4 and 5.
            assert sum(fetched) == (step - 1) // 2 * 2


def test_what_is_not_finite_is_null(tmp_path: Path) -> None:
    with open_reporter(tmp_path) as reporter:
        reporter.held_out(4, {"held_out_loss": float("nan"), "held_out_accuracy": 0.5})
    assert lines(tmp_path) == [{"step": 4, "held_out_loss": None, "held_out_accuracy": 0.5}]


def test_going_on_drops_the_lines_of_steps_that_were_lost(tmp_path: Path) -> None:
    with open_reporter(tmp_path, every=1) as reporter:
        for step in range(1, 6):
            reporter.step(step, metrics(float(step)), 0.0)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 6, "nl')  # cut short by a kill
    with open_reporter(tmp_path, start=3, every=1) as reporter:
        reporter.step(4, metrics(40.0), 0.0)
    assert [(line["step"], line["nll"]) for line in lines(tmp_path)] == [(1, 1.0), (2, 2.0), (3, 3.0), (4, 40.0)]


def test_tensorboard_has_every_number_of_the_lines(tmp_path: Path) -> None:
    with open_reporter(tmp_path) as reporter:
        reporter.step(1, metrics(2.5), 0.0)
        reporter.step(2, metrics(1.5), 0.0)
        reporter.held_out(2, {"held_out_loss": 3.0})
    board: dict[tuple[int, str], float] = {}
    for path in (tmp_path / "tensorboard").iterdir():
        for event in events(path.read_bytes()):
            board |= {(event.step, value.tag): value.simple_value for value in event.summary.value}
    expected = {(line["step"], name): value for line in lines(tmp_path) for name, value in line.items()}
    expected = {key: value for key, value in expected.items() if key[1] != "step"}
    assert board == {key: pytest.approx(value) for key, value in expected.items()}


def events(records: bytes):
    """Each record is its length, a checksum of that, the event and a checksum of that."""
    while records:
        (length,) = struct.unpack("<Q", records[:8])
        yield Event.FromString(records[12 : 12 + length])
        records = records[12 + length + 4 :]


def test_a_loss_that_spikes_is_reported_and_changes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    rng = np.random.default_rng(0)
    with open_reporter(tmp_path, steps=400, every=1) as reporter:
        for step in range(1, 300):
            loss = {5: 90.0, 200: 30.0}.get(step, 4.0 + 0.1 * rng.normal())  # of the first no one can tell
            given = SKIPPED._replace(loss=np.float32(0.0)) if step % 3 == 0 else metrics(0.0)
            reporter.step(step, given._replace(loss=np.float32(loss)) if step % 3 else given, 0.0)
    said = [line for line in capsys.readouterr().out.splitlines() if "spike" in line]
    assert len(said) == 1
    assert re.match(r"step 200: the loss of 30 spikes above [34]\.\d+, the median of the 128 steps before", said[0])
    assert lines(tmp_path)[199]["loss"] == 30.0


def test_another_level_of_loss_is_not_spikes_for_ever() -> None:
    losses = Losses(size=16)
    assert not any(losses.is_spike(loss) for loss in [4.0, 4.1] * 8)
    spikes = [losses.is_spike(9.0) for _ in range(40)]
    assert spikes[0]
    assert not any(spikes[-10:])


def test_what_is_not_finite_does_not_enter_the_window() -> None:
    losses = Losses(size=16)
    for loss in [4.0, 4.1] * 8:
        losses.is_spike(loss)
    assert not losses.is_spike(float("nan"))
    assert not losses.is_spike(float("inf"))
    assert np.isfinite(losses.window).all()
    assert losses.is_spike(20.0)


@dataclass(frozen=True)
class Failing(Logger):
    """A user's logger whose writer raises at its second line."""

    def open(self, directory, experiment, step):
        return FailingWriter()


class FailingWriter:
    def __init__(self) -> None:
        self.lines: list[int] = []

    def write(self, step, numbers):
        self.lines.append(step)
        if len(self.lines) == 2:
            raise OSError("the server is gone")

    def close(self):
        raise AssertionError("a log that was switched off is not closed")


def test_a_users_log_that_fails_is_switched_off_and_training_continues(tmp_path: Path) -> None:
    writer = FailingWriter()
    with open_reporter(tmp_path, every=1, logs=Loggers([(Failing(), writer)])) as reporter:
        for step in range(1, 5):
            reporter.step(step, metrics(1.0), 0.0)
    assert [line["step"] for line in lines(tmp_path)] == [1, 2, 3, 4]
    assert writer.lines == [1, 2]
    (event,) = [json.loads(line)["event"] for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert event == "Failing is switched off: OSError: the server is gone"


def test_a_users_logger_that_cannot_open_is_refused_with_its_place(tmp_path: Path) -> None:
    @dataclass(frozen=True)
    class Broken(Logger):
        def open(self, directory, experiment, step):
            raise KeyError("API_KEY")

    @dataclass(frozen=True)
    class Nothing(Logger):
        def open(self, directory, experiment, step):
            return None

    config = replace(open_experiment(ROOT / "experiments/quickstart.py").config, report=Report(loggers=(Broken(),)))
    with pytest.raises(ConfigError, match=r"test_log.py:\d+: Broken.open raised KeyError: 'API_KEY'\.$"):
        Loggers().open(tmp_path, config, 0)
    with pytest.raises(ConfigError, match=r"test_log.py:\d+: Nothing.open returned NoneType, which has no write\(\)"):
        Loggers().open(tmp_path, replace(config, report=Report(loggers=(Nothing(),))), 0)
