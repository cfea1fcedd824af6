"""A split of a corpus as one long sequence of token ids: built once, stored on disk and memory-mapped.

Documents follow one another in a fixed pseudo-random order without separators, as in T5's reduce_concat_tokens; or each
of their lines ends with EOS, as in fairseq's data for mBART.

The tokens of many documents are built in pieces, each with its own cache entry, so that an interrupted build resumes
and processes share the work. Once complete, the pieces are merged into one entry.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import chain, groupby
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int64, UInt

from research.config import require
from research.config.base import digest
from research.data.corpora.documents import Documents
from research.data.shuffle import Permutation
from research.data.tokenizer import Tokenizer
from research.data.tokenizer.parts import LINE_END, cut
from research.storage import cache, stop
from research.storage.lines import split_lines
from research.storage.parts import Parts
from research.storage.progress import Progress

FORMAT = 2  # increment when the same documents would give other tokens or other files
DOCUMENTS_AT_ONCE = 512
LONG, PART_LENGTH = 1 << 22, 1 << 20  # characters of a text that is encoded in parts, and of a part
PIECE = 1 << 16  # documents
DOCUMENT_ORDER = (0, 0)  # key and position of the order in which documents are tokenised


class TokenStream(NamedTuple):
    name: str
    tokens: UInt[np.ndarray, " length"]
    text_digest: str  # of the documents' text; and of the rule of lines, if an earlier rule gives other tokens
    parts: Parts | None = None  # of the file of the tokens

    def rows(self, length: int) -> UInt[np.ndarray, "n length"]:
        """Cut the stream into rows, dropping the rest at its end."""
        count = len(self.tokens) // length
        require(
            count > 0,
            f"{self.name} has {len(self.tokens)} tokens, fewer than one row of {length}: give more text, or a smaller"
            " data.input_length.",
        )
        return self.tokens[: count * length].reshape(count, length)

    def check(self, rows: Int64[np.ndarray, " n"], length: int) -> None:
        """Verify the parts of the file that hold these rows of a length, before they are read."""
        if self.parts is not None:
            width = length * self.tokens.itemsize
            self.parts.check(rows * width, (rows + 1) * width)


class Recipe:
    """The recipe of a token stream: its documents and tokenizer.

    With `eos_after_lines`, each non-blank line is tokenised separately and ends with EOS.
    """

    def __init__(self, documents: Documents, tokenizer: Tokenizer, eos_after_lines: bool = False) -> None:
        self.documents, self._tokenizer, self._eos_after_lines = documents, tokenizer, eos_after_lines
        rules = ["EOS after lines, which LF ends"] * eos_after_lines
        name = digest([FORMAT, documents.identity, tokenizer.digest, *rules])
        self._whole = cache.Entry("tokens", name)
        count = max(1, -(-len(documents) // PIECE))
        self._pieces = [cache.Entry(f"tokens/{name}.pieces", f"{PIECE}-{piece}") for piece in range(count)]

    def encode(self, text: str) -> list[int]:
        """Encode one document as the stream has it."""
        return [id for group in self._groups([text]) for ids in self._encode(group) for id in ids]

    def stream(self) -> TokenStream:
        """Load the stream from the cache, building it if needed."""
        folder = cache.entry(*self._whole, self._write, by_parts=lambda name: name == "tokens")
        cache.drop(self._pieces[0].path.parent)
        meta = json.loads((folder / "meta.json").read_text())
        # An empty file cannot be mapped; rows() reports an empty stream.
        tokens = np.memmap(folder / "tokens", meta["dtype"], "r") if meta["length"] else np.empty(0, meta["dtype"])
        parts = Parts(folder / "tokens", mapped=True)
        return TokenStream(self.documents.name, np.asarray(tokens), meta["text_digest"], parts)

    def missing(self) -> list[int]:
        """Return the numbers of the pieces that are not built yet."""
        if self._whole.complete:
            return []
        return [number for number, piece in enumerate(self._pieces) if not piece.complete]

    def make(self, piece: int) -> None:
        """Build a piece if it is missing."""
        try:
            if not self._whole.complete:
                cache.entry(*self._pieces[piece], partial(self._write_piece, piece))
        except FileNotFoundError:
            if not self._whole.complete:  # another process may have built the stream and dropped the pieces
                raise

    def _write(self, folder: Path) -> None:
        if len(self._pieces) == 1:
            with Progress(f"Tokenising {self.documents.name}", len(self.documents), "documents") as progress:
                return self._write_piece(0, folder, progress.advance)
        tokens_hash, length, texts = hashlib.sha256(), 0, []
        with (
            (folder / "tokens").open("wb") as file,
            Progress(f"Tokenising {self.documents.name}", len(self._pieces), "pieces") as progress,
        ):
            for number, piece in enumerate(self._pieces):
                built = cache.entry(*piece, partial(self._write_piece, number))
                tokens, meta = (built / "tokens").read_bytes(), json.loads((built / "meta.json").read_text())
                file.write(tokens)
                tokens_hash.update(tokens)
                length += meta["length"]
                texts.append(meta["text_digest"])
                progress.advance()
        self._write_meta(folder, length, tokens_hash.hexdigest(), digest(texts))

    def _write_piece(self, piece: int, folder: Path, advance: Callable[[int], None] = lambda count: None) -> None:
        text_hash, tokens_hash, length, same = hashlib.sha256(), hashlib.sha256(), 0, True
        positions = range(piece * PIECE, min((piece + 1) * PIECE, len(self.documents)))
        with (folder / "tokens").open("wb") as file:
            for texts in document_order(self.documents, positions):
                for text in texts:
                    content = text.encode()
                    text_hash.update(len(content).to_bytes(8, "little") + content)
                for group in self._groups(texts):
                    ids = self._encode(group)
                    same = same and not (self._eos_after_lines and self._differed(group, ids))
                    tokens = np.fromiter(chain.from_iterable(ids), self._dtype, sum(map(len, ids)))
                    tokens_hash.update(tokens.data)
                    tokens.tofile(file)
                    length += len(tokens)
                advance(len(texts))
        if not same:
            text_hash.update(b"LF ends lines")
        self._write_meta(folder, length, tokens_hash.hexdigest(), text_hash.hexdigest())

    def _write_meta(self, folder: Path, length: int, tokens_digest: str, text_digest: str) -> None:
        digests = {"tokens_digest": tokens_digest, "text_digest": text_digest}
        (folder / "meta.json").write_text(
            json.dumps({"length": length, "dtype": self._dtype.name, **digests}, indent=1)
        )

    def _groups(self, texts: Sequence[str]) -> Iterator[list[str]]:
        """Group texts for encoding: short ones together, and parts of a long one one by one, to bound the memory."""
        for long, group in groupby(texts, lambda text: len(text) > LONG):
            if not long:
                yield list(group)
                continue
            for text in group:
                of_lines = self._eos_after_lines
                parts = cut(text, PART_LENGTH, LINE_END) if of_lines else self._tokenizer.parts(text, PART_LENGTH)
                yield from ([part] for part in parts)

    def _encode(self, texts: Sequence[str]) -> list[list[int]]:
        return encode_lines(texts, self._tokenizer) if self._eos_after_lines else self._tokenizer.encode_batch(texts)

    def _differed(self, texts: Sequence[str], ids: list[list[int]]) -> bool:
        """Tell whether texts had other tokens than `ids` when lone CR, VT, FF, U+2028 and the like ended a line too."""
        if nonblank_lines(texts, str.splitlines) == nonblank_lines(texts):
            return False
        return encode_lines(texts, self._tokenizer, str.splitlines) != ids

    @property
    def _dtype(self) -> np.dtype:
        return np.dtype(np.uint16 if self._tokenizer.size <= 2**16 else np.uint32)


def document_order(documents: Documents, positions: range | None = None) -> Iterator[list[str]]:
    """Yield batches of documents in the fixed pseudo-random order: all of them, or those at the given positions."""
    order = Permutation(len(documents), DOCUMENT_ORDER, DOCUMENT_ORDER)
    positions = range(len(documents)) if positions is None else positions
    for start in range(positions.start, positions.stop, DOCUMENTS_AT_ONCE):
        stop.check()
        yield documents.read(order(np.arange(start, min(start + DOCUMENTS_AT_ONCE, positions.stop))))


SplitLines = Callable[[str], list[str]]


def nonblank_lines(texts: Sequence[str], split: SplitLines = split_lines) -> list[str]:
    return [line for text in texts for line in split(text) if line.strip()]


def encode_lines(texts: Sequence[str], tokenizer: Tokenizer, split: SplitLines = split_lines) -> list[list[int]]:
    return [[*ids, tokenizer.eos_id] for ids in tokenizer.encode_batch(nonblank_lines(texts, split))]
