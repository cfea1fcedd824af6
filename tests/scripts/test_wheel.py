"""The wheel in a new environment trains, evaluates, sweeps and reports in a folder that is no checkout."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from xla_flags import xla_flags

pytestmark = [pytest.mark.slow, pytest.mark.nightly]

ROOT = Path(__file__).resolve().parents[2]

EXPERIMENT = """
from research import *


def get_config():
    return Experiment(
        model=Model(600, 16, 2, 8, 32, 1, 1, compute="float32"),
        data=Denoising(corpora=(TFDS("python_docs"),), tokenizer=Bytes(), input_length=48),
        optimizer=Adafactor(),
        steps=2,
        batch_size=8,
        evaluation=Evaluation(every=2, rows=8, samples=0),
        checkpoint=Checkpoint(every=2),
        report=Report(every=1),
    )


def sweep():
    return seeds(2)
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the wheel; what the package depends on is taken from this one."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in ("pyproject.toml", "requirements.txt"):
        shutil.copy(ROOT / name, source)
    for name in ("research", "scripts", "experiments"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    subprocess.run([*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", folder, source], check=True)
    (wheel,) = folder.glob("kintsugi-*.whl")
    environment = folder / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    python = environment / "bin" / "python"
    subprocess.run([*pip, "--python", python, "install", "--no-deps", "--no-index", wheel], check=True)
    (packages,) = environment.glob("lib/python*/site-packages")
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return environment


@pytest.fixture(scope="module")
def run(installed: Path, tmp_path_factory: pytest.TempPathFactory):
    """A function that runs a command there, in a folder with a repository and a scripts/ package of the user's own."""
    folder = tmp_path_factory.mktemp("project")
    (folder / "my_experiment.py").write_text(EXPERIMENT)
    (folder / "scripts").mkdir()
    (folder / "scripts" / "__init__.py").write_text("")
    subprocess.run(["git", "init", "--quiet", folder], check=True)
    variables = {name: text for name, text in os.environ.items() if name != "PYTHONPATH"}
    variables |= {"KINTSUGI_CACHE": str(folder / "cache"), "JAX_PLATFORMS": "cpu"}
    variables["XLA_FLAGS"] = xla_flags(devices=1)

    def run(*command: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        program = [str(installed / "bin" / command[0]), *command[1:]]
        ran = subprocess.run(program, cwd=folder, env=variables, capture_output=True, text=True)
        assert ran.returncode == code, ran.stdout + ran.stderr
        return ran

    run.folder = folder  # type: ignore[attr-defined]
    return run


def test_modules_are_the_wheel_s(run, installed: Path) -> None:
    code = "import research, scripts.train, experiments.quickstart as file"
    code += "; print(research.__file__, file.__file__, file.get_config().steps)"
    first, second, steps = run("python", "-P", "-c", code).stdout.split()
    assert first.startswith(str(installed))
    assert second.startswith(str(installed))
    assert steps == "2500"
    version = run("kintsugi", "--version").stdout.split()
    assert version[0] == "kintsugi"
    assert f'version = "{version[1]}"' in (ROOT / "pyproject.toml").read_text()


def test_a_file_of_one_s_own_is_trained_evaluated_and_reported(run) -> None:
    trained = run("kintsugi", "train", "my_experiment.py", "--run_dir", "runs/a", "--config.steps", "4")
    assert "Result" in trained.stdout
    directory = run.folder / "runs" / "a"
    (start,) = [json.loads(line) for line in (directory / "history.jsonl").read_text().splitlines()]
    assert start["commit"] == "kintsugi " + run("kintsugi", "--version").stdout.split()[1]
    assert start["command"] == "kintsugi train my_experiment.py --run_dir runs/a --config.steps 4"
    assert json.loads((directory / "RESULT.json").read_text())["step"] == 4
    assert "loss" in run("kintsugi", "evaluate", "runs/a").stdout
    run("kintsugi", "report", "runs/a")
    page = (directory / "report.html").read_text()
    assert f"pip install {start['commit'].replace(' ', '==')}" in page
    assert "leeoniya/uPlot" in page  # files of the package that are no modules
    assert run("kintsugi", "generate", "runs/a", "a line", "--generation.max_length", "3").stdout.count("\n") == 1
    refused = run("kintsugi", "train", "my_experiment.py", "--run_dir", "runs/a", "--config.seed=9", code=2)
    assert refused.stderr.startswith("error: runs/a holds another experiment: seed was 0 and is now 9.")


def test_a_sweep_starts_its_variants_from_the_wheel(run) -> None:
    run("kintsugi", "sweep", "my_experiment.py", "--dir", "sweeps/a")
    results = sorted((run.folder / "sweeps" / "a").glob("*/RESULT.json"))
    assert [json.loads(path.read_text())["status"] for path in results] == ["done", "done"]
