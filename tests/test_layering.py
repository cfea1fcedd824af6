"""Imports follow the data: a module imports only from its left, and scripts import research, never the reverse."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ORDER = [
    {"config"}, {"override"}, {"data"}, {"model"}, {"pretrained"}, {"sharding"}, {"loss", "optimizer"}, {"step"},
    {"best", "bucket", "console", "hardware", "table", "chart"},
    {"checkpoint", "run_directory", "watchdog", "logits", "plan", "journal", "metrics", "outputs", "plot",
     "compilation", "startup", "profile"},
    {"decode", "weights", "roofline", "aot", "record", "significance"}, {"page", "scaling", "coordinates"},
    {"run_page"},
    {"generate", "averaging", "memory"}, {"evaluate"},
    {"report", "summary", "foresight"}, {"run"}, {"outcome"}, {"train"}, {"variants"},
    {"comparison"}, {"sweep_page", "rates"}, {"sweep", "slurm_task"}, {"cluster", "search"},
]  # fmt: skip
RANK = {name: rank for rank, names in enumerate(ORDER) for name in names}
MODULES = sorted((ROOT / "research").rglob("*.py"))


def imported(path: Path) -> set[str]:
    """The dotted names that a file imports from this project, at any depth of its code."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in names if name.split(".")[0] in ("research", "scripts", "experiments", "tests")}


def group(path: Path) -> str:
    return path.relative_to(ROOT / "research").parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_imports_only_from_its_left(path: Path) -> None:
    assert not {name for name in imported(path) if not name.startswith("research")}
    own = group(path)
    if own == "__init__":
        return
    for name in imported(path):
        parts = name.split(".")
        if len(parts) > 1 and parts[1] in RANK and parts[1] != own:
            assert RANK[parts[1]] < RANK[own], f"{own} <- {name}"


def test_every_module_has_its_place() -> None:
    assert {group(path) for path in MODULES} - {"__init__"} <= RANK.keys()
