"""Supervised tasks: where examples come from, and how they become a source and a target."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from research.config.metric import BLEU, ROUGE, Accuracy, ChrF, Metric, SQuAD


@dataclass(frozen=True)
class TFDSExamples:
    """A TensorFlow Datasets builder by name; multi30k, dialogsum, xquad and python_docs/summaries are shipped here."""

    name: str
    train: str = "train"
    held_out: str = "validation"
    test: str = "test"


@dataclass(frozen=True)
class JSONExamples:
    """JSON objects, one a line; .gz is read too. A list of strings as a value holds several references."""

    train: str
    held_out: str | None = None
    test: str | None = None


@dataclass(frozen=True)
class TSVExamples:
    """Lines of columns parted by tabs; .gz is read too."""

    train: str
    held_out: str | None = None
    test: str | None = None
    columns: tuple[str, ...] = ("source", "target")


@dataclass(frozen=True)
class ParallelText:
    """One file a column, the same line of each being one example: "train.{column}.gz" with columns ("en", "de")."""

    columns: tuple[str, ...]
    train: str
    held_out: str | None = None
    test: str | None = None


@dataclass(frozen=True)
class SQuADFile:
    """JSON as SQuAD publishes it: articles of paragraphs of questions with their answers."""

    train: str
    held_out: str | None = None
    test: str | None = None


Examples = TFDSExamples | JSONExamples | TSVExamples | ParallelText | SQuADFile


@dataclass(frozen=True, kw_only=True)
class TextToText:
    """Any task; `source` and `target` name what an example has. The prefix comes before each source, as in T5."""

    examples: Examples
    source: str = "source"
    target: str = "target"
    prefix: str = ""
    languages: tuple[str | None, str | None] = (None, None)  # codes of the tokenizer, of source and target
    metrics: tuple[Metric, ...] = (Accuracy(),)


@dataclass(frozen=True, kw_only=True)
class Translation(TextToText):
    source: str = "en"
    target: str = "de"
    text: Literal["raw", "lower_tokenized"] = "raw"  # the latter as Multi30k's published scores have it (Moses)
    metrics: tuple[Metric, ...] = (BLEU(), ChrF())


@dataclass(frozen=True, kw_only=True)
class Summarization(TextToText):
    source: str = "document"
    target: str = "summary"
    metrics: tuple[Metric, ...] = (ROUGE(),)


@dataclass(frozen=True, kw_only=True)
class QuestionAnswering(TextToText):
    """SQuAD's: the first answer is the target, all of them are references."""

    source: str = "question: {question} context: {context}"
    target: str = "answers"
    metrics: tuple[Metric, ...] = (SQuAD(),)


Task = Translation | Summarization | QuestionAnswering | TextToText


def task_labels(tasks: tuple[Task, ...]) -> tuple[str, ...]:
    """A short name for each of several tasks, by what its examples are: "multi30k/", numbered where it returns."""
    plain = [_label(task.examples) for task in tasks]
    before = [plain[:place].count(name) for place, name in enumerate(plain)]
    return tuple(f"{name}{count + 1 if count else ''}/" for name, count in zip(plain, before, strict=True))


def _label(examples: Examples) -> str:
    return examples.name if isinstance(examples, TFDSExamples) else Path(examples.train).name.split(".")[0]
