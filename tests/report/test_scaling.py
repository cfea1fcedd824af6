"""A curve is found again from its own points; runs are points at their exact cost; what decides nothing is refused."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from run_directories import experiment, made

from research import Bytes, ParallelText, Supervised, Translation
from research.config import ConfigError
from research.data.shapes import row_lengths
from research.model.flops import flops_per_step, parameter_count
from research.model.transformer import abstract_params
from research.report import scaling
from scripts import scaling as script

SIZES = np.logspace(17, 20, 6)


@pytest.fixture(autouse=True)
def few(monkeypatch):
    monkeypatch.setattr(scaling, "RESAMPLES", 20)


def points(losses: np.ndarray) -> list[scaling.Point]:
    return [scaling.Point(str(size), size, loss) for size, loss in zip(SIZES, losses, strict=True)]


@pytest.mark.parametrize(("irreducible", "amplitude", "exponent"), [(1.7, 400.0, 0.15), (0.5, 30.0, 0.05)])
def test_a_known_curve_is_found_again(irreducible, amplitude, exponent):
    found = scaling.fit(points(irreducible + amplitude * SIZES**-exponent))
    assert found.curve.irreducible == pytest.approx(irreducible, rel=1e-4)
    assert found.curve.amplitude == pytest.approx(amplitude, rel=1e-3)
    assert found.curve.exponent == pytest.approx(exponent, rel=1e-4)
    loss, (low, high) = found.predict(1e21)
    assert loss == pytest.approx(irreducible + amplitude * 1e21**-exponent, rel=1e-6)
    assert high - low < 1e-3


def test_one_run_that_went_wrong_moves_the_curve_little():
    losses = 1.7 + 400 * SIZES**-0.15
    losses[2] *= 1.1
    assert scaling.fit(points(losses)).curve.exponent == pytest.approx(0.15, rel=0.03)  # least squares: 0.045


def test_the_interval_holds_the_truth_and_is_as_wide_as_the_noise():
    truth, widths = 1.7 + 400 * 1e21**-0.15, []
    for noise in (0.001, 0.01):
        draw = np.random.default_rng(3)
        found = scaling.fit(points((1.7 + 400 * SIZES**-0.15) * np.exp(noise * draw.standard_normal(6))))
        loss, (low, high) = found.predict(1e21)
        assert low <= loss <= high
        assert low <= truth <= high
        widths.append(high - low)
    assert widths[1] > 3 * widths[0]


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    """Of four sizes and lengths, on the curve 2 + 50 * FLOPs ** -0.2."""
    made_of = []
    for width in (16, 32, 64, 128):
        config = experiment(tmp_path, **{"model.width": str(width), "steps": str(width + 24)})
        flops = config.steps * flops_per_step(config, *row_lengths(config))
        made_of.append(made(tmp_path / f"run{width}", config, 2 + 50 * flops**-0.2))
    return made_of


def test_points_are_the_last_loss_at_the_exact_cost(runs, tmp_path):
    config = experiment(tmp_path, **{"model.width": "16"})
    kinds = ("flops", "tokens", "parameters")
    by_flops, by_tokens, by_parameters = (scaling.read_points(runs, by, "held_out_loss")[0] for by in kinds)
    inputs, targets = row_lengths(config)
    assert by_flops.size == 40 * flops_per_step(config, inputs, targets)
    assert by_flops.loss == 2 + 50 * by_flops.size**-0.2
    assert by_tokens.size == 40 * 8 * (inputs + targets)
    assert by_parameters.size == parameter_count(abstract_params(config.model))
    assert scaling.read_points(runs, "flops", "nll")[0].loss == 7.0


def test_the_command_prints_the_fit_and_draws_it(runs, tmp_path, capsys):
    arguments = [*map(str, runs), "--at", "1e9", "1e12"]
    for picture, start in (("a.png", b"\x89PNG"), ("a.svg", b"<?xml")):
        assert script.main([*arguments, "--plot", str(tmp_path / picture)]) == 0
        assert (tmp_path / picture).read_bytes().startswith(start)
    said = capsys.readouterr().out
    row = next(line for line in said.splitlines() if line.startswith("| alpha "))
    assert float(row.split("|")[2]) == pytest.approx(0.2, abs=0.001)
    predicted = next(line for line in said.splitlines() if line.startswith("| 1e+12 "))
    assert float(predicted.split("|")[2]) == pytest.approx(2 + 50 * 1e12**-0.2, abs=1e-3)
    assert "more than ten times" in said


def test_what_decides_no_curve_is_refused_in_one_sentence(runs, tmp_path, capsys):
    broken = made(tmp_path / "broken", experiment(tmp_path), 3.0, status="failed")
    other = made(tmp_path / "other", experiment(tmp_path, **{"data.input_length": "32"}), 3.0)
    data = Supervised(tasks=(Translation(examples=ParallelText(train="{name}.txt")),), tokenizer=Bytes())
    tasks = made(tmp_path / "tasks", replace(experiment(tmp_path), data=data), 3.0)
    again = made(tmp_path / "again", experiment(tmp_path, **{"model.width": "16", "seed": "1"}), 3.0)
    cases = {
        "There are 4 runs of 3 sizes by flops: a curve of three parameters needs at least 4 sizes.": [
            *runs[:3],
            again,
        ],
        "is failed: only finished runs can be fitted.": [*runs, broken],
        "differs from": [*runs, other],
        f"{tasks} differs from": [*runs, tasks],
        "is given twice": [*runs, runs[0]],
        "there is no such directory": [*runs, tmp_path / "nowhere"],
        "has no bleu in its metrics.jsonl, which has ": [*runs, "--loss=bleu"],
        "--at is -1": [*runs, "--at", "-1"],
        "the name of a plot must end in .png, .svg or .pdf": [*runs, "--plot=x.bmp"],
    }
    for sentence, arguments in cases.items():
        assert script.main([*map(str, arguments)]) == 2
        said = capsys.readouterr()
        assert sentence in said.err
        assert said.err.count("\n") == 1
        assert said.out == ""


def test_json_of_a_run_that_lacks_numbers_is_no_number(runs):
    (runs[0] / "metrics.jsonl").write_text(json.dumps({"step": 40, "held_out_loss": None}) + "\n")
    with pytest.raises(ConfigError, match="has no held_out_loss"):
        scaling.read_points(runs, "flops", "held_out_loss")
