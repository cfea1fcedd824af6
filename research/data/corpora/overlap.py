"""Pieces of data that are both trained on and held out: the same file, or the same examples of a data set."""

import sys
from collections.abc import Callable, Iterable
from typing import Any, Literal, NamedTuple

from research.config import ConfigError

WHOLE = 1 << 62  # the stop of a piece that is a whole file


class Piece(NamedTuple):
    """A range of a file's content; `name` is for messages. Equal contents have one `size`, or any other mark that is
    known at once, and one `digest()`, which may take long.

    If a part of it is read that is chosen by hash, `hashed` identifies what is hashed: by one rule, training reads
    another part than the held-out split.
    """

    size: int | str
    digest: Callable[[], str]
    name: str
    start: int = 0
    stop: int = WHOLE
    hashed: str = ""


def pieces_of(splits: Iterable[Any]) -> list[Piece]:
    """List the `pieces` of opened splits. Most of users' own classes have none."""
    return [piece for split in splits for piece in getattr(split, "pieces", ())]


def check_disjoint(train: Iterable[Any], held_out: Iterable[Any], shared: Literal["refuse", "count"]) -> None:
    """Compare the pieces of the opened splits. Those that are in both are refused, or counted in a message.

    Raises:
        ConfigError: there are some, and they are refused.
    """
    trained: dict[int | str, list[Piece]] = {}
    for piece in pieces_of(train):
        trained.setdefault(piece.size, []).append(piece)
    both = [
        (held.name, other.name)
        for held in pieces_of(held_out)
        for other in trained.get(held.size, ())
        if held.start < other.stop and other.start < held.stop and not (held.hashed and held.hashed == other.hashed)
        if held.digest() == other.digest()
    ]
    if not both:
        return
    held, other = both[0]
    named = held if held == other else f"{held}, as {other}"
    message = f"Held-out data are trained on too, in {len({name for name, _ in both}):,} files, such as {named}"
    if shared == "refuse":
        raise ConfigError(f"{message}: hold out others, or allow it by --config.data.shared_files=count.")
    print(f"note: {message}.", file=sys.stderr)
