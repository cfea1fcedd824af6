"""A vocabulary of any size trains and decodes on any mesh, with the numbers of one device."""

from dataclasses import replace
from functools import cache
from typing import Any

import jax
import numpy as np
import pytest

from research import (
    Adafactor,
    AdamW,
    Beam,
    Constant,
    Denoising,
    Experiment,
    Generation,
    InverseSquareRoot,
    Loss,
    Mesh,
    Model,
    PlainText,
    RMSScaledAdamW,
    Sampling,
    UntiedHead,
)
from research.data.batch import Batch
from research.decode.search import decode, score
from research.model.transformer import abstract_params, specs_of
from research.parallel.mesh import batch_sharding, make_mesh, place_batch
from research.parallel.padding import fill, placed
from research.parallel.rules import flatten, shardings
from research.train.step import (
    abstract_state,
    compile_eval_step,
    compile_train_step,
    new_state,
)

ROWS, SIZE, SOURCES = 16, 37, 29  # 37 and 29 rows: nothing divides them
KEY = jax.random.key(7)
MODEL = Model(SIZE, 16, 2, 8, 16, 1, 1, compute="float32")
MESHES = (Mesh(), Mesh(data=1, fsdp=8), Mesh(data=4, tensor=2), Mesh(data=2, fsdp=2, tensor=2))
IDS = ["data", "fsdp", "tensor", "fsdp and tensor"]
ADAFACTOR = Adafactor(schedule=InverseSquareRoot(peak=0.05, timescale=100, warmup=2), min_factored=16, momentum=0.5)
ADAMW = AdamW(schedule=Constant(peak=0.02), epsilon=1e-3, weight_decay=0.1, clip_norm=0.1, no_decay=())
SCALED = RMSScaledAdamW(schedule=Constant(peak=0.02), epsilon=1e-3, weight_decay=0.1, clip_norm=0.1, no_decay=())
BOTH = replace(MODEL, head=UntiedHead(), logits_bias=True, source_vocab_size=SOURCES)
BIASED = replace(MODEL, logits_bias=True, zero_token=SIZE)

CASES = {
    "t5x": (MODEL, ADAFACTOR, Loss(z_loss=1e-2, label_smoothing=0.1, smoothing="t5x"), 1),
    "fairseq": (BOTH, ADAMW, Loss(label_smoothing=0.1, smoothing="fairseq"), 1),
    "marian": (BIASED, SCALED, Loss(label_smoothing=0.1, smoothing="marian"), 1),
    "t5x in chunks": (BOTH, ADAFACTOR, Loss(z_loss=1e-2, label_smoothing=0.1, smoothing="t5x"), 2),
    "fairseq in chunks": (BIASED, SCALED, Loss(label_smoothing=0.1, smoothing="fairseq"), 2),
    "marian in chunks": (MODEL, ADAMW, Loss(z_loss=1e-2, label_smoothing=0.1, smoothing="marian"), 2),
}


def experiment(model: Model, optimizer: Any = ADAFACTOR, objective: Loss = Loss()) -> Experiment:
    data = Denoising(corpora=(PlainText(train="unread"),))
    return Experiment(
        model=model, data=data, optimizer=optimizer, steps=100, batch_size=ROWS, loss=objective, average_decay=0.9
    )


def batch() -> Batch:
    random = np.random.default_rng(0)
    sources = random.integers(2, SOURCES, (ROWS, 7), dtype=np.int32)
    targets = random.integers(2, SIZE, (ROWS, 5), dtype=np.int32)
    weights = (np.arange(5) < random.integers(1, 6, (ROWS, 1))).astype(np.float32)
    return Batch(sources, np.pad(targets, ((0, 0), (1, 0)))[:, :-1], targets, weights)


def one_device() -> jax.sharding.Mesh:
    return make_mesh(Mesh(), jax.devices()[:1])


def after_steps(of: Experiment, mesh: jax.sharding.Mesh) -> tuple[dict[str, np.ndarray], list[Any]]:
    """The arrays of the state after three steps, and the metrics and evaluations."""
    state, step, evaluation = new_state(of, mesh, KEY), compile_train_step(of, mesh, batch()), []
    placed_batch = place_batch(mesh, batch())
    for _ in range(3):
        state, metrics = step(state, placed_batch, KEY)
        evaluation.append(metrics)
    evaluation.append(compile_eval_step(of, mesh, batch())(state.evaluated, placed_batch))
    return {path: np.asarray(leaf) for path, leaf in flatten(state).items()}, jax.device_get(evaluation)


@cache
def on_one_device(case: str) -> tuple[dict[str, np.ndarray], list[Any]]:
    return after_steps(experiment(*CASES[case][:3]), one_device())


@pytest.mark.parametrize("sizes", [pytest.param(sizes, marks=pytest.mark.slow) for sizes in MESHES], ids=IDS)
@pytest.mark.parametrize("case", CASES)
def test_losses_parameters_and_states_are_those_of_one_device(
    case: str, sizes: Mesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("research.train.step.chunks", lambda *_: CASES[case][3])
    of, mesh = experiment(*CASES[case][:3]), make_mesh(sizes)
    expected, figures = on_one_device(case)
    state, measured = after_steps(of, mesh)
    shapes = {path: leaf.shape for path, leaf in flatten(abstract_state(of, mesh)).items()}
    assert {path: leaf.shape for path, leaf in state.items()} == shapes
    for path, whole in expected.items():
        own = tuple(map(slice, whole.shape))
        scale = max(float(np.abs(whole).max(initial=0.0)), 1e-6)
        np.testing.assert_allclose(state[path][own] / scale, whole / scale, rtol=0, atol=2e-5, err_msg=path)
        outside = state[path].copy()
        outside[own] = 0
        assert not outside.any(), f"{path}: a row that only fills up is not zero"
    for ours, theirs in zip(jax.tree.leaves(measured), jax.tree.leaves(figures), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=2e-5, atol=1e-6)


# --- Decoding ---------------------------------------------------------------------------------------------------------

RULES: dict[str, Any] = {"repetition_penalty": 1.3, "no_repeat_ngram": 2, "min_length": 3, "banned": (5,)}


@pytest.mark.parametrize(
    "generation",
    [
        Generation(max_length=6, **RULES),
        Generation(max_length=6, outputs=2, method=Sampling(temperature=3.0, top_p=0.9)),
        pytest.param(Generation(max_length=6, outputs=2, method=Sampling(top_k=SIZE)), marks=pytest.mark.slow),
        pytest.param(Generation(max_length=6, method=Beam(4), outputs=4, **RULES), marks=pytest.mark.slow),
    ],
    ids=["greedy", "nucleus", "sampling", "beams"],
)
def test_decoding_writes_the_tokens_of_one_device(generation: Generation) -> None:
    """All logits are far below 0, the logit of a row of zeros: none of those is ever chosen."""
    random = np.random.default_rng(1)
    shapes = abstract_params(BOTH)
    params = jax.tree.map(lambda leaf: random.normal(size=leaf.shape).astype(np.float32), shapes)
    params["logits_bias"] -= 1e3
    tokens, keys = batch().encoder_input_tokens, jax.random.split(KEY, ROWS)
    alone = decode(BOTH, params, tokens, generation=generation, keys=keys, scores=True)
    targets = np.asarray(alone.tokens[:, 0])
    inputs = np.pad(targets, ((0, 0), (1, 0)))[:, :-1]
    likelihood = score(BOTH, params, tokens, inputs, targets)
    for sizes in MESHES[1:]:
        mesh = make_mesh(sizes)
        whole = placed(shapes, shardings(mesh, specs_of(BOTH)))
        on_mesh = jax.device_put(fill(params, whole), jax.tree.map(lambda leaf: leaf.sharding, whole))
        sources = jax.device_put((tokens, inputs, targets), batch_sharding(mesh))
        with jax.set_mesh(mesh):
            spread = decode(BOTH, on_mesh, sources[0], generation=generation, keys=keys, scores=True)
            scored = score(BOTH, on_mesh, *sources)
        np.testing.assert_array_equal(spread.tokens, alone.tokens, err_msg=str(sizes))
        np.testing.assert_allclose(spread.scores, alone.scores, rtol=1e-4, atol=5e-3)  # logits of 1,000
        np.testing.assert_allclose(scored, likelihood, rtol=1e-4, atol=1e-3)
