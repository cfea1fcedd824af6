"""A logger of a user's own: every line of metrics.jsonl reaches it once, also after a resume."""

import csv
import json

import pytest
from extended_run import copied, evaluated, trained

pytestmark = pytest.mark.slow  # trains


def test_it_has_every_number_once(tmp_path, monkeypatch):
    monkeypatch.setenv("KINTSUGI_CACHE", str(tmp_path / "cache"))
    file, run = copied("own_logger", tmp_path), tmp_path / "run"
    assert trained(file, run, 2) == 0
    with (run / "numbers.csv").open("a") as table:
        table.write("3,loss,1.0\n")  # of a step that a killed process made after its last checkpoint
    assert trained(file, run, 4) == 0
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    expected = {(line["step"], name): value for line in lines for name, value in line.items() if name != "step"}
    rows = [(int(step), name, float(value)) for step, name, value in csv.reader((run / "numbers.csv").open())]
    assert {(step, name): value for step, name, value in rows} == pytest.approx(expected)
    assert len({(step, name) for step, name, _ in rows if name == "loss"}) == 4
    assert any((run / "tensorboard").iterdir())
    evaluated(run, tmp_path)
