"""Denoising objectives: how text is broken, and what must be written of it.

A noise density is a share of the tokens of a row or, with whole words, of its words.
"""

from dataclasses import dataclass

from research.config.base import require, require_positive


def require_density(density: float, most: float = 1.0) -> None:
    """Above 0 and below 1, or up to a smaller most, that being allowed."""
    said = "1, both excluded" if most == 1 else f"{most}"
    require(
        0 < density < 1 and density <= most,
        f"objective.noise_density is {density}: it must lie between 0 and {said}.",
    )


def require_share(name: str, share: float) -> None:
    require(0 <= share <= 1, f"objective.{name} is {share}: it must lie in [0, 1].")


# --- T5's -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SpanCorruption:
    """T5's objective: noise spans become sentinels, the target lists what they hid (arXiv:1910.10683, 3.1.4)."""

    noise_density: float = 0.15
    mean_span_length: float = 3.0

    def __post_init__(self) -> None:
        density, span = self.noise_density, self.mean_span_length
        require_density(density)
        require(span >= 1, f"objective.mean_span_length is {span}: it must be at least 1 token.")


@dataclass(frozen=True)
class ReplaceSpans:
    """As span corruption, but each token is noise by a draw of its own (arXiv:1910.10683, 3.3.2: T5's baseline)."""

    noise_density: float = 0.15

    def __post_init__(self) -> None:
        require_density(self.noise_density)


@dataclass(frozen=True)
class DropTokens:
    """Each token is left out by a draw of its own, and the target is what was left out (arXiv:1910.10683, 3.3.2)."""

    noise_density: float = 0.15

    def __post_init__(self) -> None:
        require_density(self.noise_density)


@dataclass(frozen=True)
class BERTStyle:
    """Each token is noise by a draw of its own: a random token or else the mask; the target is the whole text.

    arXiv:1910.10683, 3.3.1, after BERT (arXiv:1810.04805).
    """

    noise_density: float = 0.15
    random_tokens: float = 0.1  # share of the noise

    def __post_init__(self) -> None:
        require_density(self.noise_density)
        require_share("random_tokens", self.random_tokens)


@dataclass(frozen=True)
class MASSStyle:
    """As BERT-style, but all noise becomes the mask (arXiv:1910.10683, 3.3.2, after MASS, arXiv:1905.02450)."""

    noise_density: float = 0.15

    def __post_init__(self) -> None:
        require_density(self.noise_density)


@dataclass(frozen=True)
class Deshuffling:
    """The tokens of a row in random order; the target is the row (arXiv:1910.10683, 3.3.1)."""


@dataclass(frozen=True)
class PrefixLM:
    """The beginning of a row is read and its end is written (arXiv:1910.10683, 3.2.3).

    The end is a share of the row drawn uniformly from 0 to twice the density, never the whole row nor nothing of it.
    """

    noise_density: float = 0.5

    def __post_init__(self) -> None:
        require_density(self.noise_density, most=0.5)


@dataclass(frozen=True)
class LanguageModelling:
    """Nothing is read and the whole row is written (arXiv:1910.10683, 3.2.2)."""


# --- BART's ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TokenMasking:
    """So many tokens, or words, become a mask each, or a random token."""

    noise_density: float = 0.3
    random_tokens: float = 0.1  # share of the masks
    whole_words: bool = False

    def __post_init__(self) -> None:
        require_density(self.noise_density)
        require_share("random_tokens", self.random_tokens)


@dataclass(frozen=True)
class TokenDeletion:
    """So many tokens, or words, are left out."""

    noise_density: float = 0.3
    whole_words: bool = False

    def __post_init__(self) -> None:
        require_density(self.noise_density)


@dataclass(frozen=True)
class TextInfilling:
    """Spans of lengths from a Poisson distribution become a mask each, or a random token; empty ones are put between.

    The lengths of all spans together are a share of the row. The paper's mean is 3, the released models' 3.5; below 2,
    spans that are empty would put in more than others take out.
    """

    noise_density: float = 0.3
    poisson_mean: float = 3.5
    random_tokens: float = 0.1  # share of the masks
    whole_words: bool = True

    def __post_init__(self) -> None:
        require_density(self.noise_density)
        require_share("random_tokens", self.random_tokens)
        mean = self.poisson_mean
        require(2 <= mean <= 16, f"objective.poisson_mean is {mean}: it must lie in [2, 16].")


@dataclass(frozen=True)
class BART:
    """Sentences are permuted, then words hidden, then the row is rotated; the target is the whole text.

    arXiv:1910.13461, 2.2, as in fairseq. Any of the three may be left out: shares of 0, no corruption.
    """

    corruption: TokenMasking | TokenDeletion | TextInfilling | None = TextInfilling()
    permute_sentences: float = 1.0  # share of the sentences of a row, which change places among themselves
    rotate: float = 0.0  # share of the rows
    sentence_ends: tuple[str, ...] = (".",)  # tokens that end a sentence, beside EOS
    unspaced: tuple[str, ...] = ()  # languages written without spaces, of which each token counts as a word

    def __post_init__(self) -> None:
        require_share("permute_sentences", self.permute_sentences)
        require_share("rotate", self.rotate)


Objective = (
    SpanCorruption
    | ReplaceSpans
    | DropTokens
    | BERTStyle
    | MASSStyle
    | Deshuffling
    | PrefixLM
    | LanguageModelling
    | BART
)


# --- Several at once ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Denoiser:
    """One objective of a mixture."""

    objective: Objective
    prefix: str = ""  # text before what the encoder reads, by which the model knows the objective
    weight: int = 1  # rows of it for each row of a denoiser of weight 1

    def __post_init__(self) -> None:
        require_positive("objective.", self, "weight")


@dataclass(frozen=True)
class Mixture:
    """Rows under several objectives, every text under each of them (UL2, arXiv:2205.05131, 3.1)."""

    denoisers: tuple[Denoiser, ...]

    def __post_init__(self) -> None:
        require(len(self.denoisers) > 0, "objective.denoisers is empty: name at least one.")


@dataclass(frozen=True)
class UL2:
    """UL2's seven denoisers in equal parts (table 1); the released models' prefixes are [NLU], [NLG] and [S2S]."""

    regular: str = "[R]"
    extreme: str = "[X]"
    sequential: str = "[S]"

    @property
    def denoisers(self) -> tuple[Denoiser, ...]:
        return (
            Denoiser(SpanCorruption(0.15, 3.0), self.regular),
            Denoiser(SpanCorruption(0.15, 8.0), self.regular),
            Denoiser(SpanCorruption(0.5, 3.0), self.extreme),
            Denoiser(SpanCorruption(0.5, 8.0), self.extreme),
            Denoiser(SpanCorruption(0.15, 64.0), self.extreme),
            Denoiser(SpanCorruption(0.5, 64.0), self.extreme),
            Denoiser(PrefixLM(0.25), self.sequential),
        )
