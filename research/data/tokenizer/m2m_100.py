"""M2M-100's vocabulary (arXiv:2010.11125): a SentencePiece model for the pieces, a JSON file for their ids, languages.

The ids of the languages follow those of the file; a model has some rows more, which stand for nothing.
"""

import hashlib
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path

from research.config import M2M100, require
from research.config.tokenizer import M2MEdition
from research.data.tokenizer.base import Ids, Tokenizer
from research.data.tokenizer.files import json_bytes, read, read_ids, utf8
from research.data.tokenizer.parts import cut
from research.data.tokenizer.sentencepiece import is_control, load_processor, piece_bytes, splits_at_spaces
from research.storage.files import write_bytes

LANGUAGES: dict[M2MEdition, tuple[str, ...]] = {
    "m2m100": (
        "af", "am", "ar", "ast", "az", "ba", "be", "bg", "bn", "br", "bs", "ca", "ceb", "cs", "cy", "da", "de", "el",
        "en", "es", "et", "fa", "ff", "fi", "fr", "fy", "ga", "gd", "gl", "gu", "ha", "he", "hi", "hr", "ht", "hu",
        "hy", "id", "ig", "ilo", "is", "it", "ja", "jv", "ka", "kk", "km", "kn", "ko", "lb", "lg", "ln", "lo", "lt",
        "lv", "mg", "mk", "ml", "mn", "mr", "ms", "my", "ne", "nl", "no", "ns", "oc", "or", "pa", "pl", "ps", "pt",
        "ro", "ru", "sd", "si", "sk", "sl", "so", "sq", "sr", "ss", "su", "sv", "sw", "ta", "th", "tl", "tn", "tr",
        "uk", "ur", "uz", "vi", "wo", "xh", "yi", "yo", "zh", "zu",
    ),
    "wmt21": ("en", "ha", "is", "ja", "cs", "ru", "zh", "de"),
}  # fmt: skip
MODEL, VOCABULARY = "sentencepiece.bpe.model", "vocab.json"
BOS, PAD, EOS, UNKNOWN = CONTROLS = ("<s>", "<pad>", "</s>", "<unk>")


class M2M100Tokenizer(Tokenizer):
    """The tokenizer of M2M-100, or of its successors of WMT 2021 with their own list of languages.

    Both sides are `LANGUAGE X </s>`; the decoder starts from </s>, and the target's language is forced as the first
    token. Pieces without an id are unknown. `origin` names the directory in errors.
    """

    bos_id: int

    def __init__(self, model: bytes, ids: dict[str, int], variant: M2MEdition, origin: str):
        """Load a SentencePiece model and the ids of its pieces; raise ConfigError if one is damaged."""
        missing = [name for name in CONTROLS if name not in ids]
        require(not missing, f"{origin}: {VOCABULARY} lacks {', '.join(missing)}.")
        self.model, self.ids, self.variant = model, ids, variant
        self.processor = load_processor(model, f"{origin}/{MODEL}")
        self.bos_id, self.pad_id, self.eos_id, self.unknown_id = (ids[name] for name in CONTROLS)
        self._text_ids = {piece: id for piece, id in ids.items() if piece not in CONTROLS}
        languages = {language: len(ids) + place for place, language in enumerate(LANGUAGES[variant])}
        parts = [model, json_bytes(sorted(ids.items()))]
        identity = f"m2m_100 {variant} ".encode() + b"".join(hashlib.sha256(part).digest() for part in parts)
        super().__init__(len(ids) + len(languages), identity, languages)

    def parts(self, text: str, most: int) -> Iterator[str]:
        return cut(text, most) if splits_at_spaces(self.processor) else iter([text])

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        batch = self.processor.encode([utf8(text) for text in texts], out_type=str, num_threads=-1)
        return [[self._text_ids.get(piece, self.unknown_id) for piece in pieces] for pieces in batch]

    def special_tokens(self, language: str | None) -> tuple[list[int], list[int]]:
        return [self.language_id(language)], [self.eos_id]

    def start_id(self, language: str | None = None) -> int:
        """Return the first decoder input; `language` is the target's, and only checked."""
        self.language_id(language)
        return self.eos_id

    def forced_first(self, language: str | None = None) -> int | None:
        return self.language_id(language)

    def decode(self, ids: Ids) -> str:
        """Decode ids for display, with ids outside the vocabulary as \N{DOUBLE QUESTION MARK}."""
        known = (id if 0 <= id < self.size else self.unknown_id for id in map(int, ids))
        pieces = [self._pieces[id] for id in known if id < len(self.ids)]
        shown = self.processor.decode_pieces([piece for piece in pieces if piece not in (BOS, PAD, EOS)])
        return str(shown).lstrip(" ")

    def text(self, ids: Ids) -> str:
        known = (self._pieces[id] for id in map(int, ids) if 0 <= id < len(self.ids))
        return str(self.processor.decode_pieces([piece for piece in known if piece not in CONTROLS])).strip()

    @cached_property
    def _pieces(self) -> list[str]:
        return sorted(self.ids, key=self.ids.__getitem__)

    @cached_property
    def token_bytes(self) -> list[bytes]:
        return [*map(self._bytes, self._pieces), *[b""] * len(self.language_ids)]

    def _bytes(self, name: str) -> bytes:
        piece = self.processor.piece_to_id(name)
        return b"" if is_control(self.processor, piece) or name in CONTROLS else piece_bytes(self.processor, piece)

    def save(self, path: str | Path) -> M2M100:
        directory = Path(path)
        directory.mkdir(parents=True, exist_ok=True)
        write_bytes(directory / MODEL, self.model)
        write_bytes(directory / VOCABULARY, json_bytes(self.ids))
        return M2M100(str(path), self.variant)


def open_m2m_100(directory: Path, variant: M2MEdition) -> M2M100Tokenizer:
    model = read(directory / MODEL, "SentencePiece model")
    return M2M100Tokenizer(model, read_ids(directory / VOCABULARY, "vocabulary"), variant, str(directory))
