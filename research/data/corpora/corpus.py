"""TensorFlow Datasets as corpora: builders by name, their splits and examples by index."""

import importlib
import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Int64

from research.config import ConfigError, Corpus, require
from research.config.base import digest
from research.data.corpora.documents import Documents
from research.storage import cache

SHIPPED = ("python_docs", "multi30k", "dialogsum", "xquad")
LISTED = "python_docs, python_docs/summaries, multi30k, dialogsum and xquad/en (de, ro, ...)"
HOW_TO_LIST = "tensorflow_datasets.list_builders() lists those that TFDS knows"


@dataclass(frozen=True)
class TFDS(Corpus):
    """A TensorFlow Datasets builder by name ("python_docs" is shipped here; "c4/en:3.1.0" needs a network once)."""

    name: str
    train: str = "train"
    held_out: str = "validation"
    text: str = "text"  # the feature that holds a document
    damaged: Literal["refuse", "skip"] = "refuse"  # whether documents that cannot be read end the run

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
        self._left_out = 0
        what = [*builder_identity(builder, split), corpus.text, *["without damaged"] * self._skips]
        self.identity = digest(what)

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, index: int) -> str:
        return self._decoded(self._examples.read([index])[0])

    def read(self, indices: Int64[np.ndarray, " n"]) -> list[str]:
        """Raises ConfigError for a document that cannot be read, or leaves it out and says how many there were."""
        try:
            return [self._decoded(example) for example in self._examples.read(indices.tolist())]
        except ConfigError:
            if not self._skips:
                raise
        documents = []
        for index in indices.tolist():
            try:
                documents.append(self[index])
            except ConfigError as error:
                self._left_out += 1
                print(f"Left out, {self._left_out} by now: {error}", file=sys.stderr, flush=True)
        return documents

    def _decoded(self, example: dict[str, Any]) -> str:
        try:
            return example[self._text].decode()
        except UnicodeDecodeError as error:
            raise ConfigError(f'A document of {self.name} is not UTF-8 in its feature "{self._text}".') from error


class IndexedSplit:
    """A split's examples by index."""

    def __init__(self, builder: Any, name: str, split: str) -> None:
        self._source, self._files = open_split(builder, name, split), builder.info.splits[split].file_instructions
        self._called = f"{name} ({split})"

    def __len__(self) -> int:
        return len(self._source)

    def read(self, indices: list[int]) -> list[dict[str, Any]]:
        """Raises ConfigError naming the first that cannot be read, and its file."""
        try:
            return self._source.__getitems__(indices)
        except RuntimeError:
            for index in indices:
                try:
                    self._source[index]
                except RuntimeError as error:
                    said = " ".join(str(error).split())[:200]
                    raise ConfigError(
                        f"Example {index} of {self._called} cannot be read: {self._file(index)} is damaged or missing"
                        f" ({said}). Build the data set anew, or for a corpus set damaged='skip' to leave it out."
                    ) from error
            raise

    def _file(self, index: int) -> str:
        for part in self._files:
            if index < part.take:
                break
            index -= part.take
        return part.filename


def open_builder(name: str, manual_dir: str | None = None, beam: Mapping[str, Any] | None = None) -> Any:
    """The TFDS builder of that name, its data set prepared as array_record files, which need no TensorFlow.

    Those shipped here live in our cache, others where TFDS keeps them: $TFDS_DATA_DIR or ~/tensorflow_datasets. Files
    that are not to be downloaded are taken from `manual_dir`. What Apache Beam builds needs `beam`, the fields
    beam_runner and beam_options of TFDS's DownloadConfig.
    """
    # TFDS would download its code and run it.
    require(not re.match(r"\w+:[a-zA-Z_]", name), f"{name} is a data set of a community, whose code is not to be run.")
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
    """Imported only where it is asked for: importing TFDS takes seconds."""
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
    raise ConfigError(f"There is no TFDS data set {name}: {LISTED} are shipped here, {HOW_TO_LIST}.")


def _find_builder(name: str) -> Any:
    import tensorflow_datasets as tfds

    unknown = tfds.core.DatasetNotFoundError
    try:
        try:
            return _tfds_builder(name)
        except unknown:
            for group in ("text", "translate", "summarization"):  # TFDS imports them by itself only with TensorFlow
                importlib.import_module(f"tensorflow_datasets.{group}")
        return _tfds_builder(name)
    except unknown:
        raise ConfigError(f"There is no TFDS data set {name}: {LISTED} are shipped here, {HOW_TO_LIST}.") from None
    except (ValueError, AssertionError) as error:  # a config or a version that the data set does not have
        raise ConfigError(f"TFDS does not take the name {name} ({_first_line(error)}).") from error


def _tfds_builder(name: str) -> Any:
    import tensorflow_datasets as tfds

    return tfds.builder(name, data_dir=os.environ.get("TFDS_DATA_DIR"))


def _prepare(builder: Any, name: str, manual_dir: str | None, beam: Mapping[str, Any] | None) -> None:
    import tensorflow_datasets as tfds

    if builder.is_prepared():
        return  # by another process, while this one waited
    require(
        beam is not None or not isinstance(builder, tfds.core.BeamBasedBuilder),
        f"{name} is built with Apache Beam: prepare it by python -m scripts.prepare EXPERIMENT.py --beam_runner NAME.",
    )
    try:
        downloads = tfds.download.DownloadConfig(manual_dir=manual_dir, **(beam or {}))
        builder.download_and_prepare(download_config=downloads, file_format="array_record")
    except Exception as error:  # whatever the builder, its download or its disk had to say, said by name
        raise ConfigError(
            f"TFDS could not build {name} in {builder.data_dir} ({_first_line(_root(error))}): it takes a network once,"
            " or its files in a directory that --config.data.manual_dir=PATH names, as its page says."
        ) from error


def builder_identity(builder: Any, split: str) -> list[Any]:
    """Equal lists mean the same examples in the same order."""
    sizes = sorted((part.name, part.num_examples, part.num_bytes) for part in builder.info.splits.values())
    return [builder.info.full_name, getattr(builder, "fingerprint", ""), sizes, split]


def open_split(builder: Any, name: str, split: str) -> Any:
    """The examples of a split, by index. Raises ConfigError where there are none, or TensorFlow would be needed."""
    splits = ", ".join(f"{part.name} ({part.num_examples})" for part in builder.info.splits.values())
    try:
        return builder.as_data_source(split)
    except NotImplementedError as error:
        raise ConfigError(
            f"The TFDS data set {name} in {builder.data_dir} is kept as {builder.info.file_format.value}, which needs"
            " TensorFlow: point TFDS_DATA_DIR elsewhere, and it is made anew as array_record."
        ) from error
    except (ValueError, KeyError) as error:
        raise ConfigError(f"The TFDS data set {name} has no examples in {split}: it has {splits}.") from error


def _root(error: BaseException) -> BaseException:
    """TFDS formats some errors with TensorFlow, and then only the first of the chain says what went wrong."""
    while (before := error.__cause__ or error.__context__) is not None:
        error = before
    return error


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return ": ".join([type(error).__name__, *lines[:1]])
