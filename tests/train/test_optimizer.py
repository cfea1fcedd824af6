"""Optimizers against plain NumPy, one layer at a time; schedules; and tables of patterns."""

from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from research import LAMB, Adafactor, AdamW, Constant, Cosine, InverseSquareRoot, Linear, Model, RMSScaledAdamW
from research.config import ConfigError
from research.config.load import open_experiment
from research.parallel.rules import flatten, unflatten
from research.train.optimizer import build, learning_rate

LAYERS, WIDTH, HEADS, HEAD_WIDTH, HIDDEN, VOCABULARY = 3, 32, 6, 4, 40, 48
MODEL = Model(VOCABULARY, WIDTH, HEADS, HEAD_WIDTH, HIDDEN, LAYERS, LAYERS)
SHAPES = {
    "embedding": (VOCABULARY, WIDTH),
    "head": (WIDTH, VOCABULARY),
    "encoder/relative_bias": (16, HEADS),
    "encoder/norm/scale": (WIDTH,),
    "encoder/layers/self_attention/query/weight": (LAYERS, WIDTH, HEADS, HEAD_WIDTH),
    "encoder/layers/self_attention/output/weight": (LAYERS, HEADS, HEAD_WIDTH, WIDTH),
    "encoder/layers/self_attention/relative_bias": (LAYERS, 20, 20),
    "encoder/layers/self_attention_norm/scale": (LAYERS, WIDTH),
    "encoder/layers/feed_forward/up/weight": (LAYERS, WIDTH, HIDDEN),
}
# What T5X would hold for one layer: a matrix, with heads and head width joined.
MATRICES = {
    "encoder/layers/self_attention/query/weight": (WIDTH, HEADS * HEAD_WIDTH),
    "encoder/layers/self_attention/output/weight": (HEADS * HEAD_WIDTH, WIDTH),
}
NEVER_FACTORED = ("relative_bias", "scale")
STEPS = 5
NO_DECAY = {"weight_decay": 0.0, "no_decay": ()}


def parameters(seed: int = 0) -> dict:
    """Layers of very different scales, so that statistics shared between them would show."""
    random = np.random.default_rng(seed)
    values = {}
    for path, shape in SHAPES.items():
        scale = 10.0 ** -np.arange(LAYERS).reshape(-1, *[1] * (len(shape) - 1)) if "layers" in path else 1.0
        values[path] = (random.normal(size=shape) * scale).astype(np.float32)
    return values


def gradients_at(step: int) -> dict:
    """Also of different scales, with a spike at step 3 that clipping must meet layer by layer."""
    values = {path: 0.1 * value for path, value in parameters(seed=100 + step).items()}
    if step == 3:
        values["encoder/layers/feed_forward/up/weight"][1] *= 50
    return values


def run(settings, values: dict, steps: int = STEPS, total_steps: int = 100) -> tuple[dict, dict]:
    """Parameters and state after some steps, by path."""
    params = unflatten({path: jnp.asarray(value) for path, value in values.items()})
    updater = build(settings, total_steps, params, MODEL)
    trained, frozen = updater.split(params)
    state, update = updater.init(trained), jax.jit(updater.update)
    for step in range(steps):
        given = gradients_at(step)
        gradients, _ = updater.split(unflatten({path: given[path] for path in values}))
        trained, state = update(gradients, state, trained, jnp.int32(step))
    return {**flatten(trained), **flatten(frozen)}, flatten(state)


def layer_by_layer(one_layer, values: dict) -> dict:
    """`one_layer(path, matrix, list of gradients) -> matrix` over every layer of every parameter by itself."""
    gradients = [gradients_at(step) for step in range(STEPS)]
    results = {}
    for path, value in values.items():
        stacked = "layers" in path
        shape = MATRICES.get(path, value.shape[stacked:])
        layers = value.reshape(-1, *shape).astype(np.float64)
        given = [gradient[path].reshape(layers.shape).astype(np.float64) for gradient in gradients]
        outputs = [one_layer(path, layer, [g[i] for g in given]) for i, layer in enumerate(layers)]
        results[path] = np.stack(outputs).reshape(value.shape)
    return results


def assert_close(ours: dict, expected: dict, rtol: float = 2e-5) -> None:
    assert ours.keys() == expected.keys()
    for path, value in expected.items():
        tolerance = rtol * np.abs(value).max(axis=tuple(range(1, value.ndim)), keepdims=True)
        assert np.all(np.abs(ours[path] - value) <= tolerance), path


# --- Adafactor --------------------------------------------------------------------------------------------------------


def rms(x: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(x))))


def plain_adafactor(settings: Adafactor, rate: float):
    """Adafactor of one unstacked matrix or vector as T5X computes it (arXiv:1804.04235)."""

    def one_layer(path: str, param: np.ndarray, gradients: list) -> np.ndarray:
        factored = settings.factored and param.ndim == 2 and min(param.shape) >= settings.min_factored
        factored = factored and not path.endswith(NEVER_FACTORED)
        row = column = full = momentum = 0.0
        for step, gradient in enumerate(gradients):
            kept = 1.0 - (step + 1.0) ** -settings.decay_exponent
            square = gradient**2 + 1e-30
            if factored:
                row = kept * row + (1 - kept) * square.mean(axis=1)
                column = kept * column + (1 - kept) * square.mean(axis=0)
                second = np.outer(row, column) / row.mean()
            else:
                full = second = kept * full + (1 - kept) * square
            direction = gradient / np.sqrt(second)
            direction /= max(1.0, rms(direction) / settings.clip_update)
            change = rate * max(rms(param), 1e-3) * direction
            if settings.momentum is not None:
                change = momentum = settings.momentum * momentum + (1 - settings.momentum) * change
            decay = 0.0 if any(word in path for word in settings.no_decay) else settings.weight_decay
            param = (1 - decay) * param - change
        return param

    return one_layer


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"momentum": 0.9},
        {"factored": False},
        {"min_factored": 128},
        {"weight_decay": 1e-2, "no_decay": ("norm", "relative_bias")},
        {"clip_update": 0.5, "decay_exponent": 0.5},
    ],
    ids=str,
)
def test_adafactor_of_stacked_layers_is_that_of_each_layer_alone(changes):
    settings = Adafactor(schedule=Constant(peak=0.05), **{"min_factored": 16, "no_decay": (), **changes})
    ours, _ = run(settings, parameters())
    assert_close(ours, layer_by_layer(plain_adafactor(settings, 0.05), parameters()))


def test_attention_is_factored_as_the_matrix_of_joined_heads():
    """No axis but the width reaches min_factored; heads times head width do, and small tables and vectors never."""
    _, state = run(Adafactor(schedule=Constant(peak=0.05), min_factored=24, no_decay=()), parameters(), steps=1)
    query, output = "encoder/layers/self_attention/query/weight", "encoder/layers/self_attention/output/weight"
    assert state[f"row/{query}"].shape == (LAYERS, WIDTH, 1, 1)
    assert state[f"column/{query}"].shape == (LAYERS, 1, HEADS, HEAD_WIDTH)
    assert state[f"row/{output}"].shape == (LAYERS, HEADS, HEAD_WIDTH, 1)
    assert state[f"column/{output}"].shape == (LAYERS, 1, 1, WIDTH)
    assert state["square/encoder/relative_bias"].shape == SHAPES["encoder/relative_bias"]
    assert "row/encoder/norm/scale" not in state
    _, state = run(Adafactor(schedule=Constant(peak=0.05), min_factored=25, no_decay=()), parameters(), steps=1)
    assert state[f"square/{query}"].shape == SHAPES[query]


def test_adafactor_of_a_matrix_is_optax_s():
    """An implementation by other hands, for what has no layers: T5X's constants are optax's defaults."""
    value = parameters()["head"]
    theirs = optax.adafactor(learning_rate=0.05, min_dim_size_to_factor=16, momentum=0.9, weight_decay_rate=1e-3)
    param, state = jnp.asarray(value), theirs.init(jnp.asarray(value))
    for step in range(STEPS):
        update, state = theirs.update(jnp.asarray(gradients_at(step)["head"]), state, param)
        param = param + update
    settings = Adafactor(schedule=Constant(peak=0.05), min_factored=16, momentum=0.9, weight_decay=1e-3, no_decay=())
    ours, _ = run(settings, {"head": value})
    np.testing.assert_allclose(ours["head"], param, rtol=1e-5, atol=1e-6)


def test_a_gradient_of_zero_leaves_a_finite_state():
    params = unflatten({"head": jnp.ones((32, 32))})
    updater = build(Adafactor(schedule=Constant(peak=0.1), min_factored=16, no_decay=()), 10, params, MODEL)
    new, _ = updater.update({"head": jnp.zeros((32, 32))}, updater.init(params), params, jnp.int32(0))
    np.testing.assert_array_equal(new["head"], 1.0)


# --- AdamW ------------------------------------------------------------------------------------------------------------


def test_adamw_is_optax_s():
    settings = AdamW(schedule=Linear(peak=0.01, warmup=3), weight_decay=0.1, clip_norm=1.0, no_decay=("scale",))
    values = parameters()
    ours, _ = run(settings, values)
    theirs = optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.adamw(
            lambda step: learning_rate(settings.schedule, 100)(step),
            weight_decay=0.1,
            mask={path: "scale" not in path for path in values},
        ),
    )
    params = {path: jnp.asarray(value) for path, value in values.items()}
    state, update = theirs.init(params), jax.jit(theirs.update)
    for step in range(STEPS):
        updates, state = update(gradients_at(step), state, params)
        params = optax.apply_updates(params, updates)
    assert_close(ours, {path: np.asarray(value) for path, value in params.items()})


def test_algoperf_s_nadamw_is_optax_s():
    file = Path(__file__).resolve().parents[2] / "experiments" / "marian" / "algoperf_wmt.py"
    settings = replace(open_experiment(file).config.optimizer, schedule=Linear(peak=0.01, warmup=3))
    values = parameters()
    ours, _ = run(settings, values)
    rate = learning_rate(settings.schedule, 100)
    theirs = optax.nadamw(rate, settings.b1, settings.b2, weight_decay=settings.weight_decay)
    params = {path: jnp.asarray(value) for path, value in values.items()}
    state, update = theirs.init(params), jax.jit(theirs.update)
    for step in range(STEPS):
        updates, state = update(gradients_at(step), state, params)
        params = optax.apply_updates(params, updates)
    assert_close(ours, {path: np.asarray(value) for path, value in params.items()})


def test_rms_scaled_adamw_of_stacked_layers_is_nanot5_s_of_each_layer_alone():
    settings = RMSScaledAdamW(schedule=Constant(peak=0.02), weight_decay=0.1, no_decay=(), epsilon=1e-2)

    def one_layer(path: str, param: np.ndarray, gradients: list) -> np.ndarray:
        mean = square = 0.0
        for step, gradient in enumerate(gradients, start=1):
            mean = settings.b1 * mean + (1 - settings.b1) * gradient
            square = settings.b2 * square + (1 - settings.b2) * gradient**2
            size = 0.02 * np.sqrt(1 - settings.b2**step) / (1 - settings.b1**step) * max(1e-3, rms(param))
            param = param - size * mean / (np.sqrt(square) + settings.epsilon)
            param = param - 0.02 * settings.weight_decay * param
        return param

    ours, _ = run(settings, parameters())
    assert_close(ours, layer_by_layer(one_layer, parameters()))


# --- LAMB -------------------------------------------------------------------------------------------------------------


def test_lamb_of_stacked_layers_is_the_algorithm_of_each_layer_alone():
    """Algorithm 2 of arXiv:1904.00962; what has no decay takes Adam's steps, as in its authors' implementation."""
    settings = LAMB(schedule=Constant(peak=0.02), weight_decay=0.1, no_decay=("norm", "relative_bias"))

    def one_layer(path: str, param: np.ndarray, gradients: list) -> np.ndarray:
        mean = square = 0.0
        spared = "norm" in path or "relative_bias" in path
        for step, gradient in enumerate(gradients, start=1):
            mean = settings.b1 * mean + (1 - settings.b1) * gradient
            square = settings.b2 * square + (1 - settings.b2) * gradient**2
            root = np.sqrt(square / (1 - settings.b2**step)) + settings.epsilon
            change = mean / (1 - settings.b1**step) / root
            if not spared:
                change = change + 0.1 * param
                change = change * np.linalg.norm(param) / np.linalg.norm(change)
            param = param - 0.02 * change
        return param

    ours, _ = run(settings, parameters())
    assert_close(ours, layer_by_layer(one_layer, parameters()))


def test_lamb_of_a_matrix_is_optax_s():
    """An implementation by other hands, for what has no layers; from zeros too, where the ratio is 1."""
    for value in (parameters()["head"], np.zeros_like(parameters()["head"])):
        theirs = optax.lamb(0.02, 0.9, 0.98, 1e-6, weight_decay=0.1)
        param, state = jnp.asarray(value), theirs.init(jnp.asarray(value))
        for step in range(STEPS):
            update, state = theirs.update(jnp.asarray(gradients_at(step)["head"]), state, param)
            param = param + update
        ours, _ = run(LAMB(schedule=Constant(peak=0.02), weight_decay=0.1, no_decay=()), {"head": value})
        np.testing.assert_allclose(ours["head"], param, rtol=1e-5, atol=1e-6)


# --- Clipping, freezing, decay ----------------------------------------------------------------------------------------


def test_the_gradient_is_clipped_by_its_global_norm():
    """Seen in the first moments of one step, which are a tenth of the gradient."""
    _, state = run(AdamW(schedule=Constant(peak=0.1), clip_norm=1e-3, **NO_DECAY), parameters(), steps=1)
    means = {path: value for path, value in state.items() if path.startswith("mean/")}
    np.testing.assert_allclose(optax.global_norm(means), 1e-4, rtol=1e-5)
    _, loose = run(AdamW(schedule=Constant(peak=0.1), clip_norm=1e9, **NO_DECAY), parameters(), steps=1)
    np.testing.assert_allclose(loose["mean/head"], 0.1 * gradients_at(0)["head"], rtol=1e-5)


def test_frozen_parameters_stay_and_have_no_state():
    frozen = ("embedding", "self_attention/")
    ours, state = run(AdamW(schedule=Constant(peak=0.1), frozen=frozen, **NO_DECAY), parameters())
    for path, value in parameters().items():
        is_frozen = path == "embedding" or "self_attention/" in path
        assert np.array_equal(ours[path], value) == is_frozen, path
        assert (f"mean/{path}" in state) != is_frozen, path


def test_decay_spares_what_no_decay_names():
    """With a gradient of zero, decay is all that moves a parameter."""
    values = parameters()
    params = unflatten({path: jnp.asarray(value) for path, value in values.items()})
    settings = AdamW(schedule=Constant(peak=0.5), weight_decay=0.1, no_decay=("norm", "relative_bias"))
    updater = build(settings, 10, params, MODEL)
    zeros = jax.tree.map(jnp.zeros_like, params)
    new, _ = updater.update(zeros, updater.init(params), params, jnp.int32(0))
    for path, value in flatten(new).items():
        spared = "norm" in path or "relative_bias" in path
        np.testing.assert_allclose(value, values[path] * (1.0 if spared else 0.95), rtol=1e-6, err_msg=path)


@pytest.mark.parametrize("field", ["frozen", "no_decay"])
def test_a_pattern_that_matches_nothing_lists_what_there_is(field):
    settings = replace(AdamW(schedule=Constant(peak=0.1), no_decay=()), **{field: ("norm", "encodr/")})
    with pytest.raises(ConfigError, match=rf"optimizer.{field} has 'encodr/', which matches no .* encoder/norm/scale"):
        build(settings, 10, unflatten(parameters()), MODEL)
    with pytest.raises(ConfigError, match=rf"optimizer.{field} has 'norm\(', which is no regular expression"):
        build(replace(settings, **{field: ("norm(",)}), 10, unflatten(parameters()), MODEL)


def test_freezing_everything_is_refused():
    with pytest.raises(ConfigError, match=r"optimizer.frozen matches every parameter"):
        build(AdamW(schedule=Constant(peak=0.1), frozen=("",)), 10, unflatten(parameters()), MODEL)


# --- Learning rate ----------------------------------------------------------------------------------------------------


def rates(schedule, total: int, steps: list[int]) -> list[float]:
    return [float(learning_rate(schedule, total)(jnp.int32(step))) for step in steps]


@pytest.mark.parametrize(
    ("schedule", "steps", "expected"),
    [
        (Constant(peak=2.0), [0, 1, 99], [2, 2, 2]),
        (Constant(peak=2.0, warmup=4), [0, 1, 2, 4, 99], [0, 0.5, 1, 2, 2]),
        (Constant(peak=2.0, warmup=4, warmup_start=0.5), [0, 1, 2, 4], [1, 1.25, 1.5, 2]),
        (Linear(peak=2.0, final=1.0), [0, 99], [2, 1]),
        (Linear(peak=2.0, warmup=19, final=0.0), [19, 59, 99, 200], [2, 1, 0, 0]),
        (Cosine(peak=2.0, warmup=19, final=1.0), [0, 19, 59, 99, 200], [0, 2, 1.5, 1, 1]),
        (Cosine(peak=2.0, final=0.0), [33, 66], [1.5, 0.5]),
        (InverseSquareRoot(peak=0.01), [0, 9_999, 10_000, 40_000], [0.01, 0.01, 0.01, 0.005]),
        (InverseSquareRoot(peak=1.0, timescale=4, warmup=2), [0, 1, 2, 4, 16], [0, 0.5, 1, 1, 0.5]),
    ],
    ids=str,
)
def test_schedules_pass_through_their_corners(schedule, steps, expected):
    np.testing.assert_allclose(rates(schedule, 100, steps), expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("schedule", [Linear(peak=1.0, warmup=100), Cosine(peak=1.0, warmup=100)])
def test_warmup_must_leave_steps_to_decay(schedule):
    with pytest.raises(ConfigError, match=r"optimizer.schedule.warmup is 100: it must be below steps, which is 100"):
        learning_rate(schedule, 100)
    assert rates(replace(schedule, warmup=99), 100, [99]) == [1.0]


def test_the_rate_follows_the_step_and_not_the_number_of_updates():
    settings = AdamW(schedule=Linear(peak=1.0, warmup=10), **NO_DECAY)
    params = {"head": jnp.ones((4, 4))}
    updater = build(settings, 100, params, MODEL)
    gradient = {"head": jnp.ones((4, 4))}
    for step in (1, 5):
        new, _ = updater.update(gradient, updater.init(params), params, jnp.int32(step))
        np.testing.assert_allclose(new["head"], 1 - step / 10, rtol=1e-5)
