"""Tables in files of parquet, arrow (or its streams) and feather, read by pyarrow in batches of rows.

The columns that are wanted become lines of JSON, one a row, so that each row has a byte offset. Columns are named like
keys of JSON: "a/b" or "a.b" is the field b within the column a.
"""

import json
import os
import sys
from collections.abc import Iterator
from functools import reduce
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

from research.config import ConfigError, require
from research.storage import stop
from research.storage.extras import data_library
from research.storage.filters import expression
from research.storage.lines import nested_names

ROWS, BUFFER_BYTES = 1024, 1 << 20  # of a batch, and of a column that is read
STREAM, STREAM_END = b"\xff\xff\xff\xff", b"\xff\xff\xff\xff\0\0\0\0"  # the first and the last bytes of arrow's streams
FORMATS = {b"PAR1": "parquet", b"ARRO": "arrow", STREAM: "arrow"}  # by the first bytes


class TablePart(NamedTuple):
    """The part of a table that is read."""

    columns: tuple[str, ...]
    where: str | None = None  # a filter of rows
    missing: str | None = None  # what is read for a text that is missing
    numbers: bool = False  # whether the columns may hold numbers or truth values


def table_lines(path: Path, selection: TablePart, name: str, skip_damaged: bool = False) -> Iterator[bytes]:
    """Yield lines, several at once: a JSON object for each row that is selected. The file is `name` in messages.

    With `skip_damaged`, row groups of parquet are left out from where they cannot be read, and their rows are counted.

    Raises:
        ConfigError: the file is damaged or no table, lacks a column, or has one that does not hold texts.
    """
    pyarrow = data_library("pyarrow", name)
    with path.open("rb") as file:
        first = file.read(len(STREAM))
    require(first in FORMATS, f"{name} is no parquet, arrow or feather file: its first bytes are {first!r}.")
    damaged = f"{name} is not a complete {FORMATS[first]} file"
    try:
        if FORMATS[first] == "parquet":
            table: TableReader = _ParquetFile(path, name, skip_damaged)
        else:
            table = _ArrowStream(path) if first == STREAM else _ArrowFile(path)
        yield from row_lines(table, selection, name)
    except (pyarrow.ArrowException, OSError) as error:
        raise ConfigError(f"{damaged} ({_first_line(error)}).") from None


@runtime_checkable
class TableReader(Protocol):
    """A table with a pyarrow schema. Its batches have all of the columns, and at least all of the chosen rows."""

    schema: Any

    def batches(self, columns: list[str], chosen: Any) -> Iterator[Any]: ...


def row_lines(table: TableReader, selection: TablePart, name: str) -> Iterator[bytes]:
    """Yield lines, several at once: a JSON object for each row that is selected. The table is `name` in messages.

    Raises:
        ConfigError: it lacks a column, has one that does not hold texts, or holds text that is not UTF-8.
    """
    keys = [_json(column).replace(b"%", b"%%") for column in selection.columns]
    line = b"{" + b", ".join([key + b": %b" for key in keys]) + b"}\n"
    as_json = data_library("orjson", name).dumps  # of a text it writes what `_json` does, six times as fast
    try:
        for columns in _scan(table, selection, name):
            stop.check()
            fields = []
            for column in columns:
                values = [_filled(value, selection.missing) for value in column.to_pylist()]
                fields.append([as_json(value) if isinstance(value, str) else _json(value) for value in values])
            yield b"".join([line % row for row in zip(*fields, strict=True)])
    except UnicodeDecodeError:
        raise ConfigError(f"{name} holds text that is not UTF-8.") from None


def _scan(table: TableReader, selection: TablePart, name: str) -> Iterator[list[Any]]:
    """Yield the selected columns of batches of the selected rows. A table is never in memory as a whole."""
    import pyarrow.compute as compute

    paths = [_texts(table.schema, column, name, selection.numbers) for column in selection.columns]
    read, chosen = {column for column, *_ in paths}, None
    if selection.where is not None:
        named, chosen = _filter(table.schema, selection.where, name)
        read |= named
    for batch in table.batches([column for column in table.schema.names if column in read], chosen):
        rows = batch if chosen is None else batch.filter(chosen)
        yield [reduce(compute.struct_field, inner, rows.column(column)) for column, *inner in paths]


class _ParquetFile:
    """A file of parquet, read by pages: pyarrow's data sets would have several row groups in memory."""

    def __init__(self, path: Path, name: str, skip_damaged: bool) -> None:
        import pyarrow.parquet

        self._path, self._name, self._skip_damaged = path, name, skip_damaged
        # Checksums of pages are compared where the file has some.
        reading = {"pre_buffer": False, "buffer_size": BUFFER_BYTES, "page_checksum_verification": True}
        self._file = pyarrow.parquet.ParquetFile(path, **reading)
        self.schema = self._file.schema_arrow

    def batches(self, columns: list[str], chosen: Any) -> Iterator[Any]:
        """Yield the batches of the row groups that may have chosen rows, as their statistics tell."""
        import pyarrow.dataset

        groups = list(range(self._file.num_row_groups))
        if chosen is not None:
            fragment = pyarrow.dataset.ParquetFileFormat().make_fragment(pyarrow.OSFile(str(self._path)))
            groups = [group.id for group in fragment.subset(chosen).row_groups]
        lost = 0
        for group in groups:
            unread = self._file.metadata.row_group(group).num_rows
            try:
                for batch in self._file.iter_batches(ROWS, [group], columns, use_threads=False):
                    unread -= batch.num_rows
                    yield batch
            except (pyarrow.ArrowException, OSError) as error:
                where = f"{self._name}: row group {group + 1} of {self._file.num_row_groups}"
                damaged = f"{where} is damaged ({_first_line(error)})"
                known = "write the file again, or for a corpus set damaged='skip' to leave out what cannot be read"
                require(self._skip_damaged, f"{damaged}: {known}.")
                lost += unread
        if lost:
            print(f"{self._name}: {lost:,} rows of damaged row groups are left out.", file=sys.stderr, flush=True)


class _ArrowFile:
    """A file of arrow or feather."""

    def __init__(self, path: Path) -> None:
        import pyarrow.ipc

        self._file = pyarrow.ipc.open_file(pyarrow.OSFile(str(path)))
        self.schema = self._file.schema

    def batches(self, columns: list[str], chosen: Any) -> Iterator[Any]:
        yield from map(self._file.get_batch, range(self._file.num_record_batches))


class _ArrowStream:
    """A stream of arrow in a file."""

    def __init__(self, path: Path) -> None:
        import pyarrow.ipc

        # A stream need not have an end, so one that was cut between two batches would be read as whole.
        with path.open("rb") as file:
            file.seek(-min(len(STREAM_END), path.stat().st_size), os.SEEK_END)
            if file.read() != STREAM_END:
                raise OSError("the mark of its end is missing")
        self._file = pyarrow.ipc.open_stream(pyarrow.OSFile(str(path)))
        self.schema = self._file.schema

    def batches(self, columns: list[str], chosen: Any) -> Iterator[Any]:
        yield from self._file


def _texts(schema: Any, column: str, name: str, numbers: bool) -> tuple[str, ...]:
    """Return the path of a column of texts, or of numbers where they are allowed."""
    from pyarrow import types

    path, kind = _found(schema, column, name)
    inner = kind.value_type if hasattr(kind, "value_field") or types.is_dictionary(kind) else kind
    inner = inner.value_type if types.is_dictionary(inner) else inner
    texts = types.is_string(inner) or types.is_large_string(inner) or types.is_string_view(inner)
    texts |= numbers and (types.is_integer(inner) or types.is_floating(inner) or types.is_boolean(inner))
    require(texts, f'{name}: the column "{column}" is {kind}, not a string or a list of strings.')
    return path


def _found(schema: Any, column: str, name: str) -> tuple[tuple[str, ...], Any]:
    """Find a column, or the field of a column that has fields: its path and its type."""
    import pyarrow as pa

    within, path = schema, (column,) if column in schema.names else nested_names(column)
    for key in path:
        fields = {field.name: field.type for field in within} if isinstance(within, pa.Schema | pa.StructType) else {}
        listed = ", ".join(map(repr, fields)) or "none"
        require(key in fields, f'{name} has no column "{column}": its columns are {listed}.')
        within = fields[key]
    return path, within


def _filter(schema: Any, where: str, name: str) -> tuple[set[str], Any]:
    """Return the columns of a filter and its expression."""
    import pyarrow as pa

    named = set()

    def column(called: str) -> Any:
        path, _ = _found(schema, called, name)
        named.add(path[0])
        return pa.compute.field(*path)

    try:
        chosen = expression(where, column, pa.compute.scalar)
        schema.empty_table().filter(chosen)  # to see whether the types fit
    except (pa.ArrowException, TypeError) as error:
        raise ConfigError(f"{name}: where={where!r} does not fit the columns ({_first_line(error)}).") from None
    return named, chosen


def _json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode()


def _filled(value: Any, missing: str | None) -> Any:
    """Return a text or a list of texts, with `missing` for each that is missing."""
    if isinstance(value, list):
        return [missing if text is None else text for text in value]
    return missing if value is None else value


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
