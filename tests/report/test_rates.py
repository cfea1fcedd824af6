"""The best rate of losses on a parabola is found again; what cannot be compared is refused."""

import math
from pathlib import Path

import pytest
from run_directories import experiment, made

from research.config import ConfigError
from research.report import plot, rates
from scripts import rates as script

TRIED = (1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2)
MAXIMAL = "MaximalUpdate(width=16, heads=2, head_width=8, feed_forward=32)"


def loss(rate: float, best: float) -> float:
    return 3.0 + 0.1 * math.log(rate / best) ** 2


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    """In the standard parametrization the best rate halves as the width doubles, in muP it stays."""
    found = []
    for width, heads, best in ((16, 2, 4e-3), (32, 4, 2e-3)):
        for parametrization, at in (("Standard()", best), (MAXIMAL, 5e-3)):
            for rate in TRIED:
                for seed in (0, 1):
                    config = experiment(
                        tmp_path,
                        **{
                            "model.width": str(width), "model.heads": str(heads), "seed": str(seed),
                            "model.parametrization": parametrization, "optimizer.schedule.peak": str(rate),
                        },
                    )  # fmt: skip
                    directory = tmp_path / f"{width}-{parametrization[:3]}-{rate}-{seed}"
                    found.append(made(directory, config, loss(rate, at) + (0.01 if seed else -0.01)))
    return found


def test_the_best_rate_is_that_of_the_parabola(runs):
    found = {(one.parametrization, one.width): one for one in rates.read_ranges(runs, "held_out_loss")}
    best = {key: one.optimum for key, one in found.items()}
    wanted = {("Standard", 16): 4e-3, ("Standard", 32): 2e-3, ("MaximalUpdate", 16): 5e-3, ("MaximalUpdate", 32): 5e-3}
    assert best == pytest.approx(wanted, rel=1e-6)
    narrow = found["Standard", 16]
    assert narrow.losses == pytest.approx({rate: loss(rate, 4e-3) for rate in TRIED})
    assert narrow.within(0.05) == (2e-3, 8e-3)  # 0.1 * log(2) ** 2 is 0.048
    assert narrow.within(0.047) == (4e-3, 4e-3)


def test_the_script_says_how_the_best_rate_moves(runs, tmp_path, capsys):
    assert script.main([*map(str, runs), "--plot", str(tmp_path / "rates.svg")]) == 0
    printed = capsys.readouterr().out
    assert "Standard: from width 16 to 32 the best rate is multiplied by 0.50." in printed
    assert "MaximalUpdate: from width 16 to 32 the best rate is multiplied by 1.00." in printed
    assert "| Standard | 16 | 3.1922 | 3.0480 | **3.0000** | 3.0480 | 3.1922 | 0.004 | 0.002-0.008 |" in printed
    assert (tmp_path / "rates.svg").is_file()


def test_a_run_that_was_not_finite_is_the_worst_and_the_edge_is_reported(runs, tmp_path, capsys):
    for run in runs:
        config = run / "RESULT.json"
        if run.name.startswith("16-Sta-0.008") or run.name.startswith("16-Sta-0.016"):
            config.write_text(config.read_text().replace('"done"', '"not finite"'))
    kept = [run for run in runs if "16-Sta" in run.name]
    assert script.main([*map(str, kept)]) == 0
    printed = capsys.readouterr().out
    assert "| not finite | not finite | at the edge | 0.002-0.004 |" in printed
    assert "Standard: at width 16 the best rate is at the edge of the finite ones." in printed


def test_what_cannot_be_compared_is_refused(runs, tmp_path):
    other = made(tmp_path / "other", experiment(tmp_path, **{"batch_size": "16"}), 3.0)
    with pytest.raises(ConfigError, match=r"The runs differ in batch_size: only seed, rate, width"):
        rates.read_ranges([*runs, other], "held_out_loss")
    with pytest.raises(ConfigError, match=r"has no bleu in its metrics"):
        rates.read_ranges(runs, "bleu")
    unfinished = made(tmp_path / "unfinished", experiment(tmp_path), 3.0, status="failed")
    with pytest.raises(ConfigError, match=r"unfinished is failed: only finished runs can be compared"):
        rates.read_ranges([unfinished], "held_out_loss")
    bad = made(tmp_path / "bad", experiment(tmp_path), 3.0, status="not finite")
    with pytest.raises(ConfigError, match=r"No run of width 16 \(Standard\) is finite"):
        rates.read_ranges([bad], "held_out_loss")


def test_losses_of_two_models_of_one_width_and_rate_are_refused(tmp_path):
    rate = "optimizer.schedule.peak"
    changes = [{"model.feed_forward": "32", rate: "1e-3"}, {"model.feed_forward": "64", rate: "2e-3"}]
    found = [made(tmp_path / str(number), experiment(tmp_path, **one), 3.0) for number, one in enumerate(changes)]
    with pytest.raises(ConfigError, match=r"The runs are of different models of width 16 \(Standard\)"):
        rates.read_ranges(found, "held_out_loss")
    still = made(tmp_path / "still", experiment(tmp_path, **{rate: "0"}), 3.0)
    with pytest.raises(ConfigError, match=r"the learning rate is 0\.0, but must be above 0"):
        rates.read_ranges([still], "held_out_loss")


def test_standard_runs_at_the_bases_sizes_are_those_of_mup_too(runs):
    kept = [run for run in runs if not run.name.startswith("16-Max")]
    found = {(one.parametrization, one.width): one.losses for one in rates.read_ranges(kept, "held_out_loss")}
    assert found["MaximalUpdate", 16] == found["Standard", 16]
    assert found["MaximalUpdate", 32] != found["Standard", 32]


def test_a_width_has_one_colour_in_all_panels_and_a_place_in_the_legend(tmp_path, monkeypatch):
    """Also where a panel lacks the first of them."""
    figures = []
    monkeypatch.setattr(plot, "_save", lambda figure, path: figures.append(figure))
    panels = {"one": {"wide": [(1.0, 2.0), (2.0, 1.0)]}, "other": {"narrow": [(1.0, 1.0)], "wide": [(1.0, 2.0)]}}
    plot.plot_panels(tmp_path / "panels.svg", panels, "x", "y", linear_y=True)
    (figure,) = figures
    colours = [[line.get_color() for line in panel.get_lines()] for panel in figure.axes]
    assert colours == [[plot.COLOURS[0]], [plot.COLOURS[1], plot.COLOURS[0]]]
    assert [text.get_text() for text in figure.axes[0].get_yticklabels()] != []
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["wide", "narrow"]
    assert [line.get_color() for line in figure.legends[0].get_lines()] == list(plot.COLOURS[:2])
