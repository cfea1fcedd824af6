"""Trees by path, tables of rules over paths, and specs on a mesh."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

import jax
from jax.sharding import NamedSharding

from research.config.base import ConfigError, require

Value = TypeVar("Value")

Tree = Any  # a pytree of arrays, of shapes, or of one value per array


def flatten(tree: Tree) -> dict[str, Any]:
    """Flatten a tree to a dict of its leaves by path."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def map_by_path(function: Callable[..., Any], tree: Tree, *others: Tree) -> Tree:
    """Map `function(path, leaf, *leaves of the others)` over trees of one structure, which may be any pytree."""
    joined = partial(jax.tree_util.keystr, simple=True, separator="/")
    return jax.tree_util.tree_map_with_path(lambda path, *leaves: function(joined(path), *leaves), tree, *others)


def unflatten(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Rebuild nested dicts from a dict of leaves by path."""
    tree: dict[str, Any] = {}
    for path, leaf in flat.items():
        *parents, name = path.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[name] = leaf
    return tree


def merge(first: Tree, second: Tree) -> dict[str, Any]:
    """Return the leaves of both trees; of those at one path the second."""
    return unflatten(flatten(first) | flatten(second))


def match_once(table: Sequence[tuple[str, Value]], paths: Iterable[str]) -> dict[str, Value]:
    """Look up, for each path, the value of the one row with a pattern that matches the whole path.

    Raises:
        ConfigError: a path matches no row or several; the message lists all such paths.
    """
    matches = {path: [value for pattern, value in table if re.fullmatch(pattern, path)] for path in paths}
    wrong = [f"{path} matches {len(values)} rows" for path, values in matches.items() if len(values) != 1]
    require(not wrong, "A parameter must match exactly one row of a table: " + "; ".join(wrong) + ".")
    return {path: values[0] for path, values in matches.items()}


def occurrences(field: str, patterns: Iterable[str], paths: Sequence[str]) -> dict[str, list[str]]:
    """Return the paths in which each pattern occurs; error messages call the patterns those of `field`.

    Raises:
        ConfigError: a pattern is not a regular expression, or occurs in no path.
    """
    found: dict[str, list[str]] = {}
    for pattern in patterns:
        try:
            found[pattern] = [path for path in paths if re.search(pattern, path)]
        except re.error as error:
            raise ConfigError(f"{field} has {pattern!r}, which is no regular expression: {error}.") from error
        listed = ", ".join(paths)
        require(bool(found[pattern]), f"{field} has {pattern!r}, which matches no parameter; there are {listed}.")
    return found


def shardings(mesh: jax.sharding.Mesh | jax.sharding.AbstractMesh, specs: Tree) -> Tree:
    """Convert a tree of PartitionSpecs to one of NamedShardings on a mesh."""
    return jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs)
