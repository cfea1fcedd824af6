"""Rows of zeros fill up a vocabulary that the mesh does not divide, and nothing else."""

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from research.config import ConfigError, Mesh
from research.parallel.mesh import make_mesh
from research.parallel.padding import VOCABULARY, check_padded, cut, fill, padded_shape, placed
from research.parallel.rules import shardings
from research.pretrained.shards import ShardBuffer

SPECS = {
    "embedding": PartitionSpec(VOCABULARY, None),
    "head": PartitionSpec(None, VOCABULARY),
    "bias": PartitionSpec(VOCABULARY),
    "hidden": PartitionSpec("fsdp", "tensor"),
}
OWN = {
    "embedding": np.arange(1.0, 38 * 2 - 1, dtype=np.float32).reshape(37, 2),
    "head": np.ones((2, 37), np.float32),
    "bias": np.ones(37, np.float32),
    "hidden": np.ones((4, 2), np.float32),
}


@pytest.mark.parametrize(
    ("mesh", "rows"),
    [(Mesh(), 37), (Mesh(data=1, fsdp=8), 40), (Mesh(tensor=2), 38), (Mesh(data=2, fsdp=2, tensor=2), 40)],
)
def test_a_vocabulary_is_padded_to_a_multiple_of_its_parts_and_cut_again(mesh: Mesh, rows: int) -> None:
    where = shardings(make_mesh(mesh), SPECS)
    whole = placed(OWN, where)
    assert {name: leaf.shape for name, leaf in whole.items()} == {
        "embedding": (rows, 2), "head": (2, rows), "bias": (rows,), "hidden": (4, 2)
    }  # fmt: skip
    filled = fill(OWN, whole)
    for name, leaf in cut(filled, OWN, SPECS).items():
        np.testing.assert_array_equal(leaf, OWN[name])
    assert sum(float(np.sum(leaf)) for leaf in filled.values()) == sum(float(np.sum(leaf)) for leaf in OWN.values())


def test_arrays_without_such_rows_are_the_very_same() -> None:
    """So a program that needs no padding has no operation for it."""
    whole = placed(OWN, shardings(make_mesh(Mesh()), SPECS))
    assert cut(OWN, OWN, SPECS) is OWN
    assert all(leaf is OWN[name] for name, leaf in fill(OWN, whole).items())


@pytest.mark.parametrize(
    ("name", "shape"),
    [("embedding", (36, 2)), ("embedding", (40, 3)), ("head", (3, 40)), ("bias", (40, 1)), ("hidden", (8, 2))],
)
def test_a_shape_that_no_mesh_makes_is_refused(name: str, shape: tuple[int, ...]) -> None:
    own = {path: leaf.shape for path, leaf in OWN.items()}
    check_padded(own | {"embedding": (48, 2), "head": (2, 38), "unknown": (1,)}, OWN, SPECS)
    with pytest.raises(ConfigError, match=rf"{name} has the shape .*, but the model's configuration makes it"):
        check_padded(own | {name: shape}, OWN, SPECS)


@pytest.mark.parametrize("name", OWN)
def test_a_parameter_read_from_a_file_is_filled_up(name: str) -> None:
    sharding = shardings(make_mesh(Mesh(data=1, fsdp=4, tensor=2)), SPECS)[name]
    buffer = ShardBuffer(OWN[name].shape, sharding)
    for shard in buffer.shards.values():
        shard[...] = np.nan
    buffer.fill(OWN[name], None)
    expected = fill(OWN[name], jax.ShapeDtypeStruct(padded_shape(OWN[name].shape, sharding), np.float32))
    np.testing.assert_array_equal(buffer.finish(), expected)
