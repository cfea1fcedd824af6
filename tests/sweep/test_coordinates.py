"""What is watched is what the model computes; AdamW's steps grow with the width, and in muP they do not."""

from dataclasses import replace
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from tiny_run import experiment

from research import DecoderOnly, Model, Relative, SharedLayers
from research.data.pipeline import prepare
from research.model.transformer import bind, initial_params
from research.sweep import coordinates
from scripts import coordinates as script

PRODUCTS = ("query", "key", "value", "output", "scores")


@pytest.fixture
def config(tmp_path, monkeypatch):
    monkeypatch.setenv("KINTSUGI_CACHE", str(tmp_path / "cache"))
    return experiment(tmp_path, model=Model(400, 64, 2, 32, 128, 2, 2, compute="float32"))


@pytest.mark.parametrize("stacks", [None, SharedLayers(), DecoderOnly()], ids=["apart", "shared", "one"])
def test_every_product_of_every_layer_is_seen_and_logits_stay(config, stacks):
    model = config.model if stacks is None else replace(config.model, stacks=stacks, positions=Relative())
    config = replace(config, model=model)
    batch = next(prepare(config.data, 0, config.batch_size).held_out(1))
    params = initial_params(config.model, jax.random.key(0))
    seen = jax.jit(lambda params: coordinates.activations(config, params, batch))(params)
    plain = jax.jit(lambda params: bind(config.model, params)(batch))(params)
    np.testing.assert_allclose(seen["logits"][0], plain, rtol=1e-4, atol=1e-5)

    calls = 2 if isinstance(stacks, DecoderOnly) else 1  # inputs and targets
    names = ["decoder"] if isinstance(stacks, DecoderOnly) else ["encoder", "decoder"]
    parts = [f"self_attention/{name}" for name in PRODUCTS]
    parts += [f"feed_forward/{name}" for name in ("up", "gate", "down")] + ["residual"]
    wanted = {f"{stack}/{part}": 2 * calls for stack in names for part in parts}
    wanted |= {f"{stack}/embedded": calls for stack in names} | {"logits": 1}
    if stacks is None or isinstance(stacks, SharedLayers):
        wanted |= {f"decoder/cross_attention/{name}": 2 for name in PRODUCTS}
    assert {name: len(arrays) for name, arrays in seen.items()} == wanted
    query, key = seen["decoder/self_attention/query"][0], seen["decoder/self_attention/key"][0]
    scores = np.einsum("bthk,bshk->bhts", query, key)
    np.testing.assert_allclose(seen["decoder/self_attention/scores"][0], scores, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_wider_models_move_further_but_not_in_mup(config):
    found = coordinates.check(config, (64, 128, 256), steps=4, seeds=1)
    slopes = {name: {one.name: one.slope for one in movements} for name, movements in found.items()}
    for name in ("encoder/residual", "decoder/residual", "decoder/self_attention/query"):
        assert slopes["standard"][name] > 0.5
    assert max(slopes["muP"].values()) < coordinates.SLOPE
    assert min(slopes["muP"][f"decoder/{part}"] for part in ("residual", "feed_forward/up")) > -coordinates.SLOPE
    assert "residual (+" in coordinates.verdict("standard", found["standard"])
    assert " further " not in coordinates.verdict("muP", found["muP"])


def test_the_script_prints_both_and_draws(config, tmp_path, monkeypatch, capsys):
    movements = [coordinates.Movement("logits", [1.0, 2.0, 4.0], 1.0), coordinates.Movement("up", [1.0, 1.0, 1.0], 0.0)]
    monkeypatch.setattr(coordinates, "check", lambda *_: {"standard": movements, "muP": movements[1:]})
    monkeypatch.setattr(script.load, "open_experiment", lambda _: SimpleNamespace(config=config))
    picture = tmp_path / "c.svg"
    assert script.main(["x.py", "--widths", "64", "128", "256", "--plot", str(picture)]) == 0
    printed = capsys.readouterr().out
    assert "| logits | 1 | 2 | 4 | +1.00 |" in printed
    assert "standard: 1 of 2 move further the wider the model is: logits (+1.00)." in printed
    assert "muP: no slope is steeper than 0.25." in printed
    assert picture.read_text().count("<svg") == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--widths", "64", "128"], "Got 2 different widths: fitting a slope needs at least three."),
        (
            ["--widths", "64", "128", "80"],
            "A model of width 64 cannot be scaled to width 80: model.heads would be 2.5.",
        ),
        (["--widths", "0", "64", "128"], "A model of width 64 cannot be scaled to width 0"),
        (["--widths", "64", "128", "256", "--steps", "0"], "steps is 0 and seeds 2: each must be above 0."),
        (["--widths", "64", "128", "256", "--plot", "x.txt"], "the name of a plot must end in .png, .svg or .pdf."),
        (
            ["--widths", "64", "96", "128", "--config.optimizer.schedule.peak=0"],
            "with this learning rate nothing changes.",
        ),
        (
            ["--widths", "64", "96", "128", "--config.optimizer.schedule.peak=1e30"],
            "Width 64: a loss in the first steps is",
        ),
        (["--widths", "64", "96", "128", "--config.model.vocab_size=300"], "but the model has rows for 300 only."),
    ],
)
def test_bad_input_is_one_sentence(config, monkeypatch, capsys, arguments, said):
    monkeypatch.setattr(script.load, "open_experiment", lambda _: SimpleNamespace(config=config))
    assert script.main(["x.py", *arguments]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
