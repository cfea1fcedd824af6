"""Byte-level BPE as BART uses it (GPT-2's, with fairseq's special tokens): `<s> X </s>`."""

import json
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, decoders, models, pre_tokenizers, processors
from tokenizers import Tokenizer as Backend

from research.config import ByteLevelBPE, ConfigError, require
from research.data.tokenizer.base import Ids, Tokenizer
from research.data.tokenizer.files import check_ids, json_bytes, read, read_ids, read_object, utf8
from research.data.tokenizer.parts import cut
from research.storage.files import write_bytes

BOS, PAD, EOS, UNKNOWN, MASK = "<s>", "<pad>", "</s>", "<unk>", "<mask>"
SPECIAL = (BOS, PAD, EOS, UNKNOWN, MASK)


class ByteLevelBPETokenizer(Tokenizer):
    """A byte-level BPE tokenizer with special tokens found by name: BART has <s> 0, <pad> 1, </s> 2, <unk> 3 and <mask>
    last.

    Bytes without a piece in the vocabulary are dropped; BART's vocabulary has a piece for every byte.
    """

    bos_id: int
    mask_id: int

    def __init__(self, backend: Backend, origin: str):
        """Wrap `backend`; `origin` names it in errors. Raises ConfigError if a special token is missing."""
        vocabulary = check_ids(backend.get_vocab(with_added_tokens=True), f"The vocabulary {origin}")
        missing = [name for name in SPECIAL if name not in vocabulary]
        require(not missing, f"The vocabulary {origin} lacks {', '.join(missing)}: it needs {', '.join(SPECIAL)}.")
        self.bos_id, self.pad_id, self.eos_id, self.unknown_id, self.mask_id = (vocabulary[name] for name in SPECIAL)
        self.backend = backend
        backend.encode_special_tokens = True  # text is always plain text
        added = backend.get_added_tokens_decoder()
        self._special = {vocabulary[name] for name in SPECIAL} | {id for id in added if added[id].special}
        super().__init__(len(vocabulary), b"byte-level bpe " + json_bytes(self._decisive()))

    def _decisive(self) -> list[Any]:
        """Return the content that determines the ids, however many files it came from."""
        content = json.loads(self.backend.to_str())
        added = [token for token in content["added_tokens"] if not token["special"]]
        vocabulary = sorted(self.backend.get_vocab(with_added_tokens=True).items())
        return [vocabulary, content["model"]["merges"], content["pre_tokenizer"], added]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        whole = [utf8(text).decode() for text in texts]
        return [encoding.ids for encoding in self.backend.encode_batch_fast(whole, add_special_tokens=False)]

    def parts(self, text: str, most: int) -> Iterator[str]:
        added = self.backend.get_added_tokens_decoder()
        return cut(text, most, keep=True) if self._special >= added.keys() else iter([text])

    def special_tokens(self, language: str | None) -> tuple[list[int], list[int]]:
        self._refuse(language)
        return [self.bos_id], [self.eos_id]

    def start_id(self, language: str | None = None) -> int:
        self._refuse(language)
        return self.eos_id

    @cached_property
    def token_bytes(self) -> Sequence[bytes]:
        letters = byte_of_letter()
        added = self.backend.get_added_tokens_decoder()
        surfaces = [b""] * self.size
        for piece, id in self.backend.get_vocab(with_added_tokens=True).items():
            if id in added:
                surfaces[id] = b"" if id in self._special else utf8(piece)
            elif id not in self._special:
                surfaces[id] = bytes(letters[letter] for letter in piece)
        return surfaces

    def decode(self, ids: Ids) -> str:
        """Decode ids for display, showing the mask as <mask> and ids outside the vocabulary as <unk>."""
        known = (id if 0 <= id < self.size else self.unknown_id for id in map(int, ids))
        hidden = (self.bos_id, self.pad_id, self.eos_id)
        return self.backend.decode([id for id in known if id not in hidden], skip_special_tokens=False)

    def text(self, ids: Ids) -> str:
        known = [id for id in map(int, ids) if 0 <= id < self.size and id not in self._special]
        return self.backend.decode(known, skip_special_tokens=False)

    def framed_json(self) -> bytes:
        """Return a tokenizer.json that adds BOS before a text and EOS after it."""
        framed = Backend.from_str(self.backend.to_str())
        framed.post_processor = processors.RobertaProcessing((EOS, self.eos_id), (BOS, self.bos_id))
        return utf8(framed.to_str(pretty=True))

    def save(self, path: str | Path) -> ByteLevelBPE:
        write_bytes(Path(path), utf8(self.backend.to_str(pretty=True)))
        return ByteLevelBPE(str(path))


def open_byte_level_bpe(path: Path) -> ByteLevelBPETokenizer:
    """Open a tokenizer.json, or a directory with one or with vocab.json and merges.txt.

    Raises ConfigError naming a file that is missing, broken or of another kind.
    """
    if path.is_dir() and not (path / "tokenizer.json").exists():
        return ByteLevelBPETokenizer(from_merges(path), str(path))
    file = path / "tokenizer.json" if path.is_dir() else path
    return ByteLevelBPETokenizer(from_json(file), str(file))


def byte_of_letter() -> dict[str, int]:
    """Map each letter of a piece to its byte: printable bytes to themselves, the others from U+0100 on."""
    printed = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = (byte for byte in range(256) if byte not in printed)
    return {chr(byte): byte for byte in printed} | {chr(0x100 + place): byte for place, byte in enumerate(others)}


def from_json(path: Path) -> Backend:
    content = read_object(path, "byte-level BPE vocabulary")
    match content:
        case {"model": {**model}, "pre_tokenizer": {"type": "ByteLevel", **before}, "decoder": {"type": "ByteLevel"}}:
            fits = model.get("type") in ("BPE", None) and not before.get("add_prefix_space")
            fits = fits and not model.get("continuing_subword_prefix") and not content.get("normalizer")
        case _:
            fits = False
    require(
        fits,
        f"{path} is not byte-level BPE like BART's: it must have a BPE model, a pre_tokenizer and a decoder of type "
        "ByteLevel without add_prefix_space, and no normalizer.",
    )
    # A file written for one purpose may truncate or pad every text.
    content |= {"truncation": None, "padding": None, "post_processor": None}
    try:
        return Backend.from_str(json.dumps(content))
    except Exception as error:  # the library raises nothing more specific
        raise ConfigError(f"{path} is not a valid tokenizer.json: {error}.") from error


def from_merges(directory: Path) -> Backend:
    """Build a backend from the vocab.json and merges.txt of GPT-2's format."""
    vocabulary = read_ids(directory / "vocab.json", "byte-level BPE vocabulary")
    lines = read(directory / "merges.txt", "list of merges").decode("utf-8", errors="replace").split("\n")
    merges = [tuple(line.split()) for line in lines if line.strip() and not line.startswith("#version")]
    try:
        model = models.BPE(vocabulary, [(left, right) for left, right in merges])
    except Exception as error:  # the library raises nothing more specific
        raise ConfigError(f"{directory}/merges.txt does not fit vocab.json: {error}.") from error
    backend = Backend(model)
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(name, special=True) for name in SPECIAL if name in vocabulary])
    return backend
