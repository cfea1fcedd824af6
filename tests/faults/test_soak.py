"""Kills in a row, at random moments of starting, training and saving.

python -m pytest tests/faults/test_soak.py --nightly --soak 200 -s
"""

import json
import random
import signal
import time
from pathlib import Path

import pytest
from real_runs import (
    assert_every_row_once,
    assert_same_end,
    log,
    metrics,
    newest_save,
    rows_seen,
    run,
    start,
    until,
)

pytestmark = [pytest.mark.slow, pytest.mark.nightly]

STEPS_A_KILL = 6  # more than the run comes forward by between two kills, on average


def test_any_number_of_kills_loses_nothing(folder: Path, pytestconfig: pytest.Config) -> None:
    kills = pytestconfig.getoption("--soak")
    steps = 40 + STEPS_A_KILL * kills
    arguments = [f"--config.steps={steps}", "--config.evaluation.every=50", "--config.evaluation.rows=8"]
    began = time.monotonic()
    assert run(folder, "calm", *arguments, faults={}) == 0, log(folder, "calm")
    calm, began = time.monotonic() - began, time.monotonic()
    seed = random.randrange(2**32)
    print(f"\n{kills} kills, seed {seed}", flush=True)
    killed(folder, "soak", arguments, kills, random.Random(seed))
    assert run(folder, "soak", *arguments, faults={}) == 0, log(folder, "soak")[-2000:]
    wall = time.monotonic() - began
    assert metrics(folder, "soak") == metrics(folder, "calm")
    assert_same_end(folder, "soak", "calm", steps)
    assert_every_row_once(folder, "soak", steps)
    assert rows_seen(folder, "soak") == rows_seen(folder, "calm")
    lines = [json.loads(line) for line in (folder / "soak" / "metrics.jsonl").read_text().splitlines()]
    useful = sum(line["steps"] * line["step_seconds"] for line in lines if "step_seconds" in line)
    print(f"{steps} steps in {wall:.0f} s, without kills in {calm:.0f} s; goodput {useful / wall:.1%}", flush=True)


def killed(folder: Path, name: str, arguments: list[str], kills: int, draw: random.Random) -> None:
    """Every other start is killed some steps on, the others anywhere, which is while they start for the most part."""
    rows, to_start = folder / f"{name}.rows.0", 5.0
    for kill in range(1, kills + 1):
        before, began = steps_in(rows), time.monotonic()
        process = start(folder, name, *arguments, faults={})
        if kill % 2:
            until(process, lambda before=before: steps_in(rows) > before)
            to_start, wanted = time.monotonic() - began, before + draw.randrange(10)
            until(process, lambda wanted=wanted: steps_in(rows) > wanted)
            time.sleep(draw.uniform(0, 0.1))
        else:
            time.sleep(draw.uniform(0, to_start))
        process.kill()
        assert process.wait() == -signal.SIGKILL, log(folder, name)[-2000:]
        if kill % 20 == 0:
            saved = newest_save(folder / name / "checkpoints")
            print(f"{kill} kills, step {saved} is saved, {to_start:.1f} s to a first step", flush=True)


def steps_in(rows: Path) -> int:
    return rows.read_bytes().count(b"\n") if rows.exists() else 0
