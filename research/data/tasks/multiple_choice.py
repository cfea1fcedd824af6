"""Multiple choice: a question with texts of which one or more are right, as t5 0.9.4's `rank_classification` has it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from research.config import ConfigError, Examples, Metric, Task, require
from research.config.examples import Names, TextRecord
from research.config.task import Choices, MadeExample
from research.data.tasks.classification import UNKNOWN, UNLABELLED
from research.data.tasks.text_to_text import fill, names_in
from research.score.answers import Accuracy


@dataclass(frozen=True, kw_only=True)
class MultipleChoice(Task):
    """Questions with given answers, for example

        MultipleChoice(examples=JSONExamples("a.jsonl"), source="{question}", target=("choices",))
        MultipleChoice(examples=JSONExamples("b.jsonl"), source="{premise} So?", target=("{choice1}.", "{choice2}."))

    `source` and each of `target` is a name in the examples or a template with {names}; a name gives all texts of a
    list. `label` names the number of the right answer, from 0, or a list of such numbers, or -1 where none is
    published; each right answer is an example of training. `weight` names that of the example in the scores of ranking.
    """

    examples: Examples
    source: str = "question"
    target: tuple[str, ...] = ("choices",)
    label: str = "label"
    weight: str | None = None
    prefix: str = ""
    metrics: tuple[Metric, ...] = (Accuracy(strip=False),)

    def __post_init__(self) -> None:
        filled = len(self.target) > 0 and all(map(names_in, (self.source, *self.target)))
        sides = f"{self.source!r} and {self.target!r}"
        require(filled, f"The source and the target of MultipleChoice are {sides}: each must contain a name.")

    @property
    def names(self) -> Names:
        numbers = (self.label, *((self.weight,) if self.weight is not None else ()))
        texts = [name for one in self.target for name in names_in(one)]
        return Names(names_in(self.source), tuple(dict.fromkeys((*texts, *numbers))))

    def example(self, record: TextRecord) -> MadeExample:
        texts, right, _ = self.choices(record)
        return self.prefix + fill(self.source, record)[0], tuple(texts[number] for number in right) or UNKNOWN

    def training_examples(self, record: TextRecord) -> Sequence[MadeExample]:
        texts, right, _ = self.choices(record)
        return [(self.example(record)[0], texts[number]) for number in right]

    def choices(self, record: TextRecord) -> Choices:
        texts = tuple(text for one in self.target for text in fill(one, record))
        labels = [label for label in record[self.label] if label != UNLABELLED]
        right = sorted({_number_of(label, len(texts)) for label in labels})
        return Choices(texts, tuple(right), 1.0 if self.weight is None else _weight_of(record[self.weight][0]))

    @property
    def identity(self) -> tuple[str, ...] | None:
        return (type(self).__name__, self.source, *self.target, self.label, self.prefix)


def _number_of(label: str, count: int) -> int:
    if not (label.isdecimal() and int(label) < count):
        allowed = f"it must be the number of a choice, 0 to {count - 1}, or -1 where none is published"
        raise ConfigError(f"MultipleChoice has the label {label!r}: {allowed}.")
    return int(label)


def _weight_of(text: str) -> float:
    try:
        weight = float(text)
    except ValueError:
        weight = math.nan
    require(0 <= weight < math.inf, f"MultipleChoice has the weight {text!r}: it must be a number of at least 0.")
    return weight
