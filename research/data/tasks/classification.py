"""Classification as text to text, in T5's form (arXiv:1910.10683, section 2.4 and appendix D).

mnli hypothesis: The St. Louis Cardinals have always won. premise: yeah well losing is i mean ...
contradiction
"""

from dataclasses import dataclass
from typing import ClassVar

from research.config import ConfigError, Metric, Task
from research.config.examples import Names, TextRecord
from research.config.task import Choices, MadeExample

# The class of an example whose label is not published, and the text that T5 gives it.
UNLABELLED, UNKNOWN = "-1", "<unk>"
LABEL = "label"


@dataclass(frozen=True, kw_only=True)
class Classification(Task):
    """The base of tasks with labels. Each feature of a record is written as "name: text", after the task's word.

    A label may be given as its text or as its number. Subclass it with the class attributes, for example:

        @dataclass(frozen=True, kw_only=True)
        class Polarity(Classification):
            word: ClassVar[str] = "polarity"
            features: ClassVar[tuple[str, ...]] = ("review",)
            labels: ClassVar[tuple[str, ...]] = ("negative", "positive")
            metrics: tuple[Metric, ...] = (LabelAccuracy(("negative", "positive")),)
    """

    word: ClassVar[str]
    features: ClassVar[tuple[str, ...]]
    labels: ClassVar[tuple[str, ...]]
    metrics: tuple[Metric, ...] = ()

    @property
    def names(self) -> Names:
        return Names(self.features, (LABEL,))

    def example(self, record: TextRecord) -> MadeExample:
        parts = [part for feature in self.features for part in (f"{feature}:", record[feature][0])]
        return " ".join([self.word, *parts]), self.label(record[LABEL][0])

    def label(self, given: str) -> str:
        """Return the text of a label. Raises ConfigError for one that the task does not have."""
        return label_text(given, self.labels, type(self).__name__)

    def choices(self, record: TextRecord) -> Choices | None:
        label = self.label(record[LABEL][0])
        right = (self.labels.index(label),) if label in self.labels else ()
        return Choices(self.labels, right) if self.labels else None

    @property
    def identity(self) -> tuple[str, ...] | None:
        return (type(self).__name__, self.word, *self.features, *self.labels)


def label_number(given: str, labels: tuple[str, ...], task: str) -> str:
    """Return the number of a label as text, or -1 where none is published. Raises ConfigError as `label_text` does."""
    label = label_text(given, labels, task)
    return UNLABELLED if label == UNKNOWN else str(labels.index(label))


def label_text(given: str, labels: tuple[str, ...], task: str) -> str:
    """Return the text of a label, given as text or number. Raises ConfigError for one that the task does not have."""
    if given in (UNLABELLED, UNKNOWN):
        return UNKNOWN
    if given in labels:
        return given
    number = next((number for number in range(len(labels)) if given == str(number)), None)
    if number is None:
        listed = ", ".join(map(repr, labels))
        raise ConfigError(
            f"{task} has no label {given!r}: its labels are {listed}, or their numbers from 0, or -1 where none is"
            " published."
        )
    return labels[number]
