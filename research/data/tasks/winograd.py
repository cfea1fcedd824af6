"""WNLI as the resolution of pronouns, to the letter as in T5 0.9.4; evaluated only, by models that learnt WSC."""

import re
from dataclasses import dataclass
from typing import NamedTuple

from research.config import ConfigError, Examples, Metric, Task, require
from research.config.examples import Names, TextRecord
from research.data.tasks.classification import LABEL, label_number
from research.data.tasks.data_set import TFDSExamples
from research.data.tasks.glue import WINOGRAD
from research.data.tasks.only_splits import OnlySplits
from research.score.referents import ReferentAccuracy

PRONOUNS = frozenset(["he", "she", "they", "it", "her", "his", "their", "them", "him"])
MARKS = ".,?!"
Words = list[str]


@dataclass(frozen=True, kw_only=True)
class WNLIReferents(Task):
    """WNLI in the form of `WSC`: the pronoun that its hypothesis replaces is marked; what replaces it is the target.

    T5's tasks call it glue_wnli_v002_simple_eval. Its rules fit the texts of WNLI: others may be refused.
    """

    examples: Examples = OnlySplits(TFDSExamples("glue/wnli"), ("held_out", "test"))
    metrics: tuple[Metric, ...] = (ReferentAccuracy(),)

    @property
    def names(self) -> Names:
        return Names(("sentence1", "sentence2"), (LABEL,))

    def example(self, record: TextRecord) -> tuple[str, str, dict[str, str]]:
        premise, hypothesis = (record[name][0] for name in self.names.source)
        marked, referent = pronoun_and_referent(premise, hypothesis)
        more = {"label": label_number(record[LABEL][0], WINOGRAD, type(self).__name__)}
        return f"wsc: {marked}", referent, more

    @property
    def identity(self) -> tuple[str, ...] | None:
        return (type(self).__name__,)


class Match(NamedTuple):
    """A pronoun of the premise, and the words of the hypothesis that take its place."""

    score: int  # words around the pronoun that the hypothesis has too
    place: int
    candidate: str


def pronoun_and_referent(premise: str, hypothesis: str) -> tuple[str, str]:
    """Return the premise with its pronoun marked, and the referent that the hypothesis names.

    Raises ConfigError for texts that have none.
    """
    words, other = _plain_words(premise), _plain_words(hypothesis)
    matches = [_match(words, other, place) for place, word in enumerate(words) if word in PRONOUNS]
    require(len(matches) > 0, f"WNLIReferents finds no pronoun in {premise!r}.")
    best = max(matches, key=lambda match: match.score)
    return _marked(premise, best.place), _as_written(_from_last_article(best.candidate), hypothesis)


def _plain_words(text: str) -> Words:
    """Return the words of a text, lower-cased and without a mark at their end."""
    words = [re.sub(r"(\.|,|\?|\!)$", "", word) for word in text.strip().lower().split(" ")]
    return [word for word in words if word]


def _match(premise: Words, hypothesis: Words, place: int) -> Match:
    before, after = premise[:place], premise[place + 1 :]
    common_before = _common(hypothesis[::-1], before[::-1])
    common_after = _common(hypothesis, after)
    candidate = ""
    if common_before + common_after:
        nearest, next_words = before[-common_before or len(before) :], after[:common_after]
        patterns = ([*nearest, "(.+)", *next_words], ["^(.+)", *next_words], [*nearest, "(.+)$"])
        text = " ".join(hypothesis)
        found = (re.search(" ".join(pattern), text) for pattern in patterns)
        candidate = next((match[1] for match in found if match), "")
    return Match(common_before + common_after, place, candidate)


def _common(hypothesis: Words, words: Words) -> int:
    """Count the first words that, joined, are a part of the hypothesis."""
    text = " ".join(hypothesis)
    counts = range(1, len(words) + 1)
    return next((count - 1 for count in counts if " ".join(words[:count]) not in text), len(words))


def _marked(premise: str, place: int) -> str:
    words = premise.split(" ")
    require(words[place] != "", f"WNLIReferents finds no word {place} in {premise!r}: it has two spaces in a row.")
    if words[place][-1] in MARKS:
        words[place] = f"*{words[place][:-1]}* {words[place][-1]}"
    else:
        words[place] = f"*{words[place]}*"
    return " ".join(words)


def _from_last_article(candidate: str) -> str:
    """Leave out what precedes the article that first occurs last."""
    words = candidate.split(" ")
    return " ".join(words[max([words.index(article) for article in ("a", "an", "the") if article in words] or [0]) :])


def _as_written(candidate: str, hypothesis: str) -> str:
    """Return a candidate as the hypothesis writes it, without a mark or a possessive at its end."""
    pattern = " ".join(rf"{re.escape(word)}(?:\.|,|\?|\!)?" for word in candidate.split(" "))
    found = re.search(pattern, hypothesis, re.IGNORECASE)
    if found is None:
        raise ConfigError(f"WNLIReferents finds no {candidate!r} in {hypothesis!r}.")
    text = found[0]
    text = text[:-1] if text and text[-1] in MARKS else text
    return text[:-1] if text.endswith("'") else text.removesuffix("'s")
