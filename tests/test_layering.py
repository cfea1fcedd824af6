"""Imports run one way: a module imports only from rooms above its own, and inside a room there is no circle."""

import ast
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ROOMS = (
    *("config", "storage", "score", "data", "parallel", "model"),
    *("pretrained", "decode", "report", "train", "plan", "sweep"),
)  # from top to bottom
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted((ROOT / "research").rglob("*.py"))
}


@cache
def imported(module: str) -> frozenset[str]:
    """The modules of this project that a module imports, at any depth of its code.

    Under `if TYPE_CHECKING:` nothing is imported: a base class in config says there what it will be given.
    """
    names: set[str] = set()
    parsed = ast.parse(MODULES[module].read_text())
    for node in parsed.body:
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = []
    for node in ast.walk(parsed):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            # `from package import module` depends on the module; `from module import name` on the module.
            names |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
    return frozenset(name for name in names if name.split(".")[0] in ("research", "scripts", "experiments", "tests"))


def room(module: str) -> str:
    return module.split(".")[1]


@pytest.mark.parametrize("module", [name for name in MODULES if name != "research"])
def test_a_module_imports_only_from_rooms_above_its_own(module: str) -> None:
    own = ROOMS.index(room(module))
    for name in imported(module):
        assert name.split(".")[0] == "research", f"{module} <- {name}"
        if name.count(".") and room(name) != room(module):
            assert ROOMS.index(room(name)) < own, f"{module} <- {name}"


@pytest.mark.parametrize("name", ROOMS)
def test_inside_a_room_there_is_no_circle(name: str) -> None:
    """A package's own `__init__` is left out where a module of it is imported by its full name."""
    inside = [module for module in MODULES if module.count(".") and room(module) == name]
    graph = {
        module: {other for other in imported(module) if other in inside and not f"{module}.".startswith(f"{other}.")}
        for module in inside
    }
    TopologicalSorter(graph).prepare()  # raises CycleError with the circle


def test_every_module_is_in_a_room() -> None:
    assert {room(module) for module in MODULES if module != "research"} == set(ROOMS)
    assert all(name.count(".") >= 2 or MODULES[name].name == "__init__.py" for name in MODULES)


def test_no_class_name_means_two_things() -> None:
    classes: dict[str, list[str]] = {}
    aliases: dict[str, list[str]] = {}
    for path in [*MODULES.values(), *sorted((ROOT / "scripts").rglob("*.py"))]:
        module = ast.parse(path.read_text())
        place = str(path.relative_to(ROOT))
        for node in ast.walk(module):
            if isinstance(node, ast.ClassDef):
                classes.setdefault(node.name, []).append(place)
        for name in assigned_names(module):
            aliases.setdefault(name, []).append(place)
    assert len(classes) > 200
    places = {name: there + aliases.get(name, []) for name, there in classes.items()}
    assert {name: there for name, there in places.items() if len(there) > 1} == {}


def assigned_names(module: ast.Module) -> list[str]:
    """The names that a module assigns, constants apart: type aliases are among them."""
    targets = [target for node in module.body if isinstance(node, ast.Assign) for target in node.targets]
    return [target.id for target in targets if isinstance(target, ast.Name) and not target.id.isupper()]
