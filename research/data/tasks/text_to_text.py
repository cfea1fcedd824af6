"""Tasks defined by templates: text to text, translation, summarization and question answering."""

import re
import string
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Literal

from research.config import ConfigError, Examples, Metric, Task, require
from research.config.examples import Names, TextRecord
from research.score.answers import Accuracy, SQuAD
from research.score.bleu import BLEU, ChrF
from research.score.rouge import ROUGE


@dataclass(frozen=True, kw_only=True)
class TextToText(Task):
    """Any text-to-text task. `source` and `target` are each a name in its examples, or a template with {names}.

    A list under the name of the target holds several references, the first of which is the training target. The prefix
    precedes each source, as in T5; without one, that which a `Pretrained` model has for this kind of task.
    """

    examples: Examples
    source: str = "source"
    target: str = "target"
    prefix: str = ""
    languages: tuple[str | None, str | None] = (None, None)  # language codes of both sides, such as en_XX
    metrics: tuple[Metric, ...] = (Accuracy(),)
    model_prefix: str = field(default="", init=False)  # that of the model, set by the experiment

    def __post_init__(self) -> None:
        for side, text in (("source", self.source), ("target", self.target)):
            require(len(names_in(text)) > 0, f"The {side} of a task is {text!r}: it must contain an example's name.")

    @property
    def names(self) -> Names:
        return Names(names_in(self.source), names_in(self.target))

    def example(self, record: TextRecord) -> tuple[str, tuple[str, ...]]:
        source_form, target_form = self.forms()
        source = self.used_prefix + source_form(fill(self.source, record)[0])
        return source, tuple(map(target_form, fill(self.target, record)))

    @property
    def kind(self) -> str:
        """The name of such tasks in T5's config.json; "" for none."""
        return ""

    @property
    def used_prefix(self) -> str:
        """The task's own prefix, or else that of the model."""
        return self.prefix or self.model_prefix

    @property
    def prefixes(self) -> tuple[tuple[str, str], ...]:
        return ((self.kind, self.used_prefix),) if self.kind and self.used_prefix else ()

    def with_prefixes(self, prefixes: Mapping[str, str]) -> Task:
        prefix = prefixes.get(self.kind, "")
        if prefix == self.model_prefix:
            return self
        changed = replace(self)
        object.__setattr__(changed, "model_prefix", prefix)
        return changed

    def forms(self) -> tuple[Callable[[str], str], Callable[[str], str]]:
        """Return the functions that prepare the text of each side; the prefix is not changed."""
        return str, str

    @property
    def identity(self) -> tuple[str, ...] | None:
        return self.source, self.target, self.used_prefix, "raw"


@dataclass(frozen=True, kw_only=True)
class Translation(TextToText):
    """Translation between two languages.

    With text="lower_tokenized", text is lower-cased and tokenised with Moses' scripts, as for Multi30k's published
    scores.
    """

    source: str = "en"
    target: str = "de"
    text: Literal["raw", "lower_tokenized"] = "raw"
    metrics: tuple[Metric, ...] = (BLEU(), ChrF())

    @property
    def kind(self) -> str:
        return f"translation_{self.source}_to_{self.target}"

    def forms(self) -> tuple[Callable[[str], str], Callable[[str], str]]:
        if self.text == "raw":
            return str, str
        return lower_tokenized(self.source), lower_tokenized(self.target)

    @property
    def identity(self) -> tuple[str, ...] | None:
        return self.source, self.target, self.used_prefix, self.text


@dataclass(frozen=True, kw_only=True)
class Summarization(TextToText):
    """Summarization of documents."""

    source: str = "document"
    target: str = "summary"
    metrics: tuple[Metric, ...] = (ROUGE(),)

    @property
    def kind(self) -> str:
        return "summarization"


@dataclass(frozen=True, kw_only=True)
class QuestionAnswering(TextToText):
    """SQuAD's task in T5's format. The first answer is the training target; all answers are references.

    BART reads "{question} {context}": text never becomes a special token, so no separator can be written. With
    text="spaced", punctuation is surrounded by spaces, as T5 trained on SQuAD; score it with SQuAD("1.1"). With
    text="spaced_unicode", this is done for the punctuation and symbols of all scripts, as for mT5 and ByT5.
    """

    source: str = "question: {question} context: {context}"
    target: str = "answers/text"
    text: Literal["raw", "spaced", "spaced_unicode"] = "raw"
    metrics: tuple[Metric, ...] = (SQuAD(),)

    def example(self, record: TextRecord) -> tuple[str, tuple[str, ...]]:
        if self.text != "raw":
            form = spaced if self.text == "spaced" else spaced_unicode
            record = {name: tuple(map(form, texts)) for name, texts in record.items()}
        return super().example(record)

    def forms(self) -> tuple[Callable[[str], str], Callable[[str], str]]:
        return (str if self.text == "raw" else single_spaced), str

    @property
    def identity(self) -> tuple[str, ...] | None:
        return self.source, self.target, self.used_prefix, self.text


# --- Templates --------------------------------------------------------------------------------------------------------


def names_in(text: str) -> tuple[str, ...]:
    """Return the distinct {names} of a template; a text without braces is itself a name.

    Raises ConfigError for malformed braces.
    """
    if "{" not in text and "}" not in text:
        return (text,) if text else ()
    try:
        parts = list(string.Formatter().parse(text))
    except ValueError as error:
        raise ConfigError(f"{text!r} is not a template ({error}): write {{name}}, and {{{{ for a brace.") from None
    for _, name, form, conversion in parts:
        plain = name != "" and not form and conversion is None
        require(plain, f"{text!r} is not a template: only names are allowed in braces, such as {{question}}.")
    return tuple(dict.fromkeys(name for _, name, _, _ in parts if name is not None))


def fill(text: str, record: TextRecord) -> tuple[str, ...]:
    """Return all texts under a name or, for a template, the template filled with the first text of each name."""
    if text in record:
        return record[text]
    parts = string.Formatter().parse(text)
    return ("".join(literal + (record[name][0] if name else "") for literal, name, _, _ in parts),)


# --- T5's form of text for questions ----------------------------------------------------------------------------------

# As regular expressions without Unicode have them.
PUNCTUATION = re.compile(f"([{re.escape(string.punctuation)}])")
SPACES = re.compile(r"[\t\n\f\r ]+")


def spaced(text: str) -> str:
    """Surround ASCII punctuation by spaces, and write a single space for several."""
    return single_spaced(PUNCTUATION.sub(r" \1 ", text))


def spaced_unicode(text: str) -> str:
    """Surround all but letters, marks, numbers and underscores by spaces, and write a single space for several."""
    return single_spaced("".join(c if c == "_" or unicodedata.category(c)[0] in "LMN" else f" {c} " for c in text))


def single_spaced(text: str) -> str:
    return SPACES.sub(" ", text)


# --- Multi30k's form of text ------------------------------------------------------------------------------------------


@cache
def lower_tokenized(language: str) -> Callable[[str], str]:
    """Return Multi30k's preparation (scripts/task1-tokenize.sh): Moses' lowercase, normalize-punctuation, tokenizer.

    Apostrophes, quotes and similar characters are escaped (&apos;), as in its published files.
    """
    import sacremoses
    from sacremoses.corpus import NonbreakingPrefixes

    known = sorted(set(NonbreakingPrefixes().available_langs.values()))
    require(
        language in known,
        f'text="lower_tokenized" uses the names of the source and the target as their languages, but {language!r} is'
        f" not a language that Moses knows: {', '.join(known)}.",
    )
    normalizer, tokenizer = sacremoses.MosesPunctNormalizer(lang=language), sacremoses.MosesTokenizer(lang=language)
    return lambda text: tokenizer.tokenize(normalizer.normalize(text.lower()), return_str=True)
