"""mT5's form of questions: expected texts are those of multilingual_t5/preprocessors.py."""

import pytest

from research import JSONExamples, QuestionAnswering
from research.data.tasks.text_to_text import spaced_unicode


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
