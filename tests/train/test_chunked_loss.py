"""Chunks of the loss change no number, on no mesh, and the logits never exist as a whole."""

import re
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research import AdamW, Constant, Denoising, Experiment, Loss, Mesh, Model, PlainText, Tied
from research.data.batch import Batch
from research.model import loss
from research.model.transformer import initial_params
from research.parallel.mesh import make_mesh, place_batch
from research.parallel.rules import flatten
from research.train.state import state_shardings
from research.train.step import compile_eval_step, summed_loss

ROWS, SOURCE, TARGET, VOCABULARY, WIDTH = 8, 8, 6, 96, 8
MODEL = Model(VOCABULARY, WIDTH, 4, 2, 16, 1, 1, compute="float32", logits_bias=True)
MODELS = {"untied": MODEL, "tied": replace(MODEL, head=Tied(), zero_token=3)}
SMOOTHINGS = [
    Loss(z_loss=1e-2),
    *(Loss(z_loss=1e-2, label_smoothing=0.1, smoothing=name) for name in ("t5x", "fairseq", "marian")),
]
MESHES = {
    "data": Mesh(data=4, tensor=2),
    "fsdp": Mesh(data=1, fsdp=4, tensor=2),
    "sequence": Mesh(data=2, sequence=2, tensor=2),
}


def experiment(model: Model, settings: Loss = SMOOTHINGS[0], mesh: Mesh | None = None) -> Experiment:
    data = Denoising((PlainText(train="synthetic"),), input_length=SOURCE)
    return Experiment(
        model,
        data,
        optimizer=AdamW(schedule=Constant(peak=1e-2)),
        steps=9,
        batch_size=ROWS,
        loss=settings,
        mesh=mesh or Mesh(data=1),
    )


def batch() -> Batch:
    random = np.random.default_rng(0)
    draw = lambda length: random.integers(1, VOCABULARY, (ROWS, length)).astype(np.int32)  # noqa: E731
    return Batch(draw(SOURCE), draw(TARGET), draw(TARGET), random.integers(0, 3, (ROWS, TARGET)).astype(np.float32))


def largest(monkeypatch: pytest.MonkeyPatch, rows: float) -> None:
    """Let a device compute the logits of so many rows at once."""
    monkeypatch.setattr(loss, "LARGEST", 4 * rows * TARGET * VOCABULARY)


def sums_and_gradients(config: Experiment):
    """A function of parameters and a batch."""

    def objective(params: dict, given: Batch):
        sums = summed_loss(config, params, given, None)
        return 3.0 * sums.loss, sums  # not 1, so that the gradient must be scaled

    return jax.jit(jax.grad(objective, has_aux=True))


def assert_close(got, expected, tolerance: float = 1e-6) -> None:
    """To the tolerance at the head; below the decoder's layers, rounding is amplified."""
    for path, value in flatten(expected).items():
        tolerance = tolerance if path in ("head", "logits_bias", "decoder/norm/scale") else 1e-5
        scale = np.abs(value).max() + 1e-12
        np.testing.assert_allclose(flatten(got)[path] / scale, value / scale, atol=tolerance, err_msg=path)


@pytest.mark.parametrize("settings", SMOOTHINGS, ids=["none", "t5x", "fairseq", "marian"])
@pytest.mark.parametrize("name", MODELS)
def test_chunks_equal_plain_differentiation(monkeypatch: pytest.MonkeyPatch, name: str, settings: Loss) -> None:
    config = experiment(MODELS[name], settings)
    params = initial_params(config.model, jax.random.key(0))
    expected, whole = sums_and_gradients(config)(params, batch())
    largest(monkeypatch, 2)
    assert loss.chunks((ROWS, TARGET), VOCABULARY) == 4
    got, sums = sums_and_gradients(config)(params, batch())
    np.testing.assert_allclose(sums, whole, rtol=1e-6)
    assert_close(got, expected)
    np.testing.assert_allclose(summed_loss(config, params, batch(), None), whole, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("sizes", MESHES.values(), ids=MESHES.keys())
def test_chunks_over_devices(monkeypatch: pytest.MonkeyPatch, sizes: Mesh) -> None:
    """Gradients are those of one device. No device gathers logits, and gradients are summed after the loop."""
    config = experiment(MODEL, mesh=sizes)
    params = initial_params(MODEL, jax.random.key(0))
    expected, whole = sums_and_gradients(config)(params, batch())
    largest(monkeypatch, 1 / 2)
    mesh = make_mesh(sizes)
    with jax.set_mesh(mesh):
        placed = jax.device_put(params, state_shardings(config, mesh).params), place_batch(mesh, batch())
        step = sums_and_gradients(config).lower(*placed).compile()
        got, sums = step(*placed)
    np.testing.assert_allclose(sums, whole, rtol=1e-5)
    assert_close(jax.device_get(got), expected, 1e-5)
    evaluated = compile_eval_step(config, mesh, batch())(*placed)
    np.testing.assert_allclose(evaluated, whole, rtol=1e-5)

    local = VOCABULARY // sizes.tensor
    text = step.as_text()
    shapes = [[int(size) for size in found.split(",")] for found in re.findall(r"f32\[([\d,]+)\]", text)]
    assert any(shape[-1] == local and shape[-2] == TARGET // sizes.sequence for shape in shapes if len(shape) > 2)
    assert not [shape for shape in shapes if shape[-1] == VOCABULARY and len(shape) > 2]  # gathered over the vocabulary
    bodies = re.findall(r"^%\S*(?:region|body)\S* .*?^}", text, re.MULTILINE | re.DOTALL)
    reduced = [line for body in bodies for line in body.splitlines() if re.search(r" all-(?:reduce|gather)\(", line)]
    assert not [line for line in reduced if f"{WIDTH},{local}]" in line.split(" all-")[0]]


def test_the_logits_of_mt5_never_exist_as_a_whole() -> None:
    """250,112 ids and 64 rows of 114 tokens, as traced: no float32 array has a quarter of the logits."""
    rows, length, vocabulary = 64, 114, 250_112
    config = experiment(replace(MODEL, vocab_size=vocabulary, compute="bfloat16"))
    shape = jax.ShapeDtypeStruct
    given = Batch(shape((rows, SOURCE), np.int32), *[shape((rows, length), np.int32)] * 2)
    params = jax.eval_shape(lambda: initial_params(config.model, jax.random.key(0)))
    compiled = jax.jit(jax.grad(lambda params, given: summed_loss(config, params, given, None).loss)).lower(
        params, given
    )
    sizes = [
        np.prod([int(size) for size in found.split("x")[:-1]])
        for found in re.findall(r"tensor<([\dx]+xf32)>", compiled.as_text())
    ]
    assert loss.chunks((rows, length), vocabulary) == 4
    assert max(sizes) == rows * length * vocabulary / 4
    assert jnp.dtype("float32").itemsize * max(sizes) <= loss.LARGEST


def test_the_least_number_of_chunks_that_divides_the_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    largest(monkeypatch, 3)
    assert [loss.chunks((rows, TARGET), VOCABULARY) for rows in (1, 3, 4, 5, 6, 7, 9)] == [1, 1, 2, 5, 2, 7, 3]
    largest(monkeypatch, 1 / 2)
    assert loss.chunks((4, TARGET), VOCABULARY) == 4  # a row is the least
