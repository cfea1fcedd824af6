"""Trees by path, tables of rules over paths, and specs on a mesh."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

import jax
from jax.sharding import NamedSharding

from research.config.base import require

Value = TypeVar("Value")

Tree = Any  # a pytree of arrays, of their shapes, or of one value for each


def flatten(tree: Tree) -> dict[str, Any]:
    """The leaves of a tree by their paths."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def map_by_path(function: Callable[..., Any], tree: Tree, *others: Tree) -> Tree:
    """A tree of `function(path, leaf, *leaves of the others)`, of the same structure, which any pytree can have."""
    joined = partial(jax.tree_util.keystr, simple=True, separator="/")
    return jax.tree_util.tree_map_with_path(lambda path, *leaves: function(joined(path), *leaves), tree, *others)


def unflatten(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Nested dicts of leaves by their paths."""
    tree: dict[str, Any] = {}
    for path, leaf in flat.items():
        *parents, name = path.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[name] = leaf
    return tree


def match_once(table: Sequence[tuple[str, Value]], paths: Iterable[str]) -> dict[str, Value]:
    """The value of the one row that each path matches as a whole; a ConfigError lists paths that match none or more."""
    found = {path: [value for pattern, value in table if re.fullmatch(pattern, path)] for path in paths}
    wrong = [f"{path} matches {len(values)} rows" for path, values in found.items() if len(values) != 1]
    require(not wrong, "A parameter must match exactly one row of a table: " + "; ".join(wrong) + ".")
    return {path: values[0] for path, values in found.items()}


def shardings(mesh: jax.sharding.Mesh | jax.sharding.AbstractMesh, specs: Tree) -> Tree:
    """The same tree of specs, on a mesh."""
    return jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs)
