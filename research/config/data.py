"""What is read, and what becomes of it: corpora to break and mend, or examples of tasks; and their mixing."""

from dataclasses import dataclass
from typing import Literal

from research.config.base import require, require_positive
from research.config.objective import UL2, Denoiser, Mixture, Objective, SpanCorruption
from research.config.task import Task
from research.config.tokenizer import TrainedSentencePiece, Vocabulary


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """What every corpus may say of its text."""

    language: str | None = None  # its code in the tokenizer, where that has languages


@dataclass(frozen=True)
class TFDS(Corpus):
    """A TensorFlow Datasets builder by name ("python_docs" is shipped here; "c4/en:3.1.0" needs a network once)."""

    name: str
    train: str = "train"
    held_out: str = "validation"
    text: str = "text"  # the feature that holds a document
    damaged: Literal["refuse", "skip"] = "refuse"  # what becomes of documents that cannot be read


@dataclass(frozen=True)
class JSONLines(Corpus):
    """JSON objects, one a line; .gz is read too. `train` and `held_out` are paths or glob patterns.

    With `held_out=None`, documents are held out by a hash of their text, about one in a hundred.
    """

    train: str
    held_out: str | None = None
    text: str = "text"  # the key that holds a document


@dataclass(frozen=True)
class PlainText(Corpus):
    """UTF-8 text; .gz is read too. A document is a block between blank lines, or a whole file."""

    train: str
    held_out: str | None = None
    document: Literal["block", "file"] = "block"


@dataclass(frozen=True)
class Mixing:
    """Sampling rates over corpora: min(rows, limit) ** (1 / temperature), normalised (T5, arXiv:1910.10683, 3.5.2).

    temperature=1 is proportional mixing; a limit makes it examples-proportional with a cap.
    """

    temperature: float = 1.0
    limit: int | None = None

    def __post_init__(self) -> None:
        require_positive("mixing.", self, "temperature")
        require(self.limit is None or self.limit > 0, f"mixing.limit is {self.limit}: it must be above 0, or None.")


@dataclass(frozen=True)
class Denoising:
    """Pretraining: text is broken by an objective, and the model mends it."""

    corpora: tuple[TFDS | JSONLines | PlainText, ...]
    tokenizer: Vocabulary | TrainedSentencePiece = TrainedSentencePiece()
    objective: Objective | Mixture | UL2 = SpanCorruption()
    input_length: int = 512  # encoder tokens a row before padding, controls included; the other lengths follow
    eos_after_lines: bool = False  # each line of a document that is not blank is a sentence, ended by EOS (as mBART)
    mixing: Mixing = Mixing()
    threads: int = 2  # reading and corrupting ahead of the device; never decides what is read

    def __post_init__(self) -> None:
        require(len(self.corpora) > 0, "data.corpora is empty: name at least one corpus.")
        require_positive("data.", self, "input_length", "threads")

    @property
    def denoisers(self) -> tuple[Denoiser, ...]:
        """What rows go through: one of them each."""
        objective = self.objective
        return objective.denoisers if isinstance(objective, Mixture | UL2) else (Denoiser(objective),)


@dataclass(frozen=True)
class Packed:
    """Several examples share a row, each its own segment, so that little of it is padding."""


@dataclass(frozen=True)
class Buckets:
    """Examples of like lengths share a batch, one a row, padded to the length of their bucket.

    Lengths are those of the inputs, the last one data.input_length; targets have data.target_length in proportion. A
    batch has room for as many tokens as batch_size rows of the longest have, so that shorter ones come in more rows.
    """

    lengths: tuple[int, ...]  # growing; each divides the last

    def __post_init__(self) -> None:
        lengths = self.lengths
        require(len(lengths) > 0, "data.batching.lengths is empty: name the length of at least one bucket.")
        require(
            all(length > 0 and lengths[-1] % length == 0 for length in lengths)
            and list(lengths) == sorted(set(lengths)),
            f"data.batching.lengths is {lengths}: they must grow, and each must divide the last, so that all batches"
            " have room for equally many tokens.",
        )


@dataclass(frozen=True)
class Supervised:
    """Examples of tasks, from which the model learns to write targets."""

    tasks: tuple[Task, ...]
    tokenizer: Vocabulary | TrainedSentencePiece = TrainedSentencePiece()
    input_length: int = 512  # encoder tokens a row, controls included
    target_length: int = 128  # decoder tokens a row, controls included
    too_long: Literal["truncate", "drop"] = "truncate"  # examples that do not fit a row; counted and said
    batching: Packed | Buckets = Packed()
    mixing: Mixing = Mixing()
    manual_dir: str | None = None  # where files lie that TFDS is not to download
    threads: int = 2  # reading ahead of the device; never decides what is read

    def __post_init__(self) -> None:
        require(len(self.tasks) > 0, "data.tasks is empty: name at least one task.")
        require_positive("data.", self, "input_length", "target_length", "threads")
        if isinstance(self.batching, Buckets):
            longest, folds = self.batching.lengths[-1], self.batching.lengths[-1] // self.batching.lengths[0]
            require(
                self.input_length == longest,
                f"data.input_length is {self.input_length}: it must be the last of data.batching.lengths, {longest}.",
            )
            require(
                self.target_length >= folds,
                f"data.target_length is {self.target_length}: it must be {folds} or above, so that the narrowest of"
                " data.batching.lengths has a target.",
            )
            require(
                self.mixing == Mixing(),
                f"data.mixing is {self.mixing}: in Buckets every example comes once an epoch; mix by Packed instead.",
            )
