"""Users' files of a run: kept whole, executed again if the config needs them, refused when their code changed."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest

from research.config import ConfigError, classes
from research.config.load import ExperimentFile, open_experiment
from research.config.override import to_json
from research.storage import code
from research.storage.run_directory import claim, read_config

FILE = '''"""Docstring."""
from dataclasses import dataclass

import helper
from research import AdamW, Constant, Denoising, Experiment, Model, PlainText, SpanCorruption


@dataclass(frozen=True)
class Own(AdamW):
    """Docstring of the class."""

    heat: float = helper.HEAT  # a comment


def get_config():
    return Experiment(
        model=Model(128, 16, 2, 8, 32, 2, 2),
        data=Denoising((PlainText("text.txt"),)),
        optimizer=Own(schedule=Constant(peak=0.1), heat=2.0),
        steps=10,
        batch_size=8,
    )
'''

PLAIN = "optimizer=AdamW(schedule=Constant(peak=0.1))"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "helper.py").write_text("HEAT = 1.0\n")
    (folder / "own.py").write_text(FILE)
    return folder / "own.py"


def begun(opened: ExperimentFile, run: Path, accept: bool = False) -> None:
    """Claim the run directory as training does, and leave it as a run that has made a step."""
    with claim(run, opened.config, opened, accept):
        (run / "metrics.jsonl").write_text('{"step": 1}\n')


def test_a_run_is_read_elsewhere_without_the_experiment_s_file(file: Path, tmp_path: Path, monkeypatch) -> None:
    opened = open_experiment(file)
    begun(opened, tmp_path / "run")
    shutil.move(tmp_path / "run", tmp_path / "elsewhere")
    shutil.rmtree(file.parent)
    monkeypatch.setattr(classes, "_namespaces", [])
    config = read_config(tmp_path / "elsewhere")
    assert to_json(config) == to_json(opened.config)
    assert type(config.optimizer).__name__ == "Own"
    assert type(config.optimizer) is not type(opened.config.optimizer)  # made anew from the kept file
    assert classes._namespaces == []  # known while the config was read alone
    kept = json.loads((tmp_path / "elsewhere/code/FILES.json").read_text())
    assert kept["file"] == "mine/own.py"
    assert sorted(kept["files"]) == ["mine/helper.py", "mine/own.py"]
    assert kept["classes"] == ["Own"]


def test_changed_code_is_refused_by_name_and_may_be_accepted(file: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    begun(open_experiment(file), run)
    (file.parent / "helper.py").write_text("HEAT = 3.0\n")
    with pytest.raises(ConfigError, match=r"other code in mine/helper\.py, stored in .*code: .*--accept_changed_code"):
        begun(open_experiment(file), run)
    assert (run / "code/mine/helper.py").read_text() == "HEAT = 1.0\n"  # nothing was replaced
    begun(open_experiment(file), run, accept=True)
    assert (run / "code/mine/helper.py").read_text() == "HEAT = 3.0\n"
    assert (run / "code-1/mine/helper.py").read_text() == "HEAT = 1.0\n"


def test_comments_docstrings_and_functions_that_give_values_may_change(file: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    before = code.fingerprint((opened := open_experiment(file)).config, code.SourceFiles.of(file))
    begun(opened, run)
    text = FILE.replace('"""Docstring."""\n', "").replace("of the class", "which is new").replace("# a comment", "#")
    file.write_text(text.replace("steps=10", "steps=20") + "\n\ndef sweep():\n    return [{'seed': 1}]\n")
    changed = open_experiment(file)
    assert code.fingerprint(changed.config, code.SourceFiles.of(file)) == before
    begun(changed, run)
    file.write_text(text.replace("heat: float", "warmth: float = 0.0\n    heat: float"))
    changed = open_experiment(file)
    assert code.fingerprint(changed.config, code.SourceFiles.of(file)) != before


def test_an_experiment_without_classes_of_its_own_has_no_fingerprint(file: Path) -> None:
    file.write_text(FILE.replace("optimizer=Own(schedule=Constant(peak=0.1), heat=2.0)", PLAIN))
    opened = open_experiment(file)
    assert code.fingerprint(opened.config, code.SourceFiles.of(file)) == {}


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda run: shutil.rmtree(run / "code"), "names Own, which this package lacks, and .*FILES.json is missing"),
        (lambda run: (run / "code/mine/helper.py").unlink(), r"mine/helper\.py is missing: the run's config needs it"),
        (lambda run: (run / "code/mine/own.py").write_text("x = 1"), r"mine/own\.py has changed since it was stored"),
        (lambda run: (run / "code/FILES.json").write_text("{"), "FILES.json is not JSON"),
    ],
)
def test_kept_files_that_are_missing_or_changed_are_named(damage, message, file: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    begun(open_experiment(file), run)
    damage(run)
    with pytest.raises(ConfigError, match=message):
        read_config(run)


def test_files_outside_the_kept_folder_are_refused(file: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    begun(open_experiment(file), run)
    facts = json.loads((run / "code/FILES.json").read_text())
    (run / "code/FILES.json").write_text(json.dumps(facts | {"files": {"../../mine/own.py": "0"}}))
    with pytest.raises(ConfigError, match=r"names \.\./\.\./mine/own\.py, which is not below"):
        read_config(run)


def test_a_run_of_shipped_classes_executes_nothing(file: Path, tmp_path: Path) -> None:
    file.write_text(FILE.replace("optimizer=Own(schedule=Constant(peak=0.1), heat=2.0)", PLAIN))
    run = tmp_path / "run"
    opened = open_experiment(file)
    begun(opened, run)
    (run / "code/mine/own.py").write_text("raise SystemExit('executed')")
    assert read_config(run) == dataclasses.replace(opened.config)
