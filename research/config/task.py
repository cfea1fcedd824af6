"""The base of supervised tasks: how a record becomes a source and its targets."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from research.config.examples import Examples, Names, TextRecord
from research.config.metric import Metric
from research.config.parts import Part

Languages = tuple[str | None, str | None]  # codes of the source and the target, as en_XX; None without

NO_LANGUAGES: Languages = (None, None)
NO_METRICS: tuple[Metric, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Task(Part):
    """Examples, how a record of them becomes text, and the metrics that outputs are scored by.

    Subclass it in a frozen dataclass with `names` and `example`. The same record must always give the same texts, which
    are made, checked and tokenised before training; the tokens are kept on disk. A changed `example` makes new ones.

    A subclass declares `metrics` as a field with a default of its own, and `languages` where its tokenizer has them.

    This one asks for the words of a sentence backwards, with one instruction of two:

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

    It is used by name: `Supervised(tasks=(Reversal(examples=JSONExamples("train.jsonl"), column="text"),))`.
    """

    examples: Examples
    languages = NO_LANGUAGES
    metrics = NO_METRICS

    @property
    @abstractmethod
    def names(self) -> Names:
        """The names that are read of each record, for the source and for the targets. Each must have some text."""

    @abstractmethod
    def example(self, record: TextRecord) -> tuple[str, str | Sequence[str]]:
        """The source and its targets, none of which may be empty.

        `record[name]` has the texts under a name, one or more. Of several targets the first is learned; all of them are
        references of the metrics.
        """

    @property
    def identity(self) -> tuple[str, ...] | None:
        """Texts that decide, with a record, what `example` gives; None where only its results tell.

        Without it all examples are made whenever a run starts, to see whether they are those of the tokens on disk. A
        class whose `example` is another one than its base's needs an identity of its own.
        """
        return None
