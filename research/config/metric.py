"""What outputs are scored by: the published measures, each with the choices that change its number."""

from dataclasses import dataclass
from typing import Literal

from research.config.base import require, require_not_negative


@dataclass(frozen=True)
class BLEU:
    """sacreBLEU's corpus BLEU (arXiv:1804.08771). Text that is tokenised already takes tokenize="none".

    The Japanese and Korean tokenizers need MeCab; those of FLORES are fetched over the network the first time.
    """

    tokenize: Literal["13a", "none", "intl", "char", "zh", "ja-mecab", "ko-mecab", "flores101", "flores200"] = "13a"
    lowercase: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        tokenizer = "" if self.tokenize == "13a" else f"_{self.tokenize}"
        return (f"bleu{tokenizer}{'_lowercase' if self.lowercase else ''}",)


@dataclass(frozen=True)
class ChrF:
    """sacreBLEU's chrF2; with word_order=2 chrF2++."""

    word_order: int = 0

    def __post_init__(self) -> None:
        require_not_negative("metric.", self, "word_order")

    @property
    def names(self) -> tuple[str, ...]:
        return ("chrf" + (f"_word_order_{self.word_order}" if self.word_order else ""),)


@dataclass(frozen=True)
class ROUGE:
    """F-measures of rouge-score's ROUGE-1, -2, -L and -Lsum.

    -Lsum is over sentences: the lines of a text, or with "full_stop" what ends in " . " too, as T5 takes them.
    """

    stemmer: bool = True  # Porter's, as ROUGE-1.5.5 -m
    sentences: Literal["newline", "full_stop"] = "newline"

    @property
    def names(self) -> tuple[str, ...]:
        return ("rouge1", "rouge2", "rougeL", "rougeLsum")


@dataclass(frozen=True)
class SQuAD:
    """Exact match and F1 of words, after the normalisation of English in SQuAD's own script (arXiv:1806.03822)."""

    @property
    def names(self) -> tuple[str, ...]:
        return ("exact_match", "f1")


@dataclass(frozen=True)
class Accuracy:
    """Of whole outputs: equal to a reference but for space around them."""

    @property
    def names(self) -> tuple[str, ...]:
        return ("sequence_accuracy",)


Metric = BLEU | ChrF | ROUGE | SQuAD | Accuracy


def score_names(metrics: tuple[Metric, ...]) -> tuple[str, ...]:
    """The names of all numbers that the metrics give. Raises ConfigError where two give the same."""
    names = tuple(name for metric in metrics for name in metric.names)
    twice = sorted({name for name in names if names.count(name) > 1})
    require(not twice, f"metrics give {', '.join(twice)} twice: name each kind once.")
    return names
