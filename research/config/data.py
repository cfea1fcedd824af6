"""The data of an experiment: corpora with a denoising objective, or supervised tasks; and mixing rates."""

import math
from abc import abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from research.config.base import require, require_positive
from research.config.objective import Denoiser, Objectives
from research.config.parts import Part, calling, expect, shipped
from research.config.task import Task
from research.config.tokenizer import TokenizerConfig, TrainedSentencePiece

if TYPE_CHECKING:
    import research.data.corpora.documents


@dataclass(frozen=True, kw_only=True)
class Corpus(Part):
    """The base of corpora. Subclass it in the experiment's file or a module beside it.

    A subclass is a frozen dataclass with fields that locate the text, and defines `documents`. For example, a corpus of
    the lines of a file, with one in ten held out:

        from dataclasses import dataclass
        from pathlib import Path
        from typing import Literal

        from research import Corpus, Documents, DocumentsInMemory
        from research.config import require
        from research.storage.lines import read_text_lines


        @dataclass(frozen=True)
        class Lines(Corpus):
            file: str

            def documents(self, split: Literal["train", "held_out"]) -> Documents:
                path = Path(self.file)
                require(path.is_file(), f"There is no file {self.file}: Lines.file must name one.")
                lines = [line.content for line in read_text_lines(path) if line.text.strip()]
                held_out = [line for number, line in enumerate(lines) if number % 10 == 0]
                train = [line for number, line in enumerate(lines) if number % 10 != 0]
                return DocumentsInMemory(f"{self.file} ({split})", train if split == "train" else held_out)

    Use it with `data=Denoising(corpora=(Lines("notes.txt"),))` or --config.data.corpora='[Lines("notes.txt")]'.
    """

    language: str | None = None  # language code, for tokenizers that have languages

    @abstractmethod
    def documents(self, split: Literal["train", "held_out"]) -> "research.data.corpora.documents.Documents":
        """Return the documents of a split. Raise ConfigError, by `research.config.require`, if it has none.

        `DocumentsInMemory` holds texts in memory. For text that does not fit in memory, subclass `Documents` and read
        documents by index. Both splits must be non-empty and have no document in common.

        Tokens are cached under the documents' `identity`: equal identities must mean equal documents in equal order.
        The default is a hash of all documents, which reads each of them once per run before training (about 1 second
        for 200 MB in memory). For a large corpus, return something cheaper that determines the documents, such as a
        hash of its files.
        """


@dataclass(frozen=True)
class Mixing:
    """Sampling rates over corpora: min(rows, limit) ** (1 / temperature), normalised (T5, arXiv:1910.10683, 3.5.2).

    temperature=1 is proportional mixing; with a limit, which caps the sizes, it is examples-proportional mixing.
    `rates` are numbers in place of the sizes, or None for the size itself, one for each corpus or task that is trained
    on, in their order.
    """

    temperature: float = 1.0
    limit: int | None = None
    rates: tuple[float | None, ...] = ()

    def __post_init__(self) -> None:
        require_positive("mixing.", self, "temperature")
        require(self.limit is None or self.limit > 0, f"mixing.limit is {self.limit}: it must be above 0, or None.")
        fits = all(rate is None or 0 < rate < math.inf for rate in self.rates)
        require(fits, f"mixing.rates is {self.rates}: each must be above 0 and finite, or None.")

    def __repr__(self) -> str:
        """Return the text that fingerprints of runs contain; runs are older than `rates`."""
        rates = f", rates={self.rates}" if self.rates else ""
        return f"Mixing(temperature={self.temperature!r}, limit={self.limit!r}{rates})"


@dataclass(frozen=True)
class Denoising:
    """Pretraining data: an objective corrupts text, and the model reconstructs it."""

    corpora: tuple[Corpus, ...]
    tokenizer: TokenizerConfig = TrainedSentencePiece()
    objective: Objectives = field(default_factory=lambda: shipped("SpanCorruption"))
    input_length: int = 512  # encoder tokens per row, with special tokens; other lengths are derived
    eos_after_lines: bool = False  # put EOS after each non-blank line of a document, as mBART after each sentence
    mixing: Mixing = Mixing()
    threads: int = 2  # that read and corrupt ahead of the device; the data do not depend on it
    shared_files: Literal["refuse", "count"] = "refuse"  # files that are trained on and held out
    duplicates: Literal["keep", "leave_out"] = "keep"  # documents to train on that repeat others, or are held out

    def __post_init__(self) -> None:
        require(len(self.corpora) > 0, "data.corpora is empty: name at least one corpus.")
        require_positive("data.", self, "input_length", "threads")

    @property
    def denoisers(self) -> tuple[Denoiser, ...]:
        """The components of the objective; each row uses one of them."""
        with calling(self.objective, "components"):
            components = self.objective.components()
        fits = isinstance(components, tuple) and all(isinstance(one, Denoiser) for one in components)
        expect(fits and len(components) > 0, self.objective, "components", f"returned {components!r}, no Denoisers")
        return components


@dataclass(frozen=True)
class UnlabelledText:
    """Text that an objective corrupts, among the examples of tasks: T5's multi-task pretraining (section 3.5.3).

    `rate` is its number in the mixture, in place of min(rows, limit) ** (1 / temperature): T5's artificial data set
    size. `mixing` shares it among the corpora.
    """

    corpora: tuple[Corpus, ...]
    objective: Objectives = field(default_factory=lambda: shipped("SpanCorruption"))
    rate: float | None = None
    mixing: Mixing = Mixing()

    def __post_init__(self) -> None:
        require(len(self.corpora) > 0, "data.unlabelled.corpora is empty: name at least one corpus.")
        fits = self.rate is None or 0 < self.rate < math.inf
        require(fits, f"data.unlabelled.rate is {self.rate}: it must be above 0 and finite, or None.")


@dataclass(frozen=True)
class Packed:
    """Packing: several examples share a row, each as its own segment, to reduce padding."""


@dataclass(frozen=True)
class Buckets:
    """Bucketing: examples of similar length share a batch, one per row, padded to the length of their bucket.

    `lengths` are of inputs, and the last is data.input_length; data.target_length is scaled in proportion. Every batch
    has room for as many tokens as batch_size rows of the longest bucket, so shorter buckets have more rows.
    """

    lengths: tuple[int, ...]  # in increasing order; each divides the last

    def __post_init__(self) -> None:
        lengths = self.lengths
        require(len(lengths) > 0, "data.batching.lengths is empty: name the length of at least one bucket.")
        require(
            all(length > 0 and lengths[-1] % length == 0 for length in lengths)
            and list(lengths) == sorted(set(lengths)),
            f"data.batching.lengths is {lengths}: they must increase, and each must divide the last, so that all"
            " batches have room for equally many tokens.",
        )


@dataclass(frozen=True)
class Supervised:
    """Supervised data: the examples of one or more tasks, and text to denoise among them."""

    tasks: tuple[Task, ...]
    tokenizer: TokenizerConfig = TrainedSentencePiece()
    input_length: int = 512  # encoder tokens per row, with special tokens
    target_length: int = 128  # decoder tokens per row, with special tokens
    too_long: Literal["truncate", "drop"] = "truncate"  # examples that do not fit in a row; their number is reported
    batching: Packed | Buckets = Packed()
    mixing: Mixing = Mixing()
    manual_dir: str | None = None  # directory of manually downloaded files (TFDS)
    threads: int = 2  # that read ahead of the device; the data do not depend on it
    shared_files: Literal["refuse", "count"] = "refuse"  # files that are trained on and held out
    duplicates: Literal["keep", "leave_out"] = "keep"  # examples to train on that repeat others, or are held out
    unlabelled: UnlabelledText | None = None

    def __post_init__(self) -> None:
        require(len(self.tasks) > 0, "data.tasks is empty: name at least one task.")
        require_positive("data.", self, "input_length", "target_length", "threads")
        if isinstance(self.batching, Buckets):
            longest, ratio = self.batching.lengths[-1], self.batching.lengths[-1] // self.batching.lengths[0]
            require(
                self.input_length == longest,
                f"data.input_length is {self.input_length}: it must be the last of data.batching.lengths, {longest}.",
            )
            require(
                self.target_length >= ratio,
                f"data.target_length is {self.target_length}: it must be {ratio} or above, so that the shortest of"
                " data.batching.lengths has a target.",
            )
            require(
                self.mixing == Mixing(),
                f"data.mixing is {self.mixing}: with Buckets every example is read once per epoch; use Packed to mix.",
            )
            message = "data.unlabelled is mixed with examples in packed rows: set data.batching=Packed(), or no text."
            require(self.unlabelled is None, message)

    @property
    def denoising(self) -> Denoising | None:
        """The text among the examples, as pretraining data of its own."""
        text = self.unlabelled
        if text is None:
            return None
        return Denoising(
            corpora=text.corpora,
            tokenizer=self.tokenizer,
            objective=text.objective,
            input_length=self.input_length,
            mixing=text.mixing,
            threads=self.threads,
            shared_files=self.shared_files,
            duplicates=self.duplicates,
        )
