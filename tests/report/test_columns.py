"""Models that are fine-tuned on several tasks: each column of a paper's table beside its own measurement."""

import json
import re
from pathlib import Path

import pytest
from run_directories import experiment, made

from research.config import ConfigError, override
from research.config.load import open_experiment
from research.report import record, sweep_page
from research.report.comparison import compared
from research.report.published import published_table
from research.sweep.variants import variants, with_columns

TASKS = """
from research import *

GLUE = (CoLA(), MRPC(), PronounResolution(metrics=()))
QUESTIONS = (QuestionAnswering(examples=TFDSExamples("squad")),)
FIRST = Evaluation(every=20, generation=Generation(max_length=8), best="glue/mrpc/accuracy")
SECOND = Evaluation(every=20, generation=Generation(max_length=8), best="exact_match")


def get_config():
    data = Supervised(GLUE, Bytes(), input_length=48, target_length=8)
    return Experiment(Model(300, 16, 2, 8, 32, 2, 2), data, Adafactor(), steps=40, batch_size=8, evaluation=FIRST)


def columns():
    return {
        "GLUE": {"data.tasks": GLUE, "evaluation": FIRST},
        "SQuAD": {"data.tasks": QUESTIONS, "evaluation": SECOND},
    }


def sweep():
    return product(grid({"model.dropout": (0.1, 0.2, 0.3)}), columns().values())
"""
# At the first and the last evaluation: CoLA, MRPC's F1 and accuracy; exact match.
GLUE_SCORES = {
    "0.1": ((50.0, 80.0, 70.0), (40.0, 90.0, 80.0)),
    "0.2": ((48.0, 70.0, 60.0), (20.0, 60.0, 50.0)),
    "0.3": ((10.0, 60.0, 60.0), (9.0, 9.0, 9.0)),
}
SQUAD_SCORES = {"0.1": (60.0, 70.0), "0.2": (75.0, 72.0), "0.3": (80.0, 10.0)}


def shown(sweep: Path) -> list[list[str]]:
    """The header, the rows and each sentence of the note of the only published table."""
    runs, _, (published,) = sweep_page.runs_of(sweep)
    table = published_table(published, compared(runs))
    sentences = [sentence.split() for sentence in re.findall(r"\S.*?\d\.\d\d\.", table.note)]
    return [list(table.header), *([cell.text for cell in row] for row in table.rows), *sentences]


def test_each_column_has_its_own_runs_and_its_own_order(tmp_path: Path) -> None:
    experiment(tmp_path, TASKS)
    file = open_experiment(tmp_path / "experiment.py")
    found = variants(file.config, file.sweep)
    directory = tmp_path / "downstream"
    for variant in found:
        dropout = variant.overrides["model.dropout"]
        run = made(directory / variant.name, variant.config, 3.0)
        names = variant.config.scores[2:]
        scores = GLUE_SCORES[dropout] if len(names) > 2 else [(exact, 100.0) for exact in SQUAD_SCORES[dropout]]
        lines = [{"step": 20 * n} | dict(zip(names, row, strict=True)) for n, row in enumerate(scores, 1)]
        path = run / "metrics.jsonl"
        path.write_text("".join(json.dumps(line) + "\n" for line in lines) + path.read_text())
    rows = [
        {
            "variants": [variant.name for variant in found if variant.overrides["model.dropout"] == rate],
            "values": values,
        }
        for rate, values in (("0.1", [90.0, 80.0, 1.0]), ("0.2", [80.0, 85.0, None]), ("0.3", [70.0, 86.0, 2.0]))
    ]
    tables = with_columns(
        [{"source": "A paper", "scores": ["GLUE", "SQuAD", "EnDe"], "rows": rows}], file.columns, found
    )
    names = {variant.name: json.loads(override.to_json(variant.config)) for variant in found}
    (directory / "sweep.json").write_text(json.dumps({"variants": names, "published": tables}))
    assert shown(directory) == [
        ["setting", "GLUE, here", "GLUE", "SQuAD, here", "SQuAD", "EnDe"],
        ["dropout=0.1", "67.5", "90", "70", "80", "1"],  # (50 + (90 + 80) / 2) / 2
        ["dropout=0.2", "56.5", "80", "75", "85", "-"],
        ["dropout=0.3", "35", "70", "80", "86", "2"],
        [*["Kendall's", "tau", "of", "the", "order", "here", "with", "each", "published", "column:", "GLUE", "1.00."]],
        [*["Kendall's", "tau", "of", "the", "order", "here", "with", "each", "published", "column:", "SQuAD", "1.00."]],
    ]
    (directory / found[0].name / "RESULT.json").write_text('{"status": "diverged"}')
    assert shown(directory)[1] == ["dropout=0.1", "-", "90", "70", "80", "1"]


def test_the_average_is_the_paper_s(tmp_path: Path) -> None:
    """T5's baseline: its scores in table 16 give table 1's average (arXiv:1910.10683), with MNLI's genres as a task."""
    tasks = "(CoLA(), SST2(), MRPC(), QQP(), STSB(), MNLI(), QNLI(), RTE())"
    run = made(tmp_path / "run", experiment(tmp_path, re.sub(r"\(CoLA.*\)", tasks, TASKS, count=1)), 3.0)
    scores = (53.84, 92.68, 92.07, 88.92, 88.67, 91.56, 88.02, 87.94, (84.24 + 84.57) / 2, 90.48, 76.28)
    names = record.read(run).config.scores[2:]
    path = run / "metrics.jsonl"
    path.write_text(json.dumps({"step": 20} | dict(zip(names, scores, strict=True))) + "\n" + path.read_text())
    assert round(record.read(run).result_of_tasks() or 0.0, 2) == 83.28


def test_a_run_without_an_evaluation_has_no_result(tmp_path: Path) -> None:
    run = made(tmp_path / "run", experiment(tmp_path, TASKS), 3.0)
    assert record.read(run).result_of_tasks() is None


def test_columns_that_no_table_has_are_refused(tmp_path: Path) -> None:
    experiment(tmp_path, TASKS)
    file = open_experiment(tmp_path / "experiment.py")
    found = variants(file.config, file.sweep)
    with pytest.raises(ConfigError, match="columns\\(\\) names GLUE, SQuAD: the published tables have BLEU"):
        with_columns([{"source": "A paper", "scores": ["BLEU"], "rows": []}], file.columns, found)
    experiment(tmp_path, TASKS.partition("def columns")[0] + "def columns():\n    return [{}]\n")
    with pytest.raises(ConfigError, match=r"columns\(\) of .* must return a dict of dicts of overrides"):
        _ = open_experiment(tmp_path / "experiment.py").columns
