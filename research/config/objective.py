"""The bases of objectives, which corrupt text and make its targets.

The shipped objectives are in research/data/objective/, one file each.
"""

from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from research.config.base import require, require_positive
from research.config.parts import Part

if TYPE_CHECKING:
    import numpy as np

    import research.data.batch
    import research.data.tokenizer


class Lengths(NamedTuple):
    """Tokens per row. Inputs and targets count special tokens and sentinels; if rows differ, of the longest row."""

    raw: int
    inputs: int
    targets: int
    noise_tokens: int = 0  # of span corruption, equal in every row
    spans: int = 0


@dataclass(frozen=True)
class Objectives(Part):
    """One objective, or a mixture of objectives, of which each row uses one."""

    @abstractmethod
    def components(self) -> "tuple[Denoiser, ...]":
        """Return the denoisers that are applied to every text, with their weights."""


@dataclass(frozen=True)
class Objective(Objectives):
    """The base of objectives. Subclass it in the experiment's file or a module beside it.

    A subclass is a frozen dataclass with settings as fields, and defines `lengths` and `corrupt`. Text comes as rows of
    `lengths().raw` token ids without special tokens, cut from a stream of documents. For example, an objective that
    reads text backwards:

        from dataclasses import dataclass

        import numpy as np

        from research import Batch, Lengths, Objective, Tokenizer
        from research.config import require
        from research.data.objective.rows import batch_of, full_rows, raw_for


        @dataclass(frozen=True)
        class Backwards(Objective):
            share: float = 1.0  # of rows that are reversed

            def __post_init__(self) -> None:
                require(0 <= self.share <= 1, f"Backwards.share is {self.share}: it must lie in [0, 1].")

            def lengths(self, input_length: int, num_special_tokens: int = 1) -> Lengths:
                return Lengths(raw_for(input_length, num_special_tokens), inputs=input_length, targets=input_length)

            def corrupt(
                self,
                tokens: np.ndarray,
                lengths: Lengths,
                tokenizer: Tokenizer,
                rng: np.random.Generator,
                language: str | None = None,
            ) -> Batch:
                reverse = rng.random((len(tokens), 1)) < self.share
                source = np.where(reverse, tokens[:, ::-1], tokens)
                return batch_of(len(tokens), full_rows(source), full_rows(tokens), lengths, tokenizer, language)

    Use it with `data=Denoising(corpora, objective=Backwards(0.5))` or --config.data.objective='Backwards(0.5)'.
    Before training, every objective corrupts one small block of rows in each language; a wrong result is a ConfigError
    with the method's file and line.
    """

    def components(self) -> "tuple[Denoiser, ...]":
        return (Denoiser(self),)

    @abstractmethod
    def lengths(self, input_length: int, num_special_tokens: int = 1) -> Lengths:
        """Compute the tokens per row before and after corruption, for an encoder of `input_length` tokens.

        `num_special_tokens` is the number of special tokens that the tokenizer adds to a text (EOS, and BOS or a
        language if it has them). `inputs` must not exceed `input_length`; `targets` may. Raise ConfigError, by
        `research.config.require`, if no row fits.
        """

    def check(
        self, lengths: Lengths, tokenizer: "research.data.tokenizer.Tokenizer", language: str | None = None
    ) -> None:
        """Raise ConfigError if the tokenizer lacks what `corrupt` needs, such as sentinels or a mask.

        Called before corpora are built. `language` is one of the tokenizer's, or None. The default accepts any
        tokenizer.
        """

    @abstractmethod
    def corrupt(
        self,
        tokens: "np.ndarray",
        lengths: Lengths,
        tokenizer: "research.data.tokenizer.Tokenizer",
        rng: "np.random.Generator",
        language: str | None = None,
    ) -> "research.data.batch.Batch":
        """Turn a block of raw rows into a Batch with the same number of rows.

        `tokens` is an unsigned array [rows, lengths.raw] that this method may modify. The batch's encoder fields are
        [rows, lengths.inputs], its decoder fields [rows, lengths.targets]: tokens, segments and positions in int32,
        weights in float32. Ids must be in the vocabulary. `decoder_input_tokens` are the targets shifted right by one,
        after `tokenizer.start_id(language)`. Padding has segment 0 and target weight 0; without padding, leave segments
        and weights None. Every block must set the same fields. `research.data.objective.rows.batch_of` does all this.

        Use only `rng` for random numbers, so that a resumed run reads the same rows. The method is called from several
        threads at once.
        """


@dataclass(frozen=True)
class Denoiser:
    """One objective of a mixture, with its prefix and weight."""

    objective: Objective
    prefix: str = ""  # text before the encoder's input that identifies the objective
    weight: int = 1  # rows per row of a denoiser of weight 1

    def __post_init__(self) -> None:
        require_positive("objective.", self, "weight")


@dataclass(frozen=True)
class Mixture(Objectives):
    """A mixture of objectives; every text is used with each of them (UL2, arXiv:2205.05131, 3.1)."""

    denoisers: tuple[Denoiser, ...]

    def __post_init__(self) -> None:
        require(len(self.denoisers) > 0, "objective.denoisers is empty: name at least one.")

    def components(self) -> tuple[Denoiser, ...]:
        return self.denoisers
