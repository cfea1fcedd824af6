"""Columns of tables as text: parquet, arrow, feather, and directories that Hugging Face's `datasets` saved.

The columns that are read are copied into the cache once, as lines of JSON, for random access to documents.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

from research.config import require
from research.config.base import digest
from research.data.corpora.text_files import Span, Storage, TextCorpus, find_files, matching, plain_file, stored_text
from research.storage.copies import origin_of
from research.storage.lines import Line
from research.storage.tables import TablePart, table_lines

FORMAT = 1  # increment when the same files would give other lines
read_json = json.JSONDecoder().raw_decode
STATE, SPLITS = "state.json", "dataset_dict.json"  # files of a directory of `datasets`


class RowTexts(NamedTuple):
    """The texts of rows in lines of JSON that the cache holds: those of several columns are joined."""

    columns: tuple[str, ...]
    join: str
    empty: Literal["refuse", "skip"]

    def spans(self, name: str, lines: Iterable[Line], called: str) -> Iterator[Span]:
        """Find one document per row, of no bytes if it has no text. A row is `called` so in messages."""
        for line in lines:
            values = self._values(line.text)
            if not all(isinstance(value, str) for value in values):
                self._check(values, f"{name}, {called} {line.number}")
                values = [""]
            text = self.join.join(values)
            filled = bool(text.strip())
            yield Span(line.start, line.stop if filled else line.start, text if filled else "")

    def parse(self, content: bytes) -> str:
        return self.join.join(self._values(content.decode()))

    def _values(self, line: str) -> list[Any]:
        """Read a line as it was written here, without what users' lines may have besides."""
        row, _ = read_json(line)
        return [row[column] for column in self.columns]

    def _check(self, values: list[Any], where: str) -> None:
        """Raise ConfigError if values hold lists, or if one is missing and such rows are refused."""
        for column, value in zip(self.columns, values, strict=True):
            require(
                value is None or isinstance(value, str), f'{where}: the column "{column}" holds lists, not strings.'
            )
            what = f'{where} has no text in its column "{column}"'
            skipped = value is not None or self.empty == "skip"
            require(skipped, f'{what}: give the corpus empty="skip" to leave such rows out.')


@dataclass(frozen=True)
class Parquet(TextCorpus):
    """Columns of parquet, arrow or feather files, or of directories that `datasets` wrote with save_to_disk.

    `train` and `held_out` are paths or glob patterns. Needs the extra `data`.
    """

    text: str | tuple[str, ...] = "text"  # the column of the document's text, or several; "a/b" is b within a
    join: str = "\n\n"  # between the texts of several columns
    where: str | None = None  # a filter of rows, such as "language == 'de' and score > 0.5"
    empty: Literal["refuse", "skip"] = "refuse"  # effect of a row without a text
    damaged: Literal["refuse", "skip"] = "refuse"  # effect of a row group of parquet that cannot be read

    @cached_property
    def texts(self) -> RowTexts:
        return RowTexts((self.text,) if isinstance(self.text, str) else self.text, self.join, self.empty)

    @property
    def rule(self) -> str:
        damaged = [self.damaged] if self.damaged == "skip" else []
        return repr((FORMAT, self.texts.columns, self.join, self.where, self.empty, *damaged))

    @property
    def part(self) -> TablePart:
        return TablePart(self.texts.columns, self.where)

    @property
    def storage(self) -> Storage:
        return table_storage(self.part, self.damaged == "skip")

    def spans(self, name: str, lines: Iterator[Line]) -> Iterator[Span]:
        return self.texts.spans(name, lines, row_name(self.where))

    def text_of(self, content: bytes) -> str:
        return self.texts.parse(content)


def table_storage(selection: TablePart, skip_damaged: bool = False) -> Storage:
    """Find tables, and copy the selected part of one into the cache as lines of JSON."""

    def text(path: Path, content: str) -> Path:
        def lines() -> Iterator[bytes]:
            return table_lines(plain_file(path, content), selection, origin_of(path), skip_damaged)

        return stored_text("tables", digest([FORMAT, content, *selection, *["damaged"] * skip_damaged]), lines)

    return Storage(find_tables, text)


def row_name(where: str | None) -> str:
    """Return what a row is in messages, which give its number."""
    return "selected row" if where else "row"


def find_tables(pattern: str) -> list[Path]:
    """Return the files that match a path or a glob pattern, sorted, with those of directories of `datasets`."""
    found = matching(pattern)
    for path in found:
        splits = " or ".join(str(each.parent) for each in sorted(path.glob(f"*/{STATE}")))
        require(not (path / SPLITS).exists(), f"{path} has splits: name one of them, {splits}.")
    if not any((path / STATE).is_file() for path in found):
        return find_files(pattern)
    return [file for path in found for file in (_saved_files(path) if path.is_dir() else find_files(str(path)))]


def _saved_files(folder: Path) -> list[Path]:
    """Return the files of a directory of `datasets`, in its order."""
    try:
        names = [entry["filename"] for entry in json.loads((folder / STATE).read_text())["_data_files"]]
        sound = all(Path(name).name == name for name in names)
    except (ValueError, KeyError, TypeError):
        names, sound = [], False
    require(sound, f"{folder / STATE} is not as `datasets` writes it: _data_files with names of files beside it.")
    for name in names:
        require((folder / name).is_file(), f"{folder} lacks {name}, which its {STATE} names.")
    return [folder / name for name in names]
