"""TensorFlow Datasets as corpora: builders by name, their splits, and examples by index."""

import importlib
import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
from jaxtyping import Int64

from research.config import ConfigError, Corpus, require
from research.config.base import digest
from research.data.corpora.documents import Documents
from research.data.corpora.overlap import Piece
from research.storage import cache, stop

SHIPPED = ("python_docs", "multi30k", "dialogsum", "xquad")
SHIPPED_NAMES = "python_docs, python_docs/summaries, multi30k, dialogsum and xquad/en (de, ro, ...)"
HOW_TO_LIST = "tensorflow_datasets.list_builders() lists those that TFDS knows"


@dataclass(frozen=True)
class TFDS(Corpus):
    """A TensorFlow Datasets builder by name ("python_docs" is shipped here; "c4/en:3.1.0" needs a network once)."""

    name: str
    train: str = "train"
    held_out: str = "validation"
    text: str = "text"  # the feature with the text of a document
    damaged: Literal["refuse", "skip"] = "refuse"  # effect of an unreadable document

    def documents(self, split: Literal["train", "held_out"]) -> "DataSource":
        return DataSource(self, self.train if split == "train" else self.held_out)


class DataSource(Documents):
    """The text feature of a split of a TFDS data set."""

    def __init__(self, corpus: TFDS, split: str) -> None:
        builder = open_builder(corpus.name)
        import tensorflow_datasets as tfds

        features = builder.info.features
        texts = [name for name, feature in features.items() if isinstance(feature, tfds.features.Text)]
        require(
            corpus.text in texts,
            f'The TFDS data set {corpus.name} has no text feature "{corpus.text}": it has'
            f" {', '.join(texts) or 'none'}.",
        )
        self.name = f"{corpus.name} ({split})"
        self._text, self._skips = corpus.text, corpus.damaged == "skip"
        self._examples = IndexedSplit(builder, corpus.name, split)
        self.pieces, self._left_out = self._examples.pieces, 0
        what = [*builder_identity(builder, split), corpus.text, *["without damaged"] * self._skips]
        self.identity = digest(what)

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, index: int) -> str:
        return self._decode(self._examples.read([index])[0])

    def read(self, indices: Int64[np.ndarray, " n"]) -> list[str]:
        """Read documents by index.

        Raises ConfigError for a document that cannot be read or, with damaged="skip", leaves it out and reports how
        many there were so far.
        """
        try:
            return [self._decode(example) for example in self._examples.read(indices.tolist())]
        except ConfigError:
            if not self._skips:
                raise
        documents = []
        for index in indices.tolist():
            try:
                documents.append(self[index])
            except ConfigError as error:
                self._left_out += 1
                print(f"Skipped a document ({self._left_out} so far): {error}", file=sys.stderr, flush=True)
        return documents

    def _decode(self, example: dict[str, Any]) -> str:
        try:
            return example[self._text].decode()
        except UnicodeDecodeError as error:
            raise ConfigError(f'A document of {self.name} is not UTF-8 in its feature "{self._text}".') from error


class IndexedSplit:
    """The examples of a split, by index."""

    def __init__(self, builder: Any, name: str, split: str) -> None:
        self._source, self._files = open_split(builder, name, split), builder.info.splits[split].file_instructions
        self._called = f"{name} ({split})"
        of = builder.info.full_name
        self.pieces = [  # their names alone decide
            Piece(f"{of}/{part.filename}", str, self._called, part.skip, part.skip + part.take) for part in self._files
        ]

    def __len__(self) -> int:
        return len(self._source)

    def read(self, indices: list[int]) -> list[dict[str, Any]]:
        """Read examples. Raises ConfigError naming the first one that cannot be read, and its file."""
        try:
            return self._source.__getitems__(indices)
        except RuntimeError:
            for index in indices:
                try:
                    self._source[index]
                except RuntimeError as error:
                    reason = " ".join(str(error).split())[:200]
                    raise ConfigError(
                        f"Example {index} of {self._called} cannot be read: {self._file(index)} is damaged or missing"
                        f" ({reason}). Rebuild the data set, or for a corpus set damaged='skip' to leave it out."
                    ) from error
            raise

    def _file(self, index: int) -> str:
        for part in self._files:
            if index < part.take:
                break
            index -= part.take
        return part.filename


def open_builder(name: str, manual_dir: str | None = None, beam: Mapping[str, Any] | None = None) -> Any:
    """Open the TFDS builder of that name, preparing its data set as array_record files, which need no TensorFlow.

    Data sets shipped here are built in this codebase's cache, others in TFDS's directory: $TFDS_DATA_DIR or
    ~/tensorflow_datasets. Files that cannot be downloaded are taken from `manual_dir`. Builders that use Apache Beam
    need `beam`, the fields beam_runner and beam_options of TFDS's DownloadConfig.
    """
    # TFDS would download and run the code of such a data set.
    require(
        not re.match(r"\w+:[a-zA-Z_]", name),
        f"{name} is a community data set: its code would be downloaded and run, which is not allowed.",
    )
    if name.split("/")[0] in SHIPPED:
        return _open_shipped(name, manual_dir)
    builder = _find_builder(name)
    if not builder.is_prepared():
        with cache.writable():
            lock = cache.directory() / "tfds" / digest(str(builder.data_dir))
            lock.parent.mkdir(parents=True, exist_ok=True)
            with cache.locked(lock):
                _prepare(builder, name, manual_dir, beam)
    return builder


def _open_shipped(name: str, manual_dir: str | None) -> Any:
    """Open a builder shipped here. The import is local, because importing TFDS takes seconds."""
    from research.data.datasets import dialogsum, multi30k, python_docs, python_summaries, xquad

    match name.split("/"):
        case ["python_docs"]:
            return python_docs.open_builder()
        case ["python_docs", "summaries"]:
            return python_summaries.open_builder()
        case ["multi30k"]:
            return multi30k.open_builder(manual_dir)
        case ["dialogsum"]:
            return dialogsum.open_builder(manual_dir)
        case ["xquad", language]:
            return xquad.open_builder(language, manual_dir)
    raise ConfigError(f"There is no TFDS data set {name}: {SHIPPED_NAMES} are shipped here, {HOW_TO_LIST}.")


def _find_builder(name: str) -> Any:
    import tensorflow_datasets as tfds

    unknown = tfds.core.DatasetNotFoundError
    try:
        try:
            return _tfds_builder(name)
        except unknown:
            for group in ("text", "translate", "summarization"):  # imported by TFDS only with TensorFlow
                importlib.import_module(f"tensorflow_datasets.{group}")
        return _tfds_builder(name)
    except unknown:
        raise ConfigError(
            f"There is no TFDS data set {name}: {SHIPPED_NAMES} are shipped here, {HOW_TO_LIST}."
        ) from None
    except (ValueError, AssertionError) as error:  # unknown config or version of the data set
        raise ConfigError(f"TFDS does not accept the name {name} ({_first_line(error)}).") from error


def _tfds_builder(name: str) -> Any:
    import tensorflow_datasets as tfds

    return tfds.builder(name, data_dir=os.environ.get("TFDS_DATA_DIR"))


def _prepare(builder: Any, name: str, manual_dir: str | None, beam: Mapping[str, Any] | None) -> None:
    import tensorflow_datasets as tfds

    if builder.is_prepared():
        return  # another process prepared it while this one waited
    require(
        beam is not None or not isinstance(builder, tfds.core.BeamBasedBuilder),
        f"{name} is built with Apache Beam: prepare it by python -m scripts.prepare EXPERIMENT.py --beam_runner NAME.",
    )
    try:
        downloads = tfds.download.DownloadConfig(manual_dir=manual_dir, **(beam or {}))
        prepare = partial(builder.download_and_prepare, download_config=downloads, file_format="array_record")
        stop.interruptible(prepare)
    except Exception as error:  # any error of the builder, the download or the disk
        raise ConfigError(
            f"TFDS could not build {name} in {builder.data_dir} ({_first_line(_root(error))}): it needs a network"
            " once, or its files in a directory given by --config.data.manual_dir=PATH, as described on its page."
        ) from error


def builder_identity(builder: Any, split: str) -> list[Any]:
    """Return a list that identifies the examples of a split: equal lists mean the same examples in the same order."""
    sizes = sorted((part.name, part.num_examples, part.num_bytes) for part in builder.info.splits.values())
    return [builder.info.full_name, getattr(builder, "fingerprint", ""), sizes, split]


def open_split(builder: Any, name: str, split: str) -> Any:
    """Open the examples of a split, by index. Raises ConfigError if there are none, or if
    TensorFlow would be needed.
    """
    splits = ", ".join(f"{part.name} ({part.num_examples})" for part in builder.info.splits.values())
    try:
        return builder.as_data_source(split)
    except NotImplementedError as error:
        raise ConfigError(
            f"The TFDS data set {name} in {builder.data_dir} is stored as {builder.info.file_format.value}, which needs"
            " TensorFlow: point TFDS_DATA_DIR elsewhere, and it is rebuilt as array_record."
        ) from error
    except (ValueError, KeyError) as error:
        raise ConfigError(f"The TFDS data set {name} has no examples in {split}: it has {splits}.") from error


def _root(error: BaseException) -> BaseException:
    """Return the first error of a chain: TFDS formats some errors with TensorFlow, which hides the original reason."""
    while (before := error.__cause__ or error.__context__) is not None:
        error = before
    return error


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return ": ".join([type(error).__name__, *lines[:1]])
