"""A split of a task as token ids: sources and targets with special tokens, built once and stored on disk."""

from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int64, UInt

from research.config.base import digest
from research.data.corpora.documents import Documents
from research.data.corpora.duplicates import Kept, find_kept
from research.data.tasks.task import Example, TaskExamples
from research.data.tokenizer import Tokenizer
from research.storage import cache
from research.storage.parts import Parts
from research.storage.progress import Progress

FORMAT = 1  # increment when the same examples would give other ids or other files
EXAMPLES_AT_ONCE = 1024
SIDES = ("sources", "targets")
Languages = tuple[str | None, str | None]


class Ragged(NamedTuple):
    """Sequences of different lengths, concatenated, without the ids that precede each of them."""

    tokens: UInt[np.ndarray, " total"]
    offsets: Int64[np.ndarray, " count_and_one"]
    parts: Parts | None = None  # of the file of the tokens
    header: int = 0  # bytes before the tokens in the file
    before: range = range(0)

    @property
    def lengths(self) -> Int64[np.ndarray, " count"]:
        return np.diff(self.offsets) + len(self.before)


class Pairs(NamedTuple):
    """Tokenised examples of a task."""

    name: str
    sources: Ragged
    targets: Ragged
    endings: tuple[int, int]  # special tokens at the end of a source and of a target, which truncation keeps
    start_id: int
    identity: str

    def __len__(self) -> int:
        return len(self.sources.offsets) - 1


def open_pairs(examples: TaskExamples, tokenizer: Tokenizer, languages: Languages, prompt: range = range(0)) -> Pairs:
    """Tokenise examples, or load their tokens from the cache. The ids of `prompt` precede each source.

    Raises ConfigError if the tokenizer lacks one of the languages, or an example has an empty side.
    """
    endings = tokenizer.ending(languages[0]), tokenizer.ending(languages[1])
    start_id = tokenizer.start_id(languages[1])
    key = digest([FORMAT, examples.identity, tokenizer.digest, languages])
    by_parts = [f"{side}.npy" for side in SIDES]
    folder = cache.entry(
        "pairs", key, lambda folder: _write(folder, examples, tokenizer, languages), by_parts.__contains__
    )
    sources, targets = (_open(folder / side) for side in SIDES)
    identity = digest([key, str(prompt)]) if prompt else key
    return Pairs(examples.name, sources._replace(before=prompt), targets, endings, start_id, identity)


def _open(path: Path) -> Ragged:
    offsets = np.load(path.with_suffix(".offsets.npy"))
    tokens = np.load(path.with_suffix(".npy"), mmap_mode="r")
    return Ragged(tokens, offsets, Parts(path.with_suffix(".npy"), mapped=True), tokens.offset)


def _write(folder: Path, examples: TaskExamples, tokenizer: Tokenizer, languages: Languages) -> None:
    dtype = np.dtype(np.uint16 if max(tokenizer.size, tokenizer.target_size) <= 2**16 else np.uint32)
    parts: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    lengths: tuple[list[int], list[int]] = ([], [])
    with Progress(f"Tokenising {examples.name}", len(examples), "examples") as progress:
        for sources, targets in texts(examples):
            ids = tokenizer.source(sources, languages[0]), tokenizer.target(targets, languages[1])
            for side, batch in enumerate(ids):
                lengths[side].extend(map(len, batch))
                parts[side].append(np.fromiter(chain.from_iterable(batch), dtype))
            progress.advance(len(sources))
    for side, name in enumerate(SIDES):
        np.save(folder / f"{name}.npy", np.concatenate(parts[side]))
        np.save(folder / f"{name}.offsets.npy", np.cumsum([0, *lengths[side]], dtype=np.int64))


def texts(examples: TaskExamples) -> Iterator[tuple[list[str], list[str]]]:
    """Yield batches of the sources and targets of all examples, in order."""
    for start in range(0, len(examples), EXAMPLES_AT_ONCE):
        batch = examples.read(np.arange(start, min(start + EXAMPLES_AT_ONCE, len(examples))))
        yield [example.source for example in batch], [example.target for example in batch]


class SidesAsDocuments(Documents):
    """The source and target text of each example, as a document for training a vocabulary."""

    def __init__(self, examples: TaskExamples) -> None:
        self._examples = examples
        self.name = examples.name
        self.identity = digest(["sides", examples.identity])

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, index: int) -> str:
        return self.read(np.array([index]))[0]

    def read(self, indices: Int64[np.ndarray, " n"]) -> list[str]:
        return [f"{example.source}\n{example.target}" for example in self._examples.read(indices)]


class DistinctExamples:
    """The examples of a split that are kept, by index."""

    def __init__(self, examples: TaskExamples, kept: Kept) -> None:
        assert kept.rows is not None
        self.name, self.left_out = examples.name, kept.left_out
        self._examples, self._rows = examples, kept.rows
        self.identity = digest(["distinct", examples.identity, kept.identity])

    def __len__(self) -> int:
        return len(self._rows)

    def read(self, indices: Int64[np.ndarray, " n"]) -> list[Example]:
        return self._examples.read(self._rows[indices])


def distinct_examples(train: Sequence[TaskExamples], held_out: Sequence[TaskExamples]) -> list[TaskExamples]:
    """Return the examples to train on without those that repeat another or are held out, by source and target."""
    found = find_kept(*([SidesAsDocuments(examples) for examples in split] for split in (train, held_out)))
    return [
        examples if kept.rows is None else DistinctExamples(examples, kept)
        for examples, kept in zip(train, found, strict=True)
    ]


class Truncation(NamedTuple):
    """Examples truncated or filtered to their row widths: which remain, and how many ids of each side are used."""

    chosen: Int64[np.ndarray, " n"]
    sources: Int64[np.ndarray, " n"]
    targets: Int64[np.ndarray, " n"]
    too_long: int  # number of examples that were truncated, or left out


def cut(pairs: Pairs, inputs: int, targets: int, drop: bool) -> Truncation:
    """Truncate examples to the given widths or, with `drop`, leave the longer ones out."""
    source_lengths, target_lengths = pairs.sources.lengths, pairs.targets.lengths
    too_long = (source_lengths > inputs) | (target_lengths > targets)
    chosen = np.flatnonzero(~too_long) if drop else np.arange(len(pairs))
    return Truncation(
        chosen,
        np.minimum(source_lengths[chosen], inputs),
        np.minimum(target_lengths[chosen], targets),
        int(too_long.sum()),
    )


class Spread(NamedTuple):
    """Concatenated pieces of tokens: for each token its piece, and its position in the piece."""

    piece: Int64[np.ndarray, " total"]
    place: Int64[np.ndarray, " total"]


def spread(lengths: Int64[np.ndarray, " n"]) -> Spread:
    """Concatenate pieces of the given lengths."""
    piece = np.repeat(np.arange(len(lengths)), lengths)
    starts = np.cumsum(lengths) - lengths
    return Spread(piece, np.arange(len(piece)) - starts[piece])


def gather(
    ragged: Ragged, examples: Int64[np.ndarray, " n"], lengths: Int64[np.ndarray, " n"], ending: int, laid: Spread
) -> UInt[np.ndarray, " total"]:
    """Collect the first ids of each example; a truncated one keeps the special tokens at its end."""
    starts, whole = ragged.offsets[examples], ragged.offsets[examples + 1] - ragged.offsets[examples]
    if ragged.parts is not None:
        first, size = ragged.header + starts * ragged.tokens.itemsize, whole * ragged.tokens.itemsize
        ragged.parts.check(first, first + size)
    place, own = laid.place - len(ragged.before), lengths - len(ragged.before)
    missing = np.where(place >= (own - ending)[laid.piece], (whole - own)[laid.piece], 0)
    if not ragged.before:
        return np.asarray(ragged.tokens[starts[laid.piece] + place + missing])
    ids = ragged.tokens[starts[laid.piece] + np.maximum(place + missing, 0)]
    return np.where(place < 0, ragged.before.start + laid.place, ids).astype(np.uint32)
