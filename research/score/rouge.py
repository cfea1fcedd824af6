"""ROUGE, computed by rouge-score."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

from research.config import Metric, require
from research.config.metric import References, reference_count
from research.score.letters import share

REFUSED_BELOW, NOTED_BELOW = 0.5, 0.9  # share of the letters and digits that are read
NAMES = ("rouge1", "rouge2", "rougeL", "rougeLsum")


@dataclass(frozen=True)
class ROUGE(Metric):
    """F-measures of rouge-score's ROUGE-1, -2, -L and -Lsum.

    -Lsum is computed over sentences: the lines of a text, and with "full_stop" also spans that end in " . ", as in T5.
    Each measure uses its own best reference.
    """

    stemmer: bool = True  # Porter's stemmer, as in ROUGE-1.5.5 -m
    sentences: Literal["newline", "full_stop"] = "newline"

    @property
    def names(self) -> tuple[str, ...]:
        return NAMES

    def score_example(self, prediction: str, references: Sequence[str]) -> Mapping[str, float]:
        scores = _scorer(self.stemmer).score_multi([self._lines(one) for one in references], self._lines(prediction))
        return {name: 100.0 * float(one.fmeasure) for name, one in scores.items()}

    def _lines(self, text: str) -> str:
        return text.replace(" . ", " .\n") if self.sentences == "full_stop" else text

    def signature(self, references: References) -> str:
        from importlib.metadata import version

        best = "|best reference" if max(map(len, references)) > 1 else ""
        kind = f"F-measure|mean{best}|stemmer:{'yes' if self.stemmer else 'no'}|Lsum sentences:{self.sentences}"
        return f"{reference_count(references)}|{kind}|rouge-score:{version('rouge-score')}"

    def check_references(self, references: References, name: str) -> None:
        seen = share([[text.lower() for text in given] for given in references], "a-z0-9")
        message = f"ROUGE() reads only the letters a to z and digits, {seen:.1%} of those in the references of {name}"
        require(seen >= REFUSED_BELOW, f'{message}: score them with ChrF() or BLEU(tokenize="char").')
        if seen < NOTED_BELOW:
            print(f"note: {message}.", file=sys.stderr)


@cache
def _scorer(stemmer: bool) -> Any:
    from rouge_score.rouge_scorer import RougeScorer  # imported here, since it takes a second

    return RougeScorer(list(NAMES), use_stemmer=stemmer)
