"""What is shown after a run."""

import json
from pathlib import Path

from research import summary
from research.evaluate import Sample


def test_samples_are_kept_whole_and_shown_on_a_line_each(tmp_path: Path, capsys) -> None:
    summary.samples(tmp_path, 7, {"a": [Sample("x\ny", "z", "w")], "b": []})
    kept = json.loads((tmp_path / "samples.jsonl").read_text())
    assert kept == {"step": 7, "task": "a", "source": "x\ny", "written": "z", "reference": "w"}
    assert "source     x y\n" in capsys.readouterr().out
