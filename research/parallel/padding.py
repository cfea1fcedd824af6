"""Rows of zeros at the end of a vocabulary whose size the mesh does not divide.

Arrays that are kept have them: the state of a run, loaded parameters, checkpoints. A program cuts them off first and
adds them last, so that no model, loss or optimizer ever sees them. Inside a program XLA splits uneven axes by itself,
with the same rows on every device, so cutting and adding move nothing.
"""

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding

from research.config import require
from research.parallel.rules import Tree, flatten

VOCABULARY = ("tensor", "fsdp")  # the mesh axes that split a vocabulary, and no other axis of an array


def padded_shape(shape: tuple[int, ...], sharding: NamedSharding) -> tuple[int, ...]:
    """Return the shape with the vocabulary's axis rounded up to a multiple of its parts."""
    parts = math.prod(sharding.mesh.shape.get(axis, 1) for axis in VOCABULARY)
    entries = (*sharding.spec, *[None] * (len(shape) - len(sharding.spec)))
    return tuple(
        -(-size // parts) * parts if entry == VOCABULARY else size for size, entry in zip(shape, entries, strict=True)
    )


def placed(shapes: Tree, shardings: Tree) -> Tree:
    """Return the shapes, dtypes and shardings of arrays as they are kept."""

    def kept(leaf: Any, sharding: NamedSharding) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(padded_shape(leaf.shape, sharding), leaf.dtype, sharding=sharding)

    return jax.tree.map(kept, shapes, shardings)


def check_padded(found: Mapping[str, tuple[int, ...]], shapes: Tree, specs: Tree) -> None:
    """Check shapes by path: they are those of `shapes`, or longer on the vocabulary's axis. Missing paths are left out.

    Raises:
        ConfigError: a shape is another one; the message names the first.
    """
    axes = flatten(specs)
    for path, leaf in flatten(shapes).items():
        actual, own = tuple(found.get(path, leaf.shape)), leaf.shape
        splits = (*axes[path], *[None] * len(own))
        fits = len(actual) == len(own) and all(
            size == least or (size > least and split == VOCABULARY)
            for size, least, split in zip(actual, own, splits, strict=False)
        )
        require(fits, f"{path} has the shape {actual}, but the model's configuration makes it {own}.")


def cut(tree: Tree, shapes: Tree, specs: Tree) -> Tree:
    """Cut the rows of zeros off; arrays without them are returned as they are.

    Raises:
        ConfigError: an array has another shape.
    """
    found = {path: jnp.shape(leaf) for path, leaf in flatten(tree).items()}
    if found == {path: leaf.shape for path, leaf in flatten(shapes).items()}:
        return tree
    check_padded(found, shapes, specs)
    return jax.tree.map(
        lambda leaf, own: leaf if leaf.shape == own.shape else leaf[tuple(map(slice, own.shape))], tree, shapes
    )


def fill(tree: Tree, shapes: Tree) -> Tree:
    """Add rows of zeros up to the sizes of `shapes`; arrays that have them are returned as they are."""

    def filled(leaf: Any, whole: Any) -> Any:
        if leaf.shape == whole.shape:
            return leaf
        return jnp.pad(leaf, [(0, size - own) for own, size in zip(leaf.shape, whole.shape, strict=True)])

    return jax.tree.map(filled, tree, shapes)
