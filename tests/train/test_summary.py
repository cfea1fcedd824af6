"""What is shown after a run."""

import json
from pathlib import Path

from research.train import summary
from research.train.summary import RunSample


def test_examples_are_kept_whole_once_a_step_and_shown_on_a_line_each(tmp_path: Path, capsys) -> None:
    examples = [RunSample("a", {"source": "x\ny", "written": "z", "reference": "w"})]
    for step in (7, 7, 8):
        summary.keep_examples(tmp_path, step, examples)
    kept = [json.loads(line) for line in (tmp_path / "samples.jsonl").read_text().splitlines()]
    assert kept == [{"step": step, "task": "a", "source": "x\ny", "written": "z", "reference": "w"} for step in (7, 8)]
    summary.show_examples(examples, supervised=True)
    assert "a: held-out example 1" in (said := capsys.readouterr().out)
    assert "source     x y\n" in said
