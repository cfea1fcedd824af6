"""Compressed files: gzip, bz2, xz and zstd, known by their first bytes or suffix, and decompressed in pieces."""

import bz2
import gzip
import lzma
import re
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from research.config import ConfigError
from research.storage import stop
from research.storage.cache import CHUNK_BYTES, check_inflation
from research.storage.copies import origin_of
from research.storage.extras import data_library

WINDOW_LOG = 31  # of zstd: what `zstd --long=31` writes is read


class Compression(NamedTuple):
    name: str
    suffix: str
    first_bytes: re.Pattern[bytes]  # no text begins with them
    open: Callable[[Path], Any]
    error: Callable[[], type[Exception]]  # the library's own


def _zstd(path: Path | str) -> Any:
    # zstandard, the other library, takes a file that was cut short for a whole one.
    return data_library("backports.zstd", path)


def _open_zstd(path: Path) -> Any:
    zstd = _zstd(path)
    return zstd.open(path, options={zstd.DecompressionParameter.window_log_max: WINDOW_LOG})


LONGEST = 10  # of the first bytes
COMPRESSIONS = (
    Compression("gzip", ".gz", re.compile(rb"\x1f\x8b"), gzip.open, lambda: zlib.error),
    Compression("bz2", ".bz2", re.compile(rb"BZh[1-9](1AY&SY|\x17rE8P\x90)"), bz2.open, lambda: OSError),
    Compression("xz", ".xz", re.compile(rb"\xfd7zXZ\x00"), lzma.open, lambda: lzma.LZMAError),
    # The second are those of a frame to skip, with which parallel compressors begin.
    Compression("zstd", ".zst", re.compile(rb"\x28\xb5\x2f\xfd|[P-_]\*M\x18"), _open_zstd, lambda: _zstd("").ZstdError),
)


def compression_of(path: Path) -> Compression | None:
    """Return how a file is compressed, or None. The first bytes decide, so that a file is the same under any name; one
    that has a suffix without them is damaged.
    """
    with path.open("rb") as file:
        first = file.read(LONGEST)
    for one in COMPRESSIONS:
        if one.first_bytes.match(first):
            return one
    return next((one for one in COMPRESSIONS if path.suffix.lower() == one.suffix), None)


def decompress(path: Path, packed: Compression) -> Iterator[bytes]:
    """Yield the content of a compressed file in pieces.

    Raises:
        ConfigError: it was cut short or damaged, it would become far too large, or its library is not installed.
    """
    inflated, stored, name = 0, path.stat().st_size, origin_of(path)
    with packed.open(path) as file:
        while True:
            try:
                piece = file.read(CHUNK_BYTES)
            except (OSError, EOFError, packed.error()) as error:
                raise ConfigError(f"{name} is not a complete {packed.name} file ({error}).") from None
            if not piece:
                return
            inflated += len(piece)
            check_inflation(name, stored, inflated)
            stop.check()
            yield piece
