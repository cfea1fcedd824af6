"""Data of an experiment: corpora under a denoising objective, or examples of tasks; and their mixing."""

from abc import abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from research.config.base import require, require_positive
from research.config.objective import Denoiser, Objectives
from research.config.parts import Part, calling, expect, shipped
from research.config.task import Task
from research.config.tokenizer import TrainedSentencePiece, Vocabulary

if TYPE_CHECKING:
    import research.data.corpora.documents


@dataclass(frozen=True, kw_only=True)
class Corpus(Part):
    """The base of corpora: subclass it for one of your own, in the experiment's file or a module beside it.

    A subclass is a frozen dataclass whose fields say where the text is, and defines `documents`. A corpus of the lines
    of a file, one in ten held out:

        from dataclasses import dataclass
        from pathlib import Path
        from typing import Literal

        from research import Corpus, Documents, DocumentsInMemory
        from research.config import require


        @dataclass(frozen=True)
        class Lines(Corpus):
            file: str

            def documents(self, split: Literal["train", "held_out"]) -> Documents:
                path = Path(self.file)
                require(path.is_file(), f"There is no file {self.file}: Lines.file must name one.")
                lines = [line for line in path.read_text().splitlines() if line.strip()]
                held_out = [line for number, line in enumerate(lines) if number % 10 == 0]
                train = [line for number, line in enumerate(lines) if number % 10 != 0]
                return DocumentsInMemory(f"{self.file} ({split})", train if split == "train" else held_out)

    `data=Denoising(corpora=(Lines("notes.txt"),))` uses it, as does --config.data.corpora='[Lines("notes.txt")]'.
    """

    language: str | None = None  # its code in the tokenizer, where that has languages

    @abstractmethod
    def documents(self, split: Literal["train", "held_out"]) -> "research.data.corpora.documents.Documents":
        """Find the documents of a split, and raise ConfigError, by `research.config.require`, if there are none.

        `DocumentsInMemory` holds texts in memory. For text that does not fit there, subclass `Documents` and read
        documents by index. Both splits must be non-empty and have no document in common.

        Tokens are kept in a cache under the documents' `identity`: equal identities must mean equal documents in equal
        order. The default is a hash of all documents, which reads each once a run before training (about 1 second for
        200 MB in memory); of a large corpus, return something cheaper from which they follow, such as a hash of its
        files.
        """


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
    """Pretraining: an objective corrupts text, and the model restores it."""

    corpora: tuple[Corpus, ...]
    tokenizer: Vocabulary | TrainedSentencePiece = TrainedSentencePiece()
    objective: Objectives = field(default_factory=lambda: shipped("SpanCorruption"))
    input_length: int = 512  # encoder tokens a row before padding, controls included; the other lengths follow
    eos_after_lines: bool = False  # each line of a document that is not blank is a sentence, ended by EOS (as mBART)
    mixing: Mixing = Mixing()
    threads: int = 2  # reading and corrupting ahead of the device; never decides what is read

    def __post_init__(self) -> None:
        require(len(self.corpora) > 0, "data.corpora is empty: name at least one corpus.")
        require_positive("data.", self, "input_length", "threads")

    @property
    def denoisers(self) -> tuple[Denoiser, ...]:
        """The components of the objective, of which each row takes one."""
        with calling(self.objective, "components"):
            components = self.objective.components()
        fits = isinstance(components, tuple) and all(isinstance(one, Denoiser) for one in components)
        expect(fits and len(components) > 0, self.objective, "components", f"returned {components!r}, no Denoisers")
        return components


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
