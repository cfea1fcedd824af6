"""A host of two is killed, at a step or during a save, the first or the second: the other ends, and nothing is lost."""

import contextlib
import json
import random
import re
import shutil
import signal
import time
from pathlib import Path

import pytest
from real_runs import (
    STEPS,
    UNFINISHED,
    assert_every_row_once,
    assert_same_end,
    log,
    metrics,
    newest_step,
    start,
    two_hosts,
)

pytestmark = [pytest.mark.slow, pytest.mark.nightly]

ARGUMENTS = ("--config.mesh.fsdp=2", "--config.guard.heartbeat_seconds=10")


@pytest.fixture(scope="module")
def calm(folder: Path) -> str:
    """An uninterrupted run of two hosts."""
    assert finished(folder, "calm_hosts") == [0, 0], log(folder, "calm_hosts")
    return "calm_hosts"


def started(folder: Path, name: str) -> list:
    return [start(folder, name, *ARGUMENTS, env=env, faults={}) for env in two_hosts(folder)]


def finished(folder: Path, name: str) -> list[int]:
    return [host.wait(timeout=300) for host in started(folder, name)]


@pytest.mark.parametrize(("lost", "amid"), [(1, "a save"), (0, "a step")])
def test_one_is_killed_and_the_other_ends(folder: Path, calm: str, lost: int, amid: str) -> None:
    name = f"lost_{lost}_{amid[2:]}"
    hosts = started(folder, name)
    wanted = random.randrange(2, 12)
    try:
        while not happened(folder, name, amid, wanted):
            assert [host.poll() for host in hosts] == [None, None], log(folder, name)
            time.sleep(0.002)
        hosts[lost].kill()
        began = time.monotonic()
        code = hosts[1 - lost].wait(timeout=60)
    finally:
        for host in hosts:
            host.kill()
    assert time.monotonic() - began < 30, "the heartbeat and what it takes to end"
    assert code in (45, -signal.SIGABRT), code
    assert json.loads((folder / name / "RESULT.json").read_text())["status"] in ("running", "host lost")
    said = log(folder, name)
    if code == 45:  # what was exchanged failed; else the runtime missed the other's heartbeat, and says so
        assert f"Host {1 - lost} of 2 stopped at step " in said
        assert re.search("repeat the command on all hosts: it (starts again|resumes from the checkpoint of step)", said)
    else:
        assert "heartbeat" in said or "coordination service" in said.lower(), said
    assert finished(folder, name) == [0, 0], log(folder, name)
    assert metrics(folder, name) == metrics(folder, calm)
    assert_same_end(folder, name, calm, STEPS)
    assert_every_row_once(folder, name, STEPS)


def happened(folder: Path, name: str, amid: str, step: int) -> bool:
    if amid == "a save":
        return any((folder / name / "checkpoints").glob(UNFINISHED))
    with contextlib.suppress(ValueError):  # a line that is being written
        return newest_step(folder, name) >= step
    return False


def test_a_host_that_hangs_is_noticed_by_all_and_nothing_is_lost(folder: Path, calm: str) -> None:
    """Its stacks, and those of the one that waits for it."""
    name = "hung_host"
    shutil.copytree(folder / calm, folder / name)
    for step in (folder / name / "checkpoints").iterdir():
        if int(step.name) > 20:
            shutil.rmtree(step)
    impatient = [*ARGUMENTS, "--config.guard.hang_seconds=10"]
    faults = {"HANG": "1:22"}
    hosts = [start(folder, name, *impatient, env=env, faults=faults) for env in two_hosts(folder)]
    codes = [host.wait(timeout=120) for host in hosts]
    assert 43 in codes, log(folder, name)
    assert set(codes) <= {43, 45, -signal.SIGABRT}
    assert log(folder, name).count("No step finished for 10 s. Stacks of all threads:") >= 1
    assert "most recent call first" in log(folder, name)
    for rows in folder.glob(f"{calm}.rows.*"):
        shutil.copy(rows, folder / rows.name.replace(calm, f"{name}.before"))
    assert finished(folder, name) == [0, 0], log(folder, name)
    assert metrics(folder, name) == metrics(folder, calm)
    assert_same_end(folder, name, calm, STEPS)
