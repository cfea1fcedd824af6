"""Tasks and metrics as text, to the letter those of t5 0.9.4: goldens of scripts/make_task_goldens.py."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from research import (
    BLEU,
    CB,
    COPA,
    MNLI,
    MRPC,
    QNLI,
    QQP,
    ROUGE,
    RTE,
    SST2,
    STSB,
    WNLI,
    WSC,
    BoolQ,
    CoLA,
    JSONExamples,
    MultiRC,
    PronounResolution,
    QuestionAnswering,
    ReCoRD,
    SQuAD,
    Summarization,
    SuperGLUERTE,
    Task,
    Translation,
    TriviaQA,
    WiC,
)
from research.config import ConfigError
from research.data.tasks.task import Example, open_task
from research.score import metrics
from research.score.labels import as_number

EVERY: dict[str, Any] = json.loads((Path(__file__).parents[2] / "goldens" / "t5_tasks.json").read_text())["tasks"]
GOLDENS = {name: golden for name, golden in EVERY.items() if "targets" in golden}  # of classification
OWN_GOLDENS = {name: golden for name, golden in EVERY.items() if name not in GOLDENS}
TASKS: dict[str, type[Task]] = {
    "glue/cola": CoLA, "glue/sst2": SST2, "glue/mrpc": MRPC, "glue/qqp": QQP, "glue/stsb": STSB, "glue/mnli": MNLI,
    "glue/qnli": QNLI, "glue/rte": RTE, "glue/wnli": WNLI, "super_glue/boolq": BoolQ, "super_glue/cb": CB,
    "super_glue/copa": COPA, "super_glue/rte": SuperGLUERTE, "super_glue/wic": WiC,
}  # fmt: skip
OWN_TASKS: dict[str, Callable[[JSONExamples], Task]] = {
    "super_glue/multirc": lambda examples: MultiRC(examples=examples),
    "super_glue/record": lambda examples: ReCoRD(examples=examples),
    "super_glue/wsc": lambda examples: WSC(examples=examples),
    "dpr": lambda examples: PronounResolution(examples=examples),
    "squad": lambda examples: QuestionAnswering(examples=examples, text="spaced", metrics=(SQuAD("1.1"),)),
    "squad/context_free": lambda examples: QuestionAnswering(
        examples=examples, source="squad trivia question: {question}", text="spaced", metrics=(SQuAD("1.1"),)
    ),
    "trivia_qa/scores": lambda examples: QuestionAnswering(examples=examples, text="spaced", metrics=(TriviaQA(),)),
    "cnn_dailymail": lambda examples: Summarization(
        examples=examples,
        source="article",
        target="highlights",
        prefix="summarize: ",
        metrics=(ROUGE(stemmer=False, sentences="full_stop"),),
    ),
    "wmt16_enro": lambda examples: Translation(
        examples=examples, target="ro", prefix="translate English to Romanian: ", metrics=(BLEU("intl"),)
    ),
}
RENAMED = {"f1": "label_f1"}  # scores, since a question-answering task has an f1


def test_every_golden_has_its_task() -> None:
    assert TASKS.keys() == GOLDENS.keys()
    assert OWN_TASKS.keys() == OWN_GOLDENS.keys()
    for golden in EVERY.values():
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


# --- Tasks with records or scores of their own ------------------------------------------------------------------------


def opened(name: str, folder: Path, split: Any) -> tuple[Task, list[Example]]:
    """Open a task on all records of its golden that have a target."""
    path = folder / "records.jsonl"
    path.write_text("".join(json.dumps(example["record"]) + "\n" for example in OWN_GOLDENS[name]["examples"]))
    task = OWN_TASKS[name](JSONExamples(str(path), str(path), empty="skip"))
    examples = open_task(task, split)
    return task, examples.read(np.arange(len(examples)))


def with_target(golden: dict[str, Any]) -> list[dict[str, Any]]:
    return [example for example in golden["examples"] if example["record"].get("answers") != []]


@pytest.mark.parametrize("name", OWN_GOLDENS)
def test_training_examples_are_t5_s(name: str, tmp_path: Path) -> None:
    """None, one or several are made of a record."""
    _, made = opened(name, tmp_path, "train")
    expected = [tuple(pair) for example in with_target(OWN_GOLDENS[name]) for pair in example["training"]]
    assert [(example.source, example.target) for example in made] == expected


@pytest.mark.parametrize("name", OWN_GOLDENS)
def test_evaluated_examples_and_their_scores_are_t5_s(name: str, tmp_path: Path) -> None:
    """Each record is evaluated once, against all its answers."""
    golden = OWN_GOLDENS[name]
    task, made = opened(name, tmp_path, "held_out")
    assert [example.source for example in made] == [text for one in with_target(golden) for text in one["evaluated"]]
    made = [example for example in made if example.target != "<unk>"]
    assert len(made) == len(golden["predictions"])
    references, more = [example.references for example in made], [example.more for example in made]
    scores = {
        key: score.value for key, score in metrics.score(task.metrics, golden["predictions"], references, more).items()
    }
    if name == "cnn_dailymail":
        resampled = metrics.score(
            (dataclasses.replace(task.metrics[0], bootstrap=True),), golden["predictions"], references
        )
        scores |= {f"{key}_bootstrap": score.value for key, score in resampled.items()}
    ours = {"em": "exact_match", "bleu": "bleu_intl", "accuracy": "sequence_accuracy" if name == "dpr" else "accuracy"}
    ours |= {"f1": "label_f1"} if name == "super_glue/multirc" else {}
    for key, value in golden["scores"].items():
        assert scores[ours.get(key, key)] == pytest.approx(value, rel=1e-12, abs=1e-10), key
