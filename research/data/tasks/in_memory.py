"""Examples that a program holds, prepared for training as those of files are."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int64

from research.config import require
from research.config.base import digest
from research.data.packing.packing import PackedRows
from research.data.source import Prepared
from research.data.tasks.pairs import Languages, open_pairs
from research.data.tasks.task import Example
from research.data.tokenizer import Tokenizer


class InMemoryExamples:
    """(source, target) pairs as the examples of a task."""

    name = "the given pairs"

    def __init__(self, pairs: Sequence[tuple[str, str]]) -> None:
        self._pairs = [tuple(pair) if isinstance(pair, list) else pair for pair in pairs]
        require(len(self._pairs) > 0, "pairs is empty: give at least one (source, target).")
        for number, pair in enumerate(self._pairs, 1):
            both = isinstance(pair, tuple) and len(pair) == 2 and all(isinstance(side, str) for side in pair)
            require(both, f"Pair {number} is {str(pair)[:80]!r}: it must be (source, target), two strings.")
            require(
                all(side.strip() for side in pair), f"Pair {number} has an empty side: give both sides of every pair."
            )
        self.identity = digest(["in memory", self._pairs])

    def __len__(self) -> int:
        return len(self._pairs)

    def read(self, indices: Int64[np.ndarray, " n"]) -> list[Example]:
        chosen = (self._pairs[index] for index in indices)
        return [Example(source, target, (target,)) for source, target in chosen]


def prepare_pairs(
    pairs: Sequence[tuple[str, str]],
    tokenizer: Tokenizer,
    languages: Languages = (None, None),
    input_length: int | None = None,
    target_length: int | None = None,
    longest: int | None = None,
) -> Prepared:
    """Tokenise pairs and pack them into rows; longer ones are cut. Without lengths, a row holds the longest of a side.

    `longest` bounds both lengths: a model's positions. There is no held-out part: the rows serve as both.

    Raises:
        ConfigError: there is no pair, a side is empty, or the tokenizer does not have the languages.
    """
    examples = InMemoryExamples(pairs)
    framed = open_pairs(examples, tokenizer, languages)

    def width(lengths: Int64[np.ndarray, " n"], asked: int | None) -> int:
        require(asked is None or asked > 0, f"A row of {asked} tokens is asked for: it must have at least one.")
        wanted = int(lengths.max()) if asked is None else asked
        return wanted if longest is None else min(wanted, longest)

    widths = width(framed.sources.lengths, input_length), width(framed.targets.lengths, target_length)
    rows = PackedRows(framed, examples.identity, *widths, False, tokenizer.pad_id)
    return Prepared(tokenizer, (rows,), (rows,), (len(rows),), {"data.tasks": examples.identity}, (str(rows),))
