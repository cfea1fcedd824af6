"""BLEU, chrF and TER, computed by sacreBLEU."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

from research.config import ConfigError, Metric, require, require_not_negative
from research.config.metric import References
from research.score.letters import HAN, KANA, OTHERS, share, unspaced_share


@dataclass(frozen=True)
class SacreBLEU(Metric):
    """A corpus-level metric with the score and signature that sacreBLEU's command prints."""

    @abstractmethod
    def scorer(self) -> Any:
        """Create sacreBLEU's metric; raise ConfigError if files that it needs are missing and cannot be downloaded."""

    def score(self, predictions: Sequence[str], references: References) -> Mapping[str, float]:
        return {self.names[0]: known_scorer(self).corpus_score(list(predictions), streams(references)).score}

    def signature(self, references: References) -> str:
        scorer, counts = known_scorer(self), {len(given) for given in references}
        scorer.num_refs = counts.pop() if len(counts) == 1 else -1
        return str(scorer.get_signature())


@cache
def known_scorer(metric: SacreBLEU) -> Any:
    """Return a metric's scorer, created once, since some read files."""
    return metric.scorer()


def streams(references: References) -> list[list[str | None]]:
    """Transpose references to one list for each reference position, as sacreBLEU expects; None pads short examples."""
    most = max(map(len, references))
    return [[given[index] if index < len(given) else None for given in references] for index in range(most)]


# For each tokenizer the letters of scripts without spaces that it leaves in one piece; the others split all.
UNSPLIT = {
    **dict.fromkeys(("13a", "none", "intl", "ko-mecab"), HAN + KANA + OTHERS),
    "zh": KANA + OTHERS,
    "ja-mecab": OTHERS,
}


@dataclass(frozen=True)
class BLEU(SacreBLEU):
    """sacreBLEU's corpus BLEU (arXiv:1804.08771). Use tokenize="none" for text that is already tokenised.

    The Japanese and Korean tokenizers need MeCab; those of FLORES are downloaded on first use. There are no scores for
    single examples, for which BLEU is not meaningful.
    """

    tokenize: Literal["13a", "none", "intl", "char", "zh", "ja-mecab", "ko-mecab", "flores101", "flores200"] = "13a"
    lowercase: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        tokenizer = "" if self.tokenize == "13a" else f"_{self.tokenize}"
        return (f"bleu{tokenizer}{'_lowercase' if self.lowercase else ''}",)

    def check_references(self, references: References, name: str) -> None:
        if self.tokenize not in UNSPLIT:
            return
        unseen = unspaced_share(references, UNSPLIT[self.tokenize])
        kana, han = share(references, KANA), share(references, HAN)
        better = "ja-mecab" if kana > 0.1 else "zh" if han > 0.5 else "flores200"
        require(
            unseen <= 0.5,
            f'BLEU(tokenize="{self.tokenize}") splits no words that are written without spaces, as {unseen:.0%} of the'
            f' letters in the references of {name} are: give BLEU(tokenize="{better}") or BLEU(tokenize="char").',
        )

    def scorer(self) -> Any:
        from sacrebleu import metrics as sacrebleu  # imported here: it takes a second, and most commands do not need it

        try:
            # With tokenize="none" the text is already tokenised; `force` stops sacreBLEU's warning about it.
            return sacrebleu.BLEU(tokenize=self.tokenize, lowercase=self.lowercase, force=self.tokenize == "none")
        except Exception as error:  # anything that MeCab or a download raises
            reason = " ".join(str(error).split())[:200]
            raise ConfigError(
                f'BLEU cannot use the tokenizer "{self.tokenize}" here ({reason}): choose another.'
            ) from error


@dataclass(frozen=True)
class ChrF(SacreBLEU):
    """sacreBLEU's chrF2; chrF2++ with word_order=2."""

    word_order: int = 0

    def __post_init__(self) -> None:
        require_not_negative("metric.", self, "word_order")

    @property
    def names(self) -> tuple[str, ...]:
        return ("chrf" + (f"_word_order_{self.word_order}" if self.word_order else ""),)

    def scorer(self) -> Any:
        from sacrebleu import metrics as sacrebleu

        return sacrebleu.CHRF(word_order=self.word_order)

    def score_example(self, prediction: str, references: Sequence[str]) -> Mapping[str, float]:
        return {self.names[0]: known_scorer(self).sentence_score(prediction, references).score}


@dataclass(frozen=True)
class TER(SacreBLEU):
    """sacreBLEU's translation edit rate (Snover et al., 2006), in percent of the references' length; lower is better.

    Edits are insertions, deletions, substitutions and moved blocks of words between spaces.
    """

    lowercase: bool = True

    @property
    def names(self) -> tuple[str, ...]:
        return ("translation_edit_rate",)

    def scorer(self) -> Any:
        from sacrebleu import metrics as sacrebleu

        return sacrebleu.TER(case_sensitive=not self.lowercase)
