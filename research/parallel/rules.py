"""Parameters by path, and the rules that give each its layout on the mesh."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

import jax
from jax.sharding import NamedSharding, PartitionSpec

Value = TypeVar("Value")


Tree = Any  # a pytree of arrays, of their shapes, or of what is said of them


# The embedding and the head are split along the vocabulary alone: with the width split, XLA's partitioner falls back to
# gathering the whole table.
PARAMETERS: tuple[tuple[str, PartitionSpec], ...] = (
    (r"(source_)?embedding", PartitionSpec(("tensor", "fsdp"), None)),
    (r"head", PartitionSpec(None, ("tensor", "fsdp"))),
    (r"logits_bias", PartitionSpec(("tensor", "fsdp"))),
    (r"(en|de)coder/position_embedding", PartitionSpec(None, None)),
    (r"(en|de)coder/relative_bias", PartitionSpec(None, "tensor")),
    (r"(en|de)coder/layers/self_attention/relative_bias", PartitionSpec(None, None, "tensor")),
    (r"(en|de)coder/layers/\w+_attention/(query|key|value)/weight", PartitionSpec(None, "fsdp", "tensor", None)),
    (r"(en|de)coder/layers/\w+_attention/(query|key|value)/bias", PartitionSpec(None, "tensor", None)),
    (r"(en|de)coder/layers/\w+_attention/output/weight", PartitionSpec(None, "tensor", None, "fsdp")),
    (r"(en|de)coder/layers/\w+_attention/output/bias", PartitionSpec(None, None)),
    (r"(en|de)coder/layers/feed_forward/(gate|up)/weight", PartitionSpec(None, "fsdp", "tensor")),
    (r"(en|de)coder/layers/feed_forward/(gate|up)/bias", PartitionSpec(None, "tensor")),
    (r"(en|de)coder/layers/feed_forward/down/weight", PartitionSpec(None, "tensor", "fsdp")),
    (r"(en|de)coder/layers/feed_forward/down/bias", PartitionSpec(None, None)),
    (r"(en|de)coder/layers/\w+_norm/(scale|bias)", PartitionSpec(None, None)),
    (r"(en|de)coder/(embedding_)?norm/(scale|bias)", PartitionSpec(None)),
)


def flatten(tree: Tree) -> dict[str, Any]:
    """The leaves of nested dicts by their paths."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def unflatten(flat: Mapping[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for path, leaf in flat.items():
        *parents, name = path.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[name] = leaf
    return tree


def match_once(table: Sequence[tuple[str, Value]], paths: Iterable[str]) -> dict[str, Value]:
    """The value of the one row that each path matches as a whole; ValueError lists paths that match none or several."""
    found = {path: [value for pattern, value in table if re.fullmatch(pattern, path)] for path in paths}
    wrong = [f"{path} matches {len(values)} rows" for path, values in found.items() if len(values) != 1]
    if wrong:
        raise ValueError("A parameter must match exactly one row of a table: " + "; ".join(wrong) + ".")
    return {path: values[0] for path, values in found.items()}


def param_specs(params: Tree) -> Tree:
    """A PartitionSpec for each parameter."""
    return unflatten(match_once(PARAMETERS, flatten(params)))


def state_specs(state: Tree, params: Tree) -> Tree:
    """A PartitionSpec for each leaf of an optimizer state, whose paths are a kind and a parameter's path, or a counter.

    A statistic has its parameter's axes, some of them averaged away to size 1: those are whole on every device, the
    others are split as the parameter's are.
    """
    specs, shapes = flatten(param_specs(params)), {path: leaf.shape for path, leaf in flatten(params).items()}

    def spec(path: str, shape: tuple[int, ...]) -> PartitionSpec:
        if not shape:
            return PartitionSpec()
        parameter = path.split("/", 1)[1]
        axes = zip(shape, shapes[parameter], specs[parameter], strict=True)
        return PartitionSpec(*(axis if size == whole else None for size, whole, axis in axes))

    return unflatten({path: spec(path, leaf.shape) for path, leaf in flatten(state).items()})


def shardings(mesh: jax.sharding.Mesh | jax.sharding.AbstractMesh, specs: Tree) -> Tree:
    """The same tree of specs, on a mesh."""
    return jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs)
