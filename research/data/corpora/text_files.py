"""Corpora in files, read in place through an index of byte offsets: JSON lines and plain text.

The first use reads every file once, checks it and writes the index into the cache. The index is keyed by the contents
of the files, so a changed file gets a new one. A compressed file is decompressed into the cache once, for random
access.
"""

import array
import glob
import hashlib
import os
import sys
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Int64

from research.config import ConfigError, Corpus, require
from research.config.base import digest
from research.data.corpora.documents import Documents
from research.data.corpora.overlap import Piece
from research.storage import cache
from research.storage.compression import compression_of, decompress
from research.storage.copies import DIGEST, ORIGIN, origin_of
from research.storage.filters import row_filter
from research.storage.lines import Line, is_unicode, json_line_value, json_objects, json_value_at, text_lines
from research.storage.parts import Parts
from research.storage.progress import Progress
from research.storage.remote import is_address, remote_copies

FORMAT = 1  # increment when the same files would give other documents or another index
COMPRESSED = (".gz", ".bz2", ".xz", ".zst")
HELD_OUT_ONE_IN = 100  # documents, if a corpus names no held-out files


class Span(NamedTuple):
    """Byte range of a document in its file, and its text."""

    start: int
    stop: int
    text: str


class Storage(NamedTuple):
    """The way from a pattern to files, and from a file, with the digest of its bytes, to the path of its text."""

    find: Callable[[str], list[Path]]
    text: Callable[[Path, str], Path]


class FileIndex:
    """An index of the pieces that `find` finds in the lines of some files; `rules` list everything that affects the
    result.

    The hash of a piece's text, as `find` returns it, decides whether the piece is held out. Errors name the
    original file, wherever `storage` has its text. Raises ConfigError if files are missing, or if `find` rejects
    their contents.
    """

    def __init__(
        self,
        pattern: str,
        rules: list[Any],
        find: Callable[[str, Iterator[Line]], Iterator[Span]],
        storage: Storage | None = None,
    ) -> None:
        self.name = pattern
        storage = storage or PLAIN
        found = storage.find(pattern)
        self.files = [origin_of(path) for path in found]  # their names
        digests = [content_digest(path) for path in found]
        self._paths = [storage.text(path, content) for path, content in zip(found, digests, strict=True)]
        self.identity = digest([FORMAT, *rules, digests])
        self.pieces = [
            Piece(path.stat().st_size, partial(content_digest, path), name)
            for path, name in zip(self._paths, self.files, strict=True)
        ]
        self._parts = [Parts(path) if cache.contains(path) else None for path in self._paths]
        index = cache.entry("documents", self.identity, lambda folder: self._write(folder, find))
        self._spans = np.fromfile(index / "spans", np.int64).reshape(-1, 3)
        self.held_out = np.fromfile(index / "held_out", np.bool_)

    def __len__(self) -> int:
        return len(self._spans)

    def is_filled(self, rows: Int64[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
        """Tell which pieces hold text; `find` may give pieces of no bytes for what is left out."""
        return self._spans[rows, 1] < self._spans[rows, 2]

    @property
    def counts(self) -> list[int]:
        """Number of pieces in each file."""
        return np.bincount(self._spans[:, 0], minlength=len(self.files)).tolist()

    def __getitem__(self, index: int) -> bytes:
        return self.read(np.array([index]))[0]

    def read(self, indices: Int64[np.ndarray, " n"]) -> list[bytes]:
        """Read pieces in the order of the indices; each of their files is opened once."""
        files, starts, stops = self._spans[indices].T
        pieces = [b""] * len(indices)
        for file, group in groupby(np.argsort(files, kind="stable").tolist(), files.__getitem__):
            own = list(group)
            if parts := self._parts[file]:
                parts.check(starts[own], stops[own])
            with self._paths[file].open("rb") as opened:
                for place, start, stop in zip(own, starts[own].tolist(), stops[own].tolist(), strict=True):
                    pieces[place] = os.pread(opened.fileno(), stop - start, start)
        return pieces

    def _write(self, folder: Path, find: Callable[[str, Iterator[Line]], Iterator[Span]]) -> None:
        """Check every piece and write the index: `spans` holds (file, start, stop) per piece, and `held_out` a flag."""
        size = sum(path.stat().st_size for path in self._paths)
        with (
            (folder / "spans").open("wb") as spans,
            (folder / "held_out").open("wb") as held_out,
            Progress(f"Reading {self.name}", size, "bytes") as progress,
        ):
            for file, path in enumerate(self._paths):
                if parts := self._parts[file]:
                    parts.check_all()
                rows, flags, done = array.array("q"), bytearray(), 0
                with path.open("rb") as opened:
                    for start, stop, text in find(self.files[file], text_lines(opened, self.files[file])):
                        rows.extend((file, start, stop))
                        flags.append(_is_held_out(text))
                        progress.advance(stop - done)
                        done = stop
                rows.tofile(spans)
                held_out.write(flags)


class Selection(NamedTuple):
    """The pieces of an index that belong to a split."""

    rows: Int64[np.ndarray, " n"]
    identity: str


def choose(index: FileIndex, split: str, by_hash: bool, what: str) -> Selection:
    """Select all pieces or, if splits are made by hash, those of the split. Raises ConfigError if there are none."""
    require(len(index) > 0, f"The corpus {index.name} is empty: its files hold no {what}.")
    if not by_hash:
        return Selection(np.arange(len(index)), index.identity)
    rows = np.flatnonzero(index.held_out == (split == "held_out"))
    require(
        len(rows) > 0,
        f"None of the {len(index)} {what}s of {index.name} falls into its {split} split (one in"
        f" {HELD_OUT_ONE_IN} is held out by a hash): give more {what}s, or name files with held_out=.",
    )
    return Selection(rows, digest([index.identity, split]))


@dataclass(frozen=True)
class TextCorpus(Corpus):
    """The base of corpora in files. `train` and `held_out` are paths or glob patterns; .gz, .bz2, .xz and
    .zst are supported.

    With `held_out=None`, about one document in a hundred is held out by a hash of its text.
    """

    train: str
    held_out: str | None = None

    @property
    def storage(self) -> Storage:
        return PLAIN

    def documents(self, split: Literal["train", "held_out"]) -> "TextFiles":
        return TextFiles(self, split)

    @property
    @abstractmethod
    def rule(self) -> str:
        """Setting that, with the class, determines which documents a file holds."""

    @abstractmethod
    def spans(self, name: str, lines: Iterator[Line]) -> Iterator[Span]:
        """Find documents in the lines of a file; errors refer to the file by its name."""

    @abstractmethod
    def text_of(self, content: bytes) -> str:
        """Return the text of a document from its bytes in the file."""


@dataclass(frozen=True)
class JSONLines(TextCorpus):
    """JSON objects, one per line; .gz, .bz2, .xz and .zst are supported. `train` and `held_out` are paths or glob
    patterns.

    With `held_out=None`, about one document in a hundred is held out by a hash of its text.
    """

    text: str | tuple[str, ...] = "text"  # the key of the document's text, or several; "a/b" or "a.b" is b within a
    join: str = "\n\n"  # between the texts of several keys
    where: str | None = None  # a filter of lines, such as "language == 'de' and score > 0.5"
    empty: Literal["refuse", "skip"] = "refuse"  # effect of a line without a text

    @property
    def keys(self) -> tuple[str, ...]:
        return (self.text,) if isinstance(self.text, str) else self.text

    @property
    def rule(self) -> str:
        """The key alone where nothing else is asked for: such indices were made before there was more."""
        more = (self.where, self.empty) if len(self.keys) == 1 else (self.keys, self.join, self.where, self.empty)
        return self.keys[0] if more == (None, "refuse") else repr((self.text, *more))

    def spans(self, name: str, lines: Iterator[Line]) -> Iterator[Span]:
        """Find one document per line, skipping blank lines; an empty text is a document of no bytes, which is left
        out.
        """
        selects = None if self.where is None else row_filter(self.where)
        for line, where, value in json_objects(name, lines):
            if selects is None or selects(value, where):
                texts = [json_value_at(value, key, where) for key in self.keys]
                if not all(isinstance(text, str) for text in texts):
                    self._check(texts, where)
                    texts = [""]
                text = self.join.join(texts)
                require(is_unicode(text), f'{where}: the value of "{self.text}" holds half of a surrogate pair.')
                yield Span(line.start, line.stop if text.strip() else line.start, text)

    def text_of(self, content: bytes) -> str:
        value = json_line_value(content.decode())
        return self.join.join([json_value_at(value, key, self.train) for key in self.keys])

    def _check(self, texts: list[Any], where: str) -> None:
        """Raise ConfigError if one is no text, or if one is missing and such lines are refused."""
        for key, text in zip(self.keys, texts, strict=True):
            kind = f'{where}: the value of "{key}" is {type(text).__name__}, not a string'
            require(text is None or isinstance(text, str), f"{kind}.")
            skipped = text is not None or self.empty == "skip"
            require(skipped, f'{kind}: give the corpus empty="skip" to leave such lines out.')


@dataclass(frozen=True)
class PlainText(TextCorpus):
    """UTF-8 text; .gz, .bz2, .xz and .zst are supported. A document is a block between blank lines, or a whole file."""

    document: Literal["block", "file"] = "block"

    @property
    def rule(self) -> str:
        return self.document

    def spans(self, name: str, lines: Iterator[Line]) -> Iterator[Span]:
        return block_spans(lines) if self.document == "block" else file_spans(lines)

    def text_of(self, content: bytes) -> str:
        return content.decode()


class TextFiles(Documents):
    """The documents of one split of a corpus in files, by index."""

    def __init__(self, corpus: TextCorpus, split: Literal["train", "held_out"], storage: Storage | None = None) -> None:
        pattern = corpus.train if split == "train" or corpus.held_out is None else corpus.held_out
        self.name, self._corpus = pattern, corpus
        rules = [type(corpus).__name__, corpus.rule]
        self._index = FileIndex(pattern, rules, corpus.spans, storage or corpus.storage)
        hashed = digest(rules) if corpus.held_out is None else ""
        self.pieces = [piece._replace(hashed=hashed) for piece in self._index.pieces]
        rows, self.identity = choose(self._index, split, corpus.held_out is None, "document")
        self._rows = rows[self._index.is_filled(rows)]
        if absent := len(rows) - len(self._rows):
            counted = f"{absent:,} of {len(rows):,} documents of {pattern}"
            print(f"{counted} have no text: they are left out.", file=sys.stderr, flush=True)
        require(len(self._rows) > 0, f"None of the {len(rows):,} documents of {pattern} has a text.")

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> str:
        return self.read(np.array([index]))[0]

    def read(self, indices: Int64[np.ndarray, " n"]) -> list[str]:
        return list(map(self._corpus.text_of, self._index.read(self._rows[indices])))


def block_spans(lines: Iterable[Line]) -> Iterator[Span]:
    """Find one document per block between blank lines."""
    block: list[Line] = []
    for line in lines:
        if line.text.strip():
            block.append(line)
        elif block:
            yield _join_lines(block)
            block = []
    if block:
        yield _join_lines(block)


def file_spans(lines: Iterable[Line]) -> Iterator[Span]:
    """Find one document per file, from its first non-blank line to its last."""
    kept = list(lines)
    filled = [position for position, line in enumerate(kept) if line.text.strip()]
    if filled:
        yield _join_lines(kept[filled[0] : filled[-1] + 1])


def _join_lines(lines: list[Line]) -> Span:
    text = "".join(line.text for line in lines).rstrip("\r\n")
    return Span(lines[0].start, lines[0].start + len(text.encode()), text)


def matching(pattern: str) -> list[Path]:
    """Return the files and directories that match a path or a glob pattern, sorted; of addresses, their copies."""
    if is_address(pattern):
        return remote_copies(pattern)
    expanded = os.path.expanduser(pattern)
    return [Path(expanded)] if os.path.exists(expanded) else sorted(map(Path, glob.glob(expanded, recursive=True)))


def find_files(pattern: str) -> list[Path]:
    """Return the files that match a path or a glob pattern, or those of a directory that it names, sorted."""
    paths = matching(pattern)
    if not paths:
        raise ConfigError(
            f"No file matches the pattern {pattern}." if glob.has_magic(pattern) else f"There is no file {pattern}."
        )
    named = len(paths) == 1 and paths[0].is_dir() and not glob.has_magic(pattern)
    files = _files_of(paths[0]) if named else [path for path in paths if path.is_file()]
    require(len(files) > 0, f"{pattern} matches directories alone: name one, or a pattern of files such as *.txt.")
    for path in files:
        require(os.access(path, os.R_OK), f"{path} is not readable by this user.")
    return files


def _files_of(folder: Path) -> list[Path]:
    """Return the files in a directory but hidden ones. Raises ConfigError if there are none, or of several kinds."""
    files = sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith((".", "_")))
    kinds = sorted({Path(path.stem if path.suffix in COMPRESSED else path.name).suffix for path in files})
    require(
        len(files) > 0, f"{folder} is a directory without files: name a file, or a pattern such as {folder}/**/*.txt."
    )
    of_each = f"{folder} holds files of several kinds ({', '.join(kind or 'none' for kind in kinds)})"
    require(len(kinds) == 1, f"{of_each}: name a pattern such as {folder}/*{kinds[-1]}.")
    return files


def known_digest(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, recomputed only if its size, path, inode or
    modification time has changed.
    """
    status = path.stat()
    key = digest([str(path.resolve()), status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns])
    folder = cache.entry("digests", key, lambda folder: _write_digest(folder, path))
    return (folder / DIGEST).read_text()


def _write_digest(folder: Path, path: Path) -> None:
    (folder / DIGEST).write_text(cache.file_digest(path))


def content_digest(path: Path) -> str:
    """Return the SHA-256 of a file's bytes: for a copy in the cache, that computed with it; else as `known_digest`."""
    kept = path.with_name(DIGEST)
    return kept.read_text() if cache.contains(path) and kept.exists() else known_digest(path)


def plain_file(path: Path, content: str) -> Path:
    """Return the file itself or, if it is compressed, its decompressed copy in the cache; `content` is its digest."""
    packed = compression_of(path)
    if packed is None:
        return path
    return stored_text("decompressed", content, lambda: decompress(path, packed))


PLAIN = Storage(find_files, plain_file)


def stored_text(kind: str, key: str, pieces: Callable[[], Iterable[bytes]], origin: str = "") -> Path:
    """Return the text of an entry of the cache; if there is none, it is written from pieces, with its digest and the
    name of its origin, which is its name in messages.
    """
    return cache.entry(kind, key, lambda folder: _write_text(folder, pieces(), origin), lambda name: True) / "text"


def _write_text(folder: Path, pieces: Iterable[bytes], origin: str) -> None:
    if origin:
        (folder / ORIGIN).write_text(origin)
    hash = hashlib.sha256()
    with (folder / "text").open("wb") as plain:
        for piece in pieces:
            plain.write(piece)
            hash.update(piece)
    (folder / DIGEST).write_text(hash.hexdigest())


def _is_held_out(text: str) -> bool:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) % HELD_OUT_ONE_IN == 0
