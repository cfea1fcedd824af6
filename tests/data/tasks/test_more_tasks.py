"""mT5's tasks, closed-book questions and T5's rarer ones: goldens of scripts/make_more_task_goldens.py."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from research import (
    MLQA,
    PAWSX,
    XNLI,
    EnglishTyDiQA,
    JSONExamples,
    NaturalQuestionsOpen,
    OnlySplits,
    QuestionAnswering,
    SQuAD,
    SQuAD2,
    Task,
    TextToText,
    TFDSExamples,
    TriviaQAContexts,
    TriviaQAOpen,
    TSVExamples,
    WebQuestions,
    WikiAnn,
    WNLIReferents,
    equal_rates,
)
from research.config import ConfigError, labelled_tasks, override, task_labels, tasks_in
from research.config.examples import Split
from research.config.load import open_experiment
from research.data.corpora import corpus
from research.data.tasks import multilingual
from research.data.tasks.data_set import text_features
from research.data.tasks.task import Example, open_task
from research.data.tasks.text_to_text import spaced_unicode
from research.score import metrics

GOLDENS: dict[str, Any] = json.loads((Path(__file__).parents[2] / "goldens" / "more_tasks.json").read_text())["tasks"]


def questions(examples: JSONExamples, metric: Any = None, **fields: Any) -> Task:
    return QuestionAnswering(examples=examples, text="spaced_unicode", metrics=(metric or SQuAD("1.1"),), **fields)


TASKS: dict[str, Callable[[JSONExamples], Task]] = {
    "wikiann": lambda examples: WikiAnn(examples=examples),
    "xnli": lambda examples: XNLI(examples=examples),
    "xnli/de": lambda examples: XNLI(examples=examples, language="de"),
    "xnli/zh": lambda examples: XNLI(examples=examples, language="zh"),
    "pawsx": lambda examples: PAWSX(examples=examples),
    "nq_open": lambda examples: NaturalQuestionsOpen(examples=examples),
    "web_questions": lambda examples: WebQuestions(examples=examples),
    "trivia_qa_open": lambda examples: TriviaQAOpen(examples=examples),
    "trivia_qa": lambda examples: TriviaQAContexts(examples=examples),
    "wnli_simple": lambda examples: WNLIReferents(examples=examples),
    "xquad": questions,
    "xquad/context_free": lambda examples: questions(examples, source="squad trivia question: {question}"),
    "mlqa/ar": lambda examples: questions(examples, MLQA("ar")),
    "mlqa/de": lambda examples: questions(examples, MLQA("de")),
    "mlqa/en": lambda examples: questions(examples, MLQA("en")),
    "mlqa/es": lambda examples: questions(examples, MLQA("es")),
    "mlqa/hi": lambda examples: questions(examples, MLQA("hi")),
    "mlqa/vi": lambda examples: questions(examples, MLQA("vi")),
    "mlqa/zh": lambda examples: questions(examples, MLQA("zh")),
}
ACCURACY = {"xnli": "sequence_accuracy", "xnli/de": "sequence_accuracy", "xnli/zh": "sequence_accuracy"}


def opened(name: str, folder: Path, split: Split) -> tuple[Task, list[Example]]:
    """Open a task on all records of its golden, read from JSON lines; empty texts are kept."""
    path = folder / "records.jsonl"
    path.write_text("".join(json.dumps(example["record"]) + "\n" for example in GOLDENS[name]["examples"]))
    task = TASKS[name](JSONExamples(str(path), str(path), empty="keep"))
    examples = open_task(task, split)
    return task, examples.read(np.arange(len(examples)))


def test_every_golden_has_its_task() -> None:
    assert TASKS.keys() == GOLDENS.keys()
    assert min(len(golden["examples"]) for golden in GOLDENS.values()) >= 20


@pytest.mark.parametrize("name", GOLDENS)
def test_training_examples_are_those_of_the_published_code(name: str, tmp_path: Path) -> None:
    _, made = opened(name, tmp_path, "train")
    expected = [tuple(pair) for example in GOLDENS[name]["examples"] for pair in example["training"]]
    assert [(example.source, example.target) for example in made] == expected


@pytest.mark.parametrize("name", sorted(GOLDENS.keys() - {"trivia_qa"}))
def test_evaluated_examples_and_their_scores_are_those_of_the_published_code(name: str, tmp_path: Path) -> None:
    golden = GOLDENS[name]
    task, made = opened(name, tmp_path, "held_out")
    assert [example.source for example in made] == [text for one in golden["examples"] for text in one["evaluated"]]
    scored = [example for example in made if example.target != "<unk>"]
    assert len(scored) == len(golden["predictions"])
    references, more = [example.references for example in scored], [example.more for example in scored]
    scores = metrics.score(task.metrics, golden["predictions"], references, more)
    ours = {"em": "exact_match", "accuracy": ACCURACY.get(name, "accuracy")}
    assert golden["scores"] != {}
    for key, value in golden["scores"].items():
        assert scores[ours.get(key, key)].value == pytest.approx(value, rel=1e-12, abs=1e-10), key
    assert 10 < max(score.value for score in scores.values()) < 95


def test_trivia_qa_is_evaluated_once_for_a_question(tmp_path: Path) -> None:
    """On the first context with an answer, or on the first one, or on none."""
    task, made = opened("trivia_qa", tmp_path, "held_out")
    golden = GOLDENS["trivia_qa"]["examples"]
    assert len(made) == len(golden)
    assert {len(example["training"]) for example in golden} >= {0, 1, 2}
    for example, expected in zip(made, golden, strict=True):
        if expected["training"]:
            assert example.source == expected["training"][0][0]
        assert example.source.startswith("question: ")
    assert metrics.score(task.metrics, [example.references[-1] for example in made], [e.references for e in made])


def test_the_value_of_trivia_qa_need_not_be_an_alias(tmp_path: Path) -> None:
    task = TriviaQAOpen(examples=JSONExamples("a"))
    record = {"question": ("q",), "answer/value": ("B",), "answer/aliases": ("A", "B", "C")}
    assert task.example(record) == ("trivia_qa question: q", ("B", "A", "C"))
    assert task.example({**record, "answer/aliases": ("A",)}) == ("trivia_qa question: q", ("A",))
    assert task.example({**record, "answer/aliases": ()}) == ("trivia_qa question: q", ("B",))
    assert task.training_examples({**record, "answer/aliases": ("A",)}) == [("trivia_qa question: q", "B")]


def test_letters_and_marks_of_all_scripts_are_kept_together() -> None:
    assert spaced_unicode("François, «नमस्ते»_x\u00a0y²\v") == "François , « नमस्ते » _x \u00a0 y² \v "


# --- SQuAD 2.0 --------------------------------------------------------------------------------------------------------


def test_questions_without_an_answer(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    rows: list[list[str]] = [["one", "two"], [], ["none"]]
    path.write_text(
        "".join(
            json.dumps({"question": f"q{number}", "context": "c", "answers": {"text": texts}}) + "\n"
            for number, texts in enumerate(rows)
        )
    )
    task = SQuAD2(examples=JSONExamples(str(path), str(path), empty="keep"))
    examples = open_task(task, "train")
    made = examples.read(np.arange(3))
    assert [example.references for example in made] == [("one", "two"), ("unanswerable",), ("none",)]
    assert made[1].source == "question: q1 context: c"
    with pytest.raises(ConfigError, match=r'line 2 has an empty target.*empty="skip"'):
        open_task(dataclasses.replace(task, examples=JSONExamples(str(path), str(path))), "train")
    # As SQuAD 2.0's script: no partial credit where there is no answer, nor for saying so where there is one.
    metric = task.metrics[0]
    pairs = [("The two!", 100, 100), ("unanswerable", 0, 0), ("two three", 0, 2 / 3 * 100)]
    for text, exact, f1 in pairs:
        assert metric.score_example(text, made[0].references) == {"exact_match": exact, "f1": pytest.approx(f1)}
    for text, exact in (("Unanswerable.", 100), ("unanswerable one", 0), ("", 100)):
        assert metric.score_example(text, made[1].references) == {"exact_match": exact, "f1": exact}


# --- Splits -----------------------------------------------------------------------------------------------------------


def test_only_some_splits_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    path.write_text("a\tb\n")
    files = TSVExamples(str(path), str(path))
    trained = TextToText(examples=OnlySplits(files, ("train",)))
    evaluated = TextToText(examples=OnlySplits(files, ("held_out", "test"), "other"))
    assert len(open_task(trained, "train")) == 1
    with pytest.raises(ConfigError, match="other has no split train here: OnlySplits has held_out, test"):
        open_task(evaluated, "train")
    assert tasks_in((trained, evaluated), "train") == (trained,)
    assert labelled_tasks((trained, evaluated), "held_out") == [("other/", evaluated)]
    with pytest.raises(ConfigError, match=r"None of data\.tasks has examples in the split test: add a task that has"):
        tasks_in((trained,), "test")
    with pytest.raises(ConfigError, match=r"OnlySplits\.only is empty: name one or two of train, held_out, test"):
        OnlySplits(files, ())
    assert override.from_json(override.to_json(evaluated), TextToText) == evaluated


SETTINGS: dict[str, tuple[tuple[Task, ...], int, int, int]] = {  # trained on, held out, tested
    "xnli": (multilingual.xnli(), 1, 15, 15),
    "xnli, translated": (multilingual.xnli("translate_train"), 15, 15, 15),
    "pawsx": (multilingual.pawsx(), 1, 7, 7),
    "pawsx, translated": (multilingual.pawsx("translate_train"), 7, 7, 7),
    "tydi_qa": (multilingual.tydi_qa(), 1, 9, 0),
    "tydi_qa, translated": (multilingual.tydi_qa("translate_train"), 9, 9, 0),
    "tydi_qa, in language": (multilingual.tydi_qa("in_language"), 1, 9, 0),
    "xquad": (multilingual.xquad(), 1, 1, 11),
    "xquad, translated": (multilingual.xquad("translate_train"), 11, 1, 11),
    "mlqa": (multilingual.mlqa(), 1, 8, 7),
    "wikiann": (multilingual.wikiann(), 1, 40, 40),
    "wikiann, in language": (multilingual.wikiann("in_language"), 40, 40, 40),
    "mlqa, translated": (multilingual.mlqa("translate_train"), 7, 8, 7),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_settings_have_mt5_s_tasks(name: str) -> None:
    """As many as its mixtures have in each split, but that SQuAD's translated validation data are not read."""
    tasks, trained, held_out, tested = SETTINGS[name]
    splits: tuple[Split, ...] = ("train", "held_out", "test")
    counts = [sum(split in task.examples.splits for task in tasks) for split in splits]
    assert counts == [trained, held_out, tested]
    assert equal_rates(tasks).rates == (1.0,) * trained
    evaluated = [
        label for label, task in zip(task_labels(tasks), tasks, strict=True) if "train" not in task.examples.splits
    ]
    assert len(set(evaluated)) == len(evaluated)
    assert all(label.startswith(name.partition(",")[0]) and label.count("/") == 2 for label in evaluated)
    for task in tasks:
        assert override.from_json(override.to_json(task), type(task)) == task


def test_scores_are_of_the_tasks_that_are_evaluated() -> None:
    scores = open_experiment(f"{Path(__file__).parents[3]}/experiments/mt5/finetune.py:xnli").config.scores
    assert scores[2:] == tuple(f"xnli/{each}/sequence_accuracy" for each in multilingual.XNLI_LANGUAGES)


def test_english_questions_of_tydi_qa() -> None:
    task = EnglishTyDiQA()
    record = {"question": ("q?",), "context": ("c",), "answers/text": ("a",), "id": ("english--5-0",)}
    assert task.training_examples(record) == [("question: q ? context: c", ("a",))]
    assert task.training_examples({**record, "id": ("finnish--5-0",)}) == []
    assert isinstance(task.examples, OnlySplits)
    assert task.examples.examples == TFDSExamples("tydi_qa/goldp")


@pytest.mark.parametrize(
    ("premise", "hypothesis", "message"),
    [
        ("No such word.", "Nothing.", "finds no pronoun in 'No such word.'"),
        ("A b  it", "b", "finds no word 2 in 'A b  it': it has two spaces in a row"),
    ],
)
def test_texts_that_are_not_wnli_s(premise: str, hypothesis: str, message: str) -> None:
    record = {"sentence1": (premise,), "sentence2": (hypothesis,), "label": ("0",)}
    with pytest.raises(ConfigError, match=message):
        WNLIReferents().example(record)


def test_a_language_that_a_record_of_xnli_lacks() -> None:
    record = {"premise/de": ("p",), "hypothesis/language": ("en", "fr"), "hypothesis/translation": ("a", "b")}
    with pytest.raises(ConfigError, match="XNLI has a record in en, fr, without 'de'"):
        XNLI(language="de").example({**record, "label": ("0",)})


# --- Data sets --------------------------------------------------------------------------------------------------------

DEFAULTS: tuple[type[Task], ...] = (
    *(NaturalQuestionsOpen, WebQuestions, TriviaQAOpen, TriviaQAContexts, SQuAD2),
    *(WNLIReferents, XNLI, PAWSX, WikiAnn, EnglishTyDiQA),
)


def test_data_sets_of_tfds_have_the_names_that_tasks_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By their builders, without downloading anything."""
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    settings = [task for name, (tasks, *_) in SETTINGS.items() if not name.startswith("xquad") for task in tasks]
    read = {}
    for task in (*(task() for task in DEFAULTS), *settings):  # type: ignore[call-arg]
        examples = task.examples.examples if isinstance(task.examples, OnlySplits) else task.examples
        if isinstance(examples, TFDSExamples):
            read[examples.name, task.names] = task
    assert len(read) > 40
    for name, names in read:
        available = dict(text_features(corpus._find_builder(name).info.features))
        assert set(names.all) <= available.keys(), name
