"""The examples of one split of a task as token ids: made once, kept on disk, mapped into memory."""

import json
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int64, UInt

from research.data import cache
from research.data.progress import Progress
from research.data.task import TaskExamples
from research.data.tokenizer import Tokenizer

FORMAT = 1  # raised when the same examples would give other tokens or other files
EXAMPLES_AT_ONCE = 512
SIDES = ("source", "target")
Languages = tuple[str | None, str | None]


class Side(NamedTuple):
    """Rows of unequal lengths one after another: row i is tokens[starts[i] : starts[i + 1]]."""

    tokens: UInt[np.ndarray, " total"]
    starts: Int64[np.ndarray, " rows_and_one"]

    @property
    def lengths(self) -> Int64[np.ndarray, " rows"]:
        return np.diff(self.starts)


class ExampleTokens(NamedTuple):
    """Every example framed as its family frames it, and cut to the longest that is allowed."""

    name: str
    source: Side
    target: Side
    cut: Int64[np.ndarray, " cut"]  # the numbers of the examples that were longer
    digest: str  # of the tokens


def example_tokens(
    examples: TaskExamples, tokenizer: Tokenizer, languages: Languages, limits: tuple[int, int]
) -> ExampleTokens:
    """The tokens of these examples, from the cache or made now; `limits` are of source and target, in tokens."""
    key = cache.digest([FORMAT, examples.identity, tokenizer.digest, languages, limits])
    folder = cache.entry("examples", key, lambda folder: _write(folder, examples, tokenizer, languages, limits))
    meta = json.loads((folder / "meta.json").read_text())

    def side(name: str) -> Side:
        tokens = np.memmap(folder / name, meta["dtype"], "r") if meta[name] else np.empty(0, meta["dtype"])
        return Side(np.asarray(tokens), np.load(folder / f"{name}_starts.npy"))

    source, target = map(side, SIDES)
    return ExampleTokens(examples.name, source, target, np.load(folder / "cut.npy"), meta["digest"])


def _write(
    folder: Path, examples: TaskExamples, tokenizer: Tokenizer, languages: Languages, limits: tuple[int, int]
) -> None:
    dtype = np.dtype(np.uint16 if max(tokenizer.size, tokenizer.target_size) <= 2**16 else np.uint32)
    lengths: dict[str, list[int]] = {name: [] for name in SIDES}
    cut: set[int] = set()
    with (
        (folder / "source").open("wb") as sources,
        (folder / "target").open("wb") as targets,
        Progress(f"Tokenising {examples.name}", len(examples), "examples") as progress,
    ):
        for start in range(0, len(examples), EXAMPLES_AT_ONCE):
            read = examples.read(np.arange(start, min(start + EXAMPLES_AT_ONCE, len(examples))))
            sides = (
                (sources, tokenizer.source, [example.source for example in read]),
                (targets, tokenizer.target, [example.target for example in read]),
            )
            for name, (file, encode, texts), language, limit in zip(SIDES, sides, languages, limits, strict=True):
                rows = encode(texts, language)
                for number in [number for number, row in enumerate(rows) if len(row) > limit]:
                    rows[number] = encode([texts[number]], language, limit)[0]
                    cut.add(start + number)
                lengths[name] += map(len, rows)
                np.fromiter(chain.from_iterable(rows), dtype).tofile(file)
            progress.advance(len(read))
    for name in SIDES:
        np.save(folder / f"{name}_starts.npy", np.concatenate([[0], np.cumsum(lengths[name], dtype=np.int64)]))
    np.save(folder / "cut.npy", np.array(sorted(cut), np.int64))
    files = [f"{name}{suffix}" for name in SIDES for suffix in ("", "_starts.npy")]
    digest = cache.digest([cache.file_digest(folder / file) for file in files])
    totals = {name: sum(lengths[name]) for name in SIDES}
    (folder / "meta.json").write_text(json.dumps({**totals, "dtype": dtype.name, "digest": digest}, indent=1))
