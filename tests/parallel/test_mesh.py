"""The mesh, and the sentences that say what a mesh cannot do."""

from dataclasses import replace
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from research import AdamW, Constant, Denoising, Experiment, Mesh, Model, PlainText
from research.config import ConfigError
from research.data.batch import Batch, Shard
from research.parallel.mesh import arrange_devices, check_divisible, factorisations, make_mesh, place_batch, shard_of
from research.parallel.rules import flatten, unflatten

MODEL = Model(
    vocab_size=64,
    width=32,
    heads=8,
    head_width=4,
    feed_forward=48,
    encoder_layers=2,
    decoder_layers=2,
)
EXPERIMENT = Experiment(
    model=MODEL,
    data=Denoising(corpora=(PlainText(train="unread"),)),
    optimizer=AdamW(schedule=Constant(peak=1e-3)),
    steps=10,
    batch_size=8,
)


def test_factorisations_are_all_there_are():
    assert len(factorisations(8)) == 20
    assert factorisations(1) == [(1, 1, 1, 1)]
    assert all(np.prod(sizes) == 12 for sizes in factorisations(12))
    assert len(set(factorisations(12))) == len(factorisations(12)) == 40


@pytest.mark.parametrize(
    ("sizes", "shape"),
    [
        (Mesh(), (8, 1, 1, 1)),
        (Mesh(data=2, fsdp=-1, tensor=2), (2, 2, 1, 2)),
        (Mesh(data=1, fsdp=2, sequence=4), (1, 2, 4, 1)),
    ],
)
def test_a_mesh_has_the_sizes_asked_for(sizes, shape):
    mesh = make_mesh(sizes)
    assert tuple(mesh.shape[axis] for axis in ("data", "fsdp", "sequence", "tensor")) == shape
    assert all(kind == jax.sharding.AxisType.Auto for kind in mesh.axis_types)


@pytest.mark.parametrize("sizes", [Mesh(data=3), Mesh(data=16), Mesh(data=-1, fsdp=3)])
def test_a_mesh_that_is_not_the_devices_says_both_numbers_and_what_may_be(sizes):
    with pytest.raises(ConfigError, match="there are 8: the sizes must multiply to 8") as error:
        make_mesh(sizes)
    assert "needs " in str(error.value)


@pytest.mark.parametrize(
    ("change", "mesh", "field"),
    [
        ({"batch_size": 12}, Mesh(data=4, fsdp=2), "batch_size / microbatches is 12"),
        ({"microbatches": 2}, Mesh(data=8), "batch_size / microbatches is 4"),
        ({"model": replace(MODEL, heads=6)}, Mesh(tensor=4), "model.heads is 6"),
        ({"model": replace(MODEL, feed_forward=30)}, Mesh(tensor=4), "model.feed_forward is 30"),
        ({"model": replace(MODEL, width=36)}, Mesh(data=1, fsdp=8), "model.width is 36"),
    ],
)
def test_what_the_mesh_does_not_divide_is_named(change, mesh, field):
    check_divisible(EXPERIMENT, make_mesh(mesh))
    with pytest.raises(ConfigError, match=field):
        check_divisible(replace(EXPERIMENT, **change), make_mesh(mesh))


@pytest.mark.parametrize(
    ("shape", "parts", "near"),
    [((4, 2, 1), 2, (2, 2, 1)), ((1, 8, 1), 2, (1, 4, 1)), ((2, 2, 2), 4, (1, 1, 2)), ((1, 1, 8), 2, (1, 1, 4))],
)
def test_the_first_axes_that_can_cross_a_slow_network(shape, parts, near):
    """A block of `near` devices lies in one part."""
    devices = [
        SimpleNamespace(platform="gpu", device_kind="any", id=number, slice_index=number * parts // 8, process_index=0)
        for number in range(8)
    ]
    laid = arrange_devices(shape, devices)
    assert laid.shape == shape
    assert {device.id for device in laid.flat} == set(range(8))
    assert len({device.slice_index for device in laid[tuple(slice(size) for size in near)].flat}) == 1


def test_flatten_and_unflatten_are_inverse():
    tree = {"a": {"b": 1, "c": {"d": 2}}, "e": 3}
    assert flatten(tree) == {"a/b": 1, "a/c/d": 2, "e": 3}
    assert unflatten(flatten(tree)) == tree


@pytest.mark.parametrize(
    ("hosts", "held"),
    [
        ([[0, 0], [0, 0], [1, 1], [1, 1]], [(0, 1), (2, 3)]),
        ([[0], [0], [1], [1], [0], [0], [1], [1]], [(0, 1, 4, 5), (2, 3, 6, 7)]),  # squares of a torus
        ([[0, 0, 1, 1], [2, 2, 3, 3]], [(0,), (0,), (1,), (1,)]),  # the tensor axis crosses hosts
    ],
)
def test_a_host_reads_the_rows_that_its_devices_hold(hosts, held):
    found = [shard_of(host, np.array(hosts)) for host in range(len(held))]
    assert found == [Shard(len(hosts), parts) for parts in held]


def test_a_batch_keeps_its_rows_and_is_split_over_the_batch_axes():
    mesh = make_mesh(Mesh(data=2, fsdp=2, tensor=2))
    tokens = np.arange(8 * 3, dtype=np.int32).reshape(8, 3)
    placed = place_batch(mesh, Batch(tokens, tokens + 1, tokens + 2))
    np.testing.assert_array_equal(placed.decoder_input_tokens, tokens + 1)
    assert placed.decoder_loss_weights is None
    assert {shard.data.shape for shard in placed.encoder_input_tokens.addressable_shards} == {(2, 3)}
