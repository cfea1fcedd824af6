"""Every experiment file builds, fits its own model, shards over 8 devices and survives JSON."""

import ast
from pathlib import Path

import jax
import pytest

from research import sharding
from research.config import Mesh
from research.data.objective import lengths
from research.override import from_json, load_experiment, to_json
from research.step import abstract_state, state_shardings

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted(path for path in (ROOT / "experiments").rglob("*.py") if path.name != "__init__.py")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_experiment_builds_shards_and_round_trips(path: Path) -> None:
    config = load_experiment(path)
    assert from_json(to_json(config)) == config
    assert lengths(config.data.objective, config.data.input_length).inputs == config.data.input_length
    mesh = sharding.make_mesh(Mesh(data=2, fsdp=2, tensor=2))
    sharding.check_divisible(config, mesh)
    state, placed = abstract_state(config), state_shardings(config, mesh)
    held = sum(
        leaf.dtype.itemsize * _size(where.shard_shape(leaf.shape))
        for leaf, where in zip(jax.tree.leaves(state), jax.tree.leaves(placed), strict=True)
    )
    whole = sum(leaf.dtype.itemsize * leaf.size for leaf in jax.tree.leaves(state))
    assert held < 0.3 * whole


def _size(shape: tuple[int, ...]) -> int:
    size = 1
    for length in shape:
        size *= length
    return size


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_experiment_is_one_expression_under_a_docstring_with_its_command(path: Path) -> None:
    tree = ast.parse(path.read_text())
    assert f"python -m scripts.train {path.relative_to(ROOT)}" in (ast.get_docstring(tree) or "")
    (function,) = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "get_config"]
    assert [type(node) for node in function.body] == [ast.Return]
