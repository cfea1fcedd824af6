"""The one command for a GPU: phases that fail, hang or are wrong, what a rerun skips, and all of it on a CPU."""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from typing import Any

import pytest

from research.model.family import preset
from research.model.flops import train_flops
from scripts.benchmark import peers
from scripts.benchmark.accelerator import __main__ as accelerator
from scripts.benchmark.accelerator import attention, calibration, phase
from scripts.benchmark.accelerator.phase import Phase
from scripts.benchmark.accelerator.phases import PHASES

ROOT = Path(__file__).parents[3]
NEEDED = {"jax", "flax", "optax", "jaxtyping", "numpy", "orbax-checkpoint", "rich"}  # the last three come with flax


def fake(name: str, *arguments: str, limit: float = 60) -> Phase:
    return Phase(name, "fake_phase", limit, arguments, ("small",))


@pytest.fixture
def run(tmp_path, monkeypatch, capsys) -> Any:
    """A function that runs phases into one folder, and returns the exit code, the results and what was printed."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "tests/helpers"))
    folder = tmp_path / "out"

    def run(*phases: Phase, **changes: Any) -> tuple[int, dict[str, Any], str]:
        defaults = {"out": folder, "only": None, "again": False, "budget": 60.0, "smoke": False, "markdown": False}
        code = accelerator.run(argparse.Namespace(**defaults | changes), phases)
        return code, json.loads((folder / "results.json").read_text()), capsys.readouterr().out

    return run


def ways(folder: Path) -> list[str]:
    return (folder / "ran").read_text().split()


def ended(process: int) -> bool:
    """Wait until a process of another parent is gone, or a zombie that nobody has waited for."""
    for _ in range(100):
        status = Path(f"/proc/{process}/status")
        if not status.exists() or "State:\tZ" in status.read_text():
            return True
        time.sleep(0.1)
    return False


@pytest.mark.live
@pytest.mark.slow
@pytest.mark.nightly
def test_all_of_it_runs_on_a_cpu(tmp_path):
    command = [ROOT / "scripts/benchmark/accelerator.sh", "--smoke", "--out", tmp_path, "--budget", "3000"]
    done = subprocess.run(command, env={**os.environ, "PYTHON": sys.executable}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + (tmp_path / "log.txt").read_text()
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["problems"] == []
    figures = {name: record["figures"] for name, record in results["phases"].items()}
    assert list(figures) == [each.name for each in PHASES]
    served = {(each["backend"], each["dtype"]) for each in figures["attention"]["cases"] if "errors" in each}
    assert served == {("reference", "bfloat16"), ("blocked", "bfloat16"), ("blocked", "float32")}
    assert {each.get("not served") for each in figures["attention"]["cases"] if each["backend"] == "cudnn"} == {
        "cudnn does not serve a cpu"
    }
    assert figures["step_packed"]["packed"] == 2
    assert all(figures[name]["step_seconds"] for name in figures if name.startswith("step_"))
    assert set(figures["peers"]["seconds"]) == set(figures["peers"]["engines"]) == set(peers.ENGINES)
    step = figures["calibration"]["step"]
    assert step["measured_seconds"] == pytest.approx(statistics.median(figures["step_base"]["step_seconds"]))
    assert step["kernels"] > 100
    assert step["modelled_seconds"] > 0
    for name in ("decode_bart", "decode_t5_xl"):
        (case,) = figures[name]["cases"]
        assert set(case["seconds"]) == {"ours", "transformers"}
    with tarfile.open(tmp_path / "trace.tar.gz") as archive:
        assert any(name.endswith(".xplane.pb") for name in archive.getnames())
    assert len(list(tmp_path.iterdir())) <= 8
    for record in results["phases"].values():
        assert {"jax", "python"} <= record["about"]["versions"].keys()
        assert {"commit", "device", "cores"} <= record["about"].keys()
    for line in ("step_base (done in", "ours / theirs", "time_model.PRODUCTS", "MFU of a large product"):
        assert line in done.stdout
    shown = subprocess.run([*command, "--markdown"], env={**os.environ, "PYTHON": sys.executable}, capture_output=True)
    assert b"| step, measured |" in shown.stdout


@pytest.mark.slow
def test_phases_that_fail_hang_or_die_are_reported_and_the_others_continue(run, tmp_path):
    began = time.monotonic()
    code, results, shown = run(
        fake("a", "fail"), fake("b", "hang", limit=8), fake("c", "die"), fake("d", "wrong"), fake("e", "work")
    )
    assert code == 1
    assert time.monotonic() - began < 60
    assert ways(tmp_path / "out") == ["fail", "hang", "die", "wrong", "work"]
    phases = results["phases"]
    assert phases["a"]["error"] == "exit code 1: the second does not"
    assert phases["b"]["error"] == "stopped after 8 s, its limit"
    assert phases["c"]["error"] == "it ended without a result"
    assert [phases[name]["figures"] for name in "abc"] == [{"so far": 1}] * 3  # what they had kept
    assert phases["e"]["figures"]["whole"] == 2
    assert phases["e"]["about"]["versions"]["jax"]
    assert results["problems"] == [
        *("a: exit code 1: the second does not", "b: stopped after 8 s, its limit", "c: it ended without a result"),
        "d: The gradient of the bias is zero.",
    ]
    assert all(problem in shown for problem in results["problems"])
    assert ended(int((tmp_path / "out/child").read_text()))  # what a phase started ends with it


@pytest.mark.slow
def test_a_rerun_repeats_what_is_not_done_and_nothing_else(run, tmp_path):
    code, before, _ = run(fake("a", "work"), fake("b", "fail"))
    assert code == 1
    repaired = fake("a", "work"), fake("b", "work")
    code, after, shown = run(*repaired)
    assert code == 0
    assert ways(tmp_path / "out") == ["work", "fail", "work"]
    assert "a              done before" in shown
    assert after["phases"]["a"] == before["phases"]["a"]
    assert after["phases"]["b"]["figures"]["whole"] == 2
    run(*repaired, only=["a"], again=True)
    assert ways(tmp_path / "out") == ["work", "fail", "work", "work"]


@pytest.mark.slow
def test_the_budget_leaves_out_the_last_phases_and_a_rerun_makes_them(run, tmp_path, monkeypatch):
    monkeypatch.setattr(accelerator, "LEAST", 30)
    phases = fake("a", "hang", limit=5), fake("b", "work")
    code, results, _ = run(*phases, budget=33.0)
    assert code == 1
    assert re.match(r"left out: \d+ s of --budget are left; the same command runs it", results["phases"]["b"]["error"])
    assert ways(tmp_path / "out") == ["hang"]
    assert run(*phases, only=["b"])[1]["phases"]["b"]["figures"]["whole"] == 2


@pytest.mark.slow
def test_a_killed_driver_leaves_what_was_done(tmp_path):
    code = "import sys; sys.path += ['tests/helpers', 'tests/scripts/benchmark']; import test_accelerator as own;"
    code += "from scripts.benchmark.accelerator import __main__ as accelerator; from argparse import Namespace;"
    code += "accelerator.run(Namespace(out=own.Path(sys.argv[1]), only=None, again=False, budget=99, smoke=False,"
    code += " markdown=False), (own.fake('a', 'work'), own.fake('b', 'hang')))"
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "tests/helpers")}
    driver = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, env=environment, process_group=0)
    while not (tmp_path / "child").exists():
        assert driver.poll() is None
        time.sleep(0.1)
    driver.kill()
    driver.wait()
    found = phase.records(tmp_path)
    os.killpg(os.getpgid(int((tmp_path / "child").read_text())), 9)  # the phase that was running, and its child
    assert found["a"]["finished"]
    assert found["b"]["figures"] == {"so far": 1}
    assert not found["b"]["finished"]
    assert json.loads((tmp_path / "results.json").read_text())["phases"]["a"]["figures"]["whole"] == 2


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--only", "step_bsae"], "--only step_bsae is not a phase; did you mean step_base?"),
        (["--only", "x"], "--only x is not a phase: there are attention, step_base"),
        (["--budget", "0"], "--budget is 0: it must be above 0."),
        (["--out", "{used}"], "is not empty and holds no results: give a new folder."),
        (["--out", "{file}"], "is a file: give a new folder."),
        (["--out", "{smoke}"], "holds results of --smoke: give another folder."),
        (["--out", "{file}", "--markdown"], "has no results: run without --markdown first."),
        (["--smok"], "--smok is not understood; did you mean --smoke?"),
    ],
)
def test_bad_options_are_one_sentence(arguments, sentence, tmp_path, capsys):
    paths = {"used": tmp_path, "file": tmp_path / "file", "smoke": tmp_path / "smoke"}
    paths["file"].write_text("")
    paths["smoke"].mkdir()
    (paths["smoke"] / phase.RECORDS).write_text('{"phase": "attention", "smoke": true, "finished": true}\n')
    assert accelerator.main([argument.format(**paths) for argument in arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert sentence in error
    assert error.count("\n") == 1


def test_a_python_without_jax_is_named_before_anything_runs(tmp_path):
    python = tmp_path / "python"
    python.write_text(f'#!/usr/bin/env bash\nexec "{sys._base_executable}" -I "$@"\n')
    python.chmod(0o755)
    environment = {**os.environ, "PYTHON": str(python)}
    done = subprocess.run(
        [ROOT / "scripts/benchmark/accelerator.sh"], env=environment, capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 2
    assert done.stderr == (
        f"error: {python} lacks jax flax optax jaxtyping: install it, or name another Python, PYTHON=/path/to/python.\n"
    )


@pytest.mark.parametrize("module", sorted({each.module for each in PHASES}))
def test_the_phases_need_nothing_but_jax_flax_optax_and_the_names_of_shapes(module):
    names = re.findall(r"^[\w-]+", (ROOT / "requirements.txt").read_text(), re.MULTILINE)
    absent = sorted({name.replace("-", "_") for name in {*names, "torch", "transformers"} - NEEDED})
    code = f"import sys; sys.modules.update(dict.fromkeys({absent})); import {module}, {accelerator.__name__}"
    code += f"; from {phase.__name__} import about; about(); from research.storage import run_directory"
    code += "; run_directory.environment(); import research.decode.search"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_products_of_the_calibration_are_those_of_the_step():
    model, rows, inputs, targets = preset("t5_v1_1/base"), 2, 64, 24
    found = sum(each.times * each.flops for each in calibration.sizes(model, rows, inputs, targets))
    scores = 12 * inputs**2 + 12 * targets**2 + 12 * targets * inputs
    assert 3 * (found + rows * 4 * scores * model.attention_width) == rows * train_flops(model, inputs, targets)


def test_constants_are_those_by_which_the_model_gives_what_was_measured():
    """Products at 0.5 of the peak and half of that in float32, copies at 0.8, attention at 0.3, 0.2 and 0.1."""
    options = calibration.parser().parse_args([])
    system = calibration.hardware.find("1xH200")
    case = calibration.encoder_of(options)
    forward = 4 * options.rows * case.heads * case.t * case.s * case.head_width
    workspace = 4 * options.rows * case.heads * case.t * case.s
    first = 2e-6 + forward / (0.3 * system.chip.flops)
    second = 2e-6 + 1.25 * 2 * forward / (0.2 * system.chip.flops) + workspace / (0.8 * system.chip.bandwidth)
    own = 4 * 2e-6 + 5.5 * forward / (0.1 * system.chip.flops)
    product = {"m": 64, "k": 32, "n": 16, "form": "forward", "times": 3, "dtype": "bfloat16"}
    seconds = 2 * 64 * 32 * 16 / (0.5 * system.chip.flops)
    found = calibration.suggestion(
        {
            "products": [product | {"seconds": seconds}, product | {"dtype": "float32", "seconds": 2 * seconds}],
            "copy": {"bytes_per_second": 0.8 * system.chip.bandwidth},
            "launch": {"seconds": 2e-6},
            "attention": [
                {"backend": "cudnn", "seconds": {"forward": first, "forward and backward": first + second}},
                {"backend": "pallas", "seconds": {"forward": 1.0, "forward and backward": own}},
                {"backend": "reference", "seconds": {"forward": 1.0, "forward and backward": 3.0}},
            ],
        },
        system,
        options,
    )
    assert found == pytest.approx((0.5, 0.5, 0.8, 0.3, 0.2, 0.1, 2e-6))


def test_an_error_above_the_limit_is_wrong_and_what_is_not_served_is_said(monkeypatch):
    def attend(backend: str, mask: Any, *arrays: Any) -> Any:
        query, key, value, bias = (*arrays, None)[:4]
        output = attention.reference_attention(query, key, value, mask.array, bias, lambda weights: weights)
        return output * (1.1 if backend == "blocked" else 1)

    case = attention.cases(8, 6)[4]
    monkeypatch.setattr(attention, "attend", attend)
    found, wrong = attention.compared(2, case)
    assert wrong == [
        f"{case.name}, blocked in {dtype}: {what} differs by 0.1 of its largest value, more than {limit}."
        for dtype, limit in (("bfloat16", "0.03"), ("float32", "1e-05"))
        for what in ("the output", *(f"the gradient of the {name}" for name in ("query", "key", "value", "bias")))
    ]
    assert {each["not served"] for each in found if each["backend"] == "cudnn"} == {"cudnn does not serve a cpu"}
