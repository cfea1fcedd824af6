"""The base of supervised tasks, which turn records into sources and targets."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from research.config.base import require
from research.config.examples import Examples, Names, Split, TextRecord
from research.config.metric import Metric
from research.config.parts import Part

Languages = tuple[str | None, str | None]  # codes of source and target, such as en_XX; None: no language

# A source, one or more targets and, for metrics that need more than these, texts by name.
MadeExample = tuple[str, str | Sequence[str]] | tuple[str, str | Sequence[str], Mapping[str, str]]


class Choices(NamedTuple):
    """The texts among which the answer to an example is ranked, and the numbers of the right ones, from 0.

    Without a right one the answer is not known. The weight is that of the example in the numbers of ranking.
    """

    texts: tuple[str, ...]
    right: tuple[int, ...]
    weight: float = 1.0


NO_LANGUAGES: Languages = (None, None)
NO_METRICS: tuple[Metric, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Task(Part):
    """A supervised task: examples, their conversion to text, and metrics.

    Subclass it in a frozen dataclass with `names` and `example`. `example` must be deterministic: all texts are made,
    checked and tokenised before training, and the tokens are cached on disk. If `example` changes, they are made anew.

    A subclass declares `metrics` as a field with its own default, and `languages` if its tokenizer has languages.

    For example, a task to reverse the words of a sentence, with one of two instructions:

        @dataclass(frozen=True, kw_only=True)
        class Reversal(Task):
            column: str = "sentence"
            metrics: tuple[Metric, ...] = (Accuracy(), ChrF())

            @property
            def names(self) -> Names:
                return Names(source=(self.column,), target=(self.column,))

            def example(self, record: TextRecord) -> tuple[str, str]:
                words = record[self.column][0].split()
                instruction = "reverse" if len(words) > 1 else "repeat"
                return f"{instruction}: {' '.join(words)}", " ".join(reversed(words))

    Use it with `Supervised(tasks=(Reversal(examples=JSONExamples("train.jsonl"), column="text"),))`.
    """

    examples: Examples
    languages = NO_LANGUAGES
    metrics = NO_METRICS

    @property
    @abstractmethod
    def names(self) -> Names:
        """The names that are read from each record, for the source and for the targets. Each must have a text."""

    @abstractmethod
    def example(self, record: TextRecord) -> MadeExample:
        """Convert a record to its source and its targets, none of which may be empty.

        `record[name]` is the tuple of the texts of a name, one or more. The first target is used for training; all
        targets are references for the metrics. A dictionary of texts may follow, for metrics that need more than the
        references, such as the number of the question that several answers belong to.
        """

    def training_examples(self, record: TextRecord) -> Sequence[MadeExample]:
        """Convert a record of the training split to examples, any number of them. By default its `example`."""
        return (self.example(record),)

    def choices(self, record: TextRecord) -> Choices | None:
        """Return the texts among which the answer to a record can be ranked. By default None: it can only be written.

        `kintsugi evaluate --answers=ranked` takes the text to which the model gives the highest likelihood.
        """
        return None

    @property
    def prefixes(self) -> tuple[tuple[str, str], ...]:
        """The task's prefix with the name that T5's config.json has for such tasks, if it has both."""
        return ()

    def with_prefixes(self, prefixes: Mapping[str, str]) -> "Task":
        """Return the task with a model's prefix for it, which counts if it has none of its own."""
        return self

    @property
    def identity(self) -> tuple[str, ...] | None:
        """Texts that determine, with a record, the result of `example`; None if only the results themselves do.

        If None, all examples are made at the start of every run, to check that the cached tokens are still valid. A
        class that overrides the `example` of its base must override this property too.
        """
        return None


def tasks_in(tasks: Sequence[Task], split: Split) -> tuple[Task, ...]:
    """Return the tasks that have a split. Raises ConfigError if none has."""
    found = tuple(task for task in tasks if split in task.examples.splits)
    require(len(found) > 0, f"None of data.tasks has examples in the split {split}: add a task that has.")
    return found
