"""Conversion of SentencePiece models to tokenizer.json, and of unigram models back, as transformers 5 has them."""

import base64
import contextlib
from pathlib import Path
from typing import Any

from sentencepiece import sentencepiece_model_pb2
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers import Tokenizer as Backend

from research.config import ConfigError, require
from research.data.tokenizer.files import read_object, utf8
from research.data.tokenizer.mbart import LANGUAGES, MBartEdition, MBartTokenizer
from research.data.tokenizer.sentencepiece import SPACE, SentencePieceTokenizer
from research.storage.lines import is_unicode

proto: Any = sentencepiece_model_pb2  # its classes are created at import, invisible to a type checker
PIECE = proto.ModelProto.SentencePiece
UNREADABLE = "The vocabulary is a SentencePiece model of words or characters, which transformers cannot read."
FAIRSEQ_CONTROLS = ["<s>", "<pad>", "</s>", "<unk>"]


def is_unigram(content: dict[str, Any]) -> bool:
    """Return True if the content of a tokenizer.json is a unigram model."""
    match content:
        case {"model": {"type": "Unigram"}}:
            return True
    return False


# --- To tokenizer.json ------------------------------------------------------------------------------------------------


def tokenizer_json(tokenizer: SentencePieceTokenizer) -> bytes:
    """Serialize a tokenizer.json with equal ids, including byte fallback and T5's special tokens.

    Raises:
        ConfigError: the model is neither a unigram model nor BPE.
    """
    model = proto.ModelProto.FromString(tokenizer.model)
    names = [f"<extra_id_{index}>" for index in range(tokenizer.sentinels)]
    pieces = [(piece.piece, piece.score) for piece in model.pieces] + [(name, 0.0) for name in reversed(names)]
    fallback = model.trainer_spec.byte_fallback
    if is_bpe(model, UNREADABLE):
        ids = {name: id for id, (name, _) in enumerate(pieces)}
        unknown = model.pieces[tokenizer.unknown_id].piece
        merges = merges_of(model)
        backend = Backend(models.BPE(ids, merges, unk_token=unknown, fuse_unk=True, byte_fallback=fallback))
    else:
        backend = Backend(models.Unigram(pieces, unk_id=tokenizer.unknown_id, byte_fallback=fallback))
    if model.normalizer_spec.precompiled_charsmap:
        backend.normalizer = normalizers.Precompiled(model.normalizer_spec.precompiled_charsmap)
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(SPACE, prepend_scheme="always")]
    )
    backend.decoder = decoders.Sequence(
        [decoders.ByteFallback(), decoders.Metaspace(SPACE, prepend_scheme="always"), decoders.Fuse()]
    )
    controls = [model.pieces[id].piece for id in (tokenizer.pad_id, tokenizer.eos_id, tokenizer.unknown_id)]
    backend.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in [*controls, *names]])
    end = controls[1]
    backend.post_processor = processors.TemplateProcessing(
        single=["$A", end], pair=["$A", end, "$B", end], special_tokens=[(end, tokenizer.eos_id)]
    )
    return utf8(backend.to_str(pretty=True))


def is_bpe(model: Any, message: str) -> bool:
    """Tell whether a SentencePiece model merges pieces by their scores; else it is a unigram model.

    Raises:
        ConfigError: it is a model of words or of characters, as the message says.
    """
    kind, spec = model.trainer_spec.model_type, proto.TrainerSpec
    require(kind in (spec.UNIGRAM, spec.BPE), message)
    return bool(kind == spec.BPE)


def merges_of(model: Any) -> list[tuple[str, str]]:
    """List the pairs of pieces that a BPE model merges, first those that it prefers: of the highest score."""
    scores = {piece.piece: piece.score for piece in model.pieces if piece.type == PIECE.NORMAL}
    ids = {name: id for id, name in enumerate(scores)}
    splits = [(name, name[:cut], name[cut:]) for name in scores for cut in range(1, len(name))]
    pairs = [(name, left, right) for name, left, right in splits if left in ids and right in ids]
    pairs.sort(key=lambda pair: (-scores[pair[0]], ids[pair[1]], ids[pair[2]]))
    return [(left, right) for _, left, right in pairs]


def mbart_json(tokenizer: MBartTokenizer) -> bytes:
    """Serialize the vocabulary of mBART with its languages, from which transformers' classes for mBART build theirs."""
    model = proto.ModelProto.FromString(tokenizer.model)
    added = [*tokenizer.languages, "<mask>"]
    pieces = [(name, 0.0) for name in FAIRSEQ_CONTROLS]
    pieces += [(piece.piece, piece.score) for piece in model.pieces[3:]] + [(name, 0.0) for name in added]
    backend = Backend(models.Unigram(pieces, unk_id=tokenizer.unknown_id, byte_fallback=False))
    if model.normalizer_spec.precompiled_charsmap:
        backend.normalizer = normalizers.Precompiled(model.normalizer_spec.precompiled_charsmap)
    backend.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in FAIRSEQ_CONTROLS + added])
    return utf8(backend.to_str(pretty=True))


# --- From tokenizer.json ----------------------------------------------------------------------------------------------


def open_t5(origin: Path, sentinels: int) -> SentencePieceTokenizer:
    """Open T5's tokenizer.json; raise ConfigError unless it has this number of sentinels."""
    tokenizer = read_t5(read_object(origin, "tokenizer"), origin)
    message = f"tokenizer.sentinels is {sentinels}: {origin} has {tokenizer.sentinels} of them, give this number."
    require(tokenizer.sentinels == sentinels, message)
    return tokenizer


def read_t5(content: dict[str, Any], origin: Path) -> SentencePieceTokenizer:
    """Read T5's tokenizer; its sentinels are the pieces <extra_id_0> ... at the end of the vocabulary."""
    _check_unigram(content, origin)
    pieces = vocabulary(content, origin)
    sentinels = 0
    while sentinels < len(pieces) and pieces[-1 - sentinels][0] == f"<extra_id_{sentinels}>":
        sentinels += 1
    model = sentencepiece_model(pieces[: len(pieces) - sentinels], content, origin, ["<pad>", "</s>", "<unk>"])
    return SentencePieceTokenizer(model, sentinels, str(origin))


def read_mbart(content: dict[str, Any], origin: Path, variant: MBartEdition) -> MBartTokenizer:
    _check_unigram(content, origin)
    pieces = vocabulary(content, origin)
    added = [*LANGUAGES[variant], "<mask>"]
    names = [name for name, _ in pieces]
    require(
        names[: len(FAIRSEQ_CONTROLS)] == FAIRSEQ_CONTROLS and names[-len(added) :] == added,
        f"{origin} is not in mBART's format: it must begin with {', '.join(FAIRSEQ_CONTROLS)} and end with the "
        f"{len(added) - 1} languages of {variant} and <mask>.",
    )
    if variant == "cc25" and content.get("normalizer") is None:  # as transformers 5 saves it
        content = content | {"normalizer": {"type": "Precompiled", "precompiled_charsmap": ""}}
    own = [("<unk>", 0.0), ("<s>", 0.0), ("</s>", 0.0), *pieces[len(FAIRSEQ_CONTROLS) : -len(added)]]
    controls = ["<unk>", "<s>", "</s>"]
    return MBartTokenizer(sentencepiece_model(own, content, origin, controls), variant, str(origin))


def _check_unigram(content: dict[str, Any], origin: Path) -> None:
    require(is_unigram(content), f"{origin} is no unigram model, which T5's and mBART's tokenizer.json is.")


def vocabulary(content: dict[str, Any], origin: Path) -> list[tuple[str, float]]:
    pieces = content["model"].get("vocab")
    whole = isinstance(pieces, list) and len(pieces) > 3 and all(map(_is_piece, pieces))
    require(whole, f"{origin}: model.vocab must be a list of [piece, score].")
    return [(name, float(score)) for name, score in pieces]


def _is_piece(value: Any) -> bool:
    match value:
        case [str(name), int() | float() as score]:
            return is_unicode(name) and abs(score) < 2**63
    return False


def sentencepiece_model(
    pieces: list[tuple[str, float]], content: dict[str, Any], origin: Path, controls: list[str]
) -> bytes:
    """Serialize a SentencePiece model; raise ConfigError if its first pieces are not `controls`."""
    first = [name for name, _ in pieces[: len(controls)]]
    require(first == controls, f"{origin} begins with {', '.join(first)}: it must begin with {', '.join(controls)}.")
    ids = {name: id for id, name in enumerate(controls)}
    fallback = bool(content["model"].get("byte_fallback"))
    model = proto.ModelProto()
    for name, score in pieces:
        model.pieces.add(piece=name, score=score, type=_type(name, name in ids, fallback))
    spec = model.trainer_spec
    spec.model_type, spec.vocab_size, spec.byte_fallback = proto.TrainerSpec.UNIGRAM, len(pieces), fallback
    spec.unk_id, spec.bos_id, spec.eos_id, spec.pad_id = (ids.get(n, -1) for n in ("<unk>", "<s>", "</s>", "<pad>"))
    model.normalizer_spec.precompiled_charsmap = _charsmap(content, origin)
    return model.SerializeToString()


def _type(name: str, control: bool, fallback: bool) -> int:
    if name == "<unk>":
        return PIECE.UNKNOWN
    if control:
        return PIECE.CONTROL
    return PIECE.BYTE if fallback and len(name) == 6 and name.startswith("<0x") else PIECE.NORMAL


def _charsmap(content: dict[str, Any], origin: Path) -> bytes:
    """Return SentencePiece's normalisation rules, which turn every kind of space into the plain one."""
    match content.get("normalizer"):
        case {"normalizers": [*parts]}:
            steps = parts
        case part:
            steps = [part]
    for part in steps:
        match part:
            case {"type": "Precompiled", "precompiled_charsmap": str(charsmap)}:
                with contextlib.suppress(ValueError):
                    return base64.b64decode(charsmap)
    raise ConfigError(
        f"{origin} has no normalizer of type Precompiled: add the SentencePiece model to the same directory."
    )
