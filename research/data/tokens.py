"""A split of a corpus as one long sequence of token ids: made once, kept on disk, mapped into memory.

Documents follow one another in a fixed pseudo-random order without anything between them, as in T5's
reduce_concat_tokens; or each line of theirs is ended by EOS, as in fairseq's data for mBART.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt

from research.config import require
from research.data import cache
from research.data.corpus import Documents
from research.data.progress import Progress
from research.data.shuffle import Permutation
from research.data.tokenizer import Tokenizer

FORMAT = 1  # raised when the same documents would give other tokens or other files
DOCUMENTS_AT_ONCE = 512
VERIFIED_BYTES = 1 << 28  # of larger streams only the length is checked when they are opened, not every byte
Encode = Callable[[Sequence[str]], list[list[int]]]
DOCUMENT_ORDER = (0, 0)  # the key and the position of the one order in which documents are tokenised


class TokenStream(NamedTuple):
    name: str
    tokens: UInt[np.ndarray, " length"]
    text_digest: str  # of the documents as they were read, whatever the tokenizer

    def rows(self, length: int) -> UInt[np.ndarray, "n length"]:
        """The stream cut into rows; what is left over at its end is dropped."""
        count = len(self.tokens) // length
        require(
            count > 0,
            f"{self.name} has {len(self.tokens)} tokens, fewer than one row of {length}: give more text, or a smaller"
            " data.input_length.",
        )
        return self.tokens[: count * length].reshape(count, length)


def token_stream(documents: Documents, tokenizer: Tokenizer, eos_after_lines: bool = False) -> TokenStream:
    """The stream of these documents, from the cache or made now.

    With `eos_after_lines` each of their lines that is not blank is tokenised by itself and ended by EOS.
    """
    key = cache.digest([FORMAT, documents.identity, tokenizer.digest, *["EOS after lines"] * eos_after_lines])
    encode = (lambda texts: encode_lines(texts, tokenizer)) if eos_after_lines else tokenizer.encode_batch
    dtype = np.dtype(np.uint16 if tokenizer.size <= 2**16 else np.uint32)
    folder = cache.entry("tokens", key, lambda folder: _write(folder, documents, encode, dtype))
    if damage := _damage(folder):
        cache.set_aside(folder, damage)
        folder = cache.entry("tokens", key, lambda folder: _write(folder, documents, encode, dtype))
    meta = json.loads((folder / "meta.json").read_text())
    # An empty file cannot be mapped; rows() says what is wrong with an empty stream.
    tokens = np.memmap(folder / "tokens", meta["dtype"], "r") if meta["length"] else np.empty(0, meta["dtype"])
    return TokenStream(documents.name, np.asarray(tokens), meta["text_digest"])


def document_order(documents: Documents) -> Iterator[list[str]]:
    """All documents in the fixed pseudo-random order, some at a time."""
    order = Permutation(len(documents), DOCUMENT_ORDER, DOCUMENT_ORDER)
    for start in range(0, len(documents), DOCUMENTS_AT_ONCE):
        yield documents.read(order(np.arange(start, min(start + DOCUMENTS_AT_ONCE, len(documents)))))


def encode_lines(texts: Sequence[str], tokenizer: Tokenizer) -> list[list[int]]:
    lines = [line for text in texts for line in text.splitlines() if line.strip()]
    return [[*ids, tokenizer.eos_id] for ids in tokenizer.encode_batch(lines)]


def _write(folder: Path, documents: Documents, encode: Encode, dtype: np.dtype) -> None:
    text_hash, tokens_hash, length = hashlib.sha256(), hashlib.sha256(), 0
    with (
        (folder / "tokens").open("wb") as file,
        Progress(f"Tokenising {documents.name}", len(documents), "documents") as progress,
    ):
        for texts in document_order(documents):
            for text in texts:
                content = text.encode()
                text_hash.update(len(content).to_bytes(8, "little") + content)
            ids = encode(texts)
            tokens = np.fromiter(chain.from_iterable(ids), dtype, sum(map(len, ids)))
            tokens_hash.update(tokens.data)
            tokens.tofile(file)
            length += len(tokens)
            progress.advance(len(texts))
    meta = {
        "length": length,
        "dtype": dtype.name,
        "tokens_digest": tokens_hash.hexdigest(),
        "text_digest": text_hash.hexdigest(),
    }
    (folder / "meta.json").write_text(json.dumps(meta, indent=1))


def _damage(folder: Path) -> str | None:
    """What is wrong with a stream on disk, if anything."""
    try:
        meta = json.loads((folder / "meta.json").read_text())
        size = (folder / "tokens").stat().st_size
        expected = meta["length"] * np.dtype(meta["dtype"]).itemsize
        if size != expected:
            return f"{size} bytes of tokens where {expected} were written"
        if size <= VERIFIED_BYTES and cache.file_digest(folder / "tokens") != meta["tokens_digest"]:
            return "its tokens are not those that were written"
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"{type(error).__name__}: {error}"
    return None
