"""The files of scripts.benchmark.formats: one text in every format, and the corpora that read them."""

import gzip
import itertools
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from research import Corpus, Denoising, JSONLines, Parquet, SpanCorruption
from research.config import SentencePiece
from research.storage.extras import data_library

INPUT_LENGTH = 512


@dataclass(frozen=True)
class FormatFiles:
    """A folder with one text in every format, a vocabulary, and how long rows are counted."""

    folder: Path
    bytes: int  # of UTF-8 text in every file
    seconds: float  # that rows are counted in a round

    def file(self, suffix: str) -> Path:
        return self.folder / f"text.{suffix}"

    def corpus(self, suffix: str) -> Corpus:
        kind = Parquet if suffix in ("parquet", "arrow") else JSONLines
        return kind(str(self.file(suffix)), held_out=str(self.folder / f"held_out.{suffix}"))

    @property
    def vocabulary(self) -> SentencePiece:
        return SentencePiece(str(self.folder / "unigram.model"), sentinels=100)

    @property
    def data(self) -> Denoising:
        return Denoising((self.corpus("jsonl"),), self.vocabulary, SpanCorruption(), INPUT_LENGTH)


def write_files(texts: Iterable[str], folder: Path, megabytes: float) -> int:
    """Write documents in every format until there are so many megabytes of text; return its bytes."""
    kept, size = list[str](), 0
    for text in texts:
        kept.append(text)
        size += len(text.encode())
        if size >= megabytes * 1e6:
            break
    for name, part in (("text", kept), ("held_out", kept[:64])):
        write_formats(part, folder / name)
    return size


def write_formats(texts: list[str], path: Path) -> None:
    pyarrow, zstd = data_library("pyarrow", path), data_library("backports.zstd", path)
    parquet = data_library("pyarrow.parquet", path)
    lines = "".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts).encode()
    path.with_suffix(".jsonl").write_bytes(lines)
    path.with_suffix(".jsonl.gz").write_bytes(gzip.compress(lines, 6))
    path.with_suffix(".jsonl.zst").write_bytes(zstd.compress(lines))
    table = pyarrow.table({"text": texts})
    parquet.write_table(table, path.with_suffix(".parquet"), compression="zstd", row_group_size=10_000)
    with pyarrow.ipc.new_file(str(path.with_suffix(".arrow")), table.schema) as file:
        file.write_table(table, max_chunksize=10_000)


def repeated(texts: list[str]) -> Iterator[str]:
    """Yield the documents again and again, numbered, so that no two are equal."""
    for number in itertools.count():
        yield from (f"{number} {text}" for text in texts)
