"""The loss of distillation is its formula's, on every mesh and in chunks; the teacher is never trained, and stays."""

import shutil
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_run as tiny

from research import (
    AdamW,
    Bytes,
    Constant,
    Denoising,
    Distil,
    Experiment,
    LayerNorm,
    Loss,
    Mesh,
    Model,
    PlainText,
    Pretrained,
    Tied,
)
from research.config import ConfigError
from research.config.override import apply, as_text, from_json, to_json
from research.data.batch import Batch
from research.data.tokenizer import open_tokenizer
from research.model import loss
from research.model.derivatives import divergence
from research.model.flops import flops_per_step, forward_flops
from research.model.transformer import abstract_params, bind
from research.parallel.hardware import find
from research.parallel.mesh import abstract_mesh, check_divisible, make_mesh, place_batch
from research.parallel.rules import flatten, unflatten
from research.plan.estimate import estimate_run
from research.plan.memory import device_bytes
from research.pretrained import find as pretrained
from research.storage import manifest
from research.train.loop import train
from research.train.state import abstract_teacher, new_state, state_shardings
from research.train.step import compile_train_step, summed_loss
from research.train.teacher import FoundTeacher, check_ids, read_teacher

ROWS, SOURCE, TARGET, VOCABULARY = 8, 8, 6, 96
MESHES = {
    "data": Mesh(data=4, tensor=2),
    "fsdp": Mesh(data=1, fsdp=4, tensor=2),
    "sequence": Mesh(data=2, sequence=2, tensor=2),
}
STUDENT = Model(VOCABULARY, 8, 4, 2, 16, 1, 1, compute="float32", logits_bias=True)
TEACHER = Pretrained.like(
    replace(STUDENT, width=16, encoder_layers=2, head=Tied(), norm=LayerNorm(), dropout=0.5), path="unread"
)
KEY = jax.random.key(1)


def experiment(distil: Distil | None = Distil(TEACHER, 0.3, 3.0), model: Model = STUDENT) -> Experiment:
    data, optimizer = Denoising((PlainText(train="unread"),), input_length=SOURCE), AdamW(schedule=Constant(peak=1e-2))
    settings = Loss(z_loss=1e-2, label_smoothing=0.1)
    return Experiment(model, data, optimizer, 9, ROWS, loss=settings, mesh=Mesh(data=1), distil=distil)


def batch() -> Batch:
    random = np.random.default_rng(0)
    draw = lambda length: random.integers(1, 94, (ROWS, length)).astype(np.int32)  # noqa: E731
    return Batch(draw(SOURCE), draw(TARGET), draw(TARGET), random.integers(0, 3, (ROWS, TARGET)).astype(np.float32))


def params(model: Model) -> dict:
    """Random parameters with logits of about 1."""
    draw = np.random.default_rng(model.width)
    shapes = abstract_params(model)
    return jax.tree.map(lambda leaf: jnp.asarray(draw.normal(0, 0.3, leaf.shape), jnp.float32), shapes)


def gradients(made: Experiment):
    def objective(student, teacher, given):
        sums = summed_loss(made, student, given, None, teacher)
        return 3.0 * sums.loss, sums

    return jax.jit(jax.grad(objective, has_aux=True, argnums=(0, 1)))


def test_the_loss_is_the_formula_in_numpy():
    made, given = experiment(), batch()
    student, teacher = params(STUDENT), params(TEACHER)
    got = summed_loss(made, student, given, None, teacher)
    usual = summed_loss(made, student, given, None)
    logits = [np.float64(bind(model, of)(given)) for model, of in ((STUDENT, student), (TEACHER, teacher))]
    q, p = (np.exp(each / 3.0) / np.exp(each / 3.0).sum(-1, keepdims=True) for each in logits)
    kl = (given.decoder_loss_weights * (p * np.log(p / q)).sum(-1)).sum()
    assert kl > 0.5
    np.testing.assert_allclose(got.divergence, kl, rtol=1e-5)
    np.testing.assert_allclose(got.loss, 0.7 * usual.loss + 0.3 * 9.0 * kl, rtol=1e-5)
    assert [got.nll, got.weight, got.correct] == [usual.nll, usual.weight, usual.correct]
    assert usual.divergence == 0
    unweighted = replace_weights(given, None)
    ones = replace_weights(given, np.ones((ROWS, TARGET), np.float32))
    assert summed_loss(made, student, unweighted, None, teacher) == summed_loss(made, student, ones, None, teacher)


def replace_weights(given, weights):
    return given._replace(decoder_loss_weights=weights)


def test_the_rule_of_the_divergence_is_plain_differentiation():
    draw = np.random.default_rng(0)
    student, teacher = (jnp.asarray(draw.normal(0, 2, (3, 5, 7)), jnp.float32) for _ in range(2))

    def plain(student, teacher):
        q, p = (jax.nn.log_softmax(each / 2.0) for each in (student, teacher))
        return jnp.sum(jnp.exp(p) * (p - q), -1)

    weights = jnp.asarray(draw.normal(size=(3, 5)), jnp.float32)
    ours, expected = (
        jax.value_and_grad(lambda logits, f=f: jnp.sum(f(logits, teacher) * weights))(student)
        for f in (lambda *each: divergence(*each, 2.0), plain)
    )
    np.testing.assert_allclose(ours[0], expected[0], rtol=1e-5)
    np.testing.assert_allclose(ours[1], expected[1], atol=1e-6)


def test_the_teacher_has_no_gradient_and_chunks_change_nothing(monkeypatch):
    given = params(STUDENT), params(TEACHER), batch()
    (expected, of_teacher), whole = gradients(experiment())(*given)
    assert not any(leaf.any() for leaf in jax.tree.leaves(of_teacher))
    monkeypatch.setattr(loss, "LARGEST", 4 * 4 * TARGET * VOCABULARY)  # two rows of two models
    assert loss.chunks((ROWS, TARGET), 2 * VOCABULARY) == 4
    (got, of_teacher), sums = gradients(experiment())(*given)
    np.testing.assert_allclose(sums, whole, rtol=1e-5)
    for path, leaf in flatten(expected).items():
        np.testing.assert_allclose(flatten(got)[path], leaf, atol=1e-5 * np.abs(leaf).max(), err_msg=path)
    assert not any(leaf.any() for leaf in jax.tree.leaves(of_teacher))


def placed_teacher(mesh) -> dict:
    weights = type("Weights", (), {"params": lambda self, shardings: jax.device_put(params(TEACHER), shardings)})()
    return read_teacher(FoundTeacher(weights, ""), TEACHER, mesh)


def step_of(made: Experiment, mesh):
    """The state and the metrics after two steps on a mesh."""
    with jax.set_mesh(mesh):
        state = new_state(made, mesh, KEY, jax.device_put(params(STUDENT), state_shardings(made, mesh).params))
    step = compile_train_step(made, mesh, batch())
    teacher = (placed_teacher(mesh),) if made.distil is not None else ()
    for _ in range(2):
        state, metrics = step(state, place_batch(mesh, batch()), KEY, *teacher)
    return jax.device_get(state), jax.device_get(metrics)


def one_device():
    return make_mesh(Mesh(data=1), jax.devices()[:1])


def test_alpha_zero_is_the_plain_step_bit_for_bit():
    plain, metrics = step_of(experiment(None), one_device())
    got, distilled = step_of(experiment(Distil(TEACHER, 0.0)), one_device())
    for path, leaf in flatten(plain.params).items():
        np.testing.assert_array_equal(flatten(got.params)[path], leaf, err_msg=path)
    assert metrics.divergence is None
    assert distilled.divergence > 0
    assert distilled._replace(divergence=None) == metrics


@pytest.mark.slow
@pytest.mark.parametrize("name", [*MESHES, "microbatches", "chunks"])
def test_every_mesh_and_split_makes_the_same_step(monkeypatch, name):
    whole = step_of(experiment(), one_device())[1]
    made, mesh = experiment(), one_device()
    if name in MESHES:
        mesh = make_mesh(MESHES[name])
        made = replace(made, mesh=MESHES[name])
        teacher = placed_teacher(mesh)["embedding"]
        assert teacher.sharding.shard_shape(teacher.shape)[0] < VOCABULARY
    elif name == "microbatches":
        made = replace(made, microbatches=2)
    else:
        monkeypatch.setattr(loss, "LARGEST", 4 * 4 * TARGET * VOCABULARY)  # two rows of two models
    metrics = step_of(made, mesh)[1]
    np.testing.assert_allclose(metrics.divergence, whole.divergence, rtol=1e-4)
    np.testing.assert_allclose(metrics.loss, whole.loss, rtol=1e-4)
    np.testing.assert_allclose(metrics.gradient_norm, whole.gradient_norm, rtol=1e-3)


def test_a_vocabulary_that_the_mesh_does_not_divide():
    odd = 95
    student, teacher = replace(STUDENT, vocab_size=odd), replace(TEACHER, vocab_size=odd)
    mesh = make_mesh(Mesh(data=2, fsdp=2, tensor=2))
    whole = abstract_teacher(teacher, mesh)
    assert whole["embedding"].shape == (96, 16)
    made, given = experiment(Distil(teacher), student), params(teacher)
    padded = {
        path: jnp.pad(leaf, [(0, to - own) for own, to in zip(leaf.shape, flatten(whole)[path].shape, strict=True)])
        for path, leaf in flatten(given).items()
    }
    sums = [summed_loss(made, params(student), batch(), None, each) for each in (given, unflatten(padded))]
    assert sums[0] == sums[1]


def test_a_plan_counts_the_teacher():
    mesh = abstract_mesh(Mesh(data=1), 1)
    made, plain = experiment(), experiment(None)
    held = sum(4 * leaf.size for leaf in jax.tree.leaves(abstract_params(TEACHER)))
    assert device_bytes(made, mesh) - device_bytes(plain, mesh) == held
    more = flops_per_step(made, 8, 6) - flops_per_step(plain, 8, 6)
    assert more == ROWS * forward_flops(TEACHER, 8, 6)
    one, other = (estimate_run(each, find("1xH200")) for each in (plain, made))
    assert other.memory >= one.memory + held
    assert other.times.products > one.times.products
    assert other.times.memory > one.times.memory


def test_it_is_data_of_an_experiment():
    made = experiment()
    assert from_json(to_json(made)) == made
    text = as_text(made.distil)
    assert apply(experiment(None), {"distil": text}) == made
    assert apply(made, {"distil.alpha": "0.9"}).distil == replace(made.distil, alpha=0.9)


def test_bad_input_is_one_sentence():
    def refused(**changes) -> str:
        with pytest.raises(ConfigError) as error:
            experiment(Distil(replace(TEACHER, **changes)))
        return str(error.value)

    assert "has 97 logits and the model 96: set model.vocab_size=97" in refused(vocab_size=97)
    assert "embeds 12 source ids and the model 96" in refused(source_vocab_size=12)
    assert "has the zero_token 5 and the model None" in refused(zero_token=5)
    for change, message in (({"alpha": 1.5}, r"alpha is 1\.5"), ({"temperature": 0.0}, r"temperature is 0\.0")):
        with pytest.raises(ConfigError, match=message):
            Distil(TEACHER, **change)
    with pytest.raises(ConfigError, match=r"distil\.teacher\.heads is 3: it must be a multiple of mesh\.tensor"):
        check_divisible(experiment(Distil(replace(TEACHER, heads=3))), make_mesh(Mesh(data=4, tensor=2)))
    with pytest.raises(ConfigError, match=r"has another vocabulary than data\.tokenizer: take the teacher's"):
        check_ids(replace(TEACHER, tokenizer=Bytes(sentinels=3)), open_tokenizer(Bytes(sentinels=9)))


# --- Runs -------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_run_resumes_to_the_bit_and_refuses_a_teacher_that_changed(tiny_run, tmp_path, monkeypatch):
    monkeypatch.setenv("KINTSUGI_CACHE", str(tmp_path / "cache"))
    shutil.copytree(tiny_run, tmp_path / "teacher")
    made = tiny.experiment(tmp_path, distil=Distil(Pretrained(str(tmp_path / "teacher"))))
    assert train(made, tmp_path / "whole") == 0
    assert train(replace(made, steps=1), tmp_path / "resumed") == 0
    assert train(made, tmp_path / "resumed") == 0
    whole, resumed = (flatten(pretrained.find(tmp_path / name).params()) for name in ("whole", "resumed"))
    assert all(np.array_equal(leaf, resumed[path]) for path, leaf in whole.items())
    record = manifest.record(tmp_path / "whole" / "checkpoints" / "2")
    assert record["teacher"] == pretrained.digest(tmp_path / "teacher")
    assert '"divergence"' in (tmp_path / "whole" / "metrics.jsonl").read_text()
    tiny.rewrite(tmp_path / "teacher", tiny.experiment(tmp_path), next_row=77)
    with pytest.raises(ConfigError, match=r"teacher has changed since .*resumed was trained with it"):
        train(replace(made, steps=3), tmp_path / "resumed")
