"""Objectives: how text is corrupted, and which targets the model learns from it.

The shipped ones are in research/data/objective/, a file each.
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
    """Tokens a row. Inputs and targets count control tokens and sentinels; where rows differ, they are the widest."""

    raw: int
    inputs: int
    targets: int
    noise_tokens: int = 0  # of span corruption, equal in every row
    spans: int = 0


@dataclass(frozen=True)
class Objectives(Part):
    """One objective, or several of which each row takes one."""

    @abstractmethod
    def components(self) -> "tuple[Denoiser, ...]":
        """The denoisers under which every text is read, with their weights."""


@dataclass(frozen=True)
class Objective(Objectives):
    """The base of objectives: subclass it for one of your own, in the experiment's file or a module beside it.

    A subclass is a frozen dataclass whose fields are its settings, and defines `lengths` and `corrupt`. Text comes as
    rows of `lengths().raw` token ids without control tokens, cut from a stream of documents. An objective
    that reads text backwards:

        from dataclasses import dataclass

        import numpy as np

        from research import Batch, Lengths, Objective, Tokenizer
        from research.config import require
        from research.data.objective.rows import batch_of, raw_for, whole


        @dataclass(frozen=True)
        class Backwards(Objective):
            share: float = 1.0  # rows that are turned round

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
                turned = rng.random((len(tokens), 1)) < self.share
                source = np.where(turned, tokens[:, ::-1], tokens)
                return batch_of(len(tokens), whole(source), whole(tokens), lengths, tokenizer, language)

    `data=Denoising(corpora, objective=Backwards(0.5))` uses it, as does --config.data.objective='Backwards(0.5)'.
    Before training, every objective corrupts one small block of rows in each language; what is wrong with the result is
    a ConfigError that names the method's file and line.
    """

    def components(self) -> "tuple[Denoiser, ...]":
        return (Denoiser(self),)

    @abstractmethod
    def lengths(self, input_length: int, num_special_tokens: int = 1) -> Lengths:
        """Tokens a row before and after corruption, for an encoder of `input_length` tokens.

        `num_special_tokens` is the number of special tokens that the tokenizer puts around a text (EOS; BOS or a
        language, where it has them). `inputs` must not exceed `input_length`; `targets` may. Raise ConfigError, by
        `research.config.require`, if no row fits.
        """

    def check(
        self, lengths: Lengths, tokenizer: "research.data.tokenizer.Tokenizer", language: str | None = None
    ) -> None:
        """Raise ConfigError if the tokenizer lacks what `corrupt` needs, such as sentinels or a mask.

        Called before corpora are built. The language is one that the tokenizer has, or None. By default nothing is
        needed.
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
        """Turn a block of raw rows into a Batch of as many rows.

        `tokens` is an unsigned array [rows, lengths.raw], this method's own copy. The encoder's fields of the batch are
        [rows, lengths.inputs], the decoder's [rows, lengths.targets]: tokens, segments and positions int32, weights
        float32. Ids lie in the vocabulary. `decoder_input_tokens` are the targets moved right by one, behind
        `tokenizer.start_id(language)`. Where rows have padding, give its segments 0 and its targets weight 0; where
        they have none, leave segments and weights None. Every block must fill the same fields.
        `research.data.objective.rows.batch_of` does all of this.

        Everything random must come from `rng`, so that a resumed run reads the same rows. The method is called from
        several threads at once.
        """


@dataclass(frozen=True)
class Denoiser:
    """One objective of a mixture."""

    objective: Objective
    prefix: str = ""  # text before what the encoder reads, by which the model knows the objective
    weight: int = 1  # rows of it for each row of a denoiser of weight 1

    def __post_init__(self) -> None:
        require_positive("objective.", self, "weight")


@dataclass(frozen=True)
class Mixture(Objectives):
    """Rows under several objectives, every text under each of them (UL2, arXiv:2205.05131, 3.1)."""

    denoisers: tuple[Denoiser, ...]

    def __post_init__(self) -> None:
        require(len(self.denoisers) > 0, "objective.denoisers is empty: name at least one.")

    def components(self) -> tuple[Denoiser, ...]:
        return self.denoisers
