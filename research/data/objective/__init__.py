"""The denoisers, one file each, behind three functions; what an objective is, is its config."""

import numpy as np
from jaxtyping import UInt

from research.config import (
    BART,
    BERTStyle,
    Deshuffling,
    DropTokens,
    LanguageModelling,
    MASSStyle,
    Objective,
    PrefixLM,
    ReplaceSpans,
    SpanCorruption,
)
from research.data.batch import Batch
from research.data.objective import (
    bart,
    bert_style,
    deshuffling,
    drop_tokens,
    language_modelling,
    prefix_lm,
    replace_spans,
    span_corruption,
)
from research.data.objective.rows import Lengths, mask_of
from research.data.tokenizer import Tokenizer

__all__ = ["Lengths", "check", "corrupt", "lengths"]


def lengths(objective: Objective, input_length: int, controls: int = 1) -> Lengths:
    """Tokens a row before and after corruption, for an encoder of `input_length`, in a frame of so many `controls`.

    Raises ConfigError where no rows will do.
    """
    match objective:
        case SpanCorruption():
            return span_corruption.lengths(objective, input_length)
        case ReplaceSpans(noise_density=density):
            return replace_spans.lengths(density, input_length, controls)
        case DropTokens(noise_density=density):
            return drop_tokens.lengths(density, input_length, controls)
        case BERTStyle() | MASSStyle():
            return bert_style.lengths(input_length, controls)
        case Deshuffling():
            return deshuffling.lengths(input_length, controls)
        case PrefixLM(noise_density=density):
            return prefix_lm.lengths(density, input_length, controls)
        case LanguageModelling():
            return language_modelling.lengths(input_length, controls)
        case BART():
            return bart.lengths(objective, input_length, controls)


def check(objective: Objective, lengths: Lengths, tokenizer: Tokenizer, language: str | None = None) -> None:
    """Raises ConfigError where the tokenizer lacks what the objective needs: sentinels, a mask, the language."""
    tokenizer.frame(language)
    match objective:
        case SpanCorruption():
            span_corruption.check(lengths, tokenizer, language)
        case ReplaceSpans(noise_density=density):
            replace_spans.check(density, lengths, tokenizer)
        case BERTStyle() | MASSStyle():
            mask_of(tokenizer)
        case BART():
            bart.check(objective, tokenizer)


def corrupt(
    tokens: UInt[np.ndarray, "n raw"],
    objective: Objective,
    lengths: Lengths,
    tokenizer: Tokenizer,
    rng: np.random.Generator,
    language: str | None = None,
) -> Batch:
    """A block of raw rows -> a Batch of as many rows; everything random comes from `rng`."""
    match objective:
        case SpanCorruption():
            return span_corruption.corrupt(tokens, lengths, tokenizer, rng)
        case ReplaceSpans(noise_density=density):
            return replace_spans.corrupt(tokens, density, lengths, tokenizer, language, rng)
        case DropTokens(noise_density=density):
            return drop_tokens.corrupt(tokens, density, lengths, tokenizer, language, rng)
        case BERTStyle(noise_density=density, random_tokens=random_tokens):
            return bert_style.corrupt(tokens, density, random_tokens, lengths, tokenizer, language, rng)
        case MASSStyle(noise_density=density):
            return bert_style.corrupt(tokens, density, 0.0, lengths, tokenizer, language, rng)
        case Deshuffling():
            return deshuffling.corrupt(tokens, lengths, tokenizer, language, rng)
        case PrefixLM(noise_density=density):
            return prefix_lm.corrupt(tokens, density, lengths, tokenizer, language, rng)
        case LanguageModelling():
            return language_modelling.corrupt(tokens, lengths, tokenizer, language)
        case BART():
            return bart.corrupt(tokens, objective, lengths, tokenizer, language, rng)
