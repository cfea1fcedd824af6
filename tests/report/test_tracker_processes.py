"""A tracker's process never stops or delays a run: not with a dead server, not with a slow one, not when it dies."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from local_server import LocalServer
from tiny_run import experiment

from research import MLflow, Report, Trackio, WandB
from research.storage.files import append_lines, write_json
from research.storage.run_directory import as_data
from research.train.loggers import Loggers, loggers

ROOT = Path(__file__).resolve().parents[2]


class SlowHandler(BaseHTTPRequestHandler):
    """A server that answers every request after a while, with an error."""

    def do_POST(self) -> None:
        time.sleep(0.7)
        with contextlib.suppress(OSError):
            self.send_response(503)
            self.send_header("Content-Length", "0")
            self.end_headers()

    do_GET = do_POST

    def log_message(self, *arguments: Any) -> None:
        pass


@pytest.fixture
def servers() -> Iterator[dict[str, str]]:
    """The addresses of a port that refuses, a server that never answers, and a slow one."""
    with socket.socket() as refusing, socket.socket() as silent:
        refusing.bind(("127.0.0.1", 0))  # and does not listen
        silent.bind(("127.0.0.1", 0))
        silent.listen(50)
        slow = LocalServer(("127.0.0.1", 0), SlowHandler)
        threading.Thread(target=slow.serve_forever, daemon=True).start()
        ports = {"dead": refusing.getsockname()[1], "silent": silent.getsockname()[1], "slow": slow.server_port}
        yield {name: f"http://127.0.0.1:{port}" for name, port in ports.items()}
        slow.shutdown()
        slow.server_close()


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    run = tmp_path / "run"
    run.mkdir()
    write_json(run / "config.json", as_data(experiment(tmp_path)))
    append_lines(run / "metrics.jsonl", [{"step": 1, "nll": 3.0}, {"step": 2, "nll": 2.0}])
    return run


def events(directory: Path) -> list[str]:
    path = directory / "events.jsonl"
    return [json.loads(line)["event"] for line in path.read_text().splitlines()] if path.exists() else []


def never(message: str) -> None:
    raise AssertionError(message)


def opened(logs: Loggers, directory: Path, *trackers: Any) -> list[subprocess.Popen]:
    """Open trackers; return their processes."""
    logs.open(directory, replace(experiment(directory.parent), report=Report(loggers=trackers)), 0)
    return [writer._process for _, writer in logs._logs]


def assert_neither_delayed_nor_stopped(directory: Path, seconds: int, *trackers: Any) -> list[str]:
    """Write for a while and end; return the events. All trackers together may delay the end by `seconds` once."""
    threads = own_threads()
    with contextlib.ExitStack() as stack:
        logs = stack.enter_context(loggers(lambda: "done"))
        processes = opened(logs, directory, *trackers)
        longest = 0.0
        for step in range(1, 60):
            began = time.monotonic()
            logs.call("write", step, {"nll": 1.0}, on_failure=never)
            longest = max(longest, time.monotonic() - began)
            time.sleep(0.05)
        assert longest < 0.5  # a busy machine's; it is microseconds
        parents = {process.pid for process in processes}
        everyone = [int(path.name) for path in Path("/proc").glob("[0-9]*")]
        children = [pid for pid in everyone if (state := parent_and_state(pid)) and state[0] in parents]
        ending = time.monotonic()
        stack.close()
        assert time.monotonic() - ending < seconds + 2
    assert all(process.poll() is not None for process in processes)
    assert own_threads() <= threads
    wait_for(lambda: not [pid for pid in children if (state := parent_and_state(pid)) and state[1] != "Z"], 20)
    return events(directory)


def own_threads() -> set[threading.Thread]:
    """Return the threads of this process, those that answer a request to `SlowHandler` left out."""
    return {thread for thread in threading.enumerate() if "process_request" not in thread.name}


def parent_and_state(pid: int) -> tuple[int, str] | None:
    """Return the parent of a process and its state, Z for one that has ended; None if there is no such process."""
    with contextlib.suppress(OSError):
        state, parent, *_ = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return int(parent), state
    return None


def test_servers_that_do_not_work_neither_delay_nor_stop_a_run(directory: Path, servers: dict[str, str]) -> None:
    trackers = [MLflow(uri=address, close_seconds=2) for address in servers.values()]
    found = assert_neither_delayed_nor_stopped(directory, 2, *trackers)
    late = "MLflow did not finish within 2 s. 2 of 2 lines of metrics.jsonl were not sent: repeat the command to"
    assert sum(event.startswith(late) for event in found) == 3
    assert len(found) <= 6
    assert {path.name for path in (directory / "trackers").glob("*.json")} == {
        "mlflow.json", "mlflow-2.json", "mlflow-3.json",
    }  # fmt: skip


def test_a_dead_server_is_reported_once(directory: Path, servers: dict[str, str], monkeypatch) -> None:
    def write_until(happened: Any) -> None:
        def is_over() -> bool:
            logs.call("write", 7, {"nll": 1.0}, on_failure=never)
            return happened()

        wait_for(is_over)

    with loggers(lambda: "done") as logs:
        opened(logs, directory, MLflow(uri=servers["dead"], close_seconds=1))
        write_until(lambda: events(directory))
        log = directory / "trackers" / "mlflow.log"
        write_until(lambda: log.read_text().count("Connection refused") > 1)
    (first, last) = events(directory)
    assert first.startswith("MLflow is not reached, and is tried again: MlflowException: ")
    assert last.startswith("MLflow did not finish within 1 s.")


@pytest.mark.parametrize("server", ["dead", "silent"])
def test_wandb_without_its_server(
    directory: Path, servers: dict[str, str], server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_BASE_URL", servers[server])
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    found = assert_neither_delayed_nor_stopped(directory, 3, WandB(mode="online", close_seconds=3))
    assert found[-1].startswith("WandB did not finish within 3 s. 2 of 2 lines")


def running(text: str) -> list[str]:
    """The commands of all processes that have a text in their arguments, or a working directory of it."""
    commands = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            command = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
            commands += [command] if text in command and int(path.parent.name) != os.getpid() else []
    return commands


def test_a_process_that_dies_is_reported_once(directory: Path, servers: dict[str, str]) -> None:
    with loggers(lambda: "done") as logs:
        (process,) = opened(logs, directory, MLflow(uri=servers["silent"]))
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for step in (1, 2):
            logs.call("write", step, {"nll": 1.0}, on_failure=never)
    assert events(directory) == ["MLflow stopped with exit code -9: see trackers/mlflow.log."]


def test_ctrl_c_and_sigterm_reach_the_run_alone(directory: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    with loggers(lambda: "done") as logs:
        (process,) = opened(logs, directory, Trackio())
        assert os.getsid(process.pid) != os.getsid(0)
        wait_for(lambda: (directory / "trackers" / "trackio.json").exists() and sent(directory) == 2)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            process.send_signal(number)
        append_lines(directory / "metrics.jsonl", [{"step": 3, "nll": 1.0}])
    assert process.returncode == 0
    assert sent(directory) == 3
    assert events(directory) == []


def sent(directory: Path) -> int:
    return json.loads((directory / "trackers" / "trackio.json").read_text())["metrics"][0]


def wait_for(happened: Any, seconds: float = 60.0) -> None:
    limit = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < limit
        time.sleep(0.05)


def test_when_the_run_is_killed_its_trackers_end(directory: Path, servers: dict[str, str]) -> None:
    code = f"""
        import sys, time
        from pathlib import Path
        from research import MLflow
        from research.config import override
        from dataclasses import replace
        directory = Path({str(directory)!r})
        config = override.read(directory / "config.json")
        tracker = MLflow(uri={servers["silent"]!r}, close_seconds=2)
        writer = tracker.open(directory, replace(config, report=replace(config.report, loggers=(tracker,))), 0)
        print("open", sorted({{"wandb", "mlflow", "trackio", "jax"}} & set(sys.modules)), flush=True)
        time.sleep(600)
    """
    run = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert run.stdout is not None
    assert run.stdout.readline() == "open []\n"  # the run's own process imports none of them
    assert len(running(str(directory))) == 2
    run.kill()
    run.communicate()
    wait_for(lambda: not running(str(directory)), 20)
