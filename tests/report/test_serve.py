"""Served pages: what they list and follow, who is answered, and that nothing is written."""

import fcntl
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from run_directories import experiment, made

from research.report import serve
from scripts import report

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """A finished run, a sweep of one run that is held by a process, and one that a kill has ended."""
    root = tmp_path / "runs"
    made(root / "finished", experiment(tmp_path), 3.0)
    for name in ("sweep/running", "killed"):
        run = made(root / name, experiment(tmp_path, steps="100"), 4.0, status="running")
        (run / "RUN.lock").write_text("process 1")
    (root / "sweep" / "sweep.json").write_text(json.dumps({"variants": {"running": {}, "waiting": {}}}))
    return root


@pytest.fixture
def held(runs: Path) -> Iterator[Path]:
    with (runs / "sweep" / "running" / "RUN.lock").open("r") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield runs / "sweep" / "running"


@pytest.fixture
def server(runs: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[serve.Server]:
    monkeypatch.setattr(serve, "EVERY", 1)
    monkeypatch.setattr(serve, "SHARE", 0)
    with serve.opened(runs, 0) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def answer(
    server: serve.Server, path: str, host: str = "", method: str = "GET", **headers: str
) -> tuple[int, str, dict[str, str]]:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=120)
    connection.putrequest(method, path, skip_host=True)
    for name, value in (("Host", host or f"127.0.0.1:{server.server_port}"), *headers.items()):
        connection.putheader(name.replace("_", "-"), value)
    connection.endheaders()
    response = connection.getresponse()
    return response.status, response.read().decode(), dict(response.headers)


def files(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {str(path): (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.rglob("*") if path.is_file()}


def test_the_list_has_state_loss_and_time_left_of_every_run(runs: Path, held: Path) -> None:
    """Lines are 4 steps of half a second each."""
    running = serve.Status.of(held)
    assert running == serve.Status("running", 100, 100, 4.0, 4.0, 0.0)
    (held / "metrics.jsonl").write_text(
        '{"step": 4, "nll": 5.5, "steps": 4, "step_seconds": 0.5}\n{"step": 8, "nll": 5.25, "steps": 4, "step_sec'
    )
    assert serve.Status.of(held) == serve.Status("running", 4, 100, 5.5, None, 48.0)
    assert serve.Status.of(runs / "killed").state == "interrupted"
    assert serve.Status.of(runs / "finished") == serve.Status("done", 40, 40, 7.0, 3.0, None)
    for path in held.glob("*.json*"):
        os.utime(path, (time.time() - 700,) * 2)
    assert serve.Status.of(held).state == "stalled"
    (held / "metrics.jsonl").write_text('{"step": 4, "nll": 5.5, "steps": 4, "step_seconds": 100}\n')
    os.utime(held / "metrics.jsonl", (time.time() - 700,) * 2)
    assert serve.Status.of(held).state == "running"  # ten lines take more than an hour


def test_the_list_links_to_every_page(runs: Path, held: Path) -> None:
    site = serve.Site(runs)
    directories = list(serve.found(runs))
    assert [site.address(one) for one in directories] == [
        "/finished/report.html", "/killed/report.html", "/sweep/report.html", "/sweep/running/report.html",
    ]  # fmt: skip
    title, body = site.index(directories)
    assert title == f"Runs in {runs}"
    assert "3 runs, 1 running" in body
    assert '<a href="/sweep/running/report.html">sweep/running</a></td><td>running</td>' in body
    assert "<td>interrupted</td>" in body


def test_only_this_machine_s_names_and_known_pages_are_answered_and_nothing_is_written(
    server: serve.Server, runs: Path
) -> None:
    before = files(runs)
    assert server.server_address[0] == "127.0.0.1"
    status, text, headers = answer(server, "/")
    assert (status, "finished" in text) == (200, True)
    assert "connect-src 'self'" in text
    for host in ("localhost", "127.0.0.1", "localhost:9"):  # a port that was forwarded
        assert answer(server, "/", host, If_None_Match=headers["ETag"])[0] in (200, 304)
    for host in ("evil.example", "evil.example:8000", "127.0.0.1.evil.example", "localhost.", "[::1]:8000"):
        status, text, _ = answer(server, "/", host)
        assert (status, "finished" in text) == (403, False)
    for path in (
        "/config.json", "/finished/config.json", "/../run/report.html", "/finished/../killed/report.html",
        "/%2e%2e/report.html", "/finished/%2e%2e/killed/report.html", "//etc/passwd", "/report.html", "/nothing",
    ):  # fmt: skip
        assert answer(server, path)[0] == 404
    for method in ("POST", "PUT", "DELETE", "HEAD", "OPTIONS"):
        assert answer(server, "/", method=method)[0] == 501
    status, text, headers = answer(server, "/finished/report.html")
    assert (status, "<figure class=living" in text, "All runs" in text) == (200, True, True)
    assert answer(server, "/finished/report.html", If_None_Match=headers["ETag"])[:2] == (304, "")
    assert files(runs) == before


@pytest.mark.slow
def test_a_page_follows_its_run_and_keeps_its_zoom(opened, server: serve.Server, held: Path) -> None:
    shown = opened(f"http://127.0.0.1:{server.server_port}/")
    shown.get_by_role("link", name="sweep", exact=True).click()
    shown.get_by_text("1 run of 1 setting, 0 done; 1 more not started: waiting").wait_for()
    shown.get_by_role("link", name="running").click()
    shown.wait_for_selector("figure[data-drawn]")
    loss = shown.locator("figure", has_text="Negative log-likelihood").locator(".plot")
    for key in ("Home", *["ArrowRight"] * 10, "+", "Home"):
        loss.press(key)
    before = shown.locator("figure", has_text="Negative log-likelihood").locator(".tip").text_content()
    assert "step 24" in before
    line = {"step": 104, "nll": 2.125, "steps": 4, "step_seconds": 0.5}
    with (held / "metrics.jsonl").open("a") as file:
        file.write("\n" + json.dumps(line) + "\n")
    shown.get_by_text("step 104 of 100").wait_for()
    loss.press("Home")
    assert shown.locator("figure", has_text="Negative log-likelihood").locator(".tip").text_content() == before
    for key in ("Escape", "End"):
        loss.press(key)
    assert "step 104\nnats per target token: " in shown.locator(".tip:not([hidden])").text_content()


@pytest.mark.slow
def test_ctrl_c_stops_it(runs: Path) -> None:
    command = [sys.executable, "-m", "scripts.report", str(runs), "--serve", "--port", "0"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            line = process.stdout.readline()
            assert line.startswith("http://127.0.0.1:")
            process.send_signal(signal.SIGINT)
            out, errors = process.communicate(timeout=60)
        finally:
            process.kill()
    assert (process.returncode, out, errors) == (130, "", "")


def test_bad_input(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        for arguments, message in (
            (
                [str(runs), "--serve", "--port", port],
                f"Port {port} cannot be had (Address already in use): give another",
            ),
            ([str(runs), "--serve", "--port", "70000"], "--port 70000: a port is a number from 0"),
            ([str(runs), str(runs), "--serve"], "--serve takes one directory, and no --out."),
            ([str(runs / "nothing"), "--serve"], "nothing: there is no such directory."),
        ):
            assert report.main(arguments) == 2
            assert message in capsys.readouterr().err
