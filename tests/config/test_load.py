"""An experiment's file is executed once, has sizes, imports what is beside it, and is refused like an override."""

import os
import pickle
import subprocess
import sys
import typing
from pathlib import Path

import pytest

from research.config import ConfigError
from research.config.load import open_experiment
from research.storage.run_directory import claim
from scripts import coordinates, data, evaluate, plan, prepare, sweep, train
from scripts.benchmark import data as benchmark_data

ROOT = Path(__file__).resolve().parents[2]
FILE = """
from research import Adafactor, AdamW, Bytes, Denoising, Experiment, Model, PlainText, SpanCorruption, grid

def get_config():
    return Experiment(
        model=Model(512, 16, 2, 8, 32, 1, 1, compute="float32"),
        data=Denoising((PlainText("train.txt", "held_out.txt"),), Bytes(), input_length=48),
        optimizer=Adafactor(),
        steps=4,
        batch_size=8,
    )
"""

SIZES = """
from typing import Literal
from research import Denoising, Experiment, Model, Adafactor, Bytes, PlainText, Published, grid

WIDTHS = {"small": 16, "base": 32}

def get_config(size: Literal["small", "base"] = "base"):
    return Experiment(
        model=Model(512, WIDTHS[size], 2, 8, 32, 1, 1, compute="float32"),
        data=Denoising((PlainText("train.txt", "held_out.txt"),), Bytes(), input_length=48),
        optimizer=Adafactor(), steps=4, batch_size=8,
    )

def sweep(size):
    return grid({"steps": (WIDTHS[size], WIDTHS[size] + 1)})

def published():
    return []
"""


def written(folder: Path, text: str, name: str = "mine.py") -> Path:
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text(text)
    return folder / name


def refusal(file: Path | str, what: str = "config") -> str:
    """The sentence with which a file is refused."""
    with pytest.raises(ConfigError) as error:
        getattr(open_experiment(file), what)
    assert "\n" not in str(error.value)
    return str(error.value)


# --- Sizes ------------------------------------------------------------------------------------------------------------


def test_a_size_chooses_the_argument_of_get_config_and_of_sweep(tmp_path) -> None:
    file = written(tmp_path, SIZES)
    small, base, default = (open_experiment(f"{file}{size}") for size in (":small", ":base", ""))
    assert [one.config.model.width for one in (small, base, default)] == [16, 32, 32]
    assert [one.size for one in (small, base, default)] == ["small", "base", "base"]
    assert small.sweep == [{"steps": "16"}, {"steps": "17"}]
    assert small.published == []
    assert (str(small), small.name) == (f"{file}:small", "mine:small")


def test_an_annotation_may_be_text_and_a_size_without_a_default_is_asked_for(tmp_path) -> None:
    file = written(tmp_path, "from __future__ import annotations\n" + SIZES.replace(' = "base"', ""))
    assert open_experiment(f"{file}:small").config.model.width == 16
    assert refusal(file) == f"{file} has several sizes: give {file}:small or :base."


@pytest.mark.parametrize("size", ["large", ""])
def test_an_unknown_size_is_refused_with_those_that_there_are(tmp_path, size) -> None:
    file = written(tmp_path, SIZES)
    assert refusal(f"{file}:{size}") == f"{file} has no size {size!r}: give {file}:small or :base."


def test_a_size_of_a_file_without_sizes_is_refused(tmp_path) -> None:
    file = written(tmp_path, FILE)
    assert refusal(f"{file}:base") == f"{file} has one size: give it without :base."
    other = written(tmp_path, FILE.replace("get_config()", "get_config(width)"), "other.py")
    assert "get_config() needs width: declare a size as size: Literal" in refusal(other)


def test_a_run_of_one_size_is_not_resumed_at_another(tmp_path) -> None:
    file = written(tmp_path, SIZES)
    for size in ("small", "small"):
        opened = open_experiment(f"{file}:{size}")
        with claim(tmp_path / "run", opened.config, opened):
            (tmp_path / "run" / "metrics.jsonl").write_text('{"step": 1}\n')
    refused = pytest.raises(ConfigError, match=r"another experiment: model\.width was 16 and is now 32")
    with refused, claim(tmp_path / "run", open_experiment(f"{file}:base").config):
        pass


# --- Executed once ----------------------------------------------------------------------------------------------------

COUNTING = (
    'with open(__file__ + ".executed", "a") as file:\n    file.write("x")\n'
    + FILE.replace("get_config():", 'get_config():\n    open(__file__ + ".called", "a").write("x")')
    + '\ndef sweep():\n    return grid({"steps": (4, 8)})\n'
)
COMMANDS = {
    "train": (train, ["--run_dir", "run"]),
    "sweep": (sweep, ["--dir", "sweep", "--list"]),
    "plan": (plan, ["--hardware", "8xH100"]),
    "data": (data, []),
    "prepare": (prepare, ["--jobs", "1"]),
    "coordinates": (coordinates, ["--widths", "16", "32", "64"]),
}


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KINTSUGI_CACHE", str(tmp_path / "cache"))
    for name in ("train.txt", "held_out.txt"):
        (tmp_path / name).write_text(f"A line of {name}, and then another one.\n" * 200)
    return tmp_path


def assert_executed_once(file: Path) -> None:
    assert [Path(f"{file}.{what}").read_text() for what in ("executed", "called")] == ["x", "x"]


@pytest.mark.parametrize("name", COMMANDS)
def test_a_file_is_executed_once_a_command(folder, name, monkeypatch) -> None:
    """What is slow after the experiment is known, and has no more to do with its file, is left out."""
    monkeypatch.setattr("research.train.loop.train", lambda *_, **__: 0)
    monkeypatch.setattr("research.sweep.coordinates.check", lambda *_: {})
    script, arguments = COMMANDS[name]
    assert script.main([str(written(folder, COUNTING)), *arguments]) == 0
    assert_executed_once(folder / "mine.py")


def test_a_file_is_executed_once_where_it_is_an_option(folder) -> None:
    file = str(written(folder, COUNTING))
    assert evaluate.base_experiment(evaluate.parser().parse_args(["--experiment", file])) is not None
    assert_executed_once(folder / "mine.py")
    other = str(written(folder, COUNTING, "other.py"))
    benchmark_data.settings_of(benchmark_data.parse(["--experiment", other]))
    assert_executed_once(folder / "other.py")


def test_sizes_of_one_file_share_its_module_and_a_changed_file_does_not(tmp_path) -> None:
    file = written(tmp_path, SIZES)
    small, base = open_experiment(f"{file}:small"), open_experiment(f"{file}:base")
    assert small.module is base.module
    file.write_text(SIZES.replace('"small": 16', '"small": 48'))  # in the same second, of the same length
    assert open_experiment(f"{file}:small").config.model.width == 48


# --- Modules beside the file ------------------------------------------------------------------------------------------

PARTS = """
from __future__ import annotations
from dataclasses import dataclass

@dataclass(frozen=True)
class Part:
    other: Part | None = None
    number: Number = NUMBER

class Number(int):
    pass

def late():
    import later
    return later.VALUE
"""


def test_modules_of_one_name_beside_two_files_do_not_clash(tmp_path) -> None:
    before = list(sys.path)
    opened = []
    for name, number in (("a", 1), ("b", 2)):
        written(tmp_path, PARTS.replace("NUMBER", str(number)), f"{name}/parts.py")
        written(tmp_path, f"VALUE = {number}\n", f"{name}/later.py")
        written(tmp_path, "from .parts import Part as Same\n" + FILE, f"{name}/other.py")
        text = "import parts\nfrom parts import Part\nfrom . import other\n" + FILE
        opened.append(open_experiment(written(tmp_path, text, f"{name}/mine.py")))
    for number, file in enumerate(opened, 1):
        part = file.namespace["Part"]
        assert part().number == number
        assert file.namespace["parts"].late() == number, "imported when both were open"
        assert file.namespace["other"].Same is part
        assert pickle.loads(pickle.dumps(part())) == part()
        assert set(typing.get_type_hints(part)) == {"other", "number"}
    assert sys.path == before
    assert "parts" not in sys.modules
    assert not list(tmp_path.rglob("*.pyc"))


def test_a_module_above_is_imported_relatively_and_a_changed_one_anew(tmp_path) -> None:
    written(tmp_path, "STEPS = 5\n", "shared.py")
    file = written(tmp_path, "from ..shared import STEPS\n" + FILE.replace("steps=4", "steps=STEPS"), "deep/mine.py")
    assert open_experiment(file).config.steps == 5
    written(tmp_path, "STEPS = 6\n", "shared.py")
    assert open_experiment(file).config.steps == 6


def test_a_file_named_as_a_library_shadows_it_for_the_experiment_alone(tmp_path) -> None:
    written(tmp_path, "STEPS = 7\n", "queue.py")
    file = written(tmp_path, "from queue import STEPS\n" + FILE.replace("steps=4", "steps=STEPS"))
    assert open_experiment(file).config.steps == 7
    import queue

    assert hasattr(queue, "Queue")


OWN = """
from dataclasses import dataclass
from research import SpanCorruption
@dataclass(frozen=True)
class Mine(SpanCorruption):
    pass
"""


def test_processes_that_prepare_know_the_classes_of_the_file(folder) -> None:
    file = written(folder, OWN + FILE.replace("Bytes(), ", "Bytes(), Mine(), "))
    data = open_experiment(file).config.data
    code = f"from scripts import prepare; prepare._open({pickle.dumps(data)!r}, prepare.Path({str(file)!r}))"
    command = [sys.executable, "-c", f"{code}; print(len(prepare._streams))"]
    done = subprocess.run(command, capture_output=True, env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stderr.decode()
    assert int(done.stdout) == 2
    assert prepare.modules.are_in(pickle.dumps(data))
    assert not prepare.modules.are_in(pickle.dumps(open_experiment(written(folder, FILE, "plain.py")).config.data))


# --- Bad input --------------------------------------------------------------------------------------------------------


def test_what_is_no_experiment_is_refused(tmp_path) -> None:
    assert (
        refusal(tmp_path / "absent.py") == f"{tmp_path}/absent.py is not an experiment: give the path of a Python file."
    )
    (tmp_path / "notes.txt").write_text("x = 1\n")
    assert "is not an experiment" in refusal(tmp_path / "notes.txt")
    file = written(tmp_path, "x = 1\n")
    assert refusal(file) == f"{file} has no get_config() that returns an Experiment."
    file = written(tmp_path, "def get_config():\n    return {'steps': 1}\n")
    assert refusal(file) == f"get_config() of {file} returned dict, no Experiment."


def test_what_a_file_raises_is_refused_with_the_line(tmp_path) -> None:
    file = written(tmp_path, "\nx = (1\n")
    assert refusal(file) == f"{file}:2: SyntaxError: '(' was never closed."
    file = written(tmp_path, "import research\n\nx = absent\n")
    assert refusal(file) == f"{file}:3: NameError: name 'absent' is not defined."
    file = written(tmp_path, "import json\n\ndef get_config():\n    return json.loads('{')\n")
    assert refusal(file).startswith(f"{file}:4: JSONDecodeError: Expecting property name")
    file = written(tmp_path, "import nowhere\n")
    assert refusal(file) == f"{file}:1: ModuleNotFoundError: No module named 'nowhere'."
    file = written(tmp_path, "raise RuntimeError\n")
    assert refusal(file) == f"{file}:1: RuntimeError."
    written(tmp_path, "x = 1\ny = x +\n", "broken.py")
    file = written(tmp_path, "import broken\n")
    assert refusal(file) == f"{tmp_path}/broken.py:2: SyntaxError: invalid syntax."
    file = written(tmp_path, FILE.replace("batch_size=8", "batch_size=0"))
    assert refusal(file).startswith(f"{file}:5: batch_size is 0"), refusal(file)


def test_what_else_a_file_gives_is_refused(tmp_path) -> None:
    file = written(tmp_path, FILE)
    assert "has no sweep() that returns a list of dicts of overrides" in refusal(file, "sweep")
    assert "has no search() that returns a Search" in refusal(file, "search")
    assert open_experiment(file).published == []
    more = "def sweep():\n    yield {'seed': 1}\n    yield 2 / 0\ndef published():\n    return 3\n"
    file = written(tmp_path, FILE + more + "def search():\n    return 4\n")
    assert refusal(file, "sweep") == f"{file}:14: ZeroDivisionError: division by zero."
    assert refusal(file, "published") == f"published() of {file} returned int: it must return a list."
    assert refusal(file, "search") == f"search() of {file} returned int, no Search."
    for given, message in (("[]", "returned no variants."), ("[3]", "it must return dicts, such as {'seed': 1}.")):
        assert refusal(written(tmp_path, f"{FILE}\ndef sweep():\n    return {given}\n"), "sweep").endswith(message)


WRONG = {
    "model.activation is 'gelo': allowed is 'relu' or": ('compute="float32"', 'compute="float32", activation="gelo"'),
    "steps is 4.0: allowed is an integer.": ("steps=4", "steps=4.0"),
    "steps is '4': allowed is an integer.": ("steps=4", "steps='4'"),
    "batch_size is True: allowed is an integer.": ("batch_size=8", "batch_size=True"),
    "Model.dropout is '0.1': allowed is a number.": ('compute="float32"', 'compute="float32", dropout="0.1"'),
    "data.corpora is a list: write a tuple, (a, b).": (
        '(PlainText("train.txt", "held_out.txt"),)',
        '[PlainText("train.txt", "held_out.txt")]',
    ),
    "data.corpora.0 is 'train.txt': allowed is CorpusBySplit(": (
        '(PlainText("train.txt", "held_out.txt"),)',
        '("train.txt",)',
    ),
    "optimizer is Model(...): allowed is Adafactor(": ("Adafactor()", "Model(512, 16, 2, 8, 32, 1, 1)"),
    "data.tokenizer is <object object at": ("Bytes()", "object()"),
    "optimizer is Adafactor(...) of foreign, which is another class: allowed is": (
        "Adafactor()",
        "(lambda cls: setattr(cls, '__module__', 'foreign') or cls())"
        "(__import__('dataclasses').make_dataclass('Adafactor', [], frozen=True))",
    ),
}
CHECK = """
import pathlib, sys
from research.config import ConfigError, load
for file in sys.argv[1:]:
    try:
        load.open_experiment(file).config
        print("taken")
    except ConfigError as error:
        print(error)
"""


def test_a_value_of_a_wrong_type_is_refused_like_an_override(tmp_path) -> None:
    """In a process of its own: here every annotation is checked by beartype, as it is in no command."""
    files = []
    for number, (old, new) in enumerate(WRONG.values()):
        assert FILE.count(old) == 1
        files.append(str(written(tmp_path, FILE.replace(old, new), f"wrong{number}.py")))
    command = [sys.executable, "-c", CHECK, *files, str(written(tmp_path, FILE))]
    *refused, last = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert last == "taken"
    for file, sentence, message in zip(files, refused, WRONG, strict=True):
        place, _, text = sentence.partition(": ")
        assert place.split(".py")[0] + ".py" == file
        assert text.startswith(message), text
