"""The pages: links resolve, commands can be typed, Python runs, and the README's numbers are those of the code."""

import ast
import contextlib
import importlib
import io
import re
import shlex
import tomllib
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest

from research.config import Experiment, Generation, Mesh, Search, override
from research.config.load import open_experiment
from research.config.metric import Metric
from research.config.parts import Part
from research.config.task import Task
from scripts.__main__ import COMMANDS as COMMAND_NAMES

ROOT = Path(__file__).resolve().parents[1]
PAGES = [
    *(ROOT / name for name in ("README.md", "SECURITY.md")),
    *sorted((ROOT / "docs").glob("*.md")),
    *(ROOT / folder / "README.md" for folder in ("experiments", "scripts/launch", "tests")),
]
QUICKSTART = "experiments/quickstart.py"
EXPERIMENT = re.compile(r"experiments/(?!NAME)[\w/]+\.py(?::\w+)?")
PROGRAMS = {
    ("./scripts/quickstart",): ("scripts.train", (QUICKSTART, "--run_dir=runs/quickstart")),
    ("scripts/launch/gpus.sh",): ("scripts.train", ()),
    ("sbatch", "scripts/launch/slurm.sbatch"): ("scripts.train", ()),
    ("sbatch", "scripts/launch/prepare.sbatch"): ("scripts.prepare", ()),
}
DIALECT = re.compile(r"\bgo(?:es)? on\b|\bis said\b|\| the same \||refused by name|\bstands (?:in|beside)\b")

Command = tuple[str, tuple[str, ...]]  # a module with main(), and the arguments

every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.M | re.S)


def prose(page: Path) -> str:
    """The page without its fenced and indented blocks."""
    return re.sub(r"^```.*?^```|^    .*?$", "", page.read_text(), flags=re.M | re.S)


def lines(page: Path) -> list[list[str]]:
    """The words of every command line of a page, in blocks and in prose."""
    typed = "\n".join(blocks(page, "bash")).replace("\\\n", " ").splitlines()
    typed += re.findall(r"`((?:kintsugi|python -m|\./scripts/|scripts/launch/|sbatch) ?[^`\n]+)`", prose(page))
    return [words for line in typed if (words := shlex.split(line, comments=True))]


def command(words: list[str]) -> Command | None:
    """The module that a line runs, with its arguments; None for other programs."""
    for start, (module, first) in PROGRAMS.items():
        if tuple(words[: len(start)]) == start:
            return module, (*first, *words[len(start) :])
    if words[0] == "kintsugi" and re.fullmatch("[a-z_]+", words[1]):
        return f"scripts.{words[1]}", tuple(words[2:])
    if words[:2] == ["python", "-m"] and words[2].startswith("scripts.") and words[2] != "scripts.NAME":
        return words[2], tuple(words[3:])
    return None


COMMANDS = sorted({one for page in PAGES for words in lines(page) if (one := command(words)) is not None})
TYPED = [f"{module} {' '.join(arguments)}"[8:80] for module, arguments in COMMANDS]


@cache
def help_of(module: str) -> str:
    output = io.StringIO()
    with contextlib.redirect_stdout(output), pytest.raises(SystemExit) as end:
        importlib.import_module(module).main(["--help"])
    assert end.value.code == 0
    return output.getvalue()


@cache
def experiment(name: str) -> Experiment:
    return open_experiment(f"{ROOT / name}").config


def apply(config: object, arguments: tuple[str, ...], prefix: str) -> object:
    """The config with the overrides that have that prefix; raises ConfigError where one does not suit it."""
    overrides = override.from_arguments([one for one in arguments if one.startswith(prefix)], prefix)
    return override.apply(config, overrides)


def values(arguments: tuple[str, ...], option: str) -> list[str]:
    """What follows an option, up to the next one."""
    found: list[str] = []
    for number, argument in enumerate(arguments):
        if argument == option:
            after = arguments[number + 1 :]
            found += after[: next((i for i, one in enumerate(after) if one.startswith("--")), len(after))]
        found += [argument.partition("=")[2]] * argument.startswith(f"{option}=")
    return found


# --- Pages and links --------------------------------------------------------------------------------------------------


@every_page
def test_pages_are_short(page: Path) -> None:
    assert len(page.read_text().splitlines()) <= (200 if page == ROOT / "README.md" else 199)


@every_page
def test_pages_are_in_plain_english(page: Path) -> None:
    assert DIALECT.findall(page.read_text()) == []


def anchors(page: Path) -> set[str]:
    """The anchors that a heading gets on the usual hosts of repositories."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@every_page
def test_links_resolve(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"https?://", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), target


@every_page
def test_paths_of_the_repository_exist(page: Path) -> None:
    for path in re.findall(r"`((?:research|scripts|tests|docs|experiments|\.ci)/[^\s`]*)`", prose(page)):
        assert (ROOT / path.partition(":")[0]).exists(), path


def test_every_page_is_in_the_index() -> None:
    index = (ROOT / "docs" / "README.md").read_text()
    assert [path.name for path in (ROOT / "docs").glob("*.md") if f"({path.name})" not in index] == ["README.md"]


def test_every_command_and_extra_is_in_its_list() -> None:
    page = (ROOT / "docs" / "install.md").read_text()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert "kintsugi" in project["scripts"]
    assert set(re.findall(r"^\| `kintsugi (\w+)` \|", page, re.M)) == set(COMMAND_NAMES)
    assert set(re.findall(r"^\| `([\w-]+)` \| .* \| \[", page, re.M)) == set(project["optional-dependencies"])


# --- Commands ---------------------------------------------------------------------------------------------------------


def test_the_pages_name_commands() -> None:
    assert len(COMMANDS) > 60


@pytest.mark.usefixtures("any_directory")
@pytest.mark.parametrize(("module", "arguments"), COMMANDS, ids=TYPED)
def test_commands_can_be_typed(module: str, arguments: tuple[str, ...]) -> None:
    """Options are in the command's help, and overrides suit the experiment that it names, or else the quickstart."""
    known = set(re.findall(r"--[\w-]+", help_of(module)))
    for argument in arguments:
        name = re.match(r"--[\w-]+(?=[.=]|$)", argument)
        assert name is None or name[0] in known, f"{argument} is no option of {module}"
    named = [one for one in arguments if EXPERIMENT.fullmatch(one)]
    for config in map(experiment, named or [QUICKSTART]):
        changed = apply(config, arguments, "--config.")
        assert changed != config or not named or "--config." not in " ".join(arguments)
    apply(Generation(), arguments, "--generation.")
    apply(experiment(QUICKSTART).model, arguments, "--model.")
    for option, annotation in (("--task", Task), ("--metrics", Metric), ("--mesh", Mesh)):
        for text in values(arguments, option) if not module.startswith("scripts.benchmark") else ():
            override.parse(annotation, text, option)


@pytest.mark.usefixtures("any_directory")
@every_page
def test_overrides_in_prose_suit_the_experiment_before_them(page: Path) -> None:
    text = page.read_text()
    for found in re.finditer(r"`(--(config|generation|model)\.[\w.]+=[^`\n]+)`", text):
        names = EXPERIMENT.findall(text[: found.start()])
        config = experiment(names[-1] if names else QUICKSTART)
        base = {"config": config, "generation": Generation(), "model": config.model}[found[2]]
        apply(base, tuple(shlex.split(found[1])), f"--{found[2]}.")


@every_page
def test_experiments_that_pages_name_load(page: Path) -> None:
    for name in EXPERIMENT.findall(page.read_text()):
        assert isinstance(experiment(name), Experiment)


def test_options_of_the_tests_are_taken() -> None:
    taken = (ROOT / "tests" / "conftest.py").read_text() + (ROOT / "scripts" / "test").read_text()
    for words in (words for page in PAGES for words in lines(page) if words[0] == "./scripts/test"):
        for word in words[1:]:
            assert word in taken if word.startswith("--") else (ROOT / word).exists() or not word.startswith("tests")


# --- Python -----------------------------------------------------------------------------------------------------------


def member(module: ModuleType, name: str) -> object:
    return getattr(module, name) if hasattr(module, name) else importlib.import_module(f"{module.__name__}.{name}")


@every_page
def test_python_compiles_and_its_imports_resolve(page: Path) -> None:
    for block in blocks(page, "python"):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom):
                for alias in node.names:
                    member(importlib.import_module(node.module or ""), alias.name)
            elif isinstance(node, ast.Import):
                for alias in node.names:
                    importlib.import_module(alias.name)


@every_page
def test_functions_and_classes_of_pages_can_be_used(page: Path) -> None:
    for block in blocks(page, "python"):
        names: dict = {"__name__": "page"}
        if re.search(r"^(def|class) ", block, re.M):
            exec(compile(block, str(page), "exec"), names)
            own = [value for value in names.values() if isinstance(value, type) and value.__module__ == "page"]
            assert all(part() == part() for part in own if issubclass(part, Part))
            assert "get_config" not in names or isinstance(names["get_config"](), Experiment)
            assert "search" not in names or isinstance(names["search"](), Search)
            for variant in names["sweep"]() if "sweep" in names else ():
                changes = {name: override.as_text(value) for name, value in variant.items()}
                assert override.apply(experiment(QUICKSTART), changes) != experiment(QUICKSTART)


@pytest.mark.slow
def test_a_model_is_used_in_python_as_the_readme_shows(
    tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "quickstart").symlink_to(tiny_run)
    monkeypatch.chdir(tmp_path)
    (shown,) = blocks(ROOT / "README.md", "python")
    exec(compile(shown, "README.md", "exec"), names := {})
    assert [type(text) for text in names["texts"]] == [str]
    assert names["logits"].shape[:2] == (1, names["tokens"][0])


# --- Numbers ----------------------------------------------------------------------------------------------------------

CORE = ("config", "data", "parallel", "model", "train")


def lines_of_code(path: Path) -> int:
    """Lines without blank ones, comments and docstrings."""
    text = path.read_text()
    left_out: set[int] = set()
    for node in ast.walk(ast.parse(text)):
        documented = isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        if documented and ast.get_docstring(node, clean=False) is not None:
            left_out |= set(range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1))
    plain = enumerate(map(str.strip, text.splitlines()), start=1)
    return sum(number not in left_out and line != "" and not line.startswith("#") for number, line in plain)


def test_the_readme_has_the_size_of_the_code() -> None:
    found = re.search(r"([\d,]+) lines of code\. All of `research/`\s+has ([\d,]+)\.", (ROOT / "README.md").read_text())
    assert found is not None
    rooms = [sum(map(lines_of_code, (ROOT / "research" / room).rglob("*.py"))) for room in CORE]
    counted = sum(rooms), sum(map(lines_of_code, (ROOT / "research").rglob("*.py")))
    for text, number in zip(found.groups(), counted, strict=True):
        assert abs(int(text.replace(",", "")) - number) <= 0.05 * number, f"README has {text}, counted {number}"
