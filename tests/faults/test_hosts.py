"""Hosts that are lost, hang, do not meet or disagree; and other numbers of hosts and devices."""

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from real_runs import (
    ROOT,
    STEPS,
    assert_close_to_whole,
    assert_every_row_once,
    environment,
    free_port,
    hosts,
    log,
    metrics,
    run,
    start,
    two_hosts,
    until,
)

from scripts import train

pytestmark = pytest.mark.slow


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


def test_two_hosts_stop_in_an_evaluation_and_the_next_start_makes_it(folder: Path) -> None:
    """The terminal of the second alone is closed, while both evaluate step 8."""
    environments, name = two_hosts(folder), "hosts_evaluating"
    faults = {"SLOW_EVALUATION": "5"}
    hosts = [start(folder, name, "--config.mesh.fsdp=2", env=env, faults=faults) for env in environments]
    try:
        until(hosts[0], lambda: metrics(folder, name)[-1:] and metrics(folder, name)[-1]["step"] == 8)
        hosts[1].send_signal(signal.SIGHUP)
        assert [host.wait(timeout=60) for host in hosts] == [42, 42], log(folder, name)
    finally:
        for host in hosts:
            host.kill()
    result = json.loads((folder / name / "RESULT.json").read_text())
    assert (result["status"], result["step"]) == ("preempted", 8)
    assert not any("held_out_loss" in line for line in metrics(folder, name))
    assert run(folder, name) == 0
    assert_close_to_whole(folder, name)


def test_two_hosts_stop_in_preparation_though_one_alone_is_asked(folder: Path) -> None:
    environments, name = two_hosts(folder), "hosts_preparing"
    slow = {"SLOW_PREPARATION": "60"}
    hosts = [start(folder, name, "--config.mesh.fsdp=2", env=env, faults=slow) for env in environments]
    try:
        until(hosts[0], lambda: (folder / name / "RESULT.json").exists())
        hosts[1].send_signal(signal.SIGTERM)
        began = time.monotonic()
        assert [host.wait(timeout=60) for host in hosts] == [42, 42], log(folder, name)
        assert time.monotonic() - began < 20  # 2 s, and what it takes to end
    finally:
        for host in hosts:
            host.kill()
    assert "Stopped before a step was made; there is no complete checkpoint" in log(folder, name)
    assert "Traceback" not in log(folder, name)


def test_the_survivor_of_two_hosts_ends_with_45(folder: Path) -> None:
    """In a step, long before the runtime misses a heartbeat and would abort it.

    Of two devices of a host, one can wait for the other, whose exchange failed: until the heartbeat is missed.
    """
    name = "survivor"
    environments = hosts(folder, 2, devices=1)
    started = [start(folder, name, "--config.mesh.fsdp=2", env=env, faults={}) for env in environments]
    try:
        until(started[0], lambda: len(metrics(folder, name)) >= 2)
        started[1].kill()
        assert started[0].wait(timeout=30) == 45, log(folder, name)
    finally:
        for host in started:
            host.kill()
    result = json.loads((folder / name / "RESULT.json").read_text())
    assert (result["status"], result["exit_code"]) == ("host lost", 45)
    assert "An exchange between the hosts failed: " in log(folder, name)
    assert "repeat the command on all hosts: it " in log(folder, name)
    assert "Traceback" not in log(folder, name)


@pytest.mark.nightly
def test_8_devices_then_4_then_2_on_other_meshes(folder: Path) -> None:
    meshes = ((8, "Mesh(data=2, fsdp=4)"), (4, "Mesh(data=1, fsdp=2, tensor=2)"), (2, "Mesh(data=1, tensor=2)"))
    for part, (devices, mesh) in enumerate(meshes, 1):
        arguments = [f"--config.mesh={mesh}", f"--config.steps={8 * part}"]
        assert run(folder, "shrunk", *arguments, env=environment(folder, devices), faults={}) == 0, log(
            folder, "shrunk"
        )
    assert_close_to_whole(folder, "shrunk")
    assert_every_row_once(folder, "shrunk", STEPS)


@pytest.mark.nightly
def test_2_hosts_then_1_then_4(folder: Path) -> None:
    """The same rows at every step, each once, and only the first host writes."""
    for part, count in enumerate((2, 1, 4), 1):
        steps = f"--config.steps={8 * part}"
        started = [start(folder, "moving", steps, env=env, faults={}) for env in hosts(folder, count)]
        assert [host.wait(timeout=300) for host in started] == [0] * count, log(folder, "moving")
        assert log(folder, "moving").count(f"after {8 * part} steps") == 1
    assert_close_to_whole(folder, "moving")
    assert_every_row_once(folder, "moving", STEPS)
    rows = [set(held_by(folder, "moving", host)) for host in range(4)]
    assert rows == [{2 * host, 2 * host + 1} for host in range(4)]


def held_by(folder: Path, name: str, host: int) -> list[int]:
    """Of the last step's rows, by their place in the batch, those that a host read."""
    *_, last = (folder / f"{name}.rows.{host}").read_text().splitlines()
    return [row % 8 for row, _ in json.loads(last)[1]]


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
        "from research.parallel.hosts import Cluster, initialize_hosts;"
        " initialize_hosts(Cluster('127.0.0.1:{}', 2, {}), 2)"
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
            "--host_id is 2: with 2 hosts it must be from 0 to 1.",
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
