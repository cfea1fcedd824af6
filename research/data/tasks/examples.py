"""What tasks read: records of named texts, by index, out of TFDS data sets and files."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int64

from research.config import (
    ConfigError,
    Examples,
    FileExamples,
    JSONExamples,
    ParallelText,
    SQuADFile,
    TFDSExamples,
    TSVExamples,
    require,
)
from research.config.base import digest
from research.data.corpora import corpus
from research.data.corpora.text_files import FileIndex, Line, Span, choose, is_unicode, json_objects, plain_file
from research.data.tasks import squad

FORMAT = 1  # raised when the same files would give other records
Split = Literal["train", "held_out", "test"]
Texts = Mapping[str, tuple[str, ...]]  # the texts under each name: one, or as many as a list there has


class Wanted(NamedTuple):
    """The names that a task reads."""

    source: tuple[str, ...]
    target: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(self.source + self.target))


@runtime_checkable
class Records(Protocol):
    """One split of some examples. Equal identities mean equal records in equal order."""

    name: str
    identity: str

    def __len__(self) -> int: ...

    def read(self, indices: Int64[np.ndarray, " n"]) -> list[Texts]: ...


def open_records(examples: Examples, split: Split, wanted: Wanted, manual_dir: str | None) -> Records:
    """Finds, checks and, where need be, builds them.

    Raises:
        ConfigError: they are missing, empty, or have not what is wanted.
    """
    match examples:
        case TFDSExamples(name=name, train=train, held_out=held_out, test=test):
            return DataSetRecords(name, {"train": train, "held_out": held_out, "test": test}[split], wanted, manual_dir)
        case ParallelText():
            return ParallelRecords(examples, split, wanted)
    return FileRecords(examples, split, wanted)


def pattern_of(files: FileExamples, split: Split) -> str:
    named = {"train": files.train, "held_out": files.held_out or files.train, "test": files.test}[split]
    if named is None:
        raise ConfigError(f"The examples of {files.train} have no test split: name its files with test=.")
    return named


def check(record: Texts, wanted: Wanted, where: str) -> str:
    """The source's text, by which a record is held out. Raises ConfigError where a side is empty."""
    for side, names in (("source", wanted.source), ("target", wanted.target)):
        firsts = [text for name in names for text in record[name][:1]]
        told = " and ".join(f'"{name}"' for name in names)
        require(any(map(str.strip, firsts)), f"{where} has an empty {side} ({told}).")
    for name in wanted.names:
        require(len(record[name]) > 0, f'{where} has an empty list as "{name}".')
    for name in wanted.target:
        require(all(map(str.strip, record[name])), f'{where} has an empty text among those of "{name}".')
    return "\n".join(text for name in wanted.source for text in record[name])


# --- Files ------------------------------------------------------------------------------------------------------------


class Reader(NamedTuple):
    """How records stand in a file: found and checked in its lines (`spans`), and got back from their bytes."""

    spans: Callable[[Path, Iterator[Line]], Iterator[Span]]
    record: Callable[[bytes], Texts]
    stored: Callable[[Path, str], Path] = plain_file


class FileRecords:
    """One split of JSON lines, TSV or SQuAD's JSON."""

    def __init__(self, files: JSONExamples | TSVExamples | SQuADFile, split: Split, wanted: Wanted) -> None:
        self.name = pattern_of(files, split)
        self._reader = _reader(files, wanted)
        columns = files.columns if isinstance(files, TSVExamples) else ()
        rules = [FORMAT, type(files).__name__, wanted, columns]
        self._index = FileIndex(self.name, rules, self._reader.spans, self._reader.stored)
        by_hash = split != "test" and files.held_out is None
        self._rows, self.identity = choose(self._index, split, by_hash, "example")

    def __len__(self) -> int:
        return len(self._rows)

    def read(self, indices: Int64[np.ndarray, " n"]) -> list[Texts]:
        return [self._reader.record(self._index[int(row)]) for row in self._rows[indices]]


def _reader(files: JSONExamples | TSVExamples | SQuADFile, wanted: Wanted) -> Reader:
    match files:
        case JSONExamples():
            return Reader(lambda path, lines: json_spans(path, lines, wanted), lambda content: _parsed(content, wanted))
        case SQuADFile():
            _require_names(wanted, squad.NAMES, "A SQuADFile")
            return Reader(squad_spans(wanted), lambda content: _parsed(content, wanted), squad.as_lines)
        case TSVExamples(columns=columns):
            _require_names(wanted, columns, f"{files.train}, by its columns,")
            return Reader(
                lambda path, lines: tsv_spans(path, lines, columns, wanted),
                lambda content: {name: (text,) for name, text in zip(columns, _cells(content.decode()), strict=True)},
            )


def _require_names(wanted: Wanted, there: Iterable[str], what: str) -> None:
    there = tuple(there)
    for name in wanted.names:
        require(name in there, f'{what} has no "{name}": it has {", ".join(there)}.')


def json_spans(path: Path, lines: Iterable[Line], wanted: Wanted) -> Iterator[Span]:
    for line, where, value in json_objects(path, lines):
        record = {name: texts_at(value, name, where) for name in wanted.names}
        yield Span(line.start, line.stop, check(record, wanted, where))


def _parsed(content: bytes, wanted: Wanted) -> Texts:
    value = json.loads(content)
    return {name: texts_at(value, name, "") for name in wanted.names}


def texts_at(value: dict[str, Any], name: str, where: str) -> tuple[str, ...]:
    """The texts under a key, or under keys within keys ("answers/text")."""
    found: Any = value
    for key in (name,) if name in value else name.split("/"):
        keys = tuple(found) if isinstance(found, dict) else ()
        told = ", ".join(map(repr, keys)) or "none"
        require(key in keys, f'{where} has no key "{name}": its keys are {told}.')
        found = found[key]
    texts = tuple(found) if isinstance(found, list) else (found,)
    for text in texts:
        kind = type(text).__name__
        require(isinstance(text, str), f'{where}: the value of "{name}" is {kind}, not a string or a list of strings.')
        require(is_unicode(text), f'{where}: the value of "{name}" holds half of a surrogate pair.')
    return texts


def tsv_spans(path: Path, lines: Iterable[Line], columns: tuple[str, ...], wanted: Wanted) -> Iterator[Span]:
    for line in lines:
        if not line.text.rstrip("\r\n"):
            continue
        where, cells = f"{path}, line {line.number}", _cells(line.text)
        require(
            len(cells) == len(columns),
            f"{where} has {len(cells)} columns: they must be {len(columns)}, {', '.join(columns)}, parted by tabs.",
        )
        record = {name: (text,) for name, text in zip(columns, cells, strict=True)}
        yield Span(line.start, line.stop, check(record, wanted, where))


def _cells(line: str) -> list[str]:
    return line.rstrip("\r\n").split("\t")


def squad_spans(wanted: Wanted) -> Callable[[Path, Iterator[Line]], Iterator[Span]]:
    def spans(path: Path, lines: Iterator[Line]) -> Iterator[Span]:
        for line, where, value in json_objects(path, lines):
            record = {name: texts_at(value, name, where) for name in wanted.names}
            check(record, wanted, f"Question {value['id']} of {path}")
            yield Span(line.start, line.stop, value["context"])

    return spans


# --- Parallel text ----------------------------------------------------------------------------------------------------


class ParallelRecords:
    """One split of files that are read line by line together."""

    def __init__(self, files: ParallelText, split: Split, wanted: Wanted) -> None:
        pattern = pattern_of(files, split)
        self.name = f"{pattern} ({', '.join(wanted.names)})"
        self._columns = {
            name: FileIndex(pattern.replace("{name}", name), [FORMAT, "ParallelText"], line_spans)
            for name in wanted.names
        }
        first, *others = self._columns.values()
        for other in others:
            _check_parallel(first, other)
        by_hash = split != "test" and files.held_out is None
        self._rows, _ = choose(first, split, by_hash, "example")
        identities = [(name, index.identity) for name, index in self._columns.items()]
        self.identity = digest([identities, split if by_hash else "whole"])

    def __len__(self) -> int:
        return len(self._rows)

    def read(self, indices: Int64[np.ndarray, " n"]) -> list[Texts]:
        return [
            {name: (index[int(row)].decode(),) for name, index in self._columns.items()} for row in self._rows[indices]
        ]


def _check_parallel(first: FileIndex, other: FileIndex) -> None:
    """Raises ConfigError unless both have equally many files, and these, in their order, equally many lines."""
    counts = len(first.files), len(other.files)
    require(
        counts[0] == counts[1],
        f"{first.name} names {counts[0]} files and {other.name} {counts[1]}: each must have a counterpart.",
    )
    for one, lines, another, others in zip(first.files, first.counts, other.files, other.counts, strict=True):
        require(
            lines == others,
            f"{one} has {lines:,} lines and {another} has {others:,}: the same line of each must be one example.",
        )


def line_spans(path: Path, lines: Iterable[Line]) -> Iterator[Span]:
    for line in lines:
        text = line.text.rstrip("\r\n")
        require(text.strip() != "", f"{path}, line {line.number} is empty: each line must be a side of an example.")
        yield Span(line.start, line.start + len(text.encode()), text)


# --- TFDS -------------------------------------------------------------------------------------------------------------


class DataSetRecords:
    """Text features, and names of classes, of a split of a TFDS data set; lists of texts too."""

    def __init__(self, name: str, split: str, wanted: Wanted, manual_dir: str | None) -> None:
        builder = corpus.open_builder(name, manual_dir)
        self.name = f"{name} ({split})"
        self._features = dict(sorted(text_features(builder.info.features), key=lambda pair: pair[0]))
        self._wanted = wanted
        _require_names(wanted, self._features, f"The TFDS data set {name}")
        self._examples = corpus.IndexedSplit(builder, name, split)
        self.identity = digest([FORMAT, corpus.builder_identity(builder, split), wanted])
        require(len(self._examples) > 0, f"{self.name} has no example.")

    def __len__(self) -> int:
        return len(self._examples)

    def read(self, indices: Int64[np.ndarray, " n"]) -> list[Texts]:
        numbers = indices.tolist()
        return [
            self._record(example, number) for number, example in zip(numbers, self._examples.read(numbers), strict=True)
        ]

    def _record(self, example: dict[str, Any], number: int) -> Texts:
        where = f"Example {number} of {self.name}"
        record = {name: self._texts(example, name, where) for name in self._wanted.names}
        check(record, self._wanted, where)
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
    """(path, feature) of those that hold text, in dictionaries and sequences at any depth."""
    import tensorflow_datasets as tfds

    match features:
        case tfds.features.Text() | tfds.features.ClassLabel():
            yield name, features
        case tfds.features.FeaturesDict():
            for key, feature in features.items():
                yield from text_features(feature, f"{name}/{key}".lstrip("/"))
        case tfds.features.Sequence():
            yield from text_features(features.feature, name)
