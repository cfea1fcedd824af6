"""Scores by models of other packages, which compare texts by their embeddings."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from research.config import ConfigError, Metric
from research.config.metric import References, reference_count


@dataclass(frozen=True)
class BERTScore(Metric):
    """F1 of tokens that are matched by their embeddings (arXiv:1904.09675), in percent, by the package bert-score.

    `model` is a name on the Hugging Face Hub or a directory; `layer` is the one whose embeddings are compared, for some
    models by default that which the package's authors chose. The best of several references counts, and an empty
    output has 0. It is computed on the CPU. Needs the extra `bertscore`.
    """

    model: str = "roberta-large"
    layer: int | None = None

    @property
    def names(self) -> tuple[str, ...]:
        return ("bertscore",)

    @property
    def is_mean(self) -> bool:
        return True

    def score(self, predictions: Sequence[str], references: References) -> Mapping[str, float]:
        return {"bertscore": sum(self._each(predictions, references)) / len(predictions)}

    def score_example(self, prediction: str, references: Sequence[str]) -> Mapping[str, float]:
        return {"bertscore": self._each([prediction], [references])[0]}

    def _each(self, predictions: Sequence[str], references: References) -> list[float]:
        scores, scorer = [0.0] * len(predictions), _scorer(self)
        filled = [index for index, text in enumerate(predictions) if text.strip()]  # it fails for empty ones
        if filled:
            _, _, f1 = scorer.score(
                [predictions[index] for index in filled], [list(references[index]) for index in filled]
            )
            for index, value in zip(filled, f1.tolist(), strict=True):
                scores[index] = 100.0 * value
        return scores

    def signature(self, references: References) -> str:
        return f"{reference_count(references)}|best reference|{_scorer(self).hash}"


@cache
def _scorer(metric: BERTScore) -> Any:
    """Load a metric's model once. Raises ConfigError if it or the package cannot be had."""
    try:
        from bert_score import BERTScorer
    except ImportError:
        raise ConfigError("BERTScore needs the package bert-score: pip install 'kintsugi[bertscore]'.") from None
    try:
        return BERTScorer(model_type=metric.model, num_layers=metric.layer, device="cpu")
    except KeyError:
        raise ConfigError(f"BERTScore knows no layer of {metric.model}: give one, such as layer=9.") from None
    except (OSError, ValueError, AssertionError) as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ConfigError(
            f"BERTScore cannot load {metric.model} ({reason}): give a directory, or a model of the Hub that is in the"
            " cache or can be downloaded."
        ) from None
