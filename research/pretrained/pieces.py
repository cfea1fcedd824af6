"""SentencePiece models with fewer pieces, which segment the text that uses the kept ones exactly as before."""

from collections.abc import Collection, Iterable, Mapping
from itertools import pairwise
from typing import Any

from research.data.tokenizer.unigram import PIECE, is_bpe, proto


def kept_pieces(model: bytes, used: Collection[int], origin: str) -> list[int]:
    """Return the pieces to keep, ascending, so that every text whose pieces are in `used` is segmented as before.

    Kept with them are all pieces that are not plain text (controls, bytes, symbols that the user defined) and every
    single character that occurs in a used piece.

    Raises:
        ConfigError: the model is neither a unigram model nor BPE.
    """
    content = proto.ModelProto.FromString(model)
    bpe = is_bpe(content, f"{origin} is a SentencePiece model of words or characters: it cannot be trimmed.")
    pieces = content.pieces
    plain = [id for id, piece in enumerate(pieces) if piece.type == PIECE.NORMAL]
    names = {pieces[id].piece for id in used if pieces[id].type == PIECE.NORMAL}
    names |= {character for name in names for character in name}
    if not bpe:
        # The kept pieces allow some of the segmentations that all pieces allow, with the same scores, the best among
        # them. The penalty of an unknown character depends on the lowest score, and a user's symbols on the highest.
        extremes = [choose(plain, key=lambda id: pieces[id].score) for choose in (min, max) if plain]
    else:
        extremes = []
        scores = {piece.piece: -piece.score for piece in pieces if piece.type not in (PIECE.CONTROL, PIECE.UNKNOWN)}
        names |= {part for name in names for part in merged(name, lambda pair: scores.get(pair[0] + pair[1]))}
    special = {id for id, piece in enumerate(pieces) if piece.type != PIECE.NORMAL}
    return sorted({*special, *used, *extremes, *(id for id in plain if pieces[id].piece in names)})


def merged(piece: str, rank: Any) -> set[str]:
    """Return everything that BPE makes on its way from the characters of a piece to the piece.

    `rank` gives a pair's place in the order of merges, or None. Merges never cross the borders of what they end in, so
    those inside a piece are the same in every text. Other merges that were possible come later or fail as before.
    """
    symbols, made = list(piece), set(piece)
    while True:
        ranked = [(place, left) for left, pair in enumerate(pairwise(symbols)) if (place := rank(pair)) is not None]
        if not ranked:
            return made
        _, left = min(ranked)
        symbols[left : left + 2] = [symbols[left] + symbols[left + 1]]
        made.add(symbols[left])


def with_pieces(model: bytes, kept: Iterable[int]) -> bytes:
    """Return the model with the pieces `kept` alone, in that order."""
    content = proto.ModelProto.FromString(model)
    pieces = [content.pieces[id] for id in kept]
    del content.pieces[:]
    content.pieces.extend(pieces)
    content.trainer_spec.vocab_size = len(pieces)
    return content.SerializeToString()


def closed_merges(
    vocabulary: Mapping[str, int], merges: list[tuple[str, str]], used: Collection[str]
) -> tuple[set[str], list[tuple[str, str]]]:
    """Return the pieces of byte-level BPE to keep, so that merges still make those in `used`, and the merges left."""
    places = {pair: place for place, pair in enumerate(merges)}
    kept = {part for piece in used for part in merged(piece, places.get)} & vocabulary.keys()
    left = [pair for pair in merges if {*pair, "".join(pair)} <= kept]
    return kept, left
