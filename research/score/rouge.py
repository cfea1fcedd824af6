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
RESAMPLED = ("rouge1", "rouge2", "rougeLsum", "rougeL")  # first those that T5 draws, in its order


@dataclass(frozen=True)
class ROUGE(Metric):
    """F-measures of rouge-score's ROUGE-1, -2, -L and -Lsum.

    -Lsum is computed over sentences: the lines of a text, and with "full_stop" also spans that end in " . ", as in T5.
    Each measure uses its own best reference.
    """

    stemmer: bool = True  # Porter's stemmer, as in ROUGE-1.5.5 -m
    bootstrap: bool = False  # the median of 1,000 resamples' means, as T5 reports, from a fixed seed
    sentences: Literal["newline", "full_stop"] = "newline"

    @property
    def names(self) -> tuple[str, ...]:
        return NAMES

    @property
    def is_mean(self) -> bool:
        return not self.bootstrap

    def score(self, predictions: Sequence[str], references: References) -> Mapping[str, float]:
        if not self.bootstrap:
            return super().score(predictions, references)
        rows = [self.score_example(*pair) for pair in zip(predictions, references, strict=True)]
        return _resampled(rows)

    def score_example(self, prediction: str, references: Sequence[str]) -> Mapping[str, float]:
        scores = _scorer(self.stemmer).score_multi([self._lines(one) for one in references], self._lines(prediction))
        return {name: 100.0 * float(one.fmeasure) for name, one in scores.items()}

    def _lines(self, text: str) -> str:
        return text.replace(" . ", " .\n") if self.sentences == "full_stop" else text

    def signature(self, references: References) -> str:
        from importlib.metadata import version

        best = "|best reference" if max(map(len, references)) > 1 else ""
        mean = "median of 1,000 resamples" if self.bootstrap else "mean"
        kind = f"F-measure|{mean}{best}|stemmer:{'yes' if self.stemmer else 'no'}|Lsum sentences:{self.sentences}"
        return f"{reference_count(references)}|{kind}|rouge-score:{version('rouge-score')}"

    def check_references(self, references: References, name: str) -> None:
        seen = share([[text.lower() for text in given] for given in references], "a-z0-9")
        message = f"ROUGE() reads only the letters a to z and digits, {seen:.1%} of those in the references of {name}"
        require(seen >= REFUSED_BELOW, f'{message}: score them with ChrF() or BLEU(tokenize="char").')
        if seen < NOTED_BELOW:
            print(f"note: {message}.", file=sys.stderr)


def _resampled(rows: Sequence[Mapping[str, float]]) -> Mapping[str, float]:
    """Compute rouge-score's bootstrap estimate of each measure, as after numpy's random.seed(0)."""
    import numpy as np
    from rouge_score.scoring import BootstrapAggregator, Score

    aggregator = BootstrapAggregator()
    for row in rows:
        aggregator.add_scores({name: Score(0.0, 0.0, row[name]) for name in RESAMPLED})
    state = np.random.get_state()  # noqa: NPY002 - rouge-score draws from it
    try:
        np.random.seed(0)  # noqa: NPY002
        return {name: float(each.mid.fmeasure) for name, each in aggregator.aggregate().items()}
    finally:
        np.random.set_state(state)  # noqa: NPY002


@cache
def _scorer(stemmer: bool) -> Any:
    from rouge_score.rouge_scorer import RougeScorer  # imported here, since it takes a second

    return RougeScorer(list(NAMES), use_stemmer=stemmer)
