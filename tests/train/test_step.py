"""A step is the same on every mesh and over every split into micro-batches, and never takes what is not finite."""

import math
from dataclasses import dataclass, replace
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research import (
    Adafactor,
    AdamW,
    Constant,
    DecoderOnly,
    Denoising,
    Experiment,
    InverseSquareRoot,
    Linear,
    Loss,
    MaximalUpdate,
    Mesh,
    Model,
    PlainText,
    Relative,
    RMSScaledAdamW,
    SharedLayers,
    Tied,
)
from research.config import require
from research.data.batch import Batch
from research.model.attention_backends import recorded
from research.parallel.mesh import make_mesh, place_batch
from research.parallel.rules import flatten, unflatten
from research.train.optimizer import build, learning_rate
from research.train.state import (
    TrainState,
    _random_params,
    _random_state,
    abstract_state,
    new_state,
    state_shardings,
)
from research.train.step import (
    _summed_gradients,
    compile_eval_step,
    compile_train_step,
    eval_step,
    train_step,
)

ROWS, INPUTS, TARGETS, VOCABULARY = 8, 12, 6, 64
KEY = jax.random.key(7)
MODEL = Model(
    vocab_size=VOCABULARY,
    width=32,
    heads=8,
    head_width=4,
    feed_forward=48,
    encoder_layers=2,
    decoder_layers=2,
    compute="float32",
)
ADAFACTOR = Adafactor(schedule=InverseSquareRoot(peak=0.05, timescale=100, warmup=2), min_factored=16, momentum=0.5)
EXPERIMENT = Experiment(
    model=MODEL,
    data=Denoising(corpora=(PlainText(train="unread"),)),
    optimizer=ADAFACTOR,
    steps=100,
    batch_size=ROWS,
)


def batches(count: int, weighted: bool = True) -> list[Batch]:
    """Rows that hold unequal numbers of target tokens."""
    random = np.random.default_rng(0)
    made = []
    for _ in range(count):
        inputs = random.integers(2, VOCABULARY, (ROWS, INPUTS), dtype=np.int32)
        targets = random.integers(2, VOCABULARY, (ROWS, TARGETS), dtype=np.int32)
        weights = (np.arange(TARGETS) < random.integers(1, TARGETS + 1, (ROWS, 1))).astype(np.float32)
        shifted = np.pad(targets, ((0, 0), (1, 0)))[:, :-1]
        made.append(Batch(inputs, shifted, targets, weights if weighted else None))
    return made


def one_device() -> jax.sharding.Mesh:
    return make_mesh(Mesh(), jax.devices()[:1])


@cache
def initial(model: Model) -> dict:
    return jax.device_get(new_state(replace(EXPERIMENT, model=model), one_device(), KEY).params)


def start(experiment: Experiment, mesh: jax.sharding.Mesh) -> TrainState:
    """A new state, its parameters made once for all tests."""
    params = jax.tree.map(jnp.asarray, initial(experiment.model))
    updater = build(experiment.optimizer, experiment.steps, params, experiment.model)
    average = None if experiment.average_decay is None else params
    state = TrainState(np.int32(0), params, updater.init(updater.split(params)[0]), average)
    return jax.device_put(state, state_shardings(experiment, mesh))


def run(experiment: Experiment, mesh: jax.sharding.Mesh, given: list[Batch]) -> tuple[TrainState, list]:
    """The state and the metrics after a step on every batch given."""
    state = start(experiment, mesh)
    step = compile_train_step(experiment, mesh, given[0])
    metrics = []
    for batch in given:
        state, measured = step(state, place_batch(mesh, batch), KEY)
        metrics.append(jax.device_get(measured))
    return state, metrics


@cache
def reference() -> tuple[TrainState, list]:
    return run(EXPERIMENT, one_device(), batches(20))


def assert_equal_trees(left, right) -> None:
    for path, value in flatten(left).items():
        np.testing.assert_array_equal(np.asarray(value), np.asarray(flatten(right)[path]), err_msg=path)


# --- The mesh changes nothing but where things are --------------------------------------------------------------------


MESHES = (
    *((8, 1, 1, 1), (1, 2, 2, 2)),
    *(
        pytest.param(sizes, marks=pytest.mark.slow)
        for sizes in (
            *((1, 8, 1, 1), (1, 1, 8, 1), (1, 1, 1, 8), (2, 4, 1, 1)),
            *((4, 1, 2, 1), (1, 2, 1, 4), (1, 1, 2, 4), (2, 2, 1, 2)),
        )
    ),
)


@pytest.mark.parametrize("sizes", MESHES, ids=str)
def test_20_steps_are_the_same_on_every_mesh_and_the_state_is_really_split(sizes):
    mesh = make_mesh(Mesh(*sizes))
    state, metrics = run(EXPERIMENT, mesh, batches(20))
    expected_state, expected = reference()
    for name in ("loss", "nll", "gradient_norm", "target_tokens"):
        measured = [getattr(step, name) for step in metrics]
        np.testing.assert_allclose(measured, [getattr(step, name) for step in expected], rtol=2e-5, err_msg=name)
    for path, value in flatten(state.params).items():
        np.testing.assert_allclose(value, flatten(expected_state.params)[path], rtol=1e-3, atol=1e-4, err_msg=path)

    assert jax.tree.map(lambda leaf: leaf.sharding, state) == state_shardings(EXPERIMENT, mesh)
    _, fsdp, _, tensor = sizes
    query = "encoder/layers/self_attention/query/weight"
    for path, share in {
        "params/embedding": fsdp * tensor,
        "params/head": fsdp * tensor,
        f"params/{query}": fsdp * tensor,
        "params/decoder/layers/feed_forward/down/weight": fsdp * tensor,
        "opt_state/momentum/decoder/layers/cross_attention/output/weight": fsdp * tensor,
        f"opt_state/row/{query}": fsdp,  # [l d 1 1]
        f"opt_state/column/{query}": tensor,  # [l 1 h k]
        "params/decoder/norm/scale": 1,
    }.items():
        leaf = flatten(state)[path]
        assert {shard.data.nbytes for shard in leaf.addressable_shards} == {leaf.nbytes // share}, path
    held = sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(state))
    whole = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    assert held < 1.3 * whole / (fsdp * tensor)  # norms and biases are whole on every device


@pytest.mark.parametrize("sizes", [(2, 2, 1, 2), (1, 2, 2, 2)], ids=str)
def test_steps_with_attention_by_blocks_are_those_of_the_reference(sizes):
    experiment = replace(EXPERIMENT, model=replace(MODEL, attention="blocked"))
    with recorded() as record:
        state, metrics = run(experiment, make_mesh(Mesh(*sizes)), batches(3))
    assert {str(choice) for choices in record.values() for choice in choices} == {"blocked (as configured)"}
    expected_state, expected = run(EXPERIMENT, one_device(), batches(3))
    for name in ("loss", "gradient_norm"):
        measured = [getattr(step, name) for step in metrics]
        np.testing.assert_allclose(measured, [getattr(step, name) for step in expected], rtol=2e-5, err_msg=name)
    for path, value in flatten(state.params).items():
        np.testing.assert_allclose(value, flatten(expected_state.params)[path], rtol=1e-3, atol=1e-4, err_msg=path)


@pytest.mark.slow
@pytest.mark.parametrize("stacks", [SharedLayers(), DecoderOnly()], ids=["shared", "one"])
def test_models_of_other_shapes_are_the_same_on_a_mesh_and_in_microbatches(stacks):
    experiment = replace(EXPERIMENT, model=replace(MODEL, stacks=stacks, remat="full"))
    expected_state, expected = run(experiment, one_device(), batches(3))
    for sizes, parts in (((2, 2, 1, 2), 2), ((1, 2, 2, 2), 1)):
        state, metrics = run(replace(experiment, microbatches=parts), make_mesh(Mesh(*sizes)), batches(3))
        for name in ("loss", "gradient_norm"):
            measured = [getattr(step, name) for step in metrics]
            np.testing.assert_allclose(measured, [getattr(step, name) for step in expected], rtol=2e-5, err_msg=name)
        for path, value in flatten(state.params).items():
            np.testing.assert_allclose(
                value, flatten(expected_state.params)[path], rtol=1e-3, atol=1e-4, err_msg=f"{sizes} {path}"
            )


@pytest.mark.parametrize("optimizer", [Adafactor(schedule=Linear(peak=1.0)), AdamW(schedule=Constant(peak=1.0))])
def test_the_shapes_that_variants_share_are_those_of_the_state(optimizer):
    """Of models that differ in dropout, and of optimizers that differ in their rate."""
    model = replace(MODEL, dropout=0.1, attention_dropout=0.2, activation_dropout=0.1, output_dropout=0.1)
    of = replace(EXPERIMENT, model=model, optimizer=optimizer, average_decay=0.9)
    state = jax.eval_shape(partial(_random_state, of), KEY)
    assert jax.tree.structure(abstract_state(of)) == jax.tree.structure(state)
    assert jax.tree.leaves(abstract_state(of)) == jax.tree.leaves(state)


def test_a_new_state_is_the_same_to_the_bit_on_every_mesh():
    expected = new_state(EXPERIMENT, one_device(), KEY)
    assert_equal_trees(new_state(EXPERIMENT, make_mesh(Mesh(data=1, fsdp=4, tensor=2)), KEY), expected)


@pytest.mark.parametrize(
    "experiment", [EXPERIMENT, replace(EXPERIMENT, optimizer=AdamW(schedule=ADAFACTOR.schedule), average_decay=0.9)]
)
def test_of_a_state_with_given_parameters_only_the_others_are_random(experiment: Experiment):
    mesh = make_mesh(Mesh(data=1, fsdp=4, tensor=2))
    expected = new_state(experiment, mesh, KEY)
    absent = {"embedding", "decoder/norm/scale", "encoder/layers/self_attention/query/weight"}
    given = {path: leaf for path, leaf in flatten(expected.params).items() if path not in absent}
    assert len(flatten(expected.params)) == len(given) + len(absent)
    made = new_state(experiment, mesh, KEY, unflatten(jax.tree.map(jnp.copy, given)))
    assert_equal_trees(made, expected)
    assert jax.tree.map(lambda leaf: leaf.sharding, made) == jax.tree.map(lambda leaf: leaf.sharding, expected)


def test_parameters_that_are_given_are_not_computed():
    def drawn(*paths: str) -> float:
        compiled = jax.jit(partial(_random_params, EXPERIMENT, paths)).lower(KEY).compile()
        return compiled.cost_analysis().get("flops", 0.0)  # a program of constants has none

    paths = flatten(abstract_state(EXPERIMENT).params)
    sizes = {path: math.prod(leaf.shape) for path, leaf in paths.items()}
    every = drawn(*paths)
    assert drawn("embedding") < 1.5 * every * sizes["embedding"] / sum(sizes.values())
    assert drawn("decoder/norm/scale") < 0.01 * every


# --- Micro-batches ----------------------------------------------------------------------------------------------------


def test_microbatches_of_unequal_weight_are_one_batch():
    _, whole = reference()
    mesh = make_mesh(Mesh(data=2, fsdp=1, tensor=4))
    _, split = run(replace(EXPERIMENT, microbatches=4), mesh, batches(3))
    for name in ("loss", "gradient_norm", "target_tokens", "accuracy"):
        measured = [getattr(step, name) for step in split]
        np.testing.assert_allclose(measured, [getattr(step, name) for step in whole[:3]], rtol=2e-5, err_msg=name)


# --- What is not finite -----------------------------------------------------------------------------------------------


def test_an_update_that_is_not_finite_from_a_finite_gradient_is_skipped():
    experiment = replace(EXPERIMENT, optimizer=AdamW(schedule=Constant(peak=3e38)))
    state, metrics = run(experiment, one_device(), batches(1))
    assert int(metrics[0].skipped) == 1
    assert all(np.isfinite(value) for value in jax.tree.leaves(metrics[0]))
    assert_equal_trees(initial(MODEL), state.params)


@pytest.mark.parametrize(
    "optimizer",
    [ADAFACTOR, AdamW(schedule=Linear(peak=1e-2, warmup=8, warmup_start=0.5))],
    ids=["Adafactor", "AdamW"],
)
def test_a_step_that_is_not_finite_changes_nothing_but_the_step(optimizer):
    good = batches(2)
    experiment, mesh = replace(EXPERIMENT, optimizer=optimizer), make_mesh(Mesh(data=2, fsdp=2, tensor=2))
    step = compile_train_step(experiment, mesh, good[0])
    state, _ = step(start(experiment, mesh), place_batch(mesh, good[0]), KEY)
    before = jax.device_get(state)

    for weight in (np.nan, np.inf, 0.0):
        bad = good[1]._replace(decoder_loss_weights=np.full((ROWS, TARGETS), weight, np.float32))
        state, metrics = step(state, place_batch(mesh, bad), KEY)
        assert_equal_trees(before.params, state.params)
        assert_equal_trees(before.opt_state, state.opt_state)
        assert int(metrics.skipped) == 1
        assert all(np.isfinite(value) for value in jax.tree.leaves(metrics))
        assert float(metrics.target_tokens) == float(metrics.loss) == 0.0
    assert int(state.step) == 4

    state, metrics = step(state, place_batch(mesh, good[1]), KEY)
    assert int(metrics.skipped) == 0
    assert float(metrics.target_tokens) == good[1].decoder_loss_weights.sum()
    assert not np.array_equal(before.params["embedding"], state.params["embedding"])
    # Skipped steps shift no schedule: this was the step numbered 4.
    expected = learning_rate(optimizer.schedule, experiment.steps)(jnp.int32(4))
    np.testing.assert_allclose(metrics.learning_rate, expected, rtol=1e-6)

    state.params["decoder"]["norm"]["scale"] *= jnp.nan
    _, metrics = step(state, place_batch(mesh, good[1]), KEY)
    assert int(metrics.skipped) == 1


def test_a_gradient_that_is_not_finite_under_a_finite_loss_is_skipped():
    """The norm of the gradient is watched too: here it overflows."""
    experiment = replace(EXPERIMENT, loss=Loss(z_loss=1e34), optimizer=AdamW(schedule=Constant(peak=1e-3)))
    _, metrics = run(experiment, one_device(), batches(1))
    sums = jax.jit(partial(eval_step, experiment))(initial(MODEL), batches(1)[0])
    assert np.isfinite(sums.loss)
    assert int(metrics[0].skipped) == 1


# --- Learning ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "optimizer",
    [
        Adafactor(schedule=Constant(peak=0.03)),
        RMSScaledAdamW(schedule=Constant(peak=2e-2), clip_norm=1.0),
    ],
    ids=lambda optimizer: type(optimizer).__name__,
)
def test_one_batch_is_learnt_by_heart(optimizer):
    experiment = replace(EXPERIMENT, optimizer=optimizer, model=replace(MODEL, compute="bfloat16"))
    _, metrics = run(experiment, one_device(), batches(1) * 60)
    assert metrics[0].nll > 3.5
    assert metrics[-1].nll < 0.3
    assert metrics[-1].accuracy > 0.95


@pytest.mark.parametrize(
    "model",
    [
        MODEL,
        replace(MODEL, head=Tied(), gated=False, activation="relu"),
        replace(MODEL, positions=Relative(per_layer=True)),
        replace(MODEL, stacks=SharedLayers()),
        replace(MODEL, stacks=DecoderOnly()),
        replace(MODEL, stacks=DecoderOnly(causal=True)),
        replace(MODEL, parametrization=MaximalUpdate(16, 2, 8, 24)),
    ],
    ids=["v1.1", "v1.0", "per-layer bias", "shared layers", "prefix LM", "LM", "muP"],
)
def test_every_parameter_of_every_layer_learns(model):
    """No leaf is left out of the model, the split or the update."""
    experiment = replace(EXPERIMENT, model=model, optimizer=AdamW(schedule=Constant(peak=1e-3)))
    state, _ = run(experiment, one_device(), batches(1))
    for path, value in flatten(state.params).items():
        moved = np.asarray(value != flatten(initial(model))[path])
        layers = moved if "layers" in path else moved[None]
        assert all(layer.any() for layer in layers), path


def test_bfloat16_compute_keeps_float32_parameters_state_and_metrics():
    experiment = replace(
        EXPERIMENT,
        model=replace(MODEL, compute="bfloat16"),
        optimizer=AdamW(schedule=Constant(peak=1e-6)),
        microbatches=2,
    )
    state, metrics = run(experiment, one_device(), batches(1))
    dtypes = {np.dtype(np.float32), np.dtype(np.int32)}
    assert {leaf.dtype for leaf in jax.tree.leaves((state, metrics))} == dtypes
    expected = reference()[1][0]
    np.testing.assert_allclose(metrics[0].loss, expected.loss, rtol=0.02)
    assert metrics[0].gradient_norm != expected.gradient_norm  # it really computes in bfloat16
    # Changes of a millionth, far below bfloat16's resolution, are kept.
    change = np.abs(np.asarray(state.params["head"]) - initial(experiment.model)["head"])
    np.testing.assert_allclose([np.median(change), change.max()], 1e-6, rtol=0.1)


@pytest.mark.slow
def test_bfloat16_adds_up_the_gradient_of_a_frequent_token():
    """One that fills thousands of positions: a sum in bfloat16 would stop growing at 256 equal terms."""
    rows = np.random.default_rng(5).integers(2, VOCABULARY, (2, ROWS, 600), dtype=np.int32)
    rows[rows < VOCABULARY // 2] = 2
    batch = Batch(rows[0], np.full_like(rows[1], 2), rows[1])

    def embedding_gradient(compute: str) -> np.ndarray:
        experiment = replace(EXPERIMENT, model=replace(MODEL, compute=compute))
        summed = jax.jit(lambda params: _summed_gradients(experiment, params, {}, batch, KEY)[0])
        return np.asarray(summed(initial(MODEL))["embedding"])

    expected, found = (embedding_gradient(compute)[2] for compute in ("float32", "bfloat16"))
    assert np.linalg.norm(found - expected) < 0.03 * np.linalg.norm(expected)


def test_parameters_are_cast_once_a_step_and_not_once_a_microbatch():
    """The loop over micro-batches gets every matrix in bfloat16, beside float32 sums of their gradients.

    The embedding alone stays in float32: it is looked up, and what was looked up is cast.
    """
    experiment = replace(EXPERIMENT, model=replace(MODEL, compute="bfloat16"), microbatches=4)
    jaxpr = jax.make_jaxpr(partial(train_step, experiment))(abstract_state(experiment), batches(1)[0], KEY)
    (loop,) = (e for e in jaxpr.eqns if e.primitive.name == "scan" and e.params["length"] == 4)
    precise = ("scale", "bias", "embedding")
    shapes = [leaf.shape for path, leaf in flatten(initial(MODEL)).items() if not path.endswith(precise)]
    given = [variable.aval.dtype for variable in loop.invars if variable.aval.shape in shapes]
    assert given.count(jnp.bfloat16) == given.count(jnp.float32) == len(shapes)


# --- Dropout, freezing, evaluation ------------------------------------------------------------------------------------


def test_dropout_is_drawn_anew_each_step_and_the_same_again():
    experiment = replace(
        EXPERIMENT, model=replace(MODEL, dropout=0.2), optimizer=AdamW(schedule=Constant(peak=0.0)), microbatches=2
    )
    mesh, batch = one_device(), batches(1)[0]
    step = compile_train_step(experiment, mesh, batch)

    def losses() -> list[float]:
        state, first = step(start(experiment, mesh), batch, KEY)
        return [float(first.loss), float(step(state, batch, KEY)[1].loss)]

    assert losses()[0] != losses()[1]  # nothing was learnt: the rate is 0
    assert losses() == losses()


def test_frozen_parameters_get_no_update_no_memory_and_no_part_in_the_norm():
    given, frozen = batches(1), ("embedding", "encoder/")
    optimizer = AdamW(schedule=Constant(peak=1e-3), frozen=frozen)
    state, metrics = run(replace(EXPERIMENT, optimizer=optimizer), one_device(), given)
    for path, value in flatten(state.params).items():
        is_frozen = path == "embedding" or path.startswith("encoder/")
        assert np.array_equal(value, flatten(initial(MODEL))[path]) == is_frozen, path
    assert not any("embedding" in path or "encoder/" in path for path in flatten(state.opt_state))
    assert 0 < metrics[0].gradient_norm < reference()[1][0].gradient_norm


def test_evaluation_sums_what_training_means():
    batch, mesh = batches(1)[0], make_mesh(Mesh(data=2, fsdp=2, tensor=2))
    params = start(EXPERIMENT, mesh).params
    sums = compile_eval_step(EXPERIMENT, mesh, batch)(params, place_batch(mesh, batch))
    expected = reference()[1][0]
    assert float(sums.weight) == batch.decoder_loss_weights.sum() == expected.target_tokens
    for name in ("loss", "nll", "z_loss"):
        np.testing.assert_allclose(getattr(sums, name) / sums.weight, getattr(expected, name), rtol=1e-5)


# --- Compilation ------------------------------------------------------------------------------------------------------


def test_a_run_compiles_one_program_and_donates_its_state():
    mesh, given = make_mesh(Mesh(data=4, fsdp=2)), batches(3)
    experiment = replace(EXPERIMENT, optimizer=AdamW(schedule=Constant(peak=1e-3)))
    state = start(experiment, mesh)
    placed = [place_batch(mesh, batch) for batch in given]
    compiled: list[str] = []

    def listen(event: str, *_, **__) -> None:
        if event.endswith("backend_compile_duration"):
            compiled.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        step = compile_train_step(experiment, mesh, given[0])
        first = state
        for batch in placed:
            state, _ = step(state, batch, KEY)
        jax.block_until_ready(state)
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    assert len(compiled) == 1
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(first))
    memory = step.memory_analysis()
    assert memory.alias_size_in_bytes > 0.9 * sum(
        leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(state)
    )


# --- The moving average -----------------------------------------------------------------------------------------------


def averaged(decay: float) -> tuple[list, list]:
    """Parameters and their averages before the first and after every step."""
    experiment = replace(EXPERIMENT, average_decay=decay)
    state = start(experiment, one_device())
    state = state._replace(average=jax.tree.map(jnp.copy, state.params))
    params, averages = [jax.device_get(state.params)], [jax.device_get(state.average)]
    step = compile_train_step(experiment, one_device(), batches(1)[0])
    for batch in batches(12):
        state, _ = step(state, place_batch(one_device(), batch), KEY)
        params.append(jax.device_get(state.params))
        averages.append(jax.device_get(state.average))
    return params, averages


def test_the_average_follows_its_definition_and_is_what_is_evaluated():
    params, averages = averaged(0.6)
    for step in range(12):
        kept = min(0.6, (1 + step) / (10 + step))
        for path, before in flatten(averages[step]).items():
            expected = kept * before + (1 - kept) * flatten(params[step + 1])[path]
            np.testing.assert_allclose(flatten(averages[step + 1])[path], expected, rtol=1e-5, atol=1e-7, err_msg=path)
    state = TrainState(np.int32(12), params[-1], {}, averages[-1])
    assert state.evaluated is averages[-1]
    assert state._replace(average=None).evaluated is params[-1]


@pytest.mark.slow
def test_a_skipped_update_leaves_the_average_as_it_is():
    experiment = replace(EXPERIMENT, average_decay=0.9)
    state = start(experiment, one_device())
    state = state._replace(average=jax.tree.map(lambda leaf: leaf + 1, state.params))
    before = jax.device_get(state.average)
    nothing = batches(1)[0]
    nothing = nothing._replace(decoder_loss_weights=np.zeros_like(nothing.decoder_loss_weights))
    after, metrics = train_step(experiment, state, nothing, KEY)
    assert metrics.skipped == 1
    assert_equal_trees(before, after.average)


def test_a_new_state_averages_from_its_own_parameters():
    state = new_state(replace(EXPERIMENT, average_decay=0.9), one_device(), KEY)
    assert_equal_trees(state.params, state.average)
    step = compile_train_step(replace(EXPERIMENT, average_decay=0.9), one_device(), batches(1)[0])
    step(state, place_batch(one_device(), batches(1)[0]), KEY)  # no buffer is donated twice


@dataclass(frozen=True)
class WarmedUp(AdamW):
    """An optimizer whose users must warm up, and whose state depends on it."""

    def __post_init__(self) -> None:
        require(self.schedule.warmup >= 10, "warmup must be at least 10")


def test_a_users_optimizer_is_checked_with_the_schedule_that_it_has() -> None:
    experiment = replace(EXPERIMENT, optimizer=WarmedUp(schedule=InverseSquareRoot(peak=0.1, warmup=100)))
    assert abstract_state(experiment).params
