"""Outputs scored against references by the published measures, all from 0 to 100."""

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from research.config import BLEU, ROUGE, Accuracy, ChrF, ConfigError, Metric, SQuAD, require, score_names

References = Sequence[Sequence[str]]  # one or more for each prediction


class Score(NamedTuple):
    value: float
    signature: str  # what a number must be published with, so that another can be compared with it


def check(metrics: Sequence[Metric]) -> None:
    """Raises ConfigError where a metric cannot be computed here or stands twice, before there is anything to score."""
    score_names(tuple(metrics))
    for metric in metrics:
        if isinstance(metric, BLEU | ChrF):
            sacrebleu_scorer(metric)


def check_fit(metrics: Sequence[Metric], references: References, what: str) -> None:
    """Raises ConfigError where a metric sees nothing in the references of `what`, whatever is written.

    The others compare texts as they are, of any task and language; ROUGE reads a to z and digits alone.
    """
    seen = any(re.search("[a-z0-9]", one.lower()) for given in references for one in given)
    require(
        seen or not any(isinstance(metric, ROUGE) for metric in metrics),
        f"ROUGE() reads only the letters a to z and digits, of which the references of {what} have none: score by"
        ' ChrF() or BLEU(tokenize="char").',
    )


def score(metrics: Sequence[Metric], predictions: Sequence[str], references: References) -> dict[str, Score]:
    """Each number by its name.

    Raises:
        ConfigError: there is nothing to score; or an example has no reference.
    """
    _check_pairs(predictions, references)
    scores: dict[str, Score] = {}
    for metric in metrics:
        match metric:
            case BLEU() | ChrF():
                scores |= _corpus_score(metric, predictions, references)
            case _:
                rows = [_of_example(metric, *pair) for pair in zip(predictions, references, strict=True)]
                signed = signature(metric, references)
                scores |= {name: Score(float(np.mean([row[name] for row in rows])), signed) for name in metric.names}
    return scores


def score_each(metrics: Sequence[Metric], predictions: Sequence[str], references: References) -> list[dict[str, float]]:
    """Numbers of each example alone. BLEU, which says nothing of one sentence, is left out."""
    kept = [metric for metric in metrics if not isinstance(metric, BLEU)]
    pairs = zip(predictions, references, strict=True)
    return [{name: value for metric in kept for name, value in _of_example(metric, *pair).items()} for pair in pairs]


def _check_pairs(predictions: Sequence[str], references: References) -> None:
    require(len(predictions) > 0, "There is no prediction to score.")
    counts = len(predictions), len(references)
    require(counts[0] == counts[1], f"There are {counts[0]} predictions and {counts[1]} references: give one for each.")
    bare = [number for number, given in enumerate(references, 1) if not given]
    require(not bare, f"Example {bare[0] if bare else 0} has no reference to score against.")


def _of_example(metric: Metric, prediction: str, references: Sequence[str]) -> dict[str, float]:
    match metric:
        case ChrF():
            return {metric.names[0]: sacrebleu_scorer(metric).sentence_score(prediction, references).score}
        case ROUGE():
            return _rouge(metric, prediction, references)
        case SQuAD():
            return {
                "exact_match": 100.0 * max(_normalised(one) == _normalised(prediction) for one in references),
                "f1": 100.0 * max(_overlap(prediction, one) for one in references),
            }
        case Accuracy():
            return {"sequence_accuracy": 100.0 * (prediction.strip() in {one.strip() for one in references})}
    raise AssertionError(metric)


def signature(metric: Metric, references: References) -> str:
    most, fewest = max(map(len, references)), min(map(len, references))
    count = f"nrefs:{most if most == fewest else 'var'}"
    match metric:
        case ROUGE(stemmer=stemmer, sentences=sentences):
            from importlib.metadata import version

            best = "" if most == 1 else "|best reference"
            kind = f"F-measure|mean{best}|stemmer:{'yes' if stemmer else 'no'}|Lsum sentences:{sentences}"
            return f"{count}|{kind}|rouge-score:{version('rouge-score')}"
        case SQuAD():
            return f"{count}|best reference|normalised as SQuAD v2.0's script"
        case _:
            return f"{count}|equal to a reference after strip"


# --- BLEU and chrF ----------------------------------------------------------------------------------------------------


@cache
def sacrebleu_scorer(metric: BLEU | ChrF) -> Any:
    """sacreBLEU's own metric. Raises ConfigError where a tokenizer's files are not there and cannot be had."""
    from sacrebleu import metrics as sacrebleu  # here: a second that most commands do without

    match metric:
        case ChrF(word_order=order):
            return sacrebleu.CHRF(word_order=order)
        case BLEU(tokenize=tokenize, lowercase=lowercase):
            try:
                # Text for tokenize="none" is tokenised already; forced, sacreBLEU does not warn of it at every scoring.
                return sacrebleu.BLEU(tokenize=tokenize, lowercase=lowercase, force=tokenize == "none")
            except Exception as error:  # whatever MeCab or a download has to say
                said = " ".join(str(error).split())[:200]
                raise ConfigError(
                    f'BLEU cannot use the tokenizer "{tokenize}" here ({said}): choose another.'
                ) from error


def streams(references: References) -> list[list[str | None]]:
    """A list a reference, as sacreBLEU takes them; None where an example has no more."""
    most = max(map(len, references))
    return [[given[place] if place < len(given) else None for given in references] for place in range(most)]


def _corpus_score(metric: BLEU | ChrF, predictions: Sequence[str], references: References) -> dict[str, Score]:
    scorer = sacrebleu_scorer(metric)
    found = scorer.corpus_score(list(predictions), streams(references))
    return {metric.names[0]: Score(found.score, str(scorer.get_signature()))}


# --- ROUGE ------------------------------------------------------------------------------------------------------------


@cache
def _rouge_scorer(stemmer: bool) -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(list(ROUGE().names), use_stemmer=stemmer)


def _rouge(metric: ROUGE, prediction: str, references: Sequence[str]) -> dict[str, float]:
    """Of each measure the best reference's, which need not be the same one, as rouge-score has it."""
    split: Callable[[str], str] = str if metric.sentences == "newline" else lambda text: text.replace(" . ", " .\n")
    scorer = _rouge_scorer(metric.stemmer)
    found = scorer.score_multi([split(one) for one in references], split(prediction))
    return {name: 100.0 * float(one.fmeasure) for name, one in found.items()}


# --- SQuAD ------------------------------------------------------------------------------------------------------------

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(a|an|the)\b")


def _normalised(answer: str) -> str:
    """Lower case, without punctuation, then without articles, words parted by one space."""
    return " ".join(_ARTICLES.sub(" ", answer.lower().translate(_PUNCTUATION)).split())


def _overlap(prediction: str, reference: str) -> float:
    """F1 of the words as bags. Where one is empty, whether both are (v1.1's script gives 0 for two empty ones)."""
    written, wanted = _normalised(prediction).split(), _normalised(reference).split()
    if not written or not wanted:
        return float(written == wanted)
    same = sum((Counter(written) & Counter(wanted)).values())
    return 2 * same / (len(written) + len(wanted))
