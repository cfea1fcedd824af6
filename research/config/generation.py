"""Decoding methods and their limits. Lengths count generated tokens, with EOS and without the start token."""

from dataclasses import dataclass
from math import inf
from typing import Literal

from research.config.base import require, require_not_negative, require_positive


@dataclass(frozen=True)
class Greedy:
    """Greedy decoding: the most probable token at every step."""


@dataclass(frozen=True)
class Sampling:
    """Sampling from the distribution, after temperature and the cuts in the order of the fields.

    top_k keeps the k most probable tokens (0: all), top_p the fewest tokens with that total probability
    (arXiv:1904.09751; 1: all), min_p the tokens at least min_p times as probable as the most probable one
    (arXiv:2407.01082; 0: all), typical_p the most typical tokens with that total probability (arXiv:2202.00666; 1:
    all), epsilon the tokens with at least that probability, eta those with at least the lesser of it and its root times
    exp(-entropy) (both arXiv:2210.15191; 0: all).
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    typical_p: float = 1.0
    epsilon: float = 0.0
    eta: float = 0.0

    def __post_init__(self) -> None:
        require_positive("method.", self, "temperature")
        require_not_negative("method.", self, "top_k")
        for name in ("top_p", "typical_p"):
            value = getattr(self, name)
            require(0 < value <= 1, f"method.{name} is {value}: it must be above 0, and at most 1.")
        require(0 <= self.min_p <= 1, f"method.min_p is {self.min_p}: it must be from 0 to 1.")
        for name in ("epsilon", "eta"):
            value = getattr(self, name)
            require(0 <= value < 1, f"method.{name} is {value}: it must be at least 0, and below 1.")


@dataclass(frozen=True)
class Power:
    """Length penalty: scores are divided by length ** exponent (Hugging Face, fairseq, Marian's --normalize)."""

    exponent: float = 1.0


@dataclass(frozen=True)
class GNMT:
    """Length penalty: scores are divided by ((5 + length) / 6) ** alpha (arXiv:1609.08144, 7; T5X uses alpha 0.6)."""

    alpha: float = 0.6


@dataclass(frozen=True)
class Beam:
    """Beam search. `stop` is the rule that ends a row once it has as many finished hypotheses as beams.

    "first" ends it at once. "heuristic" ends it when the best unfinished hypothesis, at its current length, scores
    below the worst finished one. "never" ends it when no unfinished hypothesis could score higher at any length (with
    exponents of 0 and below, the current length is the best case).

    With several `groups` of equally many beams the search is diverse (arXiv:1610.02424): at each step the groups choose
    one after the other, and every beam of an earlier group that was given a token subtracts `diversity_penalty` from
    that token's log-probability. The rule of `stop` is then each group's own.
    """

    beams: int = 4
    length_penalty: Power | GNMT = Power()
    stop: Literal["heuristic", "first", "never"] = "heuristic"
    groups: int = 1
    diversity_penalty: float = 0.0

    def __post_init__(self) -> None:
        require_positive("method.", self, "beams", "groups")
        beams, groups, penalty = self.beams, self.groups, self.diversity_penalty
        require(beams % groups == 0, f"method.groups is {groups}: it must divide the number of beams, {beams}.")
        require(groups == 1 or 0 < penalty < inf, f"method.diversity_penalty is {penalty}: groups need one above 0.")
        require(groups > 1 or penalty == 0, f"method.diversity_penalty is {penalty}: one group has none; set groups.")


@dataclass(frozen=True)
class Generation:
    """Decoding: special tokens, method, lengths and constraints."""

    start_token: int = 0
    eos_token: int = 1
    pad_token: int = 0
    method: Greedy | Sampling | Beam = Greedy()
    outputs: int = 1  # hypotheses to return per row, best first; or samples to draw
    max_length: int = 128
    min_length: int = 0  # EOS is not allowed earlier
    forced_first: int | None = None  # the first generated token, such as mBART-50's language code
    forced_last: int | None = None  # the token at max_length, if the row has not ended earlier
    banned: tuple[int, ...] = ()  # tokens that are never generated
    no_repeat_ngram: int = 0  # n-gram size that may not repeat; 0: no limit
    repetition_penalty: float = 1.0  # divides scores of earlier tokens, or multiplies negative ones
    more_eos: tuple[int, ...] = ()  # other tokens that end an output
    banned_first: tuple[int, ...] = ()  # tokens that are not generated first, or not right after forced_first
    banned_sequences: tuple[tuple[int, ...], ...] = ()
    no_source_ngram: int = 0  # n-gram size that may not be copied from the source; 0: no limit
    source_reward: float = 1.0  # multiplies scores of the source's tokens, or divides negative ones
    eos_growth: float = 1.0  # after eos_growth_start tokens, the n-th adds (growth ** n - 1) * |score| to that of EOS
    eos_growth_start: int = 0
    stop_strings: tuple[str, ...] = ()  # an output ends with the token that completes one of them in its text
    renormalize: bool = False  # in beam search, constrained scores become log-probabilities again

    @property
    def ends(self) -> tuple[int, ...]:
        """Every token that ends an output."""
        return (self.eos_token, *self.more_eos)

    def __post_init__(self) -> None:
        require_positive("generation.", self, "outputs", "max_length", "repetition_penalty", "source_reward")
        require_positive("generation.", self, "eos_growth")
        require_not_negative("generation.", self, "start_token", "eos_token", "pad_token", "min_length")
        require_not_negative("generation.", self, "no_repeat_ngram", "no_source_ngram", "eos_growth_start")
        most, outputs = self.max_length, self.outputs
        require(self.min_length <= most, f"generation.min_length is {self.min_length}: at most max_length, {most}.")
        short = [sequence for sequence in self.banned_sequences if len(sequence) < 2]
        require(not short, f"generation.banned_sequences has {short}: each needs two tokens; give one in banned.")
        require("" not in self.stop_strings, "generation.stop_strings has an empty string: give text, or leave it out.")
        match self.method:
            case Greedy():
                require(outputs == 1, f"generation.outputs is {outputs}: it must be 1 for greedy decoding.")
            case Beam(beams=beams):
                require(outputs <= beams, f"generation.outputs is {outputs}: at most the number of beams, {beams}.")
                alone = self.method.groups == 1 or not self.stop_strings
                require(alone, "generation.stop_strings cannot be combined with method.groups: use one group of beams.")

    @property
    def names_ids(self) -> bool:
        """True if it names tokens of one vocabulary, besides the control tokens that every tokenizer implies."""
        forced = (self.forced_first, self.forced_last) != (None, None)
        return forced or bool(self.banned or self.more_eos or self.banned_first or self.banned_sequences)


@dataclass(frozen=True)
class ModelGeneration:
    """The generation settings that are stored with the experiment's model, which is a `Pretrained`.

    Outputs have at most data.target_length tokens. A model without such settings decodes greedily.
    """
