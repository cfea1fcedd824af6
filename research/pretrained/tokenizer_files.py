"""The tokenizer of a Hugging Face directory, read and written: the files of each family and tokenizer_config.json."""

from pathlib import Path
from typing import Any

from research.config import ByteLevelBPE, Bytes, Marian, MBart, SentencePiece, Vocabulary, require
from research.data.tokenizer import (
    ByteLevelBPETokenizer,
    ByteTokenizer,
    MarianTokenizer,
    MBartTokenizer,
    SentencePieceTokenizer,
    Tokenizer,
    open_tokenizer,
)
from research.data.tokenizer.files import json_bytes
from research.data.tokenizer.mbart import MBartEdition
from research.pretrained import unigram
from research.pretrained.files import read_json
from research.storage.files import write_bytes

CONFIG = "tokenizer_config.json"
SPIECE, BPE_MODEL, TOKENIZER = "spiece.model", "sentencepiece.bpe.model", "tokenizer.json"

NEEDED = (
    f"there must be {SPIECE}, {BPE_MODEL}, source.spm with target.spm and vocab.json, {TOKENIZER}, vocab.json with "
    f"merges.txt, or a {CONFIG} that names ByT5Tokenizer"
)

# The variant of mBART by the class that a directory names; config.json's model_type is "mbart" for both.
MBART: dict[str, MBartEdition] = {"MBartTokenizer": "cc25", "MBart50Tokenizer": "50"}

# How many sentinels Hugging Face adds where tokenizer_config.json says nothing.
T5_SENTINELS = 100
BYT5_SENTINELS = 125


# --- Reading ----------------------------------------------------------------------------------------------------------


def read_tokenizer(directory: Path) -> Tokenizer:
    """The SentencePiece model of a family is preferred to the tokenizer.json that was made of it.

    Raises:
        ConfigError: there is no tokenizer of a family that is known here, or a file of it is missing or damaged.
    """
    config = read_json(directory / CONFIG) if (directory / CONFIG).is_file() else {}
    name = class_name(directory, config)
    there = {path.name for path in directory.iterdir()} if directory.is_dir() else set()
    require(name == "ByT5Tokenizer" or _is_complete(there), f"{directory} holds no tokenizer: {NEEDED}.")
    if not there & {"source.spm", BPE_MODEL, SPIECE} and TOKENIZER in there:
        content = read_json(directory / TOKENIZER)
        if unigram.is_unigram(content):
            origin = directory / TOKENIZER
            return (
                unigram.read_mbart(content, origin, MBART[name]) if name in MBART else unigram.read_t5(content, origin)
            )
    return open_tokenizer(_vocabulary(directory, there, name, config))


def _is_complete(there: set[str]) -> bool:
    return bool(there & {"source.spm", BPE_MODEL, SPIECE, TOKENIZER}) or {"vocab.json", "merges.txt"} <= there


def _vocabulary(directory: Path, there: set[str], name: str | None, config: dict[str, Any]) -> Vocabulary:
    if "source.spm" in there:
        return Marian(str(directory))
    if BPE_MODEL in there:
        allowed = " or ".join(MBART)
        require(name in MBART, f"{directory} has {BPE_MODEL} but its tokenizer_class is {name!r}, not {allowed}.")
        return MBart(str(directory / BPE_MODEL), MBART[str(name)])
    if SPIECE in there:
        return SentencePiece(str(directory / SPIECE), sentinels(config, T5_SENTINELS))
    if name == "ByT5Tokenizer":
        return Bytes(sentinels(config, BYT5_SENTINELS))
    require(not config.get("add_prefix_space"), f"{directory / CONFIG}: add_prefix_space must be false, as in BART.")
    return ByteLevelBPE(str(directory))


def class_name(directory: Path, config: dict[str, Any]) -> str | None:
    """The tokenizer class that a directory names, or that its model_type implies."""
    path = directory / "config.json"
    model = read_json(path) if path.is_file() else {}
    implied = "MBartTokenizer" if model.get("model_type") == "mbart" else None
    name = config.get("tokenizer_class") or model.get("tokenizer_class") or implied
    return name.removesuffix("Fast") if isinstance(name, str) else None


def sentinels(config: dict[str, Any], default: int) -> int:
    """How many ids Hugging Face adds for <extra_id_0> ... It prefers the names it finds listed to the number."""
    listed = config.get("additional_special_tokens") or config.get("extra_special_tokens") or []
    require(isinstance(listed, list | dict), f"{CONFIG}: special tokens are {listed!r}, which is not a list.")
    names = [token.get("content") if isinstance(token, dict) else token for token in listed]
    found = sum(str(name).startswith("<extra_id_") for name in names)
    number = config.get("extra_ids", default)
    require(type(number) is int, f"{CONFIG}: extra_ids is {number!r}, which is not a whole number.")
    return found or number


# --- Writing ----------------------------------------------------------------------------------------------------------


def write_tokenizer(tokenizer: Tokenizer, directory: Path) -> None:
    """Writes the files that `AutoTokenizer` loads and that give equal ids, into `directory`, which is made.

    What transformers 5 itself reads otherwise: mBART's text is not normalised (NFKC) as its SentencePiece model says,
    and mBART-50's keeps a space at its end, so that there ids are equal for text that is normalised and stripped.
    """
    directory.mkdir(parents=True, exist_ok=True)
    match tokenizer:
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
            config = {"tokenizer_class": name}
        case MarianTokenizer():
            tokenizer.save(directory)
            config = {"tokenizer_class": "MarianTokenizer", "separate_vocabs": tokenizer.separate}
        case _:
            raise TypeError(f"{type(tokenizer).__name__} has no files of Hugging Face's.")
    write_bytes(directory / CONFIG, json_bytes(config))


def _write_sentencepiece(tokenizer: SentencePieceTokenizer, directory: Path) -> dict[str, Any]:
    """`T5Tokenizer` knows no byte fallback: a vocabulary that has it comes with the whole of a tokenizer.json."""
    tokenizer.save(directory / SPIECE)
    if not any(map(tokenizer.processor.is_byte, range(tokenizer.pieces))):
        return {"tokenizer_class": "T5Tokenizer", "extra_ids": tokenizer.sentinels}
    write_bytes(directory / TOKENIZER, unigram.tokenizer_json(tokenizer))
    names = [f"<extra_id_{index}>" for index in range(tokenizer.sentinels)]
    controls = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>", "extra_special_tokens": names}
    return {"tokenizer_class": "PreTrainedTokenizerFast", "extra_ids": tokenizer.sentinels, **controls}
