"""`kintsugi NAME` is `python -m scripts.NAME`; help and bad input answer without JAX, and name what was meant."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from research.config import ConfigError
from scripts import command_line
from scripts.__main__ import COMMANDS

ROOT = Path(__file__).resolve().parents[2]

# Each command with what is needed to get as far as a bad override or, where it takes none, a misspelt option.
BAD = {
    "train": ["experiments/quickstart.py", "--run_dir=absent", "--config.stesp", "3"],
    "sweep": ["experiments/quickstart.py", "--dir=absent", "--config.stesp=3"],
    "evaluate": ["absent", "--config.stesp=3"],
    "generate": ["absent", "text", "--generation.max_length=many"],
    "score": ["absent", "--input=absent", "--generation.max_lenght=3"],
    "inspect": ["absent", "--exmaple=3"],
    "report": ["absent", "--otu=x"],
    "data": ["experiments/quickstart.py", "--config.stesp=3"],
    "prepare": ["experiments/quickstart.py", "--config.optimizer.peak=3"],
    "plan": ["experiments/quickstart.py", "--hardware=v5p-64", "--config.model.width=wide"],
    "convert": ["absent", "new", "--model.activation=swish"],
    "harness": ["absent", "--tasks=x", "--limti=3"],
    "push": ["absent", "me/model", "--licence=mit"],
    "average": ["absent", "new", "--lats=3"],
    "significance": ["a", "b", "--metrics", "BLUE()"],
    "scaling": ["absent", "--polt=x"],
    "rates": ["absent", "--wihtin=1"],
    "coordinates": ["experiments/quickstart.py", "--widths", "1", "--config.stesp=3"],
    "train_tokenizer": ["--text=absent", "--output=new", "--peices=3"],
    "add_tokens": ["absent", "--tokens=x", "--out=new", "--tokes=y"],
    "trim": ["absent", "--corpus=absent", "--out=new", "--langauges=de"],
}

EVERY_COMMAND = """
import contextlib, importlib, io, json, sys
found = {}
for name, arguments in json.loads(sys.argv[1]).items():
    main, errors = importlib.import_module(f"scripts.{name}").main, io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()) as printed, contextlib.redirect_stderr(errors):
        with contextlib.suppress(SystemExit):
            main(["--help"])
        code = main(arguments)
    found[name] = printed.getvalue()[:80], code, errors.getvalue(), "jax" in sys.modules
print(json.dumps(found))
"""


def test_help_and_bad_input_answer_without_jax() -> None:
    command = [sys.executable, "-c", EVERY_COMMAND, json.dumps(BAD)]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    found = json.loads(ran.stdout)
    assert set(found) == set(COMMANDS)
    for name, (printed, code, errors, has_jax) in found.items():
        assert printed.startswith(f"usage: python -m scripts.{name}"), name
        assert code == 2, name
        assert errors.startswith("error: "), name
        assert errors.count("\n") == 1, name
        assert not has_jax, name


def test_every_script_is_a_command_but_those_that_make_goldens() -> None:
    files = [path for path in (ROOT / "scripts").glob("*.py") if not path.name.startswith("make_")]
    entries = {path.stem for path in files if 'if __name__ == "__main__":' in path.read_text()}
    assert entries - {"__main__"} == set(COMMANDS)


def kintsugi(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command as an installation makes it, a file that calls the entry point."""
    program = folder / "kintsugi"
    program.write_text("import sys\nfrom scripts.__main__ import main\nsys.exit(main())\n")
    command = [sys.executable, str(program), *arguments]
    return subprocess.run(
        command, env=os.environ | {"PYTHONPATH": str(ROOT)}, cwd=folder, capture_output=True, text=True
    )


def test_the_command_lists_what_it_can_do_and_imports_little(tmp_path: Path) -> None:
    alone, asked = kintsugi(tmp_path), kintsugi(tmp_path, "--help")
    assert (alone.returncode, alone.stdout) == (0, asked.stdout)
    listed = dict(line.split(maxsplit=1) for line in alone.stdout.splitlines() if line.startswith("  "))
    assert list(listed) == list(COMMANDS)
    assert listed["train"] == "Train an experiment"
    for name, summary in listed.items():
        docstring = ast.get_docstring(ast.parse((ROOT / "scripts" / f"{name}.py").read_text()))
        assert docstring is not None
        assert docstring.startswith(f"{summary}: kintsugi {name} "), name
    code = (
        "import sys; from scripts.__main__ import overview; overview(); assert not {'jax', 'etils'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_a_command_is_the_script_with_its_exit_code_and_its_name(tmp_path: Path) -> None:
    helped = kintsugi(tmp_path, "generate", "--help").stdout
    assert helped.startswith("usage: kintsugi generate ")
    assert "  kintsugi generate opus-mt-en-de" in helped
    assert "python -m scripts." not in helped
    refused = kintsugi(tmp_path, "train", "absent.py", "--run_dir", "a")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr == "error: absent.py is not an experiment: give the path of a Python file.\n"
    bad_usage = kintsugi(tmp_path, "train")
    assert bad_usage.returncode == 2
    assert bad_usage.stderr.startswith("usage: kintsugi train ")


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("trian", "did you mean train?"),
        ("train-tokenizer", "did you mean train_tokenizer?"),
        ("xyz", "kintsugi --help lists the commands."),
    ],
)
def test_an_unknown_command_is_refused_with_what_was_meant(tmp_path: Path, name: str, remedy: str) -> None:
    refused = kintsugi(tmp_path, name)
    assert refused.returncode == 2
    assert refused.stderr == f"error: {name} is not a command of kintsugi; {remedy}\n"


def parsed(*arguments: str) -> tuple[dict[str, object], list[dict[str, str]]]:
    known = command_line.parser("train", None)
    known.add_argument("experiment")
    known.add_argument("--run_dir")
    options, overrides = command_line.parse(known, arguments, (command_line.CONFIG, command_line.GENERATION))
    return vars(options), overrides


def test_an_override_takes_its_value_after_a_space_or_an_equals_sign() -> None:
    arguments = ("--config.steps", "3", "a.py", "--config.seed=-1", "--run_dir", "b", "--generation.max_length", "-1")
    assert parsed(*arguments) == (
        {"experiment": "a.py", "run_dir": "b"},
        [{"steps": "3", "seed": "-1"}, {"max_length": "-1"}],
    )
    assert parsed("a.py", "--config.init=x=y")[1] == [{"init": "x=y"}, {}]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--run_dri=b",), "--run_dri=b is not understood; did you mean --run_dir?"),
        (("--steps=3",), "--steps=3 is not understood; did you mean --config.steps?"),
        (("--max_length=3",), "--max_length=3 is not understood; did you mean --generation.max_length?"),
        (("--confg.steps=3",), "--confg.steps=3 is not understood; did you mean --config.steps?"),
        (("--xyzzy=3",), "--xyzzy=3 is not understood: overrides look like --config.optimizer.schedule.peak=3e-3; see"),
        (("b",), "b is not understood: overrides look like"),
        (("--config.steps",), "--config.steps has no value: write --config.steps=VALUE."),
        (("--config.steps", "--run_dir=b"), "--config.steps has no value"),
        (("--config.stesp", "3"), "stesp is no field: the config has model, data"),
        (("--generation.max_length=many",), "max_length is 'many': allowed is an integer"),
    ],
)
def test_bad_arguments_are_one_sentence(arguments: tuple[str, ...], sentence: str) -> None:
    with pytest.raises(ConfigError) as error:
        parsed("a.py", *arguments)
    assert sentence in str(error.value)
    assert "\n" not in str(error.value)
