"""Choices of tasks: those of multiple choice are t5 0.9.4's, those of classification its labels."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from own_parts import load_own

from research import CB, STSB, JSONExamples, MultipleChoice, MultiRC, PronounResolution, ReCoRD, Task, TextToText
from research.config import ConfigError
from research.config.task import Choices
from research.data.tasks.task import Example, open_task

GOLDEN = json.loads((Path(__file__).parents[2] / "goldens" / "rank_classification.json").read_text())["choices"]

# The class is in line 9 of the file, its method `choices` in line 17.
TASK = """@dataclass(frozen=True, kw_only=True)
class Own(Task):
    @property
    def names(self):
        return Names(("question",), ("answer",))

    def example(self, record):
        return record["question"][0], record["answer"]

    def choices(self, record):
        return Choices(("a", "b"), (1,), 0.5)
"""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def examples_of(records: list[dict[str, Any]]) -> JSONExamples:
    Path("records.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return JSONExamples("records.jsonl", "records.jsonl")


def made(task: Task, split: Any = "held_out") -> list[Example]:
    opened = open_task(task, split)
    return opened.read(np.arange(len(opened)))


def choices(task: type[Task], record: dict[str, Any]) -> Choices | None:
    return made(task(examples=examples_of([record])))[0].choices


def test_examples_and_choices_are_t5_s() -> None:
    task = MultipleChoice(
        examples=examples_of(GOLDEN["records"]),
        source=GOLDEN["inputs"],
        target=tuple(GOLDEN["targets"]),
        weight="weight",
    )
    assert len(GOLDEN["records"]) >= 20
    trained = [(example.source, example.target) for example in made(task, "train")]
    assert trained == [(row["inputs"], row["targets"]) for row in GOLDEN["made"]["train"]]
    rows = []
    for number, example in enumerate(made(task)):
        texts, right, weight = example.choices or Choices((), ())
        assert example.references == tuple(texts[place] for place in right)
        rows += [
            {
                "idx": [number, place],
                "inputs": example.source,
                "targets": text,
                "is_correct": place in right,
                "weight": weight,
            }
            for place, text in enumerate(texts)
        ]
    assert rows == GOLDEN["made"]["eval"]


def test_a_list_gives_all_its_texts_and_a_label_may_be_unknown() -> None:
    records = [
        {"question": "1 + 1?", "choices": ["1", "2", "3"], "label": 1},
        {"question": "What?", "choices": ["this"], "label": -1},
    ]
    task = MultipleChoice(examples=examples_of(records), prefix="answer: ")
    assert made(task) == [
        Example("answer: 1 + 1?", "2", ("2",), choices=Choices(("1", "2", "3"), (1,))),
        Example("answer: What?", "<unk>", ("<unk>",), choices=Choices(("this",), ())),
    ]
    assert [example.target for example in made(task, "train")] == ["2"]


def test_choices_of_shipped_tasks() -> None:
    sentences = {"hypothesis": "a", "premise": "b"}
    labels = ("entailment", "contradiction", "neutral")
    assert choices(CB, {**sentences, "label": 2}) == Choices(labels, (2,))
    assert choices(CB, {**sentences, "label": -1}) == Choices(labels, ())
    answer = {"question": "q", "answer": "a", "paragraph": "p", "idx": {"question": 7}, "label": 0}
    assert choices(MultiRC, answer) == Choices(("False", "True"), (0,))
    pronoun = {"sentence": "a saw b", "pronoun": "he", "candidates": ["a", "b"], "label": "candidate_1"}
    assert choices(PronounResolution, pronoun) == Choices(("a", "b"), (1,))
    news = {"query": "q", "entities": ["x", "y", "x", "z"], "passage": "p", "answers": ["z", "x"]}
    assert choices(ReCoRD, news) == Choices(("x", "y", "z"), (0, 2))
    assert choices(STSB, {"sentence1": "a", "sentence2": "b", "label": 1.0}) is None
    assert choices(TextToText, {"source": "a", "target": "b"}) is None


@pytest.mark.parametrize("label", [3, "a", "", 1.5, True, -2])
def test_a_label_out_of_range_is_one_sentence(label: Any) -> None:
    task = MultipleChoice(examples=examples_of([{"question": "q", "choices": ["a", "b", "c"], "label": label}]))
    message = r"it must be the number of a choice, 0 to 2, or -1 where none is published|has an empty text among"
    with pytest.raises(ConfigError, match=message):
        open_task(task, "held_out")


def test_a_weight_that_is_no_number_is_one_sentence() -> None:
    records = [{"question": "q", "choices": ["a", "b"], "label": 0, "weight": "much"}]
    with pytest.raises(ConfigError, match="has the weight 'much': it must be a number of at least 0"):
        open_task(MultipleChoice(examples=examples_of(records), weight="weight"), "held_out")


def test_an_empty_choice_is_refused_or_left_out() -> None:
    records = [{"question": "q", "choices": texts, "label": 0} for texts in (["a", " "], ["a", "b"])]
    examples = examples_of(records)
    with pytest.raises(ConfigError, match='line 1 has an empty text among those of "choices"'):
        open_task(MultipleChoice(examples=examples), "held_out")
    skipping = JSONExamples(examples.train, examples.train, empty="skip")
    assert len(made(MultipleChoice(examples=skipping))) == 1


def test_choices_of_a_task_of_one_s_own(tmp_path: Path) -> None:
    records = [{"question": "q", "answer": "b"}]
    own = load_own(tmp_path, TASK).Own
    assert made(own(examples=examples_of(records)))[0].choices == Choices(("a", "b"), (1,), 0.5)
    without = load_own(tmp_path, TASK[: TASK.index("    def choices")]).Own
    identities = [open_task(task(examples=examples_of(records)), "train").identity for task in (own, without)]
    assert identities[0] == identities[1]


@pytest.mark.parametrize(
    "given",
    ['("a", "b")', 'Choices((), ())', 'Choices(("a",), (1,))', 'Choices(("a",), (0,), -1.0)', 'Choices((1, 2), (0,))',
     'Choices("ab", (0,))', 'Choices(("a",), None)', 'Choices(("a",), (True,))', 'Choices(("a",), (0,), float("nan"))'],
)  # fmt: skip
def test_choices_that_cannot_be_ranked_are_one_sentence(given: str, tmp_path: Path) -> None:
    own = load_own(tmp_path, TASK.replace('Choices(("a", "b"), (1,), 0.5)', given)).Own
    message = r"own.*\.py:\d+: Own.choices of record 1 of records.jsonl returned .*: it must be Choices\(texts, right\)"
    with pytest.raises(ConfigError, match=message):
        open_task(own(examples=examples_of([{"question": "q", "answer": "b"}])), "held_out")
