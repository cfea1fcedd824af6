"""Documents that repeat another one exactly: found by a hash of the text, and left out of what is trained on.

Documents are equal if their texts are, but for white space at both ends. The hash is BLAKE2b of 128 bits: that two
different texts among 10 billion share one has a probability of about 1.5e-19. A document takes 16 bytes of the cache,
and a byte of memory while duplicates are looked for. Hashes are made in pieces, each an entry of the cache, so that a
build which was interrupted resumes.
"""

import hashlib
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int64, UInt8, UInt64

from research.config import require
from research.config.base import digest
from research.data.corpora.documents import AT_ONCE, Documents, LeftOut
from research.storage import cache, stop
from research.storage.progress import Progress

FORMAT = 1  # increment when the same documents would give other hashes, or others would be left out
PIECE = 1 << 20  # documents whose hashes are one entry of the cache
TOGETHER = 1 << 24  # hashes that are sorted together, in up to 1 GB of memory
DIGEST_BYTES = 16
KEPT, WITHIN, BETWEEN, HELD_OUT = range(4)  # verdicts
HELD_OUT_CORPUS = -1

Hashes = UInt64[np.ndarray, "_ 2"]


class Kept(NamedTuple):
    """The documents of a corpus that are kept: all of them if `rows` is None."""

    rows: Int64[np.ndarray, " _"] | None
    left_out: LeftOut
    identity: str  # of the documents that are kept, by their indices


class DistinctDocuments(Documents):
    """The documents of a split that are kept, by index."""

    def __init__(self, documents: Documents, kept: Kept) -> None:
        assert kept.rows is not None
        self.name, self.left_out = documents.name, kept.left_out
        self._documents, self._rows = documents, kept.rows
        self.identity = digest(["distinct", documents.identity, kept.identity])

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> str:
        return self._documents[int(self._rows[index])]

    def read(self, indices: Int64[np.ndarray, " n"]) -> list[str]:
        return self._documents.read(np.asarray(self._rows[indices]))


def distinct(train: Sequence[Documents], held_out: Sequence[Documents]) -> list[Documents]:
    """Return the documents to train on without those that repeat another or are held out; see `find_kept`.

    Documents of which none is left out are returned as they are.
    """
    found = zip(train, find_kept(train, held_out), strict=True)
    return [documents if kept.rows is None else DistinctDocuments(documents, kept) for documents, kept in found]


def find_kept(train: Sequence[Documents], held_out: Sequence[Documents]) -> list[Kept]:
    """Decide which documents of each corpus are kept: the first of equal ones, in the order of corpora and documents,
    unless it is held out in any corpus. The result is computed once and kept in the cache.

    Raises:
        ConfigError: nothing of a corpus is kept.
    """
    if not train:
        return []
    identities = [[documents.identity for documents in split] for split in (train, held_out)]
    folder = cache.entry("duplicates", digest([FORMAT, *identities]), lambda folder: _write(folder, train, held_out))
    found = []
    for number, facts in enumerate(json.loads((folder / "corpora.json").read_text())):
        left_out = LeftOut(*facts["left_out"])
        documents = train[number]
        require(
            sum(left_out) < len(documents),
            f"All {len(documents):,} documents of {documents.name} repeat others: {left_out}. Remove it, or set"
            ' data.duplicates="keep".',
        )
        rows = np.load(folder / f"{number}.npy", mmap_mode="r") if any(left_out) else None
        found.append(Kept(None if rows is None else np.asarray(rows), left_out, facts["identity"]))
    return found


def _write(folder: Path, train: Sequence[Documents], held_out: Sequence[Documents]) -> None:
    splits = [(HELD_OUT_CORPUS, documents) for documents in held_out] + list(enumerate(train))
    corpora = [(number, _hashes(documents)) for number, documents in splits]
    verdicts = _verdicts(corpora)[len(held_out) :]
    facts = []
    for number, verdict in enumerate(verdicts):
        left_out = [int((verdict == reason).sum()) for reason in (WITHIN, BETWEEN, HELD_OUT)]
        if any(left_out):
            np.save(folder / f"{number}.npy", np.flatnonzero(verdict == KEPT))
        identity = hashlib.sha256(np.packbits(verdict == KEPT).data).hexdigest()
        facts.append({"left_out": left_out, "identity": identity})
    (folder / "corpora.json").write_text(json.dumps(facts, indent=1))


def _hashes(documents: Documents) -> list[Hashes]:
    """Return the hashes of all documents in pieces, mapped from the cache; those that are missing are made."""
    pieces = []
    for start in range(0, len(documents), PIECE):
        rows = range(start, min(start + PIECE, len(documents)))
        key = digest([FORMAT, documents.identity, rows.start, rows.stop])
        folder = cache.entry("hashes", key, partial(_write_hashes, documents, rows))
        pieces.append(np.asarray(np.load(folder / "hashes.npy", mmap_mode="r")))
    return pieces


def _write_hashes(documents: Documents, rows: range, folder: Path) -> None:
    digests = bytearray()
    with Progress(f"Hashing {documents.name}", len(documents), "documents", done=rows.start) as progress:
        for start in range(rows.start, rows.stop, AT_ONCE):
            for text in documents.read(np.arange(start, min(start + AT_ONCE, rows.stop))):
                digests += hashlib.blake2b(text.strip().encode(), digest_size=DIGEST_BYTES).digest()
            progress.advance(min(AT_ONCE, rows.stop - start))
    np.save(folder / "hashes.npy", np.frombuffer(digests, "<u8").reshape(-1, 2))


def _verdicts(corpora: Sequence[tuple[int, list[Hashes]]]) -> list[UInt8[np.ndarray, " _"]]:
    """Judge every document of numbered corpora in order. Hashes that begin with the same bits are sorted together."""
    verdicts = [np.zeros(sum(map(len, pieces)), np.uint8) for _, pieces in corpora]
    bits = (sum(map(len, verdicts)) // TOGETHER).bit_length()
    for part in range(1 << bits):
        stop.check()
        found = [_part(pieces, part, bits) for _, pieces in corpora]
        numbers = np.repeat([number for number, _ in corpora], [len(rows) for rows, _ in found])
        judged = _judge(np.concatenate([hashes for _, hashes in found]), numbers)
        ends = np.cumsum([len(rows) for rows, _ in found])
        for verdict, (rows, _), end in zip(verdicts, found, ends, strict=True):
            verdict[rows] = judged[end - len(rows) : end]
    return verdicts


def _part(pieces: list[Hashes], part: int, bits: int) -> tuple[Int64[np.ndarray, " n"], UInt64[np.ndarray, "n 2"]]:
    """Return the documents of a corpus whose hashes begin with the bits of a part, and these hashes."""
    rows, hashes, start = [np.zeros(0, np.int64)], [np.zeros((0, 2), np.uint64)], 0
    for piece in pieces:
        own = np.flatnonzero(piece[:, 0] >> np.uint64(64 - bits) == part) if bits else np.arange(len(piece))
        rows.append(start + own)
        hashes.append(piece[own])
        start += len(piece)
    return np.concatenate(rows), np.concatenate(hashes)


def _judge(hashes: UInt64[np.ndarray, "n 2"], corpus: Int64[np.ndarray, " n"]) -> UInt8[np.ndarray, " n"]:
    """Judge documents that are in the order of their corpora, those held out first."""
    order = np.lexsort((hashes[:, 1], hashes[:, 0]))  # stable: equal hashes keep their order
    hashes, corpus = hashes[order], corpus[order]
    repeats = np.zeros(len(order), bool)  # the document before, in that order
    repeats[1:] = (hashes[1:] == hashes[:-1]).all(axis=1)
    firsts = np.flatnonzero(~repeats)
    is_held_out = np.repeat(corpus[firsts] == HELD_OUT_CORPUS, np.diff(firsts, append=len(order)))
    within = repeats.copy()
    within[1:] &= corpus[1:] == corpus[:-1]
    sorted_verdicts = np.select([repeats & is_held_out, within, repeats], [HELD_OUT, WITHIN, BETWEEN], KEPT)
    verdicts = np.empty(len(order), np.uint8)
    verdicts[order] = sorted_verdicts
    return verdicts
