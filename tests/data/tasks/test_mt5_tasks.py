"""mT5's tasks as text: expected texts are those of multilingual_t5/preprocessors.py and, for PAWS-X, of t5 0.9.4."""

from pathlib import Path
from typing import Any

import pytest

from research import JSONExamples, QuestionAnswering
from research.config.load import open_experiment
from research.data.tasks.text_to_text import spaced_unicode

FILE = Path(__file__).resolve().parents[3] / "experiments" / "mt5" / "finetune.py"


def made(name: str, record: dict[str, str]) -> Any:
    task = open_experiment(FILE).namespace[name]()
    return task.example({name: (text,) for name, text in record.items()})[:2]


def test_xnli_writes_the_numbers_of_labels() -> None:
    record = {"premise": "Ja, «so»  ist es. ", "hypothesis": "Es ist so.", "label": "contradiction"}
    expected = ("xnli: premise: Ja, «so»  ist es.  hypothesis: Es ist so.", "2")
    assert made("XNLI", record) == made("XNLI", record | {"label": "2"}) == expected


def test_paws() -> None:
    record = {"sentence1": "A b, c.", "sentence2": "C b,  a.", "label": "1"}
    assert made("PAWS", record) == ("paws sentence1: A b, c. sentence2: C b,  a.", "paraphrase")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("François a dit: «oui» (a_b).", "François a dit : « oui » ( a_b ) . "),
        ("٣٤ — ok!?", "٣٤ — ok ! ? "),
        ("日本、東京。50%", "日本 、 東京 。 50 % "),
        ("हिन्दी। x\u0301y", "हिन्दी । x\u0301y"),
        ("two  spaces\u00a0nbsp\tq", "two spaces \u00a0 nbsp q"),
    ],
)
def test_punctuation_of_all_scripts_is_spaced(text: str, expected: str) -> None:
    assert spaced_unicode(text) == expected


def test_questions_in_their_form() -> None:
    task = QuestionAnswering(examples=JSONExamples("x"), text="spaced_unicode")
    record = {"question": ("Wer?  Ja",), "context": ("A «b» c.",), "answers/text": ("b»", "c")}
    assert task.example(record) == ("question: Wer ? Ja context: A « b » c . ", ("b » ", "c"))
    assert task.identity != QuestionAnswering(examples=JSONExamples("x"), text="spaced").identity
