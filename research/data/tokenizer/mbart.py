"""mBART's vocabulary (arXiv:2001.08210, 2008.00401): SentencePiece ids shifted to fairseq's, languages, and a mask.

<s> 0, <pad> 1, </s> 2, <unk> 3, then each piece at its own id plus 1, then the languages, then <mask>.
"""

import re
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Literal

from research.config import MBart, require
from research.data.tokenizer.base import Ids, Tokenizer
from research.data.tokenizer.files import utf8
from research.data.tokenizer.parts import cut
from research.data.tokenizer.sentencepiece import is_control, join, load_processor, piece_bytes, splits_at_spaces
from research.storage.files import write_bytes

CC25 = (
    "ar_AR", "cs_CZ", "de_DE", "en_XX", "es_XX", "et_EE", "fi_FI", "fr_XX", "gu_IN", "hi_IN", "it_IT", "ja_XX",
    "kk_KZ", "ko_KR", "lt_LT", "lv_LV", "my_MM", "ne_NP", "nl_XX", "ro_RO", "ru_RU", "si_LK", "tr_TR", "vi_VN",
    "zh_CN",
)  # fmt: skip
ADDED_IN_50 = (
    "af_ZA", "az_AZ", "bn_IN", "fa_IR", "he_IL", "hr_HR", "id_ID", "ka_GE", "km_KH", "mk_MK", "ml_IN", "mn_MN",
    "mr_IN", "pl_PL", "ps_AF", "pt_XX", "sv_SE", "sw_KE", "ta_IN", "te_IN", "th_TH", "tl_XX", "uk_UA", "ur_PK",
    "xh_ZA", "gl_ES", "sl_SI",
)  # fmt: skip
MBartEdition = Literal["cc25", "50"]
LANGUAGES: dict[MBartEdition, tuple[str, ...]] = {"cc25": CC25, "50": CC25 + ADDED_IN_50}
WHITE_SPACE = re.compile(r"[\t-\r\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]")
OFFSET = 1  # fairseq has one special token more than SentencePiece


class MBartTokenizer(Tokenizer):
    """The tokenizer of mBART CC25 or mBART-50.

    CC25 encodes both sides as `X </s> LANGUAGE` and starts its decoder from the target language. mBART-50 encodes both
    as `LANGUAGE X </s>`, starts from </s> and forces the language as the first token. Text of either is normalised as
    the SentencePiece model specifies; transformers 5 omits that for CC25, and saves no rules. Without rules only the
    kinds of white space are made equal, as there.
    """

    bos_id = 0
    pad_id = 1
    eos_id = 2
    unknown_id = 3

    def __init__(self, model: bytes, variant: MBartEdition, origin: str, languages: Sequence[str] = ()):
        """Load a SentencePiece model; `origin` names it in errors. `languages` are those that a trimmed model kept.

        Raises ConfigError unless the model has mBART's form, or if a language is not one of the edition's.
        """
        other = [language for language in languages if language not in LANGUAGES[variant]]
        require(not other, f"tokenizer.languages has {', '.join(other)}: mBART {variant} has no such language.")
        self.model = model
        self.variant = variant
        self.kept_languages = tuple(language for language in LANGUAGES[variant] if language in languages)
        self.processor = load_processor(model, origin)
        controls = (self.processor.unk_id(), self.processor.bos_id(), self.processor.eos_id())
        require(
            controls == (0, 1, 2),
            f"The SentencePiece model {origin} has unknown, BOS and EOS at {controls}: they must be (0, 1, 2), as in "
            "mBART.",
        )
        self.normalises = not self.processor.normalize("\N{IDEOGRAPHIC SPACE}")
        first = self.processor.get_piece_size() + OFFSET
        ids = {language: first + index for index, language in enumerate(self.kept_languages or LANGUAGES[variant])}
        self.mask_id = first + len(ids)
        identity = b"mbart %s " % variant.encode() + ",".join(self.kept_languages).encode() + model
        super().__init__(self.mask_id + 1, identity, ids)

    def parts(self, text: str, most: int) -> Iterator[str]:
        return cut(text, most) if splits_at_spaces(self.processor) else iter([text])

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        if not self.normalises:
            texts = [WHITE_SPACE.sub(" ", text) for text in texts]
        batch = self.processor.encode([utf8(text) for text in texts], num_threads=-1)
        return [[piece + OFFSET if piece else self.unknown_id for piece in pieces] for pieces in batch]

    def special_tokens(self, language: str | None) -> tuple[list[int], list[int]]:
        id = self.language_id(language)
        return ([], [self.eos_id, id]) if self.variant == "cc25" else ([id], [self.eos_id])

    def start_id(self, language: str | None = None) -> int:
        """Return the first decoder input; `language` is the target's."""
        id = self.language_id(language)
        return id if self.variant == "cc25" else self.eos_id

    def forced_first(self, language: str | None = None) -> int | None:
        id = self.language_id(language)
        return None if self.variant == "cc25" else id

    def decode(self, ids: Ids) -> str:
        """Decode ids for display, with the mask as <mask> and ids outside the vocabulary as
        \N{DOUBLE QUESTION MARK}.
        """
        shown = (self._shown[id if 0 <= id < self.size else self.unknown_id] for id in map(int, ids))
        return b"".join(shown).decode("utf-8", errors="replace").lstrip(" ")

    def text(self, ids: Ids) -> str:
        return join(self.token_bytes[id] for id in map(int, ids) if self._is_text(id))

    def _is_text(self, id: int) -> bool:
        return 0 < id - OFFSET < self.processor.get_piece_size() and not is_control(self.processor, id - OFFSET)

    @cached_property
    def token_bytes(self) -> list[bytes]:
        return [piece_bytes(self.processor, id - OFFSET) if self._is_text(id) else b"" for id in range(self.size)]

    @cached_property
    def _shown(self) -> list[bytes]:
        shown = {self.unknown_id: " \N{DOUBLE QUESTION MARK} ".encode(), self.mask_id: b" <mask>"}
        return [shown.get(id, text) for id, text in enumerate(self.token_bytes)]

    def save(self, path: str | Path) -> MBart:
        write_bytes(Path(path), self.model)
        return MBart(str(path), self.variant, self.kept_languages)
