"""Tokenizers in Hugging Face directories, read and written: tokenizer_config.json and the files of each family."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from research.config import (
    M2M100,
    ByteLevelBPE,
    Bytes,
    ConfigError,
    Extended,
    Marian,
    MBart,
    SentencePiece,
    Vocabulary,
    require,
)
from research.config.tokenizer import NO_NEW_TOKENS
from research.data.tokenizer import (
    ByteLevelBPETokenizer,
    ByteTokenizer,
    ExtendedTokenizer,
    M2M100Tokenizer,
    MarianTokenizer,
    MBartTokenizer,
    SentencePieceTokenizer,
    Tokenizer,
    open_tokenizer,
    unigram,
)
from research.data.tokenizer.files import json_bytes
from research.data.tokenizer.m2m_100 import LANGUAGES as M2M_LANGUAGES
from research.data.tokenizer.mbart import MBartEdition
from research.data.tokenizer.sentencepiece import SPACE
from research.pretrained.files import read_json
from research.storage.files import write_bytes

CONFIG = "tokenizer_config.json"
SPIECE, BPE_MODEL, TOKENIZER = "spiece.model", "sentencepiece.bpe.model", "tokenizer.json"

NEEDED = (
    f"it needs {SPIECE}, {BPE_MODEL}, source.spm with target.spm and vocab.json, {TOKENIZER}, vocab.json with "
    f"merges.txt, or a {CONFIG} that names ByT5Tokenizer"
)

# mBART variant of each tokenizer class; config.json's model_type is "mbart" for both.
MBART: dict[str, MBartEdition] = {"MBartTokenizer": "cc25", "MBart50Tokenizer": "50"}

M2M = "M2M100Tokenizer"

# Field of tokenizer_config.json with the languages that a trimmed mBART kept.
KEPT = "kept_languages"

# Number of sentinels that Hugging Face adds when tokenizer_config.json gives none.
T5_SENTINELS = 100
BYT5_SENTINELS = 125


# Flags of a new token in Hugging Face's files.
PLAIN = dict.fromkeys(("lstrip", "normalized", "rstrip", "single_word", "special"), False)


# --- Reading ----------------------------------------------------------------------------------------------------------


def read_tokenizer(directory: Path) -> Tokenizer:
    """Read the tokenizer of a directory, preferring a SentencePiece model to the tokenizer.json converted from it.

    Raises:
        ConfigError: the directory has no tokenizer of a supported family, one of its files is missing or damaged, or
            tokens were added to the family's own in another way than `write_tokenizer` does.
    """
    vocabulary = read_vocabulary(directory)
    if vocabulary is None:
        raise ConfigError(f"{directory} holds no tokenizer: {NEEDED}.")
    tokenizer = open_tokenizer(vocabulary)
    refuse_added(tokenizer, directory, _json(directory / CONFIG))
    return tokenizer


def read_vocabulary(directory: Path) -> Vocabulary | None:
    """Return the vocabulary of a directory, which `read_tokenizer` opens and checks; None if it has none."""
    config = _json(directory / CONFIG)
    name = class_name(directory, config)
    files = {path.name for path in directory.iterdir()} if directory.is_dir() else set()
    if name != "ByT5Tokenizer" and not _is_complete(files):
        return None
    own = _own_vocabulary(directory, files, name, config)
    added = plain_tokens(directory, config)
    if isinstance(own, M2M100) or not added:
        return own
    tokens = new_tokens(open_tokenizer(own).size, added)
    return Extended(own, tokens) if tokens else own


def _own_vocabulary(
    directory: Path, files: set[str], name: str | None, config: dict[str, Any]
) -> SentencePiece | Bytes | ByteLevelBPE | MBart | Marian | M2M100:
    if not files & {"source.spm", BPE_MODEL, SPIECE} and TOKENIZER in files:
        origin = directory / TOKENIZER
        content = read_json(origin)
        if unigram.is_unigram(content):
            if name in MBART:
                return MBart(str(origin), MBART[name])
            return SentencePiece(str(origin), unigram.read_t5(content, origin).sentinels)
    return _vocabulary(directory, files, name, config)


def _is_complete(files: set[str]) -> bool:
    return bool(files & {"source.spm", BPE_MODEL, SPIECE, TOKENIZER}) or {"vocab.json", "merges.txt"} <= files


def _vocabulary(
    directory: Path, files: set[str], name: str | None, config: dict[str, Any]
) -> SentencePiece | Bytes | ByteLevelBPE | MBart | Marian | M2M100:
    if "source.spm" in files:
        return Marian(str(directory))
    if BPE_MODEL in files and name == M2M:
        variant = config.get("language_codes", "m2m100")
        known = f"{directory / CONFIG}: language_codes is {variant!r}, not {' or '.join(M2M_LANGUAGES)}."
        require(variant in M2M_LANGUAGES, known)
        return M2M100(str(directory), variant)
    if BPE_MODEL in files:
        allowed = f"{', '.join(MBART)} or {M2M}"
        require(name in MBART, f"{directory} has {BPE_MODEL} but its tokenizer_class is {name!r}, not {allowed}.")
        return MBart(str(directory / BPE_MODEL), MBART[str(name)], tuple(map(str, config.get(KEPT) or ())))
    if SPIECE in files:
        return SentencePiece(str(directory / SPIECE), sentinels(config, T5_SENTINELS))
    if name == "ByT5Tokenizer":
        return Bytes(sentinels(config, BYT5_SENTINELS))
    require(not config.get("add_prefix_space"), f"{directory / CONFIG}: add_prefix_space must be false, as in BART.")
    return ByteLevelBPE(str(directory))


def class_name(directory: Path, config: dict[str, Any]) -> str | None:
    """Return the tokenizer class named in a directory, or implied by its model_type; None without either."""
    model = _json(directory / "config.json")
    implied = {"mbart": "MBartTokenizer", "m2m_100": M2M}.get(str(model.get("model_type")))
    name = config.get("tokenizer_class") or model.get("tokenizer_class") or implied
    return name.removesuffix("Fast") if isinstance(name, str) else None


def sentinels(config: dict[str, Any], default: int) -> int:
    """Count the ids that Hugging Face adds for <extra_id_0> ...; listed names take precedence over `extra_ids`."""
    listed = config.get("additional_special_tokens") or config.get("extra_special_tokens") or []
    require(isinstance(listed, list | dict), f"{CONFIG}: special tokens are {listed!r}, not a list.")
    names = [token.get("content") if isinstance(token, dict) else token for token in listed]
    count = sum(str(name).startswith("<extra_id_") for name in names)
    number = config.get("extra_ids", default)
    require(type(number) is int, f"{CONFIG}: extra_ids is {number!r}, which is not a whole number.")
    return count or number


# --- Added tokens -----------------------------------------------------------------------------------------------------


def plain_tokens(directory: Path, config: dict[str, Any]) -> dict[str, str]:
    """Return the tokens that the files add with the flags `PLAIN`, by their ids in digits.

    Those are split off every text as they are. Any other kind, as `add_tokens` of transformers makes, depends on the
    text around it or its normalisation, or is read from plain text as a control.
    """
    listed = _json(directory / TOKENIZER).get("added_tokens")
    entries = [token for token in listed if isinstance(token, dict)] if isinstance(listed, list) else []
    found: dict[str, Any] = {
        str(token.get("id")): {name: value for name, value in token.items() if name != "id"} for token in entries
    }
    decoder = config.get("added_tokens_decoder")
    found |= decoder if isinstance(decoder, dict) else {}
    return {id: token["content"] for id, token in found.items() if _is_plain(token)}


def new_tokens(size: int, plain: Mapping[str, str]) -> tuple[str, ...]:
    """Return the plain tokens that follow the ids of a vocabulary of `size` ids, in order."""
    count = 0
    while str(size + count) in plain:
        count += 1
    return tuple(plain[str(size + place)] for place in range(count))


def _is_plain(token: Any) -> bool:
    match token:
        case {"content": str(content), **flags}:
            return flags == PLAIN and content.split() == [content]
    return False


def refuse_added(tokenizer: Tokenizer, directory: Path, config: dict[str, Any]) -> None:
    """Raise ConfigError if a file of the directory adds tokens that `tokenizer` does not have, or under other ids."""
    own = own_tokens(tokenizer)
    others = [name for name, id in added_tokens(directory, config) if name not in own or id not in (None, own[name])]
    shown = ", ".join(map(repr, others[:5])) + f" and {len(others) - 5} more" * (len(others) > 5)
    require(
        not others,
        f"{directory} adds tokens that {type(tokenizer).__name__} does not have, or has under other ids: {shown};"
        " remove them from its tokenizer first.",
    )


def added_tokens(directory: Path, config: dict[str, Any]) -> list[tuple[str, int | None]]:
    """Return the tokens, with their ids if given, that the files list beside the vocabulary."""
    found: list[tuple[str, int | None]] = []
    for file in (config, _json(directory / "special_tokens_map.json")):
        for field in ("additional_special_tokens", "extra_special_tokens"):
            listed = file.get(field) or []
            found += [(_content(token), None) for token in (listed.values() if isinstance(listed, dict) else listed)]
    decoder, listed = config.get("added_tokens_decoder") or {}, _json(directory / TOKENIZER).get("added_tokens") or []
    require(isinstance(decoder, dict) and isinstance(listed, list), f"{directory}: its added tokens are not in a list.")
    found += [(_content(token), int(id) if str(id).isdecimal() else -1) for id, token in decoder.items()]
    found += [(_content(token), token.get("id") if isinstance(token, dict) else -1) for token in listed]
    return list(dict.fromkeys([*found, *_json(directory / "added_tokens.json").items()]))


def _json(path: Path) -> dict[str, Any]:
    return read_json(path) if path.is_file() else {}


def _content(token: Any) -> str:
    return str(token.get("content") if isinstance(token, dict) else token)


def own_tokens(tokenizer: Tokenizer) -> dict[str, int]:
    """Return the special tokens of a tokenizer by their names in Hugging Face's files, and what it adds itself."""
    names = {"<pad>": tokenizer.pad_id, "</s>": tokenizer.eos_id, "<unk>": tokenizer.unknown_id}
    names |= {"<s>": tokenizer.bos_id} if tokenizer.bos_id is not None else {}
    names |= {"<mask>": tokenizer.mask_id} if tokenizer.mask_id is not None else {}
    is_m2m = isinstance(tokenizer, M2M100Tokenizer)
    names |= {m2m_token(code) if is_m2m else code: id for code, id in tokenizer.language_ids.items()}
    if isinstance(tokenizer, ExtendedTokenizer):
        new = {token: tokenizer.inner.size + place for place, token in enumerate(tokenizer.tokens)}
        return own_tokens(tokenizer.inner) | new
    sentinels = tokenizer.sentinel_ids.tolist()
    match tokenizer:
        case ByteTokenizer():
            sentinels = sentinels[::-1]
        case ByteLevelBPETokenizer():
            added = tokenizer.backend.get_added_tokens_decoder()
            names |= {token.content: id for id, token in added.items() if not token.special}
    return names | {f"{space}<extra_id_{index}>": id for index, id in enumerate(sentinels) for space in ("", SPACE)}


def m2m_token(language: str) -> str:
    """Return the name of a language's token in M2M-100."""
    return f"__{language}__"


# --- Writing ----------------------------------------------------------------------------------------------------------


def check_extensible(tokenizer: Tokenizer) -> None:
    """Raise ConfigError if Hugging Face's files cannot add new tokens to a tokenizer."""
    bytes_ = "ByT5's tokenizer in Hugging Face's format cannot have new tokens."
    require(not isinstance(tokenizer, ByteTokenizer), bytes_)
    require(not isinstance(tokenizer, M2M100Tokenizer), NO_NEW_TOKENS)
    some = "mBART with some of its languages cannot have new tokens: transformers gives their ids to the others."
    require(not (isinstance(tokenizer, MBartTokenizer) and tokenizer.kept_languages), some)


def write_tokenizer(tokenizer: Tokenizer, directory: Path) -> None:
    """Write the files from which `AutoTokenizer` loads a tokenizer with equal ids; create `directory`.

    transformers 5 differs in two cases: it does not apply the NFKC normalisation of mBART's SentencePiece model, and
    with mBART-50 it keeps trailing spaces. For mBART, ids are therefore equal for normalised and stripped text.
    """
    directory.mkdir(parents=True, exist_ok=True)
    match tokenizer:
        case ExtendedTokenizer(inner=inner):
            check_extensible(inner)
            write_tokenizer(inner, directory)
            added = {str(inner.size + place): {"content": name, **PLAIN} for place, name in enumerate(tokenizer.tokens)}
            config = read_json(directory / CONFIG) | {"added_tokens_decoder": added}
        case SentencePieceTokenizer():
            config = _write_sentencepiece(tokenizer, directory)
        case ByteTokenizer():
            config = {"tokenizer_class": "ByT5Tokenizer", "extra_ids": tokenizer.sentinels}
        case ByteLevelBPETokenizer():
            write_bytes(directory / TOKENIZER, tokenizer.framed_json())
            config = {"tokenizer_class": "BartTokenizer"}
        case MBartTokenizer():
            tokenizer.save(directory / BPE_MODEL)
            (name,) = (name for name, variant in MBART.items() if variant == tokenizer.variant)
            config = {"tokenizer_class": name, "bos_token": "<s>"}
            if tokenizer.kept_languages:  # transformers takes the ids from here, and gives the others ids at the end
                write_bytes(directory / TOKENIZER, unigram.mbart_json(tokenizer))
                config |= {KEPT: list(tokenizer.kept_languages)}
        case M2M100Tokenizer():
            tokenizer.save(directory)
            names = list(map(m2m_token, tokenizer.languages))
            config = {"tokenizer_class": M2M, "language_codes": tokenizer.variant, "additional_special_tokens": names}
        case MarianTokenizer():
            tokenizer.save(directory)
            config = {"tokenizer_class": "MarianTokenizer", "separate_vocabs": tokenizer.separate}
        case _:
            raise TypeError(f"{type(tokenizer).__name__} cannot be written as a Hugging Face tokenizer.")
    write_bytes(directory / CONFIG, json_bytes(config))


def _write_sentencepiece(tokenizer: SentencePieceTokenizer, directory: Path) -> dict[str, Any]:
    """Write spiece.model, and for BPE or byte fallback, which `T5Tokenizer` lacks, a whole tokenizer.json as well."""
    bpe = unigram.is_bpe(unigram.proto.ModelProto.FromString(tokenizer.model), unigram.UNREADABLE)
    tokenizer.save(directory / SPIECE)
    if not (bpe or any(map(tokenizer.processor.is_byte, range(tokenizer.pieces)))):
        return {"tokenizer_class": "T5Tokenizer", "extra_ids": tokenizer.sentinels}
    write_bytes(directory / TOKENIZER, unigram.tokenizer_json(tokenizer))
    names = [f"<extra_id_{index}>" for index in range(tokenizer.sentinels)]
    controls = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>", "additional_special_tokens": names}
    return {"tokenizer_class": "PreTrainedTokenizerFast", "extra_ids": tokenizer.sentinels, **controls}
