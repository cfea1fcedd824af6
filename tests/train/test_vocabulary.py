"""A vocabulary of any size trains and decodes on any mesh, with the numbers of one device."""

import shutil
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from real_runs import arrays
from tiny_run import experiment as tiny_experiment
from tiny_run import held_out_losses

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
    finetune,
    load,
)
from research.config import ConfigError
from research.data.batch import Batch
from research.decode.search import decode, score
from research.model.transformer import abstract_params, specs_of
from research.parallel.mesh import batch_sharding, make_mesh, place_batch
from research.parallel.padding import fill, placed
from research.parallel.rules import flatten, shardings
from research.pretrained import find
from research.storage.checkpoint import stored_shapes
from research.train.loop import train
from research.train.state import abstract_state, check_stored, new_state
from research.train.step import compile_eval_step, compile_train_step
from scripts import convert

ROWS, SIZE, SOURCES = 16, 37, 29  # 37 and 29 rows: nothing divides them
KEY = jax.random.key(7)
MODEL = Model(SIZE, 16, 2, 8, 16, 1, 1, compute="float32")
MESHES = {
    "data": Mesh(),
    "fsdp": Mesh(data=1, fsdp=8),
    "tensor": Mesh(data=4, tensor=2),
    "fsdp and tensor": Mesh(data=2, fsdp=2, tensor=2),
}
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


OFTEN = [("t5x", "fsdp and tensor"), ("fairseq", "fsdp and tensor"), ("fairseq in chunks", "fsdp and tensor")]
RARELY = [
    *((case, "fsdp and tensor") for case in ("marian", "t5x in chunks", "marian in chunks")),
    *(
        ("t5x", "data"),
        ("t5x", "fsdp"),
        ("t5x in chunks", "fsdp"),
        ("fairseq", "tensor"),
        ("marian in chunks", "tensor"),
    ),
]


@pytest.mark.slow
@pytest.mark.parametrize(("case", "on"), [*OFTEN, *(pytest.param(*each, marks=pytest.mark.nightly) for each in RARELY)])
def test_losses_parameters_and_states_are_those_of_one_device(
    case: str, on: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Adafactor divides small gradients by their own size, so their rounding counts in full."""
    monkeypatch.setattr("research.train.step.chunks", lambda *_: CASES[case][3])
    of, mesh = experiment(*CASES[case][:3]), make_mesh(MESHES[on])
    expected, figures = on_one_device(case)
    state, measured = after_steps(of, mesh)
    shapes = {path: leaf.shape for path, leaf in flatten(abstract_state(of, mesh)).items()}
    assert {path: leaf.shape for path, leaf in state.items()} == shapes
    for path, whole in expected.items():
        own = tuple(map(slice, whole.shape))
        scale = max(float(np.abs(whole).max(initial=0.0)), 1e-6)
        np.testing.assert_allclose(state[path][own] / scale, whole / scale, rtol=0, atol=2e-4, err_msg=path)
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
    for on in ("fsdp", "tensor", "fsdp and tensor"):
        mesh = make_mesh(MESHES[on])
        whole = placed(shapes, shardings(mesh, specs_of(BOTH)))
        on_mesh = jax.device_put(fill(params, whole), jax.tree.map(lambda leaf: leaf.sharding, whole))
        sources = jax.device_put((tokens, inputs, targets), batch_sharding(mesh))
        with jax.set_mesh(mesh):
            spread = decode(BOTH, on_mesh, sources[0], generation=generation, keys=keys, scores=True)
            scored = score(BOTH, on_mesh, *sources)
        np.testing.assert_array_equal(spread.tokens, alone.tokens, err_msg=on)
        np.testing.assert_allclose(spread.scores, alone.scores, rtol=1e-4, atol=5e-3)  # logits of 1,000
        np.testing.assert_allclose(scored, likelihood, rtol=1e-4, atol=1e-3)


# --- Checkpoints and files --------------------------------------------------------------------------------------------

ADDED = 361  # rows of the run's model: 368 over eight devices, 362 over two


def of_run(folder: Path, steps: int, mesh: Mesh) -> Experiment:
    of = tiny_experiment(folder, steps=steps, mesh=mesh, average_decay=0.5, optimizer=ADAFACTOR)
    return replace(of, model=replace(of.model, vocab_size=ADDED, head=UntiedHead()))


@pytest.fixture(scope="module")
def moved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run that moves over three meshes, two steps on each, and copies of it after two and four."""
    folder = tmp_path_factory.mktemp("moved")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KINTSUGI_CACHE", str(folder / "cache"))
        for steps, on in ((2, "data"), (4, "fsdp"), (6, "tensor")):
            assert train(of_run(folder, steps, MESHES[on]), folder / "run") == 0
            shutil.copytree(folder / "run", folder / f"after_{steps}")
    return folder


def state_at(run: Path, step: int) -> dict[str, np.ndarray]:
    return {path: leaf for path, leaf in arrays(run / "checkpoints" / str(step)).items() if leaf.ndim}


@pytest.mark.slow
def test_a_run_moves_between_meshes_and_resumes_on_each_to_the_bit(
    moved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KINTSUGI_CACHE", str(moved / "cache"))
    for steps, rows in ((2, ADDED), (4, 368), (6, 362)):
        assert stored_shapes(moved / f"after_{steps}/checkpoints/{steps}")["params/embedding"] == (rows, 16)
    for steps in (3, 4):  # stopped in between, on the same mesh
        assert train(of_run(moved, steps, MESHES["fsdp"]), moved / "after_2") == 0
    stopped, straight = state_at(moved / "after_2", 4), state_at(moved / "after_4", 4)
    assert stopped.keys() == straight.keys() >= {"average/head", "opt_state/row/embedding"}
    for path, leaf in straight.items():
        np.testing.assert_array_equal(stopped[path], leaf, err_msg=path)
    assert train(of_run(moved, 6, MESHES["data"]), moved / "stayed") == 0
    np.testing.assert_allclose(held_out_losses(moved / "run"), held_out_losses(moved / "stayed"), rtol=1e-5)
    never, through = state_at(moved / "stayed", 6), state_at(moved / "run", 6)
    for path, leaf in never.items():
        own = tuple(map(slice, leaf.shape))
        np.testing.assert_allclose(through[path][own], leaf, atol=2e-4 * np.abs(leaf).max(), err_msg=path)
        assert np.count_nonzero(through[path]) == np.count_nonzero(through[path][own]), path


@pytest.mark.slow
def test_everything_reads_and_writes_the_rows_of_the_model_alone(moved: Path, tmp_path: Path) -> None:
    run = moved / "after_4"
    own = find.find(run).params()
    shapes = jax.tree.map(lambda leaf: leaf.shape, abstract_params(find.find(run).model))
    assert jax.tree.map(np.shape, own) == shapes
    assert convert.main([str(run), str(tmp_path / "converted")]) == 0
    texts, whole = ["a text", "another"], load(run)
    spread = load(run, mesh=MESHES["fsdp"])
    assert spread.params["embedding"].shape == (368, 16)
    spread.save(tmp_path / "saved")
    again = spread.with_params(own)
    for model in (load(tmp_path / "converted"), load(tmp_path / "saved", mesh=MESHES["tensor"]), spread, again):
        assert model.generate(texts, max_length=5) == whole.generate(texts, max_length=5)
        logits = model.logits(texts, texts)
        assert logits.shape[-1] == ADDED
        np.testing.assert_allclose(logits, whole.logits(texts, texts), rtol=1e-4, atol=1e-5)
    for saved in ("converted", "saved"):
        read = find.find(tmp_path / saved).params()
        assert jax.tree.map(np.shape, read) == shapes
        for path, leaf in flatten(own).items():
            np.testing.assert_array_equal(flatten(read)[path], leaf, err_msg=path)
    tuned = finetune(spread, list(zip(texts, texts, strict=True)), steps=1, batch_size=8)
    assert tuned.logits(texts, texts).shape[-1] == ADDED


@pytest.mark.slow
def test_a_checkpoint_of_fewer_or_other_rows_is_refused(moved: Path) -> None:
    stored = stored_shapes(moved / "after_4/checkpoints/4")
    of = of_run(moved, 4, Mesh())
    check_stored(of, stored)
    for other in (replace(of.model, vocab_size=369), replace(of.model, width=15)):
        with pytest.raises(ConfigError, match=r"params/.* has the shape .*, but the model's configuration makes it"):
            check_stored(replace(of, model=other), stored)
