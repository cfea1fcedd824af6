"""Data sets of the Hugging Face Hub, or local directories, opened by `datasets`.

The columns that are read are copied into the cache once, one entry for each shard, as lines of JSON. The copies are
known by the data set's commit, or by the sizes and times of local files, and their rows by their content.
"""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from research.config import ConfigError, Corpus, require
from research.config.base import digest
from research.data.corpora.tables import Parquet
from research.data.corpora.text_files import Storage, TextFiles, stored_text
from research.storage.cache import Entry
from research.storage.copies import Copy, UnreachableError, reason_of, recall, remember
from research.storage.extras import data_library
from research.storage.progress import Progress
from research.storage.tables import ROWS, TablePart, row_lines

FORMAT = 1  # increment when the same data set would give other lines
KIND = "datasets"  # of the cache's entries
SHARD_ROWS = 1 << 20  # of a split that is not streamed


@dataclass(frozen=True)
class HFDataset(Corpus):
    """A data set of the Hugging Face Hub by name, or a local directory with its layout, as `datasets` opens it.

    `split` and `held_out` are splits of it; with `held_out=None`, about one document in a hundred is held out by a hash
    of its text. Needs the extra `data`.
    """

    name: str
    config: str | None = None  # such as a language, if the data set has several
    split: str = "train"
    held_out: str | None = "validation"
    text: str | tuple[str, ...] = "text"  # the column of the document's text, or several; "a/b" is b within a
    join: str = "\n\n"  # between the texts of several columns
    where: str | None = None  # a filter of rows, such as "language == 'de' and score > 0.5"
    empty: Literal["refuse", "skip"] = "refuse"  # effect of a row without a text
    revision: str | None = None  # a commit, tag or branch; the commit of a copy is what identifies it
    streaming: bool = True  # without, `datasets` keeps its own copy too, and splits may be slices ("train[:1%]")

    def documents(self, split: Literal["train", "held_out"]) -> TextFiles:
        source = HubSource(self.name, self.config, self.revision, self.streaming)
        held_out = None if self.held_out is None else source.called(self.held_out)
        rows = Parquet(source.called(self.split), held_out, self.text, self.join, self.where, self.empty)
        return TextFiles(rows, split, source.storage(rows.part))


class HubSource(NamedTuple):
    """A data set, and how it is opened."""

    name: str
    config: str | None
    revision: str | None
    streaming: bool

    def called(self, split: str) -> str:
        """Return the name of a split in messages."""
        return f"{'/'.join(filter(None, (self.name, self.config)))} ({split})"

    def storage(self, part: TablePart) -> Storage:
        """Find the copies of a split by its name in messages; make those that are missing."""

        def find(called: str) -> list[Path]:
            split = called.removeprefix(self.called("")[:-1])[:-1]
            return [Entry(KIND, copy.key).path / "text" for copy in copies_of(self, split, part)]

        return Storage(find, lambda path, content: path)


def copies_of(source: HubSource, split: str, part: TablePart) -> list[Copy]:
    """Return the copies of a split's shards, in order.

    Raises:
        ConfigError: there is no such data set, configuration, split or column, or it cannot be reached and there is no
            complete copy.
    """
    called = source.called(split)
    listed = json.dumps([*source, split, *part])
    try:
        builder = open_builder(source, called)
        if is_cached_alone(builder) and (known := recall(KIND, listed, called)):
            return known
        rows = open_split(builder, source, split)
    except UnreachableError as error:
        if known := recall(KIND, listed, called):
            return known
        raise ConfigError(f"{error}, and the cache has no copy of it.") from None
    number = _shards(rows)
    version = digest([FORMAT, *source, *_version(builder), split, *part])
    copies = [Copy(called, digest([version, shard, number])) for shard in range(number)]
    with Progress(f"Copying {called}", number, "shards") as progress:
        for shard, copy in enumerate(copies):
            _copy(copy, rows, shard, number, part, progress)
            progress.advance()
    remember(KIND, listed, copies)
    return copies


def _copy(copy: Copy, rows: Any, shard: int, number: int, part: TablePart, progress: Progress) -> None:
    origin = f"{copy.origin}, shard {shard + 1} of {number}" if number > 1 else copy.origin

    def lines() -> Iterator[bytes]:
        with explained(origin):
            copied = 0
            for content in row_lines(ShardTable(rows.shard(number, shard)), part, origin):
                yield content
                copied += content.count(b"\n")
                progress.note(f"{copied:,} rows of shard {shard + 1}")

    stored_text(KIND, copy.key, lines, origin)


class ShardTable:
    """A shard of a split of `datasets`, read in batches. A column of classes has their names."""

    def __init__(self, rows: Any) -> None:
        import datasets
        import pyarrow as pa

        self._rows = rows if rows.features else rows._resolve_features()
        features = self._rows.features
        self._classes = {name: kind.names for name, kind in features.items() if isinstance(kind, datasets.ClassLabel)}
        fields = [pa.field(each.name, self._type(each)) for each in features.arrow_schema]
        self.schema = pa.schema(fields)

    def batches(self, columns: list[str], chosen: Any) -> Iterator[Any]:
        import pyarrow as pa

        for batch in self._rows.select_columns(columns).with_format("arrow").iter(ROWS):
            for name in self._classes.keys() & set(columns):
                numbers = batch.column(name).to_pylist()
                named = [self._classes[name][each] if each is not None and each >= 0 else None for each in numbers]
                place = batch.schema.get_field_index(name)
                batch = batch.set_column(place, name, pa.array(named, pa.string()))
            yield batch

    def _type(self, field: Any) -> Any:
        import pyarrow as pa

        return pa.string() if field.name in self._classes else field.type


def open_builder(source: HubSource, called: str) -> Any:
    """Open a data set.

    Raises:
        ConfigError: it is not there as it is named; UnreachableError if its hub does not answer.
    """
    datasets = data_library("datasets", called)
    with explained(called):
        builder = datasets.load_dataset_builder(source.name, source.config, revision=source.revision)
    if is_cached_alone(builder) and source.revision not in (None, builder.hash):
        reason = f"`datasets` has another revision in its cache, {builder.hash}"
        raise UnreachableError(f"{called} at {source.revision} cannot be reached ({reason})")
    return builder


def is_cached_alone(builder: Any) -> bool:
    """Tell whether `datasets` did not reach the hub, and gives what is in its own cache, of any revision."""
    return type(builder).__module__.endswith(".cache.cache")


def open_split(builder: Any, source: HubSource, split: str) -> Any:
    """Open a split. Raises ConfigError if there is none of this name."""
    called = source.called(split)
    known = [str(name) for name in (builder.config.data_files or builder.info.splits or ())]
    for part in split.split("+"):
        name = part.partition("[")[0].strip()
        there = f"it has {', '.join(known)}; with held_out=None, a part of the training split is held out"
        require(not known or name in (*known, "all"), f'{source.name} has no split "{name}": {there}.')
    whole = not source.streaming or "[" not in split
    require(whole, f"{called}: a slice of a split needs streaming=False, with which `datasets` downloads all of it.")
    with explained(called):
        if source.streaming:
            return builder.as_streaming_dataset(split)
        builder.download_and_prepare()
        return builder.as_dataset(split)


def _shards(rows: Any) -> int:
    return rows.num_shards if hasattr(rows, "num_shards") else -(-len(rows) // SHARD_ROWS)


def _version(builder: Any) -> list[Any]:
    """Return what identifies the version of a data set: its commit, or the sizes and times of its local files."""
    files = [str(file) for files in (builder.config.data_files or {}).values() for file in files]
    local = [[file, os.stat(file).st_size, os.stat(file).st_mtime_ns] for file in files if os.path.isfile(file)]
    return [builder.hash, builder.config_id, local or files]


@contextmanager
def explained(called: str) -> Iterator[None]:
    """Turn the errors of `datasets` into one sentence. Raises ConfigError, or UnreachableError."""
    import httpx

    try:
        yield
    except ConfigError:
        raise
    except (ConnectionError, httpx.TransportError) as error:
        raise UnreachableError(f"{called} cannot be reached ({reason_of(error)})") from None
    except Exception as error:
        raise ConfigError(f"`datasets` cannot read {called} ({reason_of(error)}).") from None
