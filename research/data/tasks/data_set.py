"""Task examples from TensorFlow Datasets."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from research.config import ConfigError, Examples, require
from research.config.base import digest
from research.config.examples import Names, Records, Split, TextRecord
from research.data.corpora import corpus
from research.data.tasks.records import FORMAT, check, require_names


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

    @property
    def label(self) -> str:
        return self.name

    def open(self, split: Split, names: Names, manual_dir: str | None) -> Records:
        part = {"train": self.train, "held_out": self.held_out, "test": self.test}[split]
        return DataSetRecords(self.name, part, names, manual_dir)


class DataSetRecords:
    """Text features, lists of texts and class names of a split of a TFDS data set, as records."""

    def __init__(self, name: str, split: str, names: Names, manual_dir: str | None) -> None:
        builder = corpus.open_builder(name, manual_dir)
        self.name = f"{name} ({split})"
        self._features = dict(sorted(text_features(builder.info.features), key=lambda pair: pair[0]))
        self._names = names
        require_names(names, self._features, f"The TFDS data set {name}")
        self._examples = corpus.IndexedSplit(builder, name, split)
        self.pieces = self._examples.pieces
        self.identity = digest([FORMAT, corpus.builder_identity(builder, split), names])
        require(len(self._examples) > 0, f"{self.name} has no example.")

    def __len__(self) -> int:
        return len(self._examples)

    def read(self, indices: Sequence[int]) -> list[TextRecord]:
        return [
            self._record(example, number)
            for number, example in zip(indices, self._examples.read(list(indices)), strict=True)
        ]

    def _record(self, example: dict[str, Any], number: int) -> TextRecord:
        where = f"Example {number} of {self.name}"
        record = {name: self._texts(example, name, where) for name in self._names.all}
        check(record, self._names, where)
        return record

    def _texts(self, example: dict[str, Any], name: str, where: str) -> tuple[str, ...]:
        value: Any = example
        for key in name.split("/"):
            value = value[key]
        if to_name := getattr(self._features[name], "int2str", None):
            return (to_name(int(value)),)
        try:
            return tuple(text.decode() for text in ([value] if isinstance(value, bytes) else value))
        except UnicodeDecodeError as error:
            raise ConfigError(f'{where} is not UTF-8 in its feature "{name}".') from error


def text_features(features: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (path, feature) of all text and class-label features, in dictionaries and sequences at any depth."""
    import tensorflow_datasets as tfds

    match features:
        case tfds.features.Text() | tfds.features.ClassLabel():
            yield name, features
        case tfds.features.FeaturesDict():
            for key, feature in features.items():
                yield from text_features(feature, f"{name}/{key}".lstrip("/"))
        case tfds.features.Sequence():
            yield from text_features(features.feature, name)
