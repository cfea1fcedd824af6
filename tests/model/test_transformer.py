"""Properties of the whole model, on one tiny configuration and its variants."""

import math
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from research import DecoderOnly, Learned, MaximalUpdate, Model, Relative, SharedLayers, Tied, UntiedHead, Xavier
from research.config import ConfigError
from research.data.batch import Batch
from research.model.transformer import abstract_params, bind, initial_params

TINY = Model(61, 24, 3, 5, 40, 3, 2, positions=Relative(8, 12), compute="float32")
PER_LAYER = replace(TINY, positions=replace(TINY.positions, per_layer=True))
TIED = replace(TINY, head=Tied(), gated=False, activation="relu")
EVEN = replace(TINY, encoder_layers=3, decoder_layers=3)
SHARING = replace(EVEN, stacks=SharedLayers())
PREFIX, CAUSAL = replace(EVEN, stacks=DecoderOnly()), replace(EVEN, stacks=DecoderOnly(causal=True))
MAXIMAL = replace(TINY, parametrization=MaximalUpdate(TINY.width // 2, 1, TINY.head_width // 2, 8))
SHAPES = {
    "shared": TINY,
    "per_layer": PER_LAYER,
    "shared_layers": SHARING,
    "prefix": PREFIX,
    "causal": CAUSAL,
    "muP": MAXIMAL,
}
SOURCE, TARGET = 13, 9
RATES = ("dropout", "attention_dropout", "activation_dropout", "output_dropout")


def params_of(config: Model, seed: int = 0):
    """Initial parameters drawn again where they start equal or small, so that every one of them matters."""
    leaves = flatten_dict(abstract_params(config), sep="/")
    generator = np.random.default_rng(seed)
    drawn = {
        path: generator.uniform(0.5, 1.5, leaf.shape) if path.endswith("scale") else generator.normal(size=leaf.shape)
        for path, leaf in sorted(leaves.items())
    }
    scaled = {
        path: array if "scale" in path or "bias" in path or path == "embedding" else array * config.width**-0.5
        for path, array in drawn.items()
    }
    return unflatten_dict({path: jnp.float32(array) for path, array in scaled.items()}, sep="/")


def batch_of(rows: int = 2, seed: int = 1) -> Batch:
    generator = np.random.default_rng(seed)
    source = generator.integers(2, 61, (rows, SOURCE))
    target = generator.integers(2, 61, (rows, TARGET))
    inputs = np.concatenate([np.zeros((rows, 1), int), target[:, :-1]], axis=1)
    return Batch(*(jnp.asarray(array, jnp.int32) for array in (source, inputs, target)))


@partial(jax.jit, static_argnums=0)
def logits_of(config: Model, params, batch: Batch, key=None):
    return bind(config, params)(batch, key)


def loss_of(config: Model, params, batch: Batch):
    likelihood = jax.nn.log_softmax(bind(config, params)(batch))
    return -jnp.take_along_axis(likelihood, batch.decoder_target_tokens[..., None], -1).mean()


@partial(jax.jit, static_argnums=0)
def gradients_of(config: Model, params, batch: Batch):
    return jax.grad(loss_of, argnums=1)(config, params, batch)


def assert_trees_close(first, second, tolerance: float = 1e-5) -> None:
    """Equal to float rounding: differences relative to each array's largest value."""
    first, second = flatten_dict(first, sep="/"), flatten_dict(second, sep="/")
    assert set(first) == set(second)
    for path in first:
        scale = np.abs(second[path]).max()
        assert np.abs(first[path] - second[path]).max() <= tolerance * scale, path


def equations(program):
    """The equations of a program and of the programs it calls; the body of a scan counts once."""
    for equation in program.eqns:
        yield equation
        for value in jax.tree.leaves(equation.params):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from equations(inner)


# --- What sees what ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", [TINY, PER_LAYER], ids=["shared", "per_layer"])
def test_causality(config):
    """What leaves the decoder at t depends on every input up to t and on none after it."""
    module, batch = bind(config, params_of(config)), batch_of(rows=1)
    encoded = module.encode(batch.encoder_input_tokens)

    def decode(x):
        return module.decoder(x, encoded, None, None, None, None)[0].sum(axis=-1)

    jacobian = jax.jit(jax.jacrev(decode))(module.embed(batch.decoder_input_tokens))
    depends = np.any(np.asarray(jacobian)[:, 0] != 0, axis=-1)
    np.testing.assert_array_equal(depends, np.tril(np.ones((TARGET, TARGET), bool)))


def test_the_encoder_sees_everything_and_the_decoder_all_of_it():
    module, batch = bind(TINY, params_of(TINY)), batch_of(rows=1)
    x = module.embed(batch.encoder_input_tokens)
    encode = jax.jit(jax.jacrev(lambda x: module.encoder(x, None, None, None)[0].sum(axis=-1)))
    assert np.any(np.asarray(encode(x))[:, 0] != 0, axis=-1).all()
    decode = jax.jit(jax.jacrev(lambda y: module.decode(batch.decoder_input_tokens, y)[0].sum(axis=-1)))
    assert np.any(np.asarray(decode(module.encode(batch.encoder_input_tokens)))[:, 0] != 0, axis=-1).all()


def padded(batch: Batch, source: int, target: int, filler: int) -> Batch:
    """The batch with longer rows, whose padding holds `filler`."""

    def pad(tokens, length, value):
        return jnp.pad(tokens, ((0, 0), (0, length - tokens.shape[1])), constant_values=value)

    return Batch(
        pad(batch.encoder_input_tokens, source, filler),
        pad(batch.decoder_input_tokens, target, filler),
        pad(batch.decoder_target_tokens, target, filler),
        encoder_segment_ids=pad(jnp.ones_like(batch.encoder_input_tokens), source, 0),
        decoder_segment_ids=pad(jnp.ones_like(batch.decoder_input_tokens), target, 0),
    )


@pytest.mark.parametrize("config", SHAPES.values(), ids=SHAPES.keys())
def test_padding_invariance(config):
    params, batch = params_of(config), batch_of()
    plain = logits_of(config, params, batch)
    first, second = (logits_of(config, params, padded(batch, 20, 15, filler))[:, :TARGET] for filler in (0, 7))
    np.testing.assert_allclose(first, plain, rtol=1e-4, atol=1e-5 * np.abs(plain).max())
    np.testing.assert_array_equal(first, second)


@pytest.mark.slow
@pytest.mark.parametrize("with_positions", [True, False])
@pytest.mark.parametrize("config", SHAPES.values(), ids=SHAPES.keys())
def test_packed_is_separate(config, with_positions):
    """Two examples in one row, and padding after them, give what each gives alone."""
    params, one, two = params_of(config), batch_of(rows=1, seed=1), batch_of(rows=1, seed=2)

    def pack(name, length):
        row = jnp.concatenate([getattr(one, name), getattr(two, name)[:, : length // 2]], axis=1)
        return jnp.pad(row, ((0, 0), (0, 3)))

    def number(length, first, second):
        return jnp.concatenate([first, second[: length // 2], jnp.zeros(3, int)])[None]

    def segments(length):
        return number(length, jnp.ones(length, int), jnp.full(length, 2))

    def positions(length):
        return number(length, jnp.arange(length), jnp.arange(length)) if with_positions else None

    packed = Batch(
        pack("encoder_input_tokens", SOURCE),
        pack("decoder_input_tokens", TARGET),
        pack("decoder_target_tokens", TARGET),
        encoder_segment_ids=segments(SOURCE),
        encoder_positions=positions(SOURCE),
        decoder_segment_ids=segments(TARGET),
        decoder_positions=positions(TARGET),
    )
    together = logits_of(config, params, packed)
    short = Batch(*(array[:, : array.shape[1] // 2] for array in two[:3]))
    first, second = logits_of(config, params, one), logits_of(config, params, short)
    tolerance = {"rtol": 1e-4, "atol": 1e-5 * np.abs(first).max()}
    np.testing.assert_allclose(together[:, :TARGET], first, **tolerance)
    np.testing.assert_allclose(together[:, TARGET : TARGET + TARGET // 2], second, **tolerance)


def test_only_distances_between_positions_matter():
    params, batch = params_of(TINY), batch_of()
    source, target = jnp.tile(jnp.arange(SOURCE), (2, 1)), jnp.tile(jnp.arange(TARGET), (2, 1))
    plain = logits_of(TINY, params, batch)
    shifted = batch._replace(encoder_positions=source + 5, decoder_positions=target + 3)
    np.testing.assert_array_equal(logits_of(TINY, params, shifted), plain)
    stretched = batch._replace(encoder_positions=2 * source)
    assert not np.allclose(logits_of(TINY, params, stretched), plain, atol=1e-2)


def test_packed_rows_share_one_bias():
    encoder, x, places = bind(TINY, params_of(TINY)).encoder, jnp.zeros((2, SOURCE, 1)), jnp.zeros((2, SOURCE), int)
    shared = encoder.self_bias(x, places + 1, places, bidirectional=True)(None)
    np.testing.assert_array_equal(shared, encoder.self_bias(x, None, None, bidirectional=True)(None))
    assert shared.shape == (TINY.heads, SOURCE, SOURCE)


# --- Ways to compute the same -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("unroll", [2, 8])  # a remainder, and more than there are
def test_unrolled_is_scanned(unroll):
    params, batch = params_of(TINY), batch_of()
    assert_trees_close(gradients_of(replace(TINY, unroll=unroll), params, batch), gradients_of(TINY, params, batch))


def test_scanned_is_one_layer_after_the_other():
    module, batch = bind(TINY, params_of(TINY)), batch_of()
    x = module.embed(batch.encoder_input_tokens)
    bias = module.encoder.position_bias(jnp.arange(SOURCE), jnp.arange(SOURCE), bidirectional=True)
    for number in range(TINY.encoder_layers):
        layer = jax.tree.map(lambda leaf, number=number: leaf[number], module.encoder.layers)
        x = layer(x, None, bias(layer))
    expected = module.encoder.norm(x)
    np.testing.assert_allclose(module.encode(batch.encoder_input_tokens), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("remat", ["dots", "full"])
def test_remat_is_plain(remat):
    params, batch = params_of(TINY), batch_of()
    assert_trees_close(gradients_of(replace(TINY, remat=remat), params, batch), gradients_of(TINY, params, batch))


def test_remat_keeps_less():
    def kept(remat):
        config = replace(TINY, remat=remat)
        residuals = jax.eval_shape(
            lambda params: jax.vjp(lambda params: loss_of(config, params, batch_of()), params)[1],
            abstract_params(config),
        )
        return sum(leaf.size for leaf in jax.tree.leaves(residuals))

    assert kept("none") > 1.2 * kept("dots") > 1.2 * 1.2 * kept("full")


def test_the_program_does_not_grow_with_depth():
    def count(config):
        program = jax.make_jaxpr(lambda params: loss_of(config, params, batch_of()))(abstract_params(config))
        return len(list(equations(program.jaxpr)))

    assert count(TINY) == count(replace(TINY, encoder_layers=24, decoder_layers=24))


LONG = {"tied": TIED, "learned": replace(PREFIX, positions=Learned(40))}


@pytest.mark.parametrize("config", (SHAPES | LONG).values(), ids=(SHAPES | LONG).keys())
def test_cached_is_uncached(config):
    """Step by step over a cache longer than the target, with a padded source."""
    params, batch = params_of(config), padded(batch_of(), SOURCE + 4, TARGET, 7)._replace(decoder_segment_ids=None)
    expected = logits_of(config, params, batch)

    @jax.jit
    def start(params):
        module = bind(config, params)
        return module.new_cache(module.encode(batch.encoder_input_tokens, batch.encoder_segment_ids), TARGET + 2)

    @jax.jit
    def step(params, tokens, cache, index):
        return bind(config, params).decode_step(tokens, cache, index, batch.encoder_segment_ids)

    cache = start(params)
    for index in range(TARGET):
        tokens = batch.decoder_input_tokens[:, index : index + 1]
        logits, cache = step(params, tokens, cache, jnp.asarray(index))
        np.testing.assert_allclose(logits[:, 0], expected[:, index], rtol=1e-4, atol=1e-5 * np.abs(expected).max())


# --- Numbers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", [PER_LAYER, TIED], ids=["per_layer", "tied"])
def test_bfloat16_gives_every_parameter_a_gradient(config):
    """Gradients of the float32 master weights: finite, and zero only where a token or a bucket does not occur."""
    config = replace(config, compute="bfloat16", activation="gelu_tanh")
    params, batch = params_of(config), batch_of(rows=4)

    def loss(params):
        logits = bind(config, params)(batch)
        targets = batch.decoder_target_tokens[..., None]
        return -jnp.take_along_axis(jax.nn.log_softmax(logits), targets, -1).mean(), logits

    gradients, logits = jax.jit(jax.grad(loss, has_aux=True))(params)
    assert logits.dtype == jnp.float32
    exact = logits_of(replace(config, compute="float32"), params, batch)
    assert 1e-6 < np.abs(logits - exact).max() / np.abs(exact).max() < 0.05
    for path, gradient in flatten_dict(gradients, sep="/").items():
        assert gradient.dtype == jnp.float32, path
        assert np.isfinite(gradient).all(), path
        if path == "embedding":
            gradient = gradient[np.union1d(batch.encoder_input_tokens, batch.decoder_input_tokens)]
        allowed = 0.5 if "relative_bias" in path else 0.01  # a few elements cancel exactly in half precision
        for layer in gradient if "/layers/" in path else [gradient]:
            assert np.mean(np.asarray(layer) == 0) < allowed, path


def test_the_tied_head_is_the_embedding():
    params, batch = params_of(TIED), batch_of()
    assert "head" not in params
    assert bind(TIED, params).embedding[...] is params["embedding"]
    plain = logits_of(TIED, params, batch)
    absent = np.setdiff1d(np.arange(61), np.union1d(batch.encoder_input_tokens, batch.decoder_input_tokens))[0]
    doubled = params | {"embedding": params["embedding"].at[absent].multiply(2)}
    np.testing.assert_allclose(logits_of(TIED, doubled, batch)[..., absent], 2 * plain[..., absent], rtol=1e-5)
    unscaled = logits_of(replace(TIED, head=Tied(scaled=False)), params, batch)
    np.testing.assert_allclose(unscaled, plain * math.sqrt(24), rtol=1e-4, atol=1e-4)
    # One array gathers both gradients: rows of absent tokens move only through the head, all rows do.
    assert np.all(gradients_of(TIED, params, batch)["embedding"] != 0)


def test_dropout_acts_in_its_places_and_only_with_a_key():
    config, batch = replace(TINY, **dict.fromkeys(RATES, 0.3)), batch_of()
    params = params_of(config)

    def drawn(config):
        program = jax.make_jaxpr(lambda params: bind(config, params)(batch, jax.random.key(0)))(params).jaxpr
        return [each.outvars[0].aval.shape for each in equations(program) if each.primitive.name == "random_bits"]

    # Encoder: embedding, final norm; a layer's probabilities, attention, feed-forward inside and after. Decoder: the
    # same, and cross-attention's two. A scanned layer counts once.
    assert len(drawn(config)) == 2 + 4 + 2 + 6
    lengths = {batch.encoder_input_tokens.shape[1], batch.decoder_input_tokens.shape[1]}
    for rate, places in zip(RATES, (2 + 2 + 3, 1 + 2, 1 + 1, 2), strict=True):
        alone = replace(TINY, **{rate: 0.3})
        shared, own = drawn(alone), drawn(replace(alone, shared_dropout=False))
        assert len(shared) == len(own) == places, rate
        assert {shape[-2] for shape in shared} == {1}, rate
        assert {shape[-2] for shape in own} == lengths, rate
    plain = logits_of(config, params, batch)
    np.testing.assert_array_equal(plain, logits_of(TINY, params, batch))
    first, again, other = (logits_of(config, params, batch, jax.random.key(seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, plain, atol=1e-2)
    assert not np.allclose(first, other, atol=1e-2)


def test_initial_values():
    config = replace(TINY, vocab_size=500, width=96, head_width=8, heads=6, feed_forward=150, encoder_layers=4)
    params = flatten_dict(jax.jit(lambda key: initial_params(config, key))(jax.random.key(0)), sep="/")
    d, h, k, f = 96, 6, 8, 150
    deviations = {
        "embedding": 1.0,
        "head": d**-0.5,
        "query": (d * k) ** -0.5,
        "key": d**-0.5,
        "value": d**-0.5,
        "output": (h * k) ** -0.5,
        "gate": d**-0.5,
        "up": d**-0.5,
        "down": f**-0.5,
        "relative_bias": d**-0.5,
    }
    for path, array in params.items():
        name = path.removesuffix("/weight").split("/")[-1]
        if name == "scale":
            assert np.all(array == 1), path
            continue
        error = 5 / math.sqrt(2 * array.size)  # five standard errors of a standard deviation
        assert abs(array.std() / deviations[name] - 1) < error, path
        assert len(np.unique(array)) > 0.99 * array.size, path  # no layer and no matrix is a copy of another


def test_xavier_is_uniform_by_both_widths_and_smaller_in_attention():
    """fairseq 0.12.2: MultiheadAttention.reset_parameters, transformer_layer's and transformer_base's builders."""
    sizes = {"vocab_size": 500, "width": 96, "head_width": 8, "heads": 6, "feed_forward": 150, "encoder_layers": 4}
    config = replace(TINY, **sizes, gated=False, initial=Xavier())
    params = flatten_dict(jax.jit(lambda key: initial_params(config, key))(jax.random.key(0)), sep="/")
    d, inner, f = 96, 48, 150
    squares = dict.fromkeys(("query", "key", "value"), 3 / (d + inner)) | {"output": 6 / (d + inner)}
    squares |= dict.fromkeys(("up", "down"), 6 / (d + f))
    for path, array in params.items():
        name = path.removesuffix("/weight").split("/")[-1]
        if name in squares:
            bound = squares[name] ** 0.5
            assert 0.99 * bound < np.abs(array).max() <= bound, path
            assert abs(array.std() / (bound / 3**0.5) - 1) < 5 / math.sqrt(2 * array.size), path
        elif name != "scale":
            assert abs(array.std() / d**-0.5 - 1) < 5 / math.sqrt(2 * array.size), path
            assert np.abs(array).max() > 2 * d**-0.5, path


def test_initial_values_are_the_same_under_any_sharding():
    config = replace(TINY, vocab_size=64, width=32, heads=4, head_width=8)
    plain = jax.jit(lambda key: initial_params(config, key))(jax.random.key(3))
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))

    def sharding(leaf):
        axis = next((axis for axis in reversed(range(leaf.ndim)) if leaf.shape[axis] % 8 == 0), None)
        return NamedSharding(mesh, P(*("data" if place == axis else None for place in range(leaf.ndim))))

    shardings = jax.tree.map(sharding, plain)
    sharded = jax.jit(lambda key: initial_params(config, key), out_shardings=shardings)(jax.random.key(3))
    assert not sharded["embedding"].sharding.is_fully_replicated
    assert jax.tree.all(jax.tree.map(lambda a, b: np.array_equal(a, b), plain, sharded))


def test_the_residual_stream_is_sharded_where_a_mesh_is_set():
    params, batch = params_of(TINY), batch_of(rows=8)
    plain = logits_of(TINY, params, batch)
    mesh = jax.make_mesh((2, 4, 1, 1), ("data", "fsdp", "sequence", "tensor"), axis_types=(AxisType.Auto,) * 4)
    with jax.set_mesh(mesh):
        encoded = jax.jit(lambda params: bind(TINY, params).encode(batch.encoder_input_tokens))(params)
        assert encoded.sharding.shard_shape(encoded.shape) == (1, SOURCE, 24)
        np.testing.assert_allclose(logits_of(TINY, params, batch), plain, rtol=1e-4, atol=1e-5 * np.abs(plain).max())


def test_foreign_names_are_refused():
    params = params_of(TINY)
    params["encoder"]["normal"] = params["encoder"].pop("norm")
    with pytest.raises(ConfigError, match="names are not those"):
        bind(TINY, params)
    with pytest.raises(ConfigError, match="names are not those"):
        bind(replace(TINY, head=Tied()), params_of(replace(TINY, head=UntiedHead())))


def test_the_model_takes_numpy_and_keeps_the_arrays_it_is_given():
    params = params_of(TINY)
    module = bind(TINY, params)
    assert (
        module.encoder.layers.feed_forward.up.weight[...] is params["encoder"]["layers"]["feed_forward"]["up"]["weight"]
    )
    batch = Batch(*(np.asarray(array) for array in batch_of()[:3]))
    np.testing.assert_allclose(module(batch), logits_of(TINY, params, batch_of()), rtol=1e-4, atol=1e-4)
