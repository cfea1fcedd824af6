"""Scores of short answers: SQuAD's exact match and F1, and the accuracy of whole outputs."""

import re
import string
import sys
import unicodedata
from abc import abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

from research.config import Metric
from research.config.metric import References, reference_count

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_MARKS_TO_SPACES = str.maketrans(dict.fromkeys(string.punctuation + "‘’´", " "))
_ARTICLES = re.compile(r"\b(a|an|the)\b")


@dataclass(frozen=True)
class AnswerMetric(Metric):
    """The base of exact match and F1 over words, each against its best reference."""

    @property
    def names(self) -> tuple[str, ...]:
        return ("exact_match", "f1")

    @property
    def f1_without_words(self) -> float:
        """F1 of two answers neither of which has a word."""
        return 0.0

    @abstractmethod
    def words(self, answer: str) -> str:
        """Normalise an answer: its words, joined by single spaces."""

    def score_example(self, prediction: str, references: Sequence[str]) -> Mapping[str, float]:
        predicted, *expected = map(self.words, (prediction, *references))
        return {
            "exact_match": 100.0 * (predicted in expected),
            "f1": 100.0 * max(_overlap(predicted, one, self.f1_without_words) for one in expected),
        }


@dataclass(frozen=True)
class SQuAD(AnswerMetric):
    """Exact match and F1 over words, normalised as English by SQuAD's own script (arXiv:1806.03822).

    The versions differ in the F1 of two answers without words: 1 in 2.0 and 0 in 1.1, which T5 uses. `no_answer` is the
    text that says that a question has none; its script has an empty text there.
    """

    version: Literal["1.1", "2.0"] = "2.0"
    no_answer: str | None = None

    @property
    def f1_without_words(self) -> float:
        return float(self.version == "2.0")

    def words(self, answer: str) -> str:
        words = _normalised(answer)
        return "" if self.no_answer is not None and words == _normalised(self.no_answer) else words

    def signature(self, references: References) -> str:
        return f"{reference_count(references)}|best reference|normalised as SQuAD v{self.version}'s script"


@dataclass(frozen=True)
class TriviaQA(AnswerMetric):
    """Exact match and F1 over words, normalised by TriviaQA's own script (arXiv:1705.03551): marks become spaces."""

    def words(self, answer: str) -> str:
        return " ".join(_ARTICLES.sub(" ", answer.lower().translate(_MARKS_TO_SPACES)).split())

    def signature(self, references: References) -> str:
        return f"{reference_count(references)}|best reference|normalised as TriviaQA v1.0's script"


# Articles that are removed, and whether each Chinese character is a word.
ARTICLES = {
    "ar": r"ال",
    "de": r"\b(ein|eine|einen|einem|eines|einer|der|die|das|den|dem|des)\b",
    "en": r"\b(a|an|the)\b",
    "es": r"\b(un|una|unos|unas|el|la|los|las)\b",
    "vi": r"\b(của|là|cái|chiếc|những)\b",
}
CHINESE = re.compile("([\u4e00-\u9fa5])")


@dataclass(frozen=True)
class MLQA(AnswerMetric):
    """Exact match and F1 over words, normalised for a language by MLQA's own script (arXiv:1910.07475).

    A Chinese character is a word of its own. As in mT5, the F1 of two answers without words is 0.
    """

    language: Literal["ar", "de", "en", "es", "hi", "vi", "zh"]

    def words(self, answer: str) -> str:
        text = answer.lower().translate(_unicode_punctuation())
        if self.language in ARTICLES:
            text = re.sub(ARTICLES[self.language], " ", text)
        return " ".join((CHINESE.sub(r" \1 ", text) if self.language == "zh" else text).split())

    def signature(self, references: References) -> str:
        return f"{reference_count(references)}|best reference|normalised as MLQA v1's script|{self.language}"


@cache
def _unicode_punctuation() -> dict[int, None]:
    """Return the punctuation of all scripts and the symbols of ASCII, for `translate`."""
    marks = (code for code in range(sys.maxunicode) if unicodedata.category(chr(code)).startswith("P"))
    return dict.fromkeys([*marks, *map(ord, string.punctuation)])


def _normalised(answer: str) -> str:
    """Lowercase, remove punctuation, then articles, and join the words by single spaces."""
    return " ".join(_ARTICLES.sub(" ", answer.lower().translate(_PUNCTUATION)).split())


def _overlap(prediction: str, reference: str, both_empty: float) -> float:
    """Compute F1 over bags of normalised words; if only one side has any it is 0."""
    predicted, expected = prediction.split(), reference.split()
    if not predicted or not expected:
        return both_empty * float(predicted == expected)
    same = sum((Counter(predicted) & Counter(expected)).values())
    return 2 * same / (len(predicted) + len(expected))


@dataclass(frozen=True)
class Accuracy(Metric):
    """The percentage of outputs that equal a reference, ignoring surrounding whitespace or, with strip=False, not."""

    strip: bool = True

    @property
    def names(self) -> tuple[str, ...]:
        return ("sequence_accuracy",)

    def score_example(self, prediction: str, references: Sequence[str]) -> Mapping[str, float]:
        if self.strip:
            prediction, references = prediction.strip(), [one.strip() for one in references]
        return {"sequence_accuracy": 100.0 * (prediction in references)}

    def signature(self, references: References) -> str:
        return f"{reference_count(references)}|equal to a reference{' after strip' if self.strip else ''}"
