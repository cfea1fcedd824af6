"""A real run that is killed and resumed is one run in every tracker, with each step once. All is read back."""

import contextlib
import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from real_runs import STEPS, free_port, log, metrics, newest_save, newest_step, run, start, until

pytestmark = pytest.mark.slow
NAME = "widths/width=16,seed=0"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of an MLflow server of this machine, with a database."""
    folder, port = tmp_path_factory.mktemp("mlflow"), free_port()
    store = ("--backend-store-uri", f"sqlite:///{folder}/runs.db", "--artifacts-destination", str(folder / "artifacts"))
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    with (folder / "log").open("wb") as log_file:
        process = subprocess.Popen(
            [*command, *store],
            cwd=folder,
            env=os.environ | {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
            stdout=log_file,
            stderr=log_file,
            start_new_session=True,
        )
    address = f"http://127.0.0.1:{port}"
    try:
        limit = time.monotonic() + 240
        while not answers(address):
            assert process.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < limit
            time.sleep(0.5)
        yield address
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def answers(address: str) -> bool:
    with contextlib.suppress(OSError), urllib.request.urlopen(f"{address}/health", timeout=5) as answer:
        return answer.status == 200
    return False


@pytest.fixture(scope="module")
def tracked(folder: Path, server: str) -> Path:
    """A folder with a variant of a sweep that was killed, resumed and finished, tracked in four places."""
    for name in ("widths", "files", "trackio"):
        (folder / name).mkdir()
    (folder / "widths" / "sweep.json").write_text("{}")
    trackers = (
        'TensorBoard(), WandB("t5", mode="offline", artifacts=True)',
        f'MLflow("{server}", "t5", artifacts=True), MLflow("file:{folder}/files", "t5")',
        'Trackio("t5", artifacts=True)',
    )
    settings = {
        "TRACKIO_DIR": str(folder / "trackio"), "WANDB_MODE": "online", "MLFLOW_DISABLE_TELEMETRY": "true",
    }  # fmt: skip
    arguments = (f"--config.report.loggers=[{', '.join(trackers)}]", "--config.evaluation.examples=9")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings.items():
            patch.setenv(name, value)
        checkpoints = folder / NAME / "checkpoints"
        process = start(folder, NAME, *arguments)
        until(process, lambda: newest_step(folder, NAME) >= 10 and newest_save(checkpoints) > 0)
        process.kill()
        process.wait()
        assert run(folder, NAME, *arguments) == 0
    return folder


def expected(folder: Path, name: str) -> dict[int, float]:
    return {line["step"]: line[name] for line in metrics(folder, NAME) if name in line}


def test_the_run_itself_is_as_without_trackers(tracked: Path) -> None:
    assert metrics(tracked, NAME) == metrics(tracked, "whole")
    events = (tracked / NAME / "events.jsonl").read_text()
    assert not [line for line in events.splitlines() if "finish" in line or "reached, and" in line or "stopped" in line]
    assert events.count("MLflow shows the run at http://127.0.0.1:") in (1, 2)  # the kill may come before the first


def test_a_tracker_that_is_added_to_a_finished_run_gets_all_of_it(tracked: Path, monkeypatch) -> None:
    monkeypatch.setenv("TRACKIO_DIR", str(tracked / "added"))
    arguments = ("--config.report.loggers=[Trackio('late')]",)
    shutil.copytree(tracked / "whole", tracked / "untracked")
    for start_number in range(2):
        assert run(tracked, "untracked", *arguments) == 0
        assert f"is complete at step {STEPS}" in log(tracked, "untracked")
        found = read_trackio(tracked / "added", "late")
        assert [line["step"] for line in found["logs"] if "nll" in line] == list(range(1, STEPS + 1)), start_number
    assert len(found["alerts"]) == 1  # the second start found nothing to send


# --- W&B --------------------------------------------------------------------------------------------------------------


def records(path: Path) -> Iterator[Any]:
    """Read a file of W&B: blocks of 32 KiB, in which a record or a part of one has a header of 7 bytes."""
    from wandb.proto.wandb_internal_pb2 import Record

    content, at, parts = path.read_bytes(), 7, b""
    while at < len(content):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
            continue
        _, length, kind = struct.unpack("<IHB", content[at : at + 7])
        parts += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield Record.FromString(parts)
            parts = b""


def history_line(folder: Path) -> dict[str, Any]:
    return json.loads((folder / NAME / "history.jsonl").read_text().splitlines()[-1])


def items(entries: Any) -> dict[str, Any]:
    return {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in entries}


def test_wandb_has_one_run_with_every_step_once(tracked: Path) -> None:
    starts = sorted((tracked / NAME / "trackers" / "wandb").glob("offline-run-*/*.wandb"))
    assert len(starts) == 2
    found = [list(records(path)) for path in starts]
    (first, second) = (next(record.run for record in one if record.WhichOneof("record_type") == "run") for one in found)
    for run_record in (first, second):
        assert (run_record.project, run_record.run_group, run_record.job_type) == ("t5", "widths", "width=16")
        assert set(run_record.tags) == {"width=16", "seed=0"}
        assert run_record.display_name == "width=16,seed=0"
    assert first.run_id == second.run_id == json.loads((tracked / NAME / "trackers" / "wandb.json").read_text())["id"]
    every = [record for one in found for record in one]
    config: dict[str, Any] = {}
    for record in every:
        config |= items(record.config.update)
    assert (config["model.width"], config["data.corpora.0.type"]) == (16, "PlainText")
    assert config["changes"]["evaluation.examples"].endswith("-> 9")
    assert config["commit"] == history_line(tracked)["commit"]
    history = [(record.history.step.num, items(record.history.item)) for record in every if record.history.item]
    for name in ("nll", "held_out_loss"):
        steps = Counter(step for step, line in history if name in line)
        assert set(steps.values()) == {1}
        assert {step: line[name] for step, line in history if name in line} == expected(tracked, name)
    assert [step for step, line in history if any(key.startswith("samples") for key in line)] == [8, 16, 24]
    tables = [json.loads(path.read_text()) for path in (tracked / NAME / "trackers").rglob("samples_*.table.json")]
    assert tables[0]["columns"] == ["input", "filled", "original"]
    assert any("plots/loss" in key for _, line in history for key in line)
    assert [record.exit.exit_code for record in every if record.WhichOneof("record_type") == "exit"] == [1, 0]
    assert "model" in {record.artifact.type for record in every if record.WhichOneof("record_type") == "artifact"}
    links = [path for path in (tracked / NAME).rglob("*") if path.is_symlink()]
    assert links == []


# --- MLflow -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["server", "files"])
def test_mlflow_has_one_run_with_every_step_once(tracked: Path, server: str, place: str, monkeypatch) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    from mlflow import MlflowClient

    client = MlflowClient(server if place == "server" else f"file:{tracked}/files")
    (found,) = client.search_runs([client.get_experiment_by_name("t5").experiment_id])
    assert (found.info.run_name, found.info.status) == ("width=16,seed=0", "FINISHED")
    tags, params = found.data.tags, found.data.params
    assert (tags["sweep"], tags["variant"], tags["seed"], tags["status"]) == ("widths", "width=16", "0", "done")
    assert tags["mlflow.source.git.commit"] == history_line(tracked)["commit"]
    assert tags["changes.evaluation.examples"].endswith("-> 9")
    assert (params["model.width"], params["data.corpora.0.type"]) == ("16", "PlainText")
    for name in ("nll", "held_out_loss"):
        history = client.get_metric_history(found.info.run_id, name)
        assert len(history) == len(expected(tracked, name))
        assert {point.step: point.value for point in history} == pytest.approx(expected(tracked, name))
    paths = {file.path for file in client.list_artifacts(found.info.run_id)}
    assert paths == {"loss.png", "report.html", "samples"} | ({"checkpoints"} if place == "server" else set())
    tables = [file.path for file in client.list_artifacts(found.info.run_id, "samples")]
    assert tables == [f"samples/{step:08}.json" for step in (8, 16, 24)]
    table = json.loads(Path(client.download_artifacts(found.info.run_id, tables[0], str(tracked))).read_text())
    assert table["columns"] == ["input", "filled", "original"]
    assert [entry["path"] for entry in json.loads(tags["mlflow.loggedArtifacts"])] == tables


# --- trackio ----------------------------------------------------------------------------------------------------------

READ = """
import json, sys, trackio
from trackio.sqlite_storage import SQLiteStorage
project = sys.argv[1]
(run,) = SQLiteStorage.get_runs(project)
logs, config = SQLiteStorage.get_logs(project, run), SQLiteStorage.get_run_config(project, run)
print(json.dumps({"run": run, "logs": logs, "config": config, "alerts": trackio.Api().alerts(project)}))
"""


def read_trackio(database: Path, project: str) -> Any:
    """Read the only run of a project, in another process, since trackio looks for its directory when it is imported."""
    command, environment = [sys.executable, "-c", READ, project], os.environ | {"TRACKIO_DIR": str(database)}
    answer = subprocess.run(command, env=environment, capture_output=True, check=True)
    return json.loads(answer.stdout.splitlines()[-1])


def test_trackio_has_one_run_with_every_step_once(tracked: Path) -> None:
    found = read_trackio(tracked / "trackio", "t5")
    id = json.loads((tracked / NAME / "trackers" / "trackio.json").read_text())["id"]
    assert found["run"] == f"width=16,seed=0-{id}"
    config = found["config"]
    assert (config["model.width"], config["_Group"], config["variant"]) == (16, "widths", "width=16")
    for name in ("nll", "held_out_loss"):
        points = [(line["step"], line[name]) for line in found["logs"] if name in line]
        assert len(points) == len(expected(tracked, name))
        assert dict(points) == expected(tracked, name)
    assert [line["step"] for line in found["logs"] if "samples" in line] == [8, 16, 24]
    assert any("plots/loss" in line for line in found["logs"])
    assert f"done, step {STEPS}" in {alert["title"] for alert in found["alerts"]}
