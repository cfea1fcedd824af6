"""Tasks and metrics as text, to the letter those of t5 0.9.4: goldens of scripts/make_task_goldens.py."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from research import (
    CB,
    COPA,
    MNLI,
    MRPC,
    QNLI,
    QQP,
    RTE,
    SST2,
    STSB,
    WNLI,
    BoolQ,
    CoLA,
    JSONExamples,
    SuperGLUERTE,
    Task,
    WiC,
)
from research.config import ConfigError
from research.data.tasks.task import open_task
from research.score import metrics
from research.score.labels import as_number

GOLDENS: dict[str, Any] = json.loads((Path(__file__).parents[2] / "goldens" / "t5_tasks.json").read_text())["tasks"]
TASKS: dict[str, type[Task]] = {
    "glue/cola": CoLA, "glue/sst2": SST2, "glue/mrpc": MRPC, "glue/qqp": QQP, "glue/stsb": STSB, "glue/mnli": MNLI,
    "glue/qnli": QNLI, "glue/rte": RTE, "glue/wnli": WNLI, "super_glue/boolq": BoolQ, "super_glue/cb": CB,
    "super_glue/copa": COPA, "super_glue/rte": SuperGLUERTE, "super_glue/wic": WiC,
}  # fmt: skip
RENAMED = {"f1": "label_f1"}  # scores, since a question-answering task has an f1


def test_every_golden_has_its_task() -> None:
    assert TASKS.keys() == GOLDENS.keys()
    for golden in GOLDENS.values():
        assert len(golden["examples"]) >= 20


@pytest.mark.parametrize("name", GOLDENS)
def test_inputs_and_targets_are_t5_s(name: str, tmp_path: Path) -> None:
    """Read from JSON lines, where a label is a number. A record whose texts are all empty is left out."""
    given = [example for example in GOLDENS[name]["examples"] if example["inputs"].split(":", 1)[1].strip()]
    path = tmp_path / "records.jsonl"
    path.write_text("".join(json.dumps(example["record"]) + "\n" for example in given))
    task = TASKS[name](examples=JSONExamples(str(path), str(path), empty="skip"))
    opened = open_task(task, "train")
    made = [(example.source, example.target) for example in opened.read(np.arange(len(opened)))]
    expected = [(example["inputs"], example["targets"]) for example in given]
    assert set(made) <= set(expected)
    assert len(expected) - len(made) <= 2  # of records with one feature, an empty one


@pytest.mark.parametrize("name", GOLDENS)
def test_scores_are_t5_s(name: str) -> None:
    golden, task = GOLDENS[name], TASKS[name]()
    scores = metrics.score(task.metrics, golden["predictions"], [(target,) for target in golden["targets"]])
    expected = {RENAMED.get(key, key): value for key, value in golden["scores"].items()}
    assert scores.keys() == expected.keys()
    for key, value in expected.items():
        assert scores[key].value == pytest.approx(value, rel=1e-12, abs=1e-10), key
    if name == "glue/stsb":
        assert [list(map(as_number, golden[side])) for side in ("targets", "predictions")] == golden["values"]


def test_labels_by_text_by_number_and_none() -> None:
    task = MNLI()
    assert [task.label(given) for given in ("2", "neutral", "-1", "<unk>")] == [
        "contradiction", "neutral", "<unk>", "<unk>"
    ]  # fmt: skip
    with pytest.raises(ConfigError, match=r"MNLI has no label '3': its labels are 'entailment', 'neutral', 'contra"):
        task.label("3")
    with pytest.raises(ConfigError, match=r"STSB has the label 'high': it must be a number from 0 to 5, or -1"):
        STSB().example({"sentence1": ("a",), "sentence2": ("b",), "label": ("high",)})
