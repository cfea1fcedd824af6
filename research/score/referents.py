"""Scores of pronouns' referents, as T5 0.9.4 computes them for WSC and WNLI (arXiv:1910.10683, section 2.4)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from research.config import Metric
from research.config.metric import References
from research.score.labels import text_of

# Words that do not tell referents apart.
DETERMINERS = frozenset(
    ["a", "an", "few", "her", "his", "each", "every", "many", "much", "my", "our", "some", "that", "the", "their"]
).union(["these", "this", "those", "which", "whose", "your"])


@dataclass(frozen=True)
class ReferentAccuracy(Metric):
    """The percentage of examples where naming the candidate agrees with its label, in which 1 is the true referent.

    The candidate is the first reference. The task gives the label as "label" beside it. An output names the candidate
    if, without determiners and capitals, the words of one are among those of the other, and both or neither have an
    apostrophe. An empty output is wrong.
    """

    @property
    def names(self) -> tuple[str, ...]:
        return ("accuracy",)

    def score_examples(
        self, predictions: Sequence[str], references: References, more: Sequence[Mapping[str, str]]
    ) -> Mapping[str, float]:
        labels = [text_of(each, "label", self) for each in more]
        named = [names_referent(text, texts[0]) for text, texts in zip(predictions, references, strict=True)]
        right = [label == one for label, one in zip(labels, named, strict=True)]
        return {"accuracy": 100.0 * float(np.mean(right))}


def names_referent(output: str, candidate: str) -> str:
    """Tell whether an output names a candidate: "1" or "0", or "-1" for an empty output."""
    output, candidate = _without_determiners(output), _without_determiners(candidate)
    if not output:
        return "-1"
    if ("'" in output) != ("'" in candidate):  # "Bob" is not "Bob's hat"
        return "0"
    words, expected = set(output.split(" ")), set(candidate.split(" "))
    return str(int(words <= expected or expected <= words))


def _without_determiners(text: str) -> str:
    return " ".join(word for word in text.strip().lower().split(" ") if word not in DETERMINERS)
