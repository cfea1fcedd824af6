"""The comparison of training steps: all engines train one model, one that fails is named, and ratios are of speeds."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research import RMSScaledAdamW
from research.model.family import preset
from research.parallel.rules import flatten, unflatten
from research.train.optimizer import build
from research.train.schedules import Constant
from scripts.benchmark import peers

TINY = {"vocab_size": 96, "width": 32, "heads": 2, "head_width": 16, "feed_forward": 48}
ARGUMENTS = [
    *("--preset", "t5_v1_1/small", "--batch_size", "2", "--input_length", "16", "--target_length", "6"),
    *("--steps", "1", "--rounds", "2", "--mesh", "data=2,fsdp=2,tensor=2", "--torch_backend", "aot_eager"),
    *(f"--config.model.{name}={value}" for name, value in TINY.items()),
    *("--config.model.encoder_layers=1", "--config.model.decoder_layers=1", "--config.model.compute=float32"),
]


@pytest.mark.live
@pytest.mark.slow
def test_engines_train_one_model_and_one_that_fails_is_named(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_backend_optimization_level=0")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    path = tmp_path / "result.json"
    arguments = [*ARGUMENTS, "--mesh", "data=1", "--json", str(path), "--engines", "transformers"]
    arguments += ["transformers compiled", "--torch_backend", "absent"]
    assert peers.main(arguments) == 0
    result = json.loads(path.read_text())
    assert set(result["seconds"]) == {"ours", "transformers"}
    assert len({about["parameters"] for about in result["engines"].values()}) == 1
    assert result["engines"]["transformers"]["attention"] == "sdpa"
    ours, theirs = result["seconds"]["ours"], result["seconds"]["transformers"]
    assert len(ours) == len(theirs) == 2
    ratios = sorted(their / our for our, their in zip(ours, theirs, strict=True))
    assert result["ours / theirs"] == {"transformers": [pytest.approx(sum(ratios) / 2), *map(pytest.approx, ratios)]}
    assert "absent" in result["failed"]["transformers compiled"]
    shown = capsys.readouterr().out
    assert "transformers compiled failed" in shown
    assert "attention sdpa" in shown


@pytest.mark.live
def test_the_recipe_updates_as_our_optimizer():
    import torch

    shapes = {"embedding": (96, 32), "encoder/norm/scale": (32,)}
    draw = np.random.default_rng(0)
    before = {name: draw.standard_normal(shape, np.float32) for name, shape in shapes.items()}
    before["encoder/norm/scale"] *= 1e-5  # below the least RMS
    gradients = [{name: draw.standard_normal(shape, np.float32) for name, shape in shapes.items()} for _ in range(3)]
    tensors = [torch.nn.Parameter(torch.tensor(array)) for array in before.values()]
    step = peers.rms_scaled_adamw(tensors, rate=0.01)
    for each in gradients:
        for tensor, gradient in zip(tensors, each.values(), strict=True):
            tensor.grad = torch.tensor(gradient)
        step()
    expected = ours(before, gradients)
    for tensor, (name, array) in zip(tensors, expected.items(), strict=True):
        change = np.abs(array - before[name]).max()  # 1 - 0.999 in float32 has an error of 6e-5
        np.testing.assert_allclose(tensor.detach().numpy(), array, rtol=0, atol=1e-4 * change, err_msg=name)
        assert change > 1e-3 * np.abs(array).max()


def ours(params, gradients):
    """Apply the package's optimizer, without clipping."""
    tree = unflatten(jax.tree.map(jnp.asarray, params))
    optimizer = RMSScaledAdamW(schedule=Constant(peak=0.01), no_decay=())
    updater = build(optimizer, 10, tree, preset("t5_v1_1/small", **TINY))
    state = updater.init(tree)
    for number, each in enumerate(gradients):
        gradient = unflatten(jax.tree.map(jnp.asarray, each))
        tree, state = updater.update(gradient, state, tree, jnp.int32(number))
    return flatten(tree)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (["--preset", "t5_v1_1/huge"], "There is no preset 't5_v1_1/huge'"),
        (["--rounds", "0"], "--rounds is 0"),
        (["--json", "absent/result.json"], "there is no directory"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(change, sentence, capsys):
    assert peers.main([*ARGUMENTS, *change]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert sentence in error
    assert error.count("\n") == 1
