"""How the decoder's tokens are chosen. Lengths count the tokens written after the start token, EOS among them."""

from dataclasses import dataclass
from typing import Literal

from research.config.base import require, require_not_negative, require_positive


@dataclass(frozen=True)
class Greedy:
    """The most probable token, every time."""


@dataclass(frozen=True)
class Sampling:
    """A token drawn from the distribution, sharpened and cut in this order; 0 and 1 leave it whole.

    top_k keeps the k most probable tokens, top_p the fewest that hold that much probability (arXiv:1904.09751), min_p
    those at least that share as probable as the most probable one (arXiv:2407.01082).
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0

    def __post_init__(self) -> None:
        require_positive("method.", self, "temperature")
        require_not_negative("method.", self, "top_k")
        require(0 < self.top_p <= 1, f"method.top_p is {self.top_p}: above 0, and 1 at most.")
        require(0 <= self.min_p <= 1, f"method.min_p is {self.min_p}: from 0 to 1.")


@dataclass(frozen=True)
class Power:
    """Scores are divided by length ** exponent (Hugging Face, fairseq, Marian's --normalize); 0 leaves the sum."""

    exponent: float = 1.0


@dataclass(frozen=True)
class GNMT:
    """Scores are divided by ((5 + length) / 6) ** alpha (arXiv:1609.08144, 7; T5X's with alpha 0.6)."""

    alpha: float = 0.6


@dataclass(frozen=True)
class Beam:
    """Beam search. `stop` says when a row with as many finished hypotheses as beams is done.

    "first" at once, "heuristic" when the best unfinished one, at its present length, scores below the worst of them,
    "never" when none could reach it at any length (with exponents of 0 and below the present length is the best case).
    """

    beams: int = 4
    length_penalty: Power | GNMT = Power()
    stop: Literal["heuristic", "first", "never"] = "heuristic"

    def __post_init__(self) -> None:
        require_positive("method.", self, "beams")


@dataclass(frozen=True)
class Generation:
    start_token: int = 0
    eos_token: int = 1
    pad_token: int = 0
    method: Greedy | Sampling | Beam = Greedy()
    outputs: int = 1  # hypotheses kept of each row, best first; or samples drawn
    max_length: int = 128
    min_length: int = 0  # EOS cannot come before
    forced_first: int | None = None  # the first token written, as mBART-50's language code
    forced_last: int | None = None  # the token written at max_length, where the row has not ended before
    banned: tuple[int, ...] = ()  # tokens never written
    no_repeat_ngram: int = 0  # no run of so many tokens occurs twice; 0 allows all
    repetition_penalty: float = 1.0  # scores of tokens already there are divided by it, or multiplied where below 0

    def __post_init__(self) -> None:
        require_positive("generation.", self, "outputs", "max_length", "repetition_penalty")
        require_not_negative("generation.", self, "start_token", "eos_token", "pad_token", "min_length")
        require_not_negative("generation.", self, "no_repeat_ngram")
        most, outputs = self.max_length, self.outputs
        require(self.min_length <= most, f"generation.min_length is {self.min_length}: max_length, {most}, at most.")
        match self.method:
            case Greedy():
                require(outputs == 1, f"generation.outputs is {outputs}: greedy decoding has 1.")
            case Beam(beams=beams):
                require(outputs <= beams, f"generation.outputs is {outputs}: as many as beams, {beams}, at most.")
