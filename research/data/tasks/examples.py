"""Examples in files: JSON lines, tab-separated columns, or SQuAD's JSON."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from research.config import ConfigError, Examples, require
from research.config.base import digest
from research.config.examples import Names, Records, Split, TextRecord
from research.data.corpora.hugging_face import HubSource
from research.data.corpora.tables import row_name, table_storage
from research.data.corpora.text_files import PLAIN, FileIndex, Span, Storage, choose
from research.data.corpora.web_dataset import tar_storage
from research.data.tasks import squad
from research.data.tasks.records import BY_EMPTY, FORMAT, Empty, is_filled, require_names, source_text, without_empty
from research.storage.lines import Line, is_unicode, json_line_value, json_objects, json_value_at, without_end
from research.storage.tables import TablePart


@dataclass(frozen=True)
class FileExamples(Examples):
    """Examples in files, given as paths or glob patterns; .gz, .bz2, .xz and .zst are supported.

    With `held_out=None`, about one example in a hundred is held out by a hash of its source.
    """

    train: str
    held_out: str | None = None
    test: str | None = None
    empty: Empty = field(default="refuse", kw_only=True)  # effect of an example with an empty side

    @property
    def label(self) -> str:
        return Path(self.train).name.split(".")[0]

    def pattern(self, split: Split) -> str:
        """Return the path or pattern of a split's files. Raises ConfigError if there is no such split."""
        named = {"train": self.train, "held_out": self.held_out or self.train, "test": self.test}[split]
        if named is None:
            raise ConfigError(f"The examples of {self.train} have no test split: name its files with test=.")
        return named

    def by_hash(self, split: Split) -> bool:
        """Return whether a split is a part of its files, chosen by a hash of each source."""
        return split != "test" and self.held_out is None


class Reader(NamedTuple):
    """The format of records in a file: `spans` finds and checks them in its lines, `record` parses
    one from its bytes; `hashed` are the names or columns of the text that decides whether a record is held out.
    """

    spans: Callable[[str, Iterator[Line]], Iterator[Span]]
    record: Callable[[bytes], TextRecord]
    hashed: tuple[str | int, ...]
    storage: Storage = PLAIN


class FileRecords:
    """One split of files with a reader; `rules` are the settings that, with the files, determine the records."""

    def __init__(
        self, files: FileExamples, split: Split, names: Names, reader: Reader, rules: tuple[str, ...] = ()
    ) -> None:
        self.name = files.pattern(split)
        self._reader = reader
        everything = [FORMAT, type(files).__name__, names, rules, *BY_EMPTY[files.empty]]
        self._index = FileIndex(self.name, everything, reader.spans, reader.storage)
        hashed = digest([type(files).__name__, reader.hashed]) if files.by_hash(split) else ""
        self.pieces = [piece._replace(hashed=hashed) for piece in self._index.pieces]
        rows, self.identity = choose(self._index, split, files.by_hash(split), "example")
        self._rows = without_empty(self.name, rows, self._index.is_filled(rows))

    def __len__(self) -> int:
        return len(self._rows)

    def read(self, indices: Sequence[int]) -> list[TextRecord]:
        return [self._reader.record(self._index[int(self._rows[index])]) for index in indices]


# --- JSON lines -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class JSONExamples(FileExamples):
    """JSON objects, one per line. A list of strings holds several references; "a/b" is the key b within a."""

    def open(self, split: Split, names: Names, manual_dir: str | None) -> Records:
        return FileRecords(self, split, names, json_reader(names, self.empty))


def json_reader(names: Names, empty: Empty, called: str = "line", storage: Storage = PLAIN) -> Reader:
    """Return the reader of JSON lines, each of which is a line or a row in messages."""

    def spans(name: str, lines: Iterator[Line]) -> Iterator[Span]:
        return json_spans(name, lines, names, empty, called)

    return Reader(spans, lambda content: _parse_record(content, names), names.source, storage)


def json_spans(file: str, lines: Iterable[Line], names: Names, empty: Empty, called: str) -> Iterator[Span]:
    for line, where, value in json_objects(file, lines, called):
        record = {name: texts_at(value, name, where) for name in names.all}
        yield _span(line, is_filled(record, names, where, empty), source_text(record, names))


def _span(line: Line, filled: bool, text: str) -> Span:
    """Return the bytes of an example, or none of them if it is to be left out."""
    return Span(line.start, line.stop if filled else line.start, text)


def _parse_record(content: bytes, names: Names) -> TextRecord:
    value = json_line_value(content.decode())
    return {name: texts_at(value, name, "") for name in names.all}


def texts_at(value: dict[str, Any], name: str, where: str) -> tuple[str, ...]:
    """Return the texts under a key, or under nested keys ("answers/text"). A number is written as Python writes it, and
    null is an empty text.
    """
    content = json_value_at(value, name, where)
    values = tuple(content) if isinstance(content, list) else ("" if content is None else content,)
    texts = tuple(str(each) if isinstance(each, int | float) else each for each in values)
    for text in texts:
        kind = type(text).__name__
        require(isinstance(text, str), f'{where}: the value of "{name}" is {kind}, not a string or a list of strings.')
        require(is_unicode(text), f'{where}: the value of "{name}" holds half of a surrogate pair.')
    return texts


# --- Tables -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ParquetExamples(FileExamples):
    """Columns of parquet, arrow or feather files, or of directories that `datasets` wrote with save_to_disk.

    A list of strings holds several references; "a/b" is the field b within the column a. A text that is missing is
    empty. Needs the extra `data`.
    """

    where: str | None = None  # a filter of rows, such as "language == 'de' and score > 0.5"

    def open(self, split: Split, names: Names, manual_dir: str | None) -> Records:
        return self.records(split, names, table_storage(self.part(names)))

    def part(self, names: Names) -> TablePart:
        return TablePart(names.all, self.where, missing="", numbers=True)

    def records(self, split: Split, names: Names, storage: Storage) -> FileRecords:
        reader = json_reader(names, self.empty, row_name(self.where), storage)
        return FileRecords(self, split, names, reader, (self.where,) if self.where else ())


@dataclass(frozen=True)
class HFDatasetExamples(Examples):
    """Rows of a data set of the Hugging Face Hub by name, or of a local directory, as `datasets` opens it.

    The splits are names of its splits. A list of strings holds several references; "a/b" is the field b within the
    column a; a class has its name. A text that is missing is empty. Needs the extra `data`.
    """

    name: str
    config: str | None = None  # such as a language, if the data set has several
    train: str = "train"
    held_out: str | None = "validation"
    test: str | None = "test"
    empty: Empty = "refuse"  # effect of an example with an empty side
    where: str | None = None  # a filter of rows, such as "language == 'de' and score > 0.5"
    revision: str | None = None  # a commit, tag or branch
    streaming: bool = True  # without, `datasets` keeps its own copy too, and splits may be slices ("train[:1%]")

    @property
    def label(self) -> str:
        return self.name

    def open(self, split: Split, names: Names, manual_dir: str | None) -> Records:
        source = HubSource(self.name, self.config, self.revision, self.streaming)
        held_out, test = (each and source.called(each) for each in (self.held_out, self.test))
        files = ParquetExamples(source.called(self.train), held_out, test, where=self.where, empty=self.empty)
        return files.records(split, names, source.storage(files.part(names)))


# --- Tars -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class WebDatasetExamples(FileExamples):
    """Samples in tars as WebDataset has them: "src" is the text of the member KEY.src, "json/a" the key a in KEY.json.

    A list of strings in JSON holds several references. A text that is missing is empty.
    """

    def open(self, split: Split, names: Names, manual_dir: str | None) -> Records:
        storage = tar_storage(names.all, may_lack=True, missing="")
        return FileRecords(self, split, names, json_reader(names, self.empty, "sample", storage))


# --- Columns ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TSVExamples(FileExamples):
    """Lines of tab-separated columns, without quotes or a header."""

    columns: tuple[str, ...] = ("source", "target")

    def open(self, split: Split, names: Names, manual_dir: str | None) -> Records:
        require_names(names, self.columns, f"{self.train}, by its columns,")

        def spans(name: str, lines: Iterator[Line]) -> Iterator[Span]:
            return tsv_spans(name, lines, self.columns, names, self.empty)

        def record(content: bytes) -> TextRecord:
            return {name: (text,) for name, text in zip(self.columns, _cells(content.decode()), strict=True)}

        hashed = tuple(map(self.columns.index, names.source))
        return FileRecords(self, split, names, Reader(spans, record, hashed), self.columns)


def tsv_spans(name: str, lines: Iterable[Line], columns: tuple[str, ...], names: Names, empty: Empty) -> Iterator[Span]:
    for line in lines:
        if not line.content:
            continue
        where, cells = f"{name}, line {line.number}", _cells(line.text)
        require(
            len(cells) == len(columns),
            f"{where} has {len(cells)} columns: they must be {len(columns)}, {', '.join(columns)}, separated by tabs.",
        )
        record = {name: (text,) for name, text in zip(columns, cells, strict=True)}
        yield _span(line, is_filled(record, names, where, empty), source_text(record, names))


def _cells(line: str) -> list[str]:
    return without_end(line).split("\t")


# --- SQuAD ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SQuADFile(FileExamples):
    """JSON in SQuAD 1.1's format: question, context, answers/text, title and id. Whole contexts are held out."""

    def open(self, split: Split, names: Names, manual_dir: str | None) -> Records:
        require_names(names, squad.NAMES, "A SQuADFile")
        spans = squad_spans(names, self.empty)
        storage = PLAIN._replace(text=squad.as_lines)
        reader = Reader(spans, lambda content: _parse_record(content, names), ("context",), storage)
        return FileRecords(self, split, names, reader)


def squad_spans(names: Names, empty: Empty) -> Callable[[str, Iterator[Line]], Iterator[Span]]:
    def spans(file: str, lines: Iterator[Line]) -> Iterator[Span]:
        for line, where, value in json_objects(file, lines):
            record = {name: texts_at(value, name, where) for name in names.all}
            filled = is_filled(record, names, f"Question {value['id']} of {file}", empty)
            yield _span(line, filled, value["context"])

    return spans
