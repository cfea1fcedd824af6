"""A smaller vocabulary for a trained model: the ids that a corpus uses, and a tokenizer that gives them as before."""

import json
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import sentencepiece
from tokenizers import Tokenizer as Backend

from research.config import require
from research.data.tokenizer import (
    ByteLevelBPETokenizer,
    ByteTokenizer,
    ExtendedTokenizer,
    M2M100Tokenizer,
    MarianTokenizer,
    MBartTokenizer,
    SentencePieceTokenizer,
    Tokenizer,
)
from research.data.tokenizer.byte_level_bpe import SPECIAL as BART_SPECIAL
from research.data.tokenizer.byte_level_bpe import byte_of_letter
from research.data.tokenizer.files import json_bytes
from research.data.tokenizer.m2m_100 import CONTROLS as M2M_CONTROLS
from research.data.tokenizer.marian import SPECIAL
from research.data.tokenizer.mbart import OFFSET
from research.pretrained.pieces import closed_merges, kept_pieces, with_pieces
from research.storage.files import write_bytes
from research.storage.progress import Progress

PART = 10_000  # characters of a long text that are encoded at once
BATCH = 256  # texts or parts of one
CHECKED = 10_000  # parts that are encoded again with the new tokenizer


class Use(NamedTuple):
    """The ids that a corpus uses, and counts of its text."""

    ids: set[int]
    texts: int
    characters: int
    tokens: int
    unknown: int


class Trimmed(NamedTuple):
    """A smaller tokenizer, and the old id of each of its ids, ascending."""

    tokenizer: Tokenizer
    kept: np.ndarray


def count_use(tokenizer: Tokenizer, texts: Iterable[str], progress: Progress) -> Use:
    """Encode every text, and every line of it alone, since a line's first word may have an id of its own there.

    Text, tokens and unknown tokens are counted of whole texts, by the source's vocabulary.
    """
    ids: set[int] = set()
    count = characters = tokens = unknown = 0
    for several in _batches(texts):
        for batch in _batches(part for text in several for part in tokenizer.parts(text, PART)):
            source = tokenizer.encode_batch(batch)
            tokens += sum(map(len, source))
            unknown += sum(row.count(tokenizer.unknown_id) for row in source)
            ids.update(*source, *_targets(tokenizer, batch))
            progress.note(f"{tokens:,} tokens")
        for lines in _batches(line for text in several for line in text.splitlines() if line != text):
            ids.update(*tokenizer.encode_batch(lines), *_targets(tokenizer, lines))
        count += len(several)
        characters += sum(map(len, several))
        progress.advance(len(several))
    return Use(ids, count, characters, tokens, unknown)


def _batches(texts: Iterable[str]) -> Iterator[list[str]]:
    texts = iter(texts)
    while batch := list(islice(texts, BATCH)):
        yield batch


def _targets(tokenizer: Tokenizer, texts: Sequence[str]) -> list[list[int]]:
    """Encode texts as targets if the pieces of these are others than a source's."""
    inner = tokenizer.inner if isinstance(tokenizer, ExtendedTokenizer) else tokenizer
    return [ids[:-1] for ids in tokenizer.target(texts)] if isinstance(inner, MarianTokenizer) else []


def trim_tokenizer(tokenizer: Tokenizer, used: set[int], origin: str, languages: Sequence[str] = ()) -> Trimmed:
    """Return a tokenizer with the ids that `used` needs, special tokens, sentinels, bytes and language codes.

    With `languages`, the codes of all others go.
    """
    match tokenizer:
        case ExtendedTokenizer(inner=inner):
            smaller, kept = trim_tokenizer(inner, {id for id in used if id < inner.size}, origin, languages)
            added = np.arange(inner.size, tokenizer.size)
            return Trimmed(ExtendedTokenizer(smaller, tokenizer.tokens), np.concatenate([kept, added]))
        case SentencePieceTokenizer():
            return _sentencepiece(tokenizer, used, origin)
        case MBartTokenizer():
            return _mbart(tokenizer, used, origin, languages)
        case ByteLevelBPETokenizer():
            return _byte_level(tokenizer, used, origin)
        case M2M100Tokenizer():
            return _m2m_100(tokenizer, used, origin)
        case MarianTokenizer():
            return _marian(tokenizer, used, origin, languages)
    raise TypeError(f"{type(tokenizer).__name__} cannot be trimmed.")


def dropped_languages(tokenizer: Tokenizer, languages: Sequence[str], origin: str) -> set[int]:
    """Return the ids of the language codes that go if only `languages` are kept; without any, all are.

    Raises:
        ConfigError: the family has no vocabulary to trim, or the codes are not its own.
    """
    bytes_ = f"{origin} has a vocabulary of bytes: there is nothing to trim."
    require(not isinstance(tokenizer, ByteTokenizer), bytes_)
    all_ = f"{origin} keeps all its languages, since M2M-100's tokenizer numbers them by its own list."
    require(not (languages and isinstance(tokenizer, M2M100Tokenizer)), f"{all_} Leave out --languages.")
    kept = {tokenizer.language_id(language) for language in languages}
    return {*tokenizer.language_ids.values()} - kept if languages else set()


def check_equal(old: Tokenizer, new: Trimmed, texts: Iterable[str]) -> None:
    """Encode the first texts again; raise AssertionError if an id differs by more than the renumbering."""
    parts = (part for text in texts for part in old.parts(text, PART))
    for batch in _batches(islice(parts, CHECKED)):
        before, after = ([*of.encode_batch(batch), *_targets(of, batch)] for of in (old, new.tokenizer))
        assert before == [new.kept[row].tolist() for row in after], "the trimmed tokenizer gives other ids"


# --- The families -----------------------------------------------------------------------------------------------------


def _sentencepiece(tokenizer: SentencePieceTokenizer, used: set[int], origin: str) -> Trimmed:
    own = {int(id) for id in tokenizer.sentinel_ids if id < tokenizer.pieces}
    pieces = kept_pieces(tokenizer.model, {id for id in used if id < tokenizer.pieces} | own, origin)
    model = with_pieces(tokenizer.model, pieces)
    added = range(tokenizer.pieces, tokenizer.size)
    return Trimmed(SentencePieceTokenizer(model, tokenizer.sentinels, origin), np.array([*pieces, *added]))


def _mbart(tokenizer: MBartTokenizer, used: set[int], origin: str, languages: Sequence[str]) -> Trimmed:
    controls = range(tokenizer.unknown_id + 1)
    last = tokenizer.processor.get_piece_size() + OFFSET
    pieces = kept_pieces(tokenizer.model, {id - OFFSET for id in used if id not in controls and id < last}, origin)
    own = [piece + OFFSET for piece in pieces if piece + OFFSET not in controls]
    kept = languages or tokenizer.kept_languages
    smaller = MBartTokenizer(with_pieces(tokenizer.model, pieces), tokenizer.variant, origin, kept)
    codes = [tokenizer.language_id(language) for language in smaller.languages]
    assert tokenizer.mask_id is not None
    return Trimmed(smaller, np.array([*controls, *own, *codes, tokenizer.mask_id]))


def _byte_level(tokenizer: ByteLevelBPETokenizer, used: set[int], origin: str) -> Trimmed:
    content = json.loads(tokenizer.backend.to_str())
    model, added = content["model"], content["added_tokens"]
    vocabulary = tokenizer.backend.get_vocab(with_added_tokens=True)
    fixed = {*BART_SPECIAL, *(token["content"] for token in added)}
    names = {name for name, id in vocabulary.items() if id in used}
    text, merges = closed_merges(model["vocab"], list(map(tuple, model["merges"])), {*names, *byte_of_letter()} - fixed)
    kept = sorted(vocabulary[name] for name in {*text, *fixed})
    new = {old: id for id, old in enumerate(kept)}
    model["vocab"] = {name: new[id] for name, id in model["vocab"].items() if id in new}
    model["merges"] = [list(pair) for pair in merges]
    content["added_tokens"] = [token | {"id": new[token["id"]]} for token in added]
    return Trimmed(ByteLevelBPETokenizer(Backend.from_str(json.dumps(content)), origin), np.array(kept))


def _m2m_100(tokenizer: M2M100Tokenizer, used: set[int], origin: str) -> Trimmed:
    ids = tokenizer.ids
    names = {name for name, id in ids.items() if id in used}
    model, pieces = _used_pieces(tokenizer.model, tokenizer.processor, ids, names, origin)
    new, order = _renumbered(ids, {*names, *pieces, *M2M_CONTROLS})
    smaller = M2M100Tokenizer(model, new, tokenizer.variant, origin)
    return Trimmed(smaller, np.array([*order, *tokenizer.language_ids.values()]))


def _used_pieces(
    model: bytes, processor: sentencepiece.SentencePieceProcessor, ids: dict[str, int], names: set[str], origin: str
) -> tuple[bytes, set[str]]:
    """Return the model with the pieces of these names and those without an id, and the names that it keeps."""
    pieces = {id: processor.id_to_piece(id) for id in range(processor.get_piece_size())}
    kept = kept_pieces(model, {id for id, name in pieces.items() if name in names or name not in ids}, origin)
    return with_pieces(model, kept), {pieces[id] for id in kept} & ids.keys()


def _renumbered(ids: dict[str, int], names: set[str]) -> tuple[dict[str, int], list[int]]:
    """Return the new ids of these names, in the order of the old ones, and the old ones."""
    order = sorted(ids[name] for name in names)
    new = {old: id for id, old in enumerate(order)}
    return {name: new[id] for name, id in ids.items() if id in new}, order


def _marian(tokenizer: MarianTokenizer, used: set[int], origin: str, languages: Sequence[str]) -> Trimmed:
    """Trim the vocabulary and both models; pieces without an id, which give the unknown token, cost no rows."""
    ids = tokenizer.source_side.ids
    codes = set(languages or tokenizer.languages)
    names = {name for name, id in ids.items() if id in used and name not in tokenizer.language_ids}
    models = {}
    for side, (model, processor, _) in {"source": tokenizer.source_side, "target": tokenizer.target_side}.items():
        models[side], pieces = _used_pieces(model, processor, ids, names, origin)
        names |= pieces
    new, order = _renumbered(ids, {*names, *SPECIAL, *codes})
    with tempfile.TemporaryDirectory() as made:
        for side, model in models.items():
            write_bytes(Path(made) / f"{side}.spm", model)
        write_bytes(Path(made) / "vocab.json", json_bytes(new))
        return Trimmed(MarianTokenizer(Path(made)), np.array(order))
