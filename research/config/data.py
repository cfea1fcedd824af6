"""What is read, and what becomes of it: corpora, tokenizers, objectives, mixing."""

from dataclasses import dataclass
from typing import Literal

from research.config.base import require, require_positive


@dataclass(frozen=True)
class TFDS:
    """A TensorFlow Datasets builder by name ("python_docs" is shipped here; "c4/en:3.1.0" needs a network once)."""

    name: str
    train: str = "train"
    held_out: str = "validation"
    text: str = "text"  # the feature that holds a document


@dataclass(frozen=True)
class JSONLines:
    """JSON objects, one a line; .gz is read too. `train` and `held_out` are paths or glob patterns.

    With `held_out=None`, documents are held out by a hash of their text, about one in a hundred.
    """

    train: str
    held_out: str | None = None
    text: str = "text"  # the key that holds a document


@dataclass(frozen=True)
class PlainText:
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
class SentencePiece:
    """A SentencePiece model on disk; `sentinels` ids are added above its pieces.

    With sentinels=0 its own pieces <extra_id_0>, <extra_id_1>, ... serve, as in mT5's file.
    """

    path: str
    sentinels: int = 100


@dataclass(frozen=True)
class TrainedSentencePiece:
    """A SentencePiece unigram model trained on the training split, once, and cached."""

    pieces: int = 32_000
    sentinels: int = 100

    def __post_init__(self) -> None:
        require(self.pieces > 300, f"tokenizer.pieces is {self.pieces}: at least 301, for 256 bytes and the controls.")


@dataclass(frozen=True)
class Bytes:
    """UTF-8 bytes after three controls, as ByT5. With sentinels=0 the highest byte ids serve, as in its pretraining."""

    sentinels: int = 100


@dataclass(frozen=True)
class ByteLevelBPE:
    """BART's byte-level BPE: a tokenizer.json, or a directory that holds one, or vocab.json and merges.txt."""

    path: str


@dataclass(frozen=True)
class MBart:
    """mBART's sentencepiece.bpe.model, with fairseq's ids, and the languages of CC25 or of mBART-50."""

    path: str
    variant: Literal["cc25", "50"] = "cc25"


@dataclass(frozen=True)
class Marian:
    """A directory with source.spm, target.spm and vocab.json; target_vocab.json too where the two are separate."""

    directory: str


Vocabulary = SentencePiece | Bytes | ByteLevelBPE | MBart | Marian  # what can be opened as it is


@dataclass(frozen=True)
class SpanCorruption:
    """T5's objective: noise spans become sentinels, the target lists what they hid (arXiv:1910.10683, 3.1.4)."""

    noise_density: float = 0.15
    mean_span_length: float = 3.0

    def __post_init__(self) -> None:
        density, span = self.noise_density, self.mean_span_length
        require(0 < density < 1, f"objective.noise_density is {density}: it must lie between 0 and 1, both excluded.")
        require(span >= 1, f"objective.mean_span_length is {span}: it must be at least 1 token.")


@dataclass(frozen=True)
class Data:
    corpora: tuple[TFDS | JSONLines | PlainText, ...]
    tokenizer: Vocabulary | TrainedSentencePiece = TrainedSentencePiece()
    objective: SpanCorruption = SpanCorruption()
    input_length: int = 512  # encoder tokens a row, EOS included; the raw and target lengths follow
    mixing: Mixing = Mixing()
    threads: int = 2  # reading and corrupting ahead of the device; never decides what is read

    def __post_init__(self) -> None:
        require(len(self.corpora) > 0, "data.corpora is empty: name at least one corpus.")
        require_positive("data.", self, "input_length", "threads")
