"""Task examples from TensorFlow Datasets."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from research.config import ConfigError, Examples, require
from research.config.base import digest
from research.config.examples import Names, Records, Split, TextRecord
from research.data.corpora import corpus
from research.data.tasks.records import BY_EMPTY, FORMAT, Empty, is_filled, require_names, without_empty
from research.storage import cache
from research.storage.progress import Progress

AT_ONCE = 1024  # examples


@dataclass(frozen=True)
class TFDSExamples(Examples):
    """A TensorFlow Datasets builder by name, with its splits, which may be slices ("train[:95%]").

    multi30k, dialogsum, xquad/en (de, ro, ...) and python_docs/summaries are shipped here. Examples have the names of
    the text features; nested names use a slash: "answers/text".
    """

    name: str
    train: str = "train"
    held_out: str = "validation"
    test: str = "test"
    empty: Empty = "refuse"  # effect of an example with an empty side

    @property
    def label(self) -> str:
        return self.name

    def open(self, split: Split, names: Names, manual_dir: str | None) -> Records:
        part = {"train": self.train, "held_out": self.held_out, "test": self.test}[split]
        return DataSetRecords(self.name, part, names, manual_dir, self.empty)


class DataSetRecords:
    """Texts, lists of texts, class names and numbers of a split of a TFDS data set, as records."""

    def __init__(self, name: str, split: str, names: Names, manual_dir: str | None, empty: Empty) -> None:
        builder = corpus.open_builder(name, manual_dir)
        self.name = f"{name} ({split})"
        self._features = dict(sorted(text_features(builder.info.features), key=lambda pair: pair[0]))
        self._names, self._empty = names, empty
        require_names(names, self._features, f"The TFDS data set {name}")
        self._examples = corpus.IndexedSplit(builder, name, split)
        self.pieces = self._examples.pieces
        what = [FORMAT, corpus.builder_identity(builder, split), names]
        self.identity = digest([*what, *BY_EMPTY[empty]])
        require(len(self._examples) > 0, f"{self.name} has no example.")
        self._rows = np.arange(len(self._examples))
        if empty == "skip":
            known = cache.entry("filled", self.identity, self._find_filled)
            self._rows = without_empty(self.name, self._rows, np.load(known / "filled.npy"))

    def __len__(self) -> int:
        return len(self._rows)

    def read(self, indices: Sequence[int]) -> list[TextRecord]:
        records = []
        for where, record in self._read([int(self._rows[index]) for index in indices]):
            is_filled(record, self._names, where, "keep" if self._empty == "keep" else "refuse")
            records.append(record)
        return records

    def _find_filled(self, folder: Path) -> None:
        """Write which examples have no empty side; every example is read once."""
        filled = np.zeros(len(self._rows), bool)
        with Progress(f"Reading {self.name}", len(filled), "examples") as progress:
            for start in range(0, len(filled), AT_ONCE):
                rows = range(start, min(start + AT_ONCE, len(filled)))
                read = self._read(rows)
                filled[rows.start : rows.stop] = [is_filled(one, self._names, where, "skip") for where, one in read]
                progress.advance(len(rows))
        np.save(folder / "filled.npy", filled)

    def _read(self, rows: Sequence[int]) -> Iterator[tuple[str, TextRecord]]:
        """Yield the name in messages, and the record, of each example."""
        for row, example in zip(rows, self._examples.read(list(rows)), strict=True):
            where = f"Example {row} of {self.name}"
            yield where, {name: self._texts(example, name, where) for name in self._names.all}

    def _texts(self, example: dict[str, Any], name: str, where: str) -> tuple[str, ...]:
        value: Any = example
        for key in name.split("/"):
            value = value[key]
        class_name = getattr(self._features[name], "int2str", str)
        try:
            return tuple(_as_text(each, class_name) for each in (value if np.ndim(value) else [value]))
        except UnicodeDecodeError as error:
            raise ConfigError(f'{where} is not UTF-8 in its feature "{name}".') from error


def _as_text(value: Any, class_name: Callable[[Any], str]) -> str:
    """Return a text, the name of a class, or a number as text, such as -1 for a class that is not published."""
    if isinstance(value, bytes):
        return value.decode()
    number = np.asarray(value).item()
    return str(number) if number < 0 else class_name(number)


def text_features(features: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (path, feature) of all texts, classes and numbers, in dictionaries and sequences at any depth."""
    import tensorflow_datasets as tfds

    match features:
        case tfds.features.Tensor() if features.shape == ():
            yield name, features
        case tfds.features.FeaturesDict():
            for key, feature in features.items():
                yield from text_features(feature, f"{name}/{key}".lstrip("/"))
        case tfds.features.Sequence():
            yield from text_features(features.feature, name)
