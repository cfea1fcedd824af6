"""mT5's multilingual tasks (arXiv:2010.11934, section 4.1), to the letter as in its code, and their settings.

A setting is the tuple of its tasks: those of training, and for each language one that is evaluated only. Their metrics
are named by the language, such as "xnli/de/sequence_accuracy". mT5 trains on all tasks of a setting at equal rates:

    tasks = xnli("translate_train")
    data = Supervised(tasks=tasks, mixing=equal_rates(tasks))
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from research.config import Examples, Metric, Mixing, Task, require, tasks_in
from research.config.examples import Names, Split, TextRecord
from research.data.tasks.classification import LABEL, Classification, label_number
from research.data.tasks.data_set import TFDSExamples
from research.data.tasks.examples import SQuADFile
from research.data.tasks.glue import THREE_WAY
from research.data.tasks.only_splits import OnlySplits
from research.data.tasks.text_to_text import QuestionAnswering
from research.score.answers import MLQA, Accuracy, SQuAD
from research.score.entities import BETWEEN, SpanF1
from research.score.labels import LabelAccuracy

SQUAD = SQuAD("1.1")
MEANING = ("different_meaning", "paraphrase")
XNLI_LANGUAGES = ("ar", "bg", "de", "el", "en", "es", "fr", "hi", "ru", "sw", "th", "tr", "ur", "vi", "zh")
PAWSX_LANGUAGES = ("de", "en", "es", "fr", "ja", "ko", "zh")
TYDIQA_LANGUAGES = ("ar", "bn", "en", "fi", "id", "ko", "ru", "sw", "te")
XQUAD_LANGUAGES = ("ar", "de", "el", "es", "hi", "ru", "th", "tr", "vi", "zh", "en")
MLQALanguage = Literal["ar", "de", "en", "es", "hi", "vi", "zh"]
MLQA_LANGUAGES: tuple[MLQALanguage, ...] = ("ar", "de", "en", "es", "hi", "vi", "zh")
WIKIANN_LANGUAGES = (
    *("af", "ar", "bg", "bn", "de", "el", "en", "es", "et", "eu", "fa", "fi", "fr", "he", "hi", "hu", "id", "it", "ja"),
    *("jv", "ka", "kk", "ko", "ml", "mr", "ms", "my", "nl", "pt", "ru", "sw", "ta", "te", "th", "tl", "tr", "ur", "vi"),
    *("yo", "zh"),
)
TRAINED: tuple[Split, ...] = ("train",)
EVALUATED: tuple[Split, ...] = ("held_out", "test")
TESTED: tuple[Split, ...] = ("test",)

TRANSLATED = "https://storage.googleapis.com/xtreme_translations/SQuAD/translate-{0}/squad.translate.{0}.en-{1}.json"

ZeroShot = Literal["zero_shot", "translate_train"]


@dataclass(frozen=True, kw_only=True)
class XNLI(Task):
    """Entailment; the target is the number of the label: entailment, neutral, contradiction.

    A record has a premise and a hypothesis, as in MultiNLI or, with a language, those of all languages as XNLI's:
    "premise/de", "hypothesis/language" and "hypothesis/translation".
    """

    language: str | None = None
    examples: Examples = TFDSExamples("multi_nli", held_out="validation_matched", test="validation_mismatched")
    metrics: tuple[Metric, ...] = (Accuracy(strip=False),)

    @property
    def names(self) -> Names:
        if self.language is None:
            return Names(("premise", "hypothesis"), (LABEL,))
        return Names((f"premise/{self.language}", "hypothesis/language", "hypothesis/translation"), (LABEL,))

    def example(self, record: TextRecord) -> tuple[str, str]:
        number = label_number(record[LABEL][0], THREE_WAY, type(self).__name__)
        premise, hypothesis = record[self.names.source[0]][0], self._hypothesis(record)
        return f"xnli: premise: {premise} hypothesis: {hypothesis}", number

    def _hypothesis(self, record: TextRecord) -> str:
        if self.language is None:
            return record["hypothesis"][0]
        languages = record["hypothesis/language"]
        require(self.language in languages, f"XNLI has a record in {', '.join(languages)}, without {self.language!r}.")
        return record["hypothesis/translation"][languages.index(self.language)]

    @property
    def identity(self) -> tuple[str, ...] | None:
        return (type(self).__name__, self.language or "")


@dataclass(frozen=True, kw_only=True)
class PAWSX(Classification):
    """Paraphrases with similar words."""

    word: ClassVar[str] = "paws"
    features: ClassVar[tuple[str, ...]] = ("sentence1", "sentence2")
    labels: ClassVar[tuple[str, ...]] = MEANING
    examples: Examples = TFDSExamples("paws_x_wiki/en")
    metrics: tuple[Metric, ...] = (LabelAccuracy(MEANING),)


@dataclass(frozen=True, kw_only=True)
class EnglishTyDiQA(QuestionAnswering):
    """The English questions of TyDi QA's training data, whose id begins with "english"."""

    examples: Examples = OnlySplits(TFDSExamples("tydi_qa/goldp"), TRAINED)
    text: Literal["raw", "spaced", "spaced_unicode"] = "spaced_unicode"
    metrics: tuple[Metric, ...] = (SQUAD,)

    @property
    def names(self) -> Names:
        return Names(super().names.source, (*super().names.target, "id"))

    def training_examples(self, record: TextRecord) -> list[tuple[str, tuple[str, ...]]]:
        return [self.example(record)] if record["id"][0].partition("-")[0] == "english" else []

    @property
    def identity(self) -> tuple[str, ...] | None:
        return (type(self).__name__, *(super().identity or ()))


@dataclass(frozen=True, kw_only=True)
class WikiAnn(Task):
    """Named entities; the target lists them in their order, as in "PER: rick $$ PER: morty"."""

    examples: Examples = TFDSExamples("wikiann/en")
    metrics: tuple[Metric, ...] = (SpanF1(),)

    @property
    def names(self) -> Names:
        return Names(("tokens",), ("spans",))

    def example(self, record: TextRecord) -> tuple[str, str]:
        return f"tag: {' '.join(record['tokens'])}", BETWEEN.join(record["spans"])

    @property
    def identity(self) -> tuple[str, ...] | None:
        return (type(self).__name__,)


# --- Settings ---------------------------------------------------------------------------------------------------------


def equal_rates(tasks: Sequence[Task]) -> Mixing:
    """Return the mixing of all tasks that are trained on at one rate, as mT5's fine-tuning has it."""
    return Mixing(rates=(1.0,) * len(tasks_in(tasks, "train")))


def xnli(setting: ZeroShot = "zero_shot") -> tuple[Task, ...]:
    """Train on MultiNLI, with "translate_train" also on its translations (XTREME's); evaluate on XNLI."""
    trained: tuple[Task, ...] = (XNLI(examples=OnlySplits(TFDSExamples("multi_nli"), TRAINED)),)
    if setting == "translate_train":
        translated = OnlySplits(TFDSExamples("xtreme_xnli"), TRAINED)
        trained += tuple(XNLI(language=each, examples=translated) for each in XNLI_LANGUAGES if each != "en")
    return trained + tuple(
        XNLI(language=each, examples=OnlySplits(TFDSExamples("xnli"), EVALUATED, f"xnli/{each}"))
        for each in XNLI_LANGUAGES
    )


def pawsx(setting: ZeroShot = "zero_shot") -> tuple[Task, ...]:
    """Train on the English PAWS, with "translate_train" also on its translations (XTREME's); evaluate on PAWS-X."""
    names = ["paws_x_wiki/en"]
    if setting == "translate_train":
        names += [f"xtreme_pawsx/{each}" for each in PAWSX_LANGUAGES if each != "en"]
    return (
        *(PAWSX(examples=OnlySplits(TFDSExamples(name), TRAINED)) for name in names),
        *(
            PAWSX(examples=OnlySplits(TFDSExamples(f"paws_x_wiki/{each}"), EVALUATED, f"pawsx/{each}"))
            for each in PAWSX_LANGUAGES
        ),
    )


def wikiann(setting: Literal["zero_shot", "in_language"] = "zero_shot") -> tuple[Task, ...]:
    """Train on WikiAnn's English sentences, or on those of all languages; evaluate on each language."""

    def part(language: str, splits: tuple[Split, ...], label: str) -> Task:
        return WikiAnn(examples=OnlySplits(TFDSExamples(f"wikiann/{language}"), splits, f"{label}/{language}"))

    trained = ("en",) if setting == "zero_shot" else WIKIANN_LANGUAGES
    return (
        *(part(each, TRAINED, "trained") for each in trained),
        *(part(each, EVALUATED, "wikiann") for each in WIKIANN_LANGUAGES),
    )


def questions(
    name: str,
    splits: tuple[Split, ...],
    label: str = "",
    metric: Metric = SQUAD,
    *,
    train: str = "train",
    held_out: str = "validation",
    test: str = "test",
) -> QuestionAnswering:
    """Return mT5's task of questions in some splits of a TFDS data set, which may be parts of it."""
    examples = OnlySplits(TFDSExamples(name, train, held_out, test), splits, label)
    return QuestionAnswering(examples=examples, text="spaced_unicode", metrics=(metric,))


def tydi_qa(setting: Literal["zero_shot", "translate_train", "in_language"] = "zero_shot") -> tuple[Task, ...]:
    """Train on TyDi QA's gold passages: the English ones, these and translations, or all; evaluate on each language."""
    data = "tydi_qa/goldp"
    if setting == "in_language":
        trained: tuple[Task, ...] = (questions(data, TRAINED),)
    else:
        trained = (EnglishTyDiQA(),)
    if setting == "translate_train":
        others = [each for each in TYDIQA_LANGUAGES if each != "en"]
        trained += tuple(questions(data, TRAINED, train=f"translate-train-{each}") for each in others)
    return trained + tuple(tydi_qa_validation(each, ("held_out",)) for each in TYDIQA_LANGUAGES)


def tydi_qa_validation(language: str, splits: tuple[Split, ...]) -> QuestionAnswering:
    """Return the validation data in a language, as each of some splits: there is no public test."""
    validation = f"validation-{language}"
    return questions("tydi_qa/goldp", splits, f"tydi_qa/{language}", held_out=validation, test=validation)


def xquad(setting: ZeroShot = "zero_shot") -> tuple[Task, ...]:
    """Train on SQuAD, with "translate_train" also on its translations; its validation data are held out, XQuAD is the
    test.
    """
    return (
        *squad(setting, tuple(each for each in XQUAD_LANGUAGES if each != "en")),
        *map(xquad_test, XQUAD_LANGUAGES),
    )


def xquad_test(language: str) -> QuestionAnswering:
    return questions(f"xquad/{language}", TESTED, f"xquad/{language}", test="train+validation+test")


def mlqa(setting: ZeroShot = "zero_shot") -> tuple[Task, ...]:
    """Train on SQuAD, with "translate_train" also on its translations; evaluate on MLQA, by its own score."""
    return (
        *squad(setting, tuple(each for each in MLQA_LANGUAGES if each != "en")),
        *map(mlqa_test, MLQA_LANGUAGES),
    )


def mlqa_test(language: MLQALanguage) -> QuestionAnswering:
    return questions(f"mlqa/{language}", EVALUATED, f"mlqa/{language}", MLQA(language))


def squad(setting: ZeroShot, languages: tuple[str, ...]) -> tuple[Task, ...]:
    """Return the tasks to train on: SQuAD, with "translate_train" also its translations (XTREME's)."""
    english = questions("squad", ("train", "held_out"), "squad")
    if setting == "zero_shot":
        return (english,)
    files = [SQuADFile(TRANSLATED.format("train", each), TRANSLATED.format("dev", each)) for each in languages]
    return english, *(
        QuestionAnswering(examples=OnlySplits(each, TRAINED), text="spaced_unicode", metrics=(SQUAD,)) for each in files
    )
