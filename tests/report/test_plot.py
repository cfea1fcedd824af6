"""The curves as a picture."""

import json
from dataclasses import replace
from pathlib import Path

from tiny_run import experiment

from research.report.plot import plot_loss


def test_the_plot_is_a_picture_of_both_losses(tmp_path: Path) -> None:
    lines = [{"step": 1, "nll": 2.5}, {"step": 1, "held_out_loss": 3.0, "held_out_accuracy": 0.5}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    config = experiment(tmp_path)
    plain = plot_loss(tmp_path, 4.0, config).read_bytes()
    by_accuracy = replace(config, evaluation=replace(config.evaluation, best="held_out_accuracy"))
    both = plot_loss(tmp_path, 4.0, by_accuracy).read_bytes()
    assert plain.startswith(b"\x89PNG")
    assert both.startswith(b"\x89PNG")
    assert plain != both
