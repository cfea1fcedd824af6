"""Marian's vocabularies as OPUS-MT publishes them: two SentencePiece models for the pieces, JSON files for their ids.

Hugging Face never normalises punctuation with sacremoses when it encodes text, even if it is installed; neither does
this tokenizer.
"""

import hashlib
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import sentencepiece

from research.config import Marian, require
from research.data.tokenizer.base import Ids, Tokenizer
from research.data.tokenizer.files import json_bytes, read, read_ids, utf8
from research.data.tokenizer.sentencepiece import SPACE, load_processor
from research.storage.files import write_bytes

EOS, UNKNOWN, PAD = "</s>", "<unk>", "<pad>"
SPECIAL = (EOS, UNKNOWN, PAD)


class VocabularySide(NamedTuple):
    """The vocabulary of the source or of the target."""

    model: bytes
    processor: sentencepiece.SentencePieceProcessor
    ids: dict[str, int]

    def encode(self, texts: Iterable[str]) -> list[list[int]]:
        """Encode texts. What `split_code` finds at the start of a text is one token, unknown if it has no id."""
        unknown = self.ids[UNKNOWN]
        parts = [split_code(text) for text in texts]
        batch = self.processor.encode([utf8(rest) for _, rest in parts], out_type=str, num_threads=-1)
        return [
            [self.ids.get(piece, unknown) for piece in code + pieces]
            for (code, _), pieces in zip(parts, batch, strict=True)
        ]


class MarianTokenizer(Tokenizer):
    """Marian's tokenizer: `X </s>` on both sides.

    The source of a model with several target languages is `>>xx<< X </s>`, where xx is the target language. `size`
    counts the ids of the source, `target_size` those of the target; they are one vocabulary unless the directory has a
    target_vocab.json. Ids are decoded as those of the target. Raises ConfigError naming a file that is missing or
    broken.
    """

    def __init__(self, directory: Path):
        separate = (directory / "target_vocab.json").exists()
        ids = open_ids(directory / "vocab.json")
        self.separate = separate
        self.source_side = open_side(directory / "source.spm", ids)
        self.target_side = open_side(
            directory / "target.spm", open_ids(directory / "target_vocab.json") if separate else ids
        )
        target_ids = self.target_side.ids
        different = [name for name in SPECIAL if ids[name] != target_ids[name]]
        require(not different, f"{directory}: vocab.json and target_vocab.json give {different} different ids.")
        self.eos_id, self.unknown_id, self.pad_id = (ids[name] for name in SPECIAL)
        codes = sorted((id, piece) for piece, id in ids.items() if piece.startswith(">>") and piece.endswith("<<"))
        sides = (self.source_side, self.target_side)
        parts = [part for side in sides for part in (side.model, json_bytes(sorted(side.ids.items())))]
        identity = b"marian " + b"".join(hashlib.sha256(part).digest() for part in parts)
        super().__init__(len(ids), identity, {piece: id for id, piece in codes})

    @property
    def target_size(self) -> int:
        return len(self.target_side.ids)

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Encode texts with the source vocabulary, without EOS."""
        return self.source_side.encode(texts)

    def source(self, texts: Sequence[str], language: str | None = None, limit: int | None = None) -> list[list[int]]:
        """Encode sources. `language` is the target's code, one of `languages`; a text may begin
        with the code instead.
        """
        return self._add_special_tokens(self.encode_batch(texts), language, limit)

    def target(self, texts: Sequence[str], language: str | None = None, limit: int | None = None) -> list[list[int]]:
        """Encode targets. They carry no language code; `language` is only checked."""
        self._refuse(language)
        return self._add_special_tokens(self.target_side.encode(texts), None, limit)

    def special_tokens(self, language: str | None) -> tuple[list[int], list[int]]:
        return [] if language is None else [self.language_id(language)], [self.eos_id]

    def start_id(self, language: str | None = None) -> int:
        self._refuse(language)
        return self.pad_id

    @cached_property
    def token_bytes(self) -> list[bytes]:
        """Bytes of the ids of the source vocabulary."""
        controls = {*SPECIAL, *self.languages}
        pieces = sorted(self.source_side.ids, key=self.source_side.ids.__getitem__)
        return [b"" if piece in controls else piece.replace(SPACE, " ").encode() for piece in pieces]

    @cached_property
    def target_bytes(self) -> list[bytes]:
        """Bytes of the ids of the target vocabulary after a word, without spaces at their end, as in Hugging Face."""
        before = "abcdef"
        texts = self.target_side.processor.decode_pieces([[before, piece] for piece in self._pieces])
        return [text.replace(SPACE, " ").strip().removeprefix(before).encode() for text in texts]

    def decode(self, ids: Ids) -> str:
        """Decode ids of the target vocabulary for display, showing unknown as <unk>."""
        known = (id if 0 <= id < self.target_size else self.unknown_id for id in map(int, ids))
        return self._join(self._pieces[id] for id in known if id not in (self.eos_id, self.pad_id))

    def text(self, ids: Ids) -> str:
        """Decode ids of the target vocabulary for scoring."""
        controls = (self.eos_id, self.unknown_id, self.pad_id)
        known = (id for id in map(int, ids) if 0 <= id < self.target_size)
        return self._join(self._pieces[id] for id in known if id not in controls)

    def _join(self, pieces: Iterable[str]) -> str:
        return self.target_side.processor.decode_pieces(list(pieces)).replace(SPACE, " ").strip()

    @cached_property
    def _pieces(self) -> list[str]:
        return sorted(self.target_side.ids, key=self.target_side.ids.__getitem__)

    def save(self, path: str | Path) -> Marian:
        directory = Path(path)
        directory.mkdir(parents=True, exist_ok=True)
        write_bytes(directory / "source.spm", self.source_side.model)
        write_bytes(directory / "target.spm", self.target_side.model)
        write_bytes(directory / "vocab.json", json_bytes(self.source_side.ids))
        if self.separate:
            write_bytes(directory / "target_vocab.json", json_bytes(self.target_side.ids))
        return Marian(str(path))


def split_code(text: str) -> tuple[list[str], str]:
    """Split a text into its language code and the rest: [">>de<<"], "Hello" for ">>de<<Hello".

    As in Hugging Face, so that ids are equal, everything from >> at the start to the first << is a code: of the line
    ">>> 1 << 2" only " 2" is text, after one unknown token. A space before such a line keeps it whole.
    """
    end = text.find("<<") if text.startswith(">>") else -1
    return ([], text) if end == -1 else ([text[: end + 2]], text[end + 2 :])


def open_side(path: Path, ids: dict[str, int]) -> VocabularySide:
    model = read(path, "SentencePiece model")
    return VocabularySide(model, load_processor(model, str(path)), ids)


def open_ids(path: Path) -> dict[str, int]:
    ids = read_ids(path, "vocabulary")
    missing = [name for name in SPECIAL if name not in ids]
    require(not missing, f"The vocabulary {path} lacks {', '.join(missing)}: it needs {', '.join(SPECIAL)}.")
    return ids
