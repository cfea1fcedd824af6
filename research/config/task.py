"""Supervised tasks: where examples come from, and how they become a source and a target."""

import string
from dataclasses import dataclass
from typing import Literal

from research.config.base import ConfigError, require
from research.config.metric import BLEU, ROUGE, Accuracy, ChrF, Metric, SQuAD


@dataclass(frozen=True)
class TFDSExamples:
    """A TensorFlow Datasets builder by name, and its splits, which may be slices ("train[:95%]").

    multi30k, dialogsum, xquad/en (de, ro, ...) and python_docs/summaries are shipped here. The text features are an
    example's names, nested ones with a slash: "answers/text".
    """

    name: str
    train: str = "train"
    held_out: str = "validation"
    test: str = "test"


@dataclass(frozen=True)
class FileExamples:
    """Examples in files, given as paths or glob patterns; .gz is read too.

    With `held_out=None`, examples are held out by a hash of their source, about one in a hundred.
    """

    train: str
    held_out: str | None = None
    test: str | None = None


@dataclass(frozen=True)
class JSONExamples(FileExamples):
    """JSON objects, one a line. A list of strings as a value holds several references; "a/b" is the key b within a."""


@dataclass(frozen=True)
class TSVExamples(FileExamples):
    """Lines of columns parted by tabs, without quotes or a header."""

    columns: tuple[str, ...] = ("source", "target")


@dataclass(frozen=True)
class ParallelText(FileExamples):
    """One file a name, the same line of each being one example: "train.{name}.gz"; names are what the task reads."""

    def __post_init__(self) -> None:
        for split in (self.train, self.held_out, self.test):
            require(
                split is None or "{name}" in split,
                f'The files of ParallelText are {split}: it must hold "{{name}}" where they differ, as by language.',
            )


@dataclass(frozen=True)
class SQuADFile(FileExamples):
    """JSON as SQuAD 1.1 publishes it: question, context, answers/text, title and id. Held out are whole contexts."""


Examples = TFDSExamples | JSONExamples | TSVExamples | ParallelText | SQuADFile


@dataclass(frozen=True, kw_only=True)
class TextToText:
    """Any task. `source` and `target` are a name that its examples have, or a text with {names} in it.

    A list under the name of the target holds several references, the first of which is learned. The prefix comes before
    each source, as in T5.
    """

    examples: Examples
    source: str = "source"
    target: str = "target"
    prefix: str = ""
    languages: tuple[str | None, str | None] = (None, None)  # codes of both sides, as en_XX; None without
    metrics: tuple[Metric, ...] = (Accuracy(),)

    def __post_init__(self) -> None:
        for side, text in (("source", self.source), ("target", self.target)):
            require(len(names_in(text)) > 0, f"The {side} of a task is {text!r}: it must name what an example has.")


@dataclass(frozen=True, kw_only=True)
class Translation(TextToText):
    """Text "lower_tokenized" is lower-cased and tokenised as Multi30k's published scores are: by Moses' scripts."""

    source: str = "en"
    target: str = "de"
    text: Literal["raw", "lower_tokenized"] = "raw"
    metrics: tuple[Metric, ...] = (BLEU(), ChrF())


@dataclass(frozen=True, kw_only=True)
class Summarization(TextToText):
    source: str = "document"
    target: str = "summary"
    metrics: tuple[Metric, ...] = (ROUGE(),)


@dataclass(frozen=True, kw_only=True)
class QuestionAnswering(TextToText):
    """SQuAD's: the first answer is learned, all of them are references. The source is T5's.

    BART reads "{question} {context}": text never becomes a control token, so no separator can be written.
    """

    source: str = "question: {question} context: {context}"
    target: str = "answers/text"
    metrics: tuple[Metric, ...] = (SQuAD(),)


Task = Translation | Summarization | QuestionAnswering | TextToText


def names_in(text: str) -> tuple[str, ...]:
    """The {names} of a template, each once; of a text without braces, itself. Raises ConfigError for broken braces."""
    if "{" not in text and "}" not in text:
        return (text,) if text else ()
    try:
        parts = list(string.Formatter().parse(text))
    except ValueError as error:
        raise ConfigError(f"{text!r} is not a template ({error}): write {{name}}, and {{{{ for a brace.") from None
    for _, name, form, conversion in parts:
        plain = name != "" and not form and conversion is None
        require(plain, f"{text!r} is not a template: only names may stand in braces, as {{question}}.")
    return tuple(dict.fromkeys(name for _, name, _, _ in parts if name is not None))
