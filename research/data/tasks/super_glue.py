"""SuperGLUE (arXiv:1905.00537) as text, to the letter as in T5 0.9.4; see glue.py."""

import re
import string
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from research.config import ConfigError, Examples, Metric, Task, require
from research.config.examples import Names, TextRecord
from research.config.task import Choices, MadeExample
from research.data.tasks.classification import LABEL, UNKNOWN, Classification, label_number
from research.data.tasks.data_set import TFDSExamples
from research.data.tasks.glue import TWO_WAY
from research.score.answers import Accuracy, SQuAD
from research.score.labels import BinaryF1, GroupMatch, LabelAccuracy, MacroF1
from research.score.referents import ReferentAccuracy

BOOLEAN = ("False", "True")
COMMITMENT = ("entailment", "contradiction", "neutral")
CHOICES = ("choice1", "choice2")


@dataclass(frozen=True, kw_only=True)
class BoolQ(Classification):
    """Questions whose answer is yes or no."""

    word: ClassVar[str] = "boolq"
    features: ClassVar[tuple[str, ...]] = ("passage", "question")
    labels: ClassVar[tuple[str, ...]] = BOOLEAN
    examples: Examples = TFDSExamples("super_glue/boolq")
    metrics: tuple[Metric, ...] = (LabelAccuracy(BOOLEAN),)


@dataclass(frozen=True, kw_only=True)
class CB(Classification):
    """CommitmentBank: entailment of embedded clauses."""

    word: ClassVar[str] = "cb"
    features: ClassVar[tuple[str, ...]] = ("hypothesis", "premise")
    labels: ClassVar[tuple[str, ...]] = COMMITMENT
    examples: Examples = TFDSExamples("super_glue/cb")
    metrics: tuple[Metric, ...] = (MacroF1(COMMITMENT), LabelAccuracy(COMMITMENT))


@dataclass(frozen=True, kw_only=True)
class COPA(Classification):
    """The more plausible of two causes or effects; the question is "cause" or "effect"."""

    word: ClassVar[str] = "copa"
    features: ClassVar[tuple[str, ...]] = ("choice1", "choice2", "premise", "question")
    labels: ClassVar[tuple[str, ...]] = CHOICES
    examples: Examples = TFDSExamples("super_glue/copa")
    metrics: tuple[Metric, ...] = (LabelAccuracy(CHOICES),)


@dataclass(frozen=True, kw_only=True)
class SuperGLUERTE(Classification):
    """Textual entailment, with the names of SuperGLUE's columns."""

    word: ClassVar[str] = "rte"
    features: ClassVar[tuple[str, ...]] = ("hypothesis", "premise")
    labels: ClassVar[tuple[str, ...]] = TWO_WAY
    examples: Examples = TFDSExamples("super_glue/rte")
    metrics: tuple[Metric, ...] = (LabelAccuracy(TWO_WAY),)


@dataclass(frozen=True, kw_only=True)
class AXb(SuperGLUERTE):
    """Broad diagnostics of entailment in the form of RTE: a test set only, with the names of its own columns."""

    examples: Examples = TFDSExamples("super_glue/axb")

    @property
    def names(self) -> Names:
        return Names(("sentence2", "sentence1"), (LABEL,))

    def example(self, record: TextRecord) -> MadeExample:
        return super().example({"hypothesis": record["sentence2"], "premise": record["sentence1"], **record})

    @property
    def identity(self) -> tuple[str, ...] | None:
        return super().identity


@dataclass(frozen=True, kw_only=True)
class WiC(Classification):
    """One word in two sentences: the same sense or not. Its places in the sentences are not told, as in T5."""

    word: ClassVar[str] = "wic"
    features: ClassVar[tuple[str, ...]] = ("sentence1", "sentence2", "word")
    labels: ClassVar[tuple[str, ...]] = BOOLEAN
    examples: Examples = TFDSExamples("super_glue/wic")
    metrics: tuple[Metric, ...] = (LabelAccuracy(BOOLEAN),)


@dataclass(frozen=True, kw_only=True)
class MultiRC(Classification):
    """Answers to questions on a paragraph, each true or false. The exact match is of all answers to a question."""

    word: ClassVar[str] = "multirc"
    features: ClassVar[tuple[str, ...]] = ("question", "answer", "paragraph")
    labels: ClassVar[tuple[str, ...]] = BOOLEAN
    examples: Examples = TFDSExamples("super_glue/multirc")
    metrics: tuple[Metric, ...] = (BinaryF1(BOOLEAN), GroupMatch(BOOLEAN))

    @property
    def names(self) -> Names:
        return Names(self.features, (LABEL, "idx/question"))

    def example(self, record: TextRecord) -> MadeExample:
        source, target = super().example(record)[:2]
        source = re.sub("</?b>", "", source.replace("<br>", " "))
        return source, target, {"group": record["idx/question"][0]}


@dataclass(frozen=True, kw_only=True)
class ReCoRD(Task):
    """The entity that fits a query on a passage of news. Each of several answers is an example of training."""

    examples: Examples = TFDSExamples("super_glue/record")
    metrics: tuple[Metric, ...] = (SQuAD("1.1"),)

    @property
    def names(self) -> Names:
        return Names(("query", "entities", "passage"), ("answers",))

    def example(self, record: TextRecord) -> tuple[str, tuple[str, ...]]:
        query, entities = record["query"][0], ", ".join(record["entities"])
        # A highlight is a line of its own below a marker; it becomes a sentence of the passage.
        passage = re.sub("([.?!\"'])\n@highlight\n", r"\1 ", record["passage"][0]).replace("\n@highlight\n", ". ")
        return f"record query: {query} entities: {entities} passage: {passage}", record["answers"] or (UNKNOWN,)

    def training_examples(self, record: TextRecord) -> Sequence[MadeExample]:
        source, answers = self.example(record)
        return [(source, answer) for answer in answers]

    def choices(self, record: TextRecord) -> Choices:
        entities = tuple(dict.fromkeys(record["entities"]))
        return Choices(entities, tuple(number for number, one in enumerate(entities) if one in record["answers"]))

    @property
    def identity(self) -> tuple[str, ...] | None:
        return (type(self).__name__,)


# --- Pronouns ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class WSC(Task):
    """Winograd schemas: the pronoun is marked by asterisks, and the target is a noun that may be its referent.

    Only true referents are examples of training; T5 adds those of `PronounResolution` to them.
    """

    examples: Examples = TFDSExamples("super_glue/wsc.fixed")
    metrics: tuple[Metric, ...] = (ReferentAccuracy(),)

    @property
    def names(self) -> Names:
        return Names(("text", "span2_text", "span2_index"), ("span1_text", LABEL))

    def example(self, record: TextRecord) -> tuple[str, str, dict[str, str]]:
        text, pronoun, place = (record[name][0] for name in self.names.source)
        more = {"label": label_number(record[LABEL][0], BOOLEAN, type(self).__name__)}
        return f"wsc: {marked_pronoun(text, pronoun, place)}", record["span1_text"][0], more

    def training_examples(self, record: TextRecord) -> Sequence[MadeExample]:
        made = self.example(record)
        return [made] if made[2]["label"] != "0" else []  # T5 keeps a record without a label

    @property
    def identity(self) -> tuple[str, ...] | None:
        return (type(self).__name__,)


def marked_pronoun(text: str, pronoun: str, place: str) -> str:
    """Mark by asterisks the pronoun that is the word number `place`, from 0, of a text of words between spaces.

    Two records of WSC have a wrong place or no space after the pronoun: the nearest such word is taken, and the marks
    that follow it become a word of their own.
    """
    words = text.split(" ")
    require(place.isdecimal() and 0 < int(place) < len(words), f"WSC has no word {place} in {text!r}.")
    number = int(place)
    if words[number] != pronoun:
        alike = [other for other, word in enumerate(words) if word.rstrip(string.punctuation) == pronoun]
        require(len(alike) > 0, f"WSC has no word {pronoun!r} in {text!r}.")
        number = min(alike, key=lambda other: abs(other - number))
        if rest := words[number].removeprefix(pronoun):
            words[number + 1 : number + 1] = [rest]
        text = " ".join([*words[:number], "X", *words[number + 1 :]]).rstrip()
    else:
        text = " ".join((" ".join(words[:number]), "X", " ".join(words[number + 1 :])))
    return text.replace(" X ", f" *{pronoun}* ")  # of every such word, as in T5


@dataclass(frozen=True, kw_only=True)
class PronounResolution(Task):
    """Definite pronoun resolution (Rahman and Ng, 2012) in the form of `WSC`: its first pronoun is marked."""

    examples: Examples = TFDSExamples("definite_pronoun_resolution", held_out="test")
    metrics: tuple[Metric, ...] = (Accuracy(strip=False),)

    @property
    def names(self) -> Names:
        return Names(("sentence", "pronoun"), ("candidates", LABEL))

    def example(self, record: TextRecord) -> tuple[str, str]:
        sentence, pronoun = record["sentence"][0], record["pronoun"][0]
        marked = re.sub(rf" ({re.escape(pronoun)})([ .,])", r" *\1*\2", sentence, count=1)
        candidates, (right,), _ = self.choices(record)
        return f"wsc: {marked}", candidates[right]

    def choices(self, record: TextRecord) -> Choices:
        label, candidates = record[LABEL][0].removeprefix("candidate_"), record["candidates"]
        if not (label.isdecimal() and int(label) < len(candidates)):
            listed = " or ".join(map(str, range(len(candidates))))
            raise ConfigError(f"PronounResolution has the label {label!r}: it must be {listed}, or candidate_0 ...")
        return Choices(candidates, (int(label),))

    @property
    def identity(self) -> tuple[str, ...] | None:
        return (type(self).__name__,)
