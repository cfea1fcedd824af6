"""Every backend of attention against the reference: outputs, gradients and the gradient of the bias, in float32."""

import re
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from research import Mesh
from research.model import cudnn_attention as cudnn
from research.model import pallas_attention as pallas
from research.model.attention import drop_keys, reference_attention
from research.model.blocked_attention import block_rows, blocked_attention
from research.model.layer import drop, dropout
from research.model.mask import AttentionMask, encoder_mask, self_mask
from research.model.pallas_kernels import dropout_mask
from research.parallel.layout import batch_parts, each_row, own_copies
from research.parallel.mesh import make_mesh

ROWS, WIDTH = 8, 8
TOLERANCE = 2e-6  # of the largest value of an array


def ids(length: int, *segments: list[int]) -> jax.Array:
    """Segment ids of ROWS rows: in each row runs of so many tokens, then padding."""
    rows = [np.repeat(np.arange(1, len(each) + 1), each) for each in segments]
    padded = [np.pad(row, (0, length - len(row))) for row in rows]
    return jnp.asarray([padded[row % len(padded)] for row in range(ROWS)], jnp.int32)


def masks(t: int, s: int) -> dict[str, AttentionMask]:
    """A mask of every structure, of t queries and s keys; self-attentions are of t."""
    padded, packed = ids(t, [t], [t - 2], [1], []), ids(t, [3, t - 3], [2, 1, 1], [t], [])
    sources, some_sources = ids(s, [s], [s - 3], [2], [1]), ids(s, [s], [s - 3], [2], [])
    packed_sources = ids(s, [2, s - 2], [1, 2, 1], [s], [])
    made, tokens = partial(self_mask, length=t), jnp.zeros((ROWS, t), jnp.int32)
    return {
        "whole": made("encoder", segment_ids=None, causally=False, packed=False),
        "padded": made("encoder", segment_ids=padded, causally=False, packed=False),
        "packed": made("encoder", segment_ids=packed, causally=False, packed=True),
        "causal": made("decoder", segment_ids=None, causally=True, packed=False),
        "causal padded": made("decoder", segment_ids=padded, causally=True, packed=False),
        "causal packed": made("decoder", segment_ids=packed, causally=True, packed=True),
        "cross": encoder_mask(tokens, None, None, packed=False),
        "cross of whole targets": encoder_mask(tokens, None, sources, packed=False),
        "cross padded": encoder_mask(tokens, padded, some_sources, packed=False),
        "cross packed": encoder_mask(tokens, packed, packed_sources, packed=True),
        "array of each row": AttentionMask("decoder", ids(t, [t], [4])[..., None] > ids(t, [2])[:, None, :] - 1),
        "array of all rows": AttentionMask("decoder", jnp.tri(t, t, 2, bool)),
    }


MASKS = list(masks(6, 10))
UNSTRUCTURED = ("array of each row", "array of all rows")


def mask_of(name: str, t: int, s: int) -> AttentionMask:
    mask = masks(t, s)[name]
    return AttentionMask("decoder", mask.array, structured=False) if name in UNSTRUCTURED else mask


def arrays_of(t: int, s: int, heads: int, biased: bool) -> tuple[jax.Array, ...]:
    keys = jax.random.split(jax.random.key(0), 4)
    shapes = [(ROWS, t, heads, WIDTH), (ROWS, s, heads, WIDTH), (ROWS, s, heads, WIDTH), (heads, t, s)]
    return tuple(jax.random.normal(*each) for each in list(zip(keys, shapes, strict=True))[: 4 if biased else 3])


def results(attend: Callable[..., jax.Array], arrays: tuple[jax.Array, ...], seen: jax.Array) -> dict[str, jax.Array]:
    """Outputs of queries that are not padding, and gradients of a weighted sum of them."""
    weights = jax.random.normal(jax.random.key(5), arrays[0].shape) * seen

    @jax.jit
    def everything(*arrays: jax.Array) -> tuple[jax.Array, Any]:
        output, pull = jax.vjp(lambda *arrays: attend(*arrays, *[None] * (4 - len(arrays))), *arrays)
        return output * seen, pull(weights)

    output, gradients = everything(*arrays)
    return dict(zip(("output", "query", "key", "value", "bias"), (output, *gradients), strict=False))


def assert_equal(found: dict[str, jax.Array], expected: dict[str, jax.Array], tolerance: float = TOLERANCE) -> None:
    for name, array in expected.items():
        largest = float(jnp.abs(array).max())
        assert largest > 0.01, name
        np.testing.assert_allclose(found[name], array, rtol=0, atol=tolerance * largest, err_msg=name)


def plain(mask: AttentionMask, drop: Callable[[jax.Array], jax.Array] = lambda weights: weights) -> Callable:
    return lambda query, key, value, bias: reference_attention(query, key, value, mask.array, bias, drop)


def blocked(mask: AttentionMask, *dropped: Any) -> Callable:
    return lambda *arrays: blocked_attention(reference_attention, *arrays[:3], mask, arrays[3], *dropped)


def fused(mask: AttentionMask) -> Callable:
    return lambda *arrays: cudnn.cudnn_attention(*arrays[:3], mask, arrays[3])


def own_kernels(mask: AttentionMask, *dropped: Any) -> Callable:
    return lambda *arrays: pallas.pallas_attention(*arrays[:3], mask, arrays[3], *dropped)


def real(mask: AttentionMask) -> jax.Array:
    """1 for queries that are not padding."""
    return jnp.ones(()) if mask.query_ids is None else jnp.float32(mask.query_ids > 0)[..., None, None]


@pytest.fixture(autouse=True)
def kernels_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cudnn, "IMPLEMENTATION", "xla")
    monkeypatch.setattr(pallas, "INTERPRET", True)
    monkeypatch.setattr(pallas, "TILE", 4)
    monkeypatch.setattr("research.model.pallas_kernels.TILE", 4)


@pytest.mark.parametrize(
    ("name", "t", "s", "heads"),
    [(name, 6, 10, 3) for name in MASKS]
    + [(name, 7, 9, 1) for name in ("padded", "causal packed", "cross padded", "array of all rows")],
)
def test_every_backend_is_the_reference(name: str, t: int, s: int, heads: int) -> None:
    mask = mask_of(name, t, s)
    cross = name.startswith("cross")
    arrays = arrays_of(t, s if cross else t, heads, biased=not cross)
    expected = results(plain(mask), arrays, real(mask))
    assert_equal(results(blocked(mask), arrays, real(mask)), expected)
    if mask.structured:
        assert_equal(results(own_kernels(mask), arrays, real(mask)), expected)
    if mask.structured and not mask.packed:
        assert_equal(results(fused(mask), arrays, real(mask)), expected)


@pytest.mark.parametrize("scores", [1, 2 * 3 * 36, 2**22])
def test_blocks_of_any_size_are_the_reference(scores: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("research.model.blocked_attention.SCORES", scores)
    mask, arrays = mask_of("causal packed", 6, 6), arrays_of(6, 6, 3, biased=True)
    assert_equal(results(blocked(mask), arrays, real(mask)), results(plain(mask), arrays, real(mask)))


def test_rows_of_a_block_divide_all_rows() -> None:
    assert [block_rows(12, scores) for scores in (2**30, 2**22, 2**20, 2**20 - 1, 1)] == [1, 1, 4, 4, 12]


@pytest.mark.parametrize("programs", [1, 40, 10**6])
def test_own_kernels_sum_the_biass_gradient_over_groups_of_any_size(
    programs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows of several tiles, of which many are skipped."""
    monkeypatch.setattr(pallas, "PROGRAMS", programs)
    packed = ids(13, [3, 4, 6], [13], [2, 2], [])
    mask = self_mask("decoder", 13, packed, causally=programs > 1, packed=True)
    arrays = arrays_of(13, 13, 2, biased=True)
    assert_equal(results(own_kernels(mask), arrays, real(mask)), results(plain(mask), arrays, real(mask)))


def test_a_query_without_a_key_is_the_mean_of_all_values_in_own_kernels_too() -> None:
    targets, sources = ids(6, [2, 4]), ids(10, [9])  # no source for the second example
    mask = encoder_mask(jnp.zeros((ROWS, 6), jnp.int32), targets, sources, packed=True)
    arrays, everywhere = arrays_of(6, 10, 2, biased=False), jnp.ones(())
    assert_equal(results(own_kernels(mask), arrays, everywhere), results(plain(mask), arrays, everywhere))


def test_dropped_values_are_weights_dropped_for_every_query() -> None:
    mask, arrays, key = mask_of("packed", 6, 6), arrays_of(6, 6, 3, biased=True), jax.random.key(7)
    expected = results(plain(mask, partial(dropout, rate=0.3, key=key, shared=True)), arrays, real(mask))

    def before(attend: Callable) -> Callable:
        return lambda query, key_, value, bias: attend(query, key_, drop_keys(value, 0.3, key), bias)

    for attend in (plain, blocked, own_kernels):
        assert_equal(results(before(attend(mask)), arrays, real(mask)), expected)


def test_dropout_of_each_query_depends_neither_on_blocks_nor_on_the_mesh(monkeypatch: pytest.MonkeyPatch) -> None:
    """The masks that each query draws from a key of its own, given to the reference."""
    mask, arrays, key = mask_of("whole", 6, 6), arrays_of(6, 6, 2, biased=True), jax.random.key(7)
    keys = [jax.random.fold_in(key, number) for number in range(ROWS * 2 * 6)]
    keep = jnp.stack([jax.random.bernoulli(each, 0.7, (6,)) for each in keys]).reshape(ROWS, 2, 6, 6)
    assert 0.6 < float(keep.mean()) < 0.8
    expected = results(plain(mask, lambda weights: drop(weights, 0.3, keep)), arrays, real(mask))
    attend = blocked(mask, 0.3, key)
    assert_equal(results(attend, arrays, real(mask)), expected)
    monkeypatch.setattr("research.model.blocked_attention.SCORES", 1)
    with jax.set_mesh(make_mesh(Mesh(data=2, sequence=2, tensor=2))):
        assert_equal(results(with_parts(attend), arrays, real(mask)), expected)


@pytest.mark.parametrize("mesh", [None, Mesh(data=2, fsdp=2, tensor=2)])
def test_own_kernels_drop_weights_of_each_query_by_a_hash_of_their_places(mesh: Mesh | None) -> None:
    mask, arrays, key = mask_of("causal packed", 6, 6), arrays_of(6, 6, 2, biased=True), jax.random.key(7)
    seeds, places = pallas.dropout_seeds(key, arrays[0])[..., None], jnp.arange(6)
    keep = dropout_mask(seeds, places[:, None], places[None], 6, 0.3)
    expected = results(plain(mask, lambda weights: drop(weights, 0.3, keep)), arrays, real(mask))
    attend = own_kernels(mask, 0.3, key)
    if mesh is None:
        assert_equal(results(attend, arrays, real(mask)), expected)
    else:
        with jax.set_mesh(make_mesh(mesh)):
            assert_equal(results(with_parts(attend), arrays, real(mask)), expected)


def test_the_hash_keeps_weights_as_if_independent() -> None:
    """Shares kept of all, and of pairs of neighbours along every axis: within five standard deviations."""
    seeds, places = jax.random.bits(jax.random.key(0), (16, 8, 1, 1)), jnp.arange(128)
    keep = np.asarray(dropout_mask(seeds, places[:, None], places[None], 128, 0.1))
    assert keep.mean() == pytest.approx(0.9, abs=5 * 0.3 / keep.size**0.5)
    for axis in range(4):
        first, second = (keep.take(range(start, keep.shape[axis] - 1 + start), axis) for start in (0, 1))
        both = np.mean(first & second)
        assert both == pytest.approx(0.81, abs=5 * (0.81 * 0.19 / first.size) ** 0.5), axis
    by_row = keep.mean(axis=(1, 2, 3))
    assert np.abs(by_row - 0.9).max() < 5 * 0.3 / (keep.size / 16) ** 0.5


# --- Meshes -----------------------------------------------------------------------------------------------------------

MESHES = {
    "fsdp": Mesh(data=2, fsdp=4),
    "tensor": Mesh(data=2, fsdp=2, tensor=2),
    "sequence": Mesh(data=1, fsdp=2, sequence=2, tensor=2),
}


def with_parts(attend: Callable) -> Callable:
    """Attend with a copy of the bias for each part of the batch, as Stack.position_bias gives it."""

    def attend_with_parts(query: Any, key: Any, value: Any, bias: Any) -> jax.Array:
        parts = batch_parts(ROWS)
        if parts > 1 and bias is not None:
            flat = own_copies(bias.reshape(len(bias), -1).T, parts)
            bias = flat.swapaxes(1, 2).reshape(parts, *bias.shape)
        return attend(query, key, value, bias)

    return attend_with_parts


@pytest.mark.parametrize("name", ["causal padded", "packed", "cross padded", "array of each row"])
@pytest.mark.parametrize("mesh", MESHES)
def test_every_backend_is_the_reference_on_meshes(name: str, mesh: str) -> None:
    mask = mask_of(name, 6, 10)
    cross = name.startswith("cross")
    arrays = arrays_of(6, 10 if cross else 6, 2, biased=not cross)
    expected = results(plain(mask), arrays, real(mask))
    with jax.set_mesh(make_mesh(MESHES[mesh])):
        assert_equal(results(with_parts(blocked(mask)), arrays, real(mask)), expected)
        if mask.structured and mesh != "sequence":
            assert_equal(results(with_parts(own_kernels(mask)), arrays, real(mask)), expected)
        if mask.structured and not mask.packed and mesh != "sequence":
            assert_equal(results(with_parts(fused(mask)), arrays, real(mask)), expected)


def test_a_length_that_the_sequence_axis_does_not_divide_is_whole_on_every_device() -> None:
    mask, arrays = mask_of("causal padded", 7, 7), arrays_of(7, 7, 2, biased=True)
    expected = results(plain(mask), arrays, real(mask))
    with jax.set_mesh(make_mesh(MESHES["sequence"])):
        assert_equal(results(with_parts(blocked(mask)), arrays, real(mask)), expected)


def test_each_device_has_one_bias_and_its_gradient_is_not_summed_in_the_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows and biases that cuDNN gets on a device. Devices exchange gradients of the table, never one of [t s]."""
    seen, original = [], jax.nn.dot_product_attention

    def spy(query: jax.Array, key: Any, value: Any, bias: jax.Array, **options: Any) -> jax.Array:
        seen.append((query.shape, bias.shape, options["is_causal"], options["key_value_seq_lengths"].shape))
        return original(query, key, value, bias, **options)

    monkeypatch.setattr(jax.nn, "dot_product_attention", spy)
    mask, (query, key, value, bias) = mask_of("causal padded", 6, 6), arrays_of(6, 6, 2, biased=True)
    mesh = make_mesh(MESHES["tensor"])
    rows = NamedSharding(mesh, PartitionSpec(("data", "fsdp"), None, "tensor"))

    def loss(bias: jax.Array, *arrays: jax.Array) -> jax.Array:
        return jnp.sum(with_parts(fused(mask))(*arrays, bias) ** 2)

    with jax.set_mesh(mesh):
        placed = [jax.device_put(array, rows) for array in (query, key, value)]
        compiled = jax.jit(jax.grad(loss)).lower(bias, *placed).compile().as_text()
    assert seen == [((2, 6, 1, WIDTH), (1, 1, 6, 6), True, (2,))]
    exchanged = re.findall(r"= (\S+) all-reduce\(", compiled)
    assert exchanged
    assert not [kind for kind in exchanged if "6,6]" in kind]


def test_a_bias_of_parts_is_repeated_for_the_reference() -> None:
    bias = jnp.arange(2 * 3 * 4 * 4.0).reshape(2, 3, 4, 4)
    np.testing.assert_array_equal(each_row(bias, 6), jnp.repeat(bias, 3, axis=0))
    assert each_row(bias[0], 6).shape == (3, 4, 4)
    assert each_row(None, 6) is None
