"""Training data from pairs held in memory by a program, prepared like examples from files."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64

from research.config import Task, require
from research.config.adapter import source_room
from research.config.examples import Split
from research.data.packing.packing import PackedRows
from research.data.source import PreparedData
from research.data.tasks.pairs import open_pairs
from research.data.tasks.records import ExamplesInMemory
from research.data.tasks.task import open_task
from research.data.tasks.text_to_text import TextToText
from research.data.tokenizer import Tokenizer


@dataclass(frozen=True)
class PairsInMemory(ExamplesInMemory):
    """(source, target) pairs held in memory; every split contains all of them."""

    pairs: tuple[tuple[str, str], ...]

    def records(self, split: Split) -> list[dict[str, str]]:
        return [{"source": source, "target": target} for source, target in self.pairs]


def task_of(pairs: Sequence[tuple[str, str]], languages: tuple[str | None, str | None]) -> Task:
    """Create the task of generating the target of each pair. Raises ConfigError if there is no pair, or a side is
    empty.
    """
    require(len(pairs) > 0, "pairs is empty: give at least one (source, target).")
    for number, pair in enumerate(pairs, 1):
        both = isinstance(pair, tuple | list) and len(pair) == 2 and all(isinstance(side, str) for side in pair)
        require(both, f"Pair {number} is {str(pair)[:80]}: it must be (source, target), two strings.")
        require(all(map(str.strip, pair)), f"Pair {number} has an empty side: give both sides of every pair.")
    return TextToText(examples=PairsInMemory(tuple((source, target) for source, target in pairs)), languages=languages)


def prepare_pairs(
    task: Task,
    tokenizer: Tokenizer,
    input_length: int | None = None,
    target_length: int | None = None,
    longest: int | None = None,
    prompt: range = range(0),
) -> PreparedData:
    """Tokenise the examples of a task and pack them into rows, truncating longer ones.

    `input_length` and `target_length` are the row widths; by default, the longest source and the longest target.
    `longest` bounds both: a model's number of positions. The ids of `prompt` precede each source. There is no held-out
    split: the training rows serve as both.

    Raises:
        ConfigError: a length is not above 0, or has no room for a source; or the tokenizer lacks a language.
    """
    examples = open_task(task, "train")
    framed = open_pairs(examples, tokenizer, task.languages, prompt)

    def width(name: str, lengths: Int64[np.ndarray, " n"], given: int | None) -> int:
        require(given is None or given > 0, f"{name} is {given}: it must be above 0.")
        tokens = int(lengths.max()) if given is None else given
        return tokens if longest is None else min(tokens, longest)

    inputs = width("input_length", framed.sources.lengths, input_length)
    source_room(prompt, inputs, "input_length")
    targets = width("target_length", framed.targets.lengths, target_length)
    rows = PackedRows(framed, examples.identity, inputs, targets, False, tokenizer.pad_id)
    return PreparedData(tokenizer, (rows,), (rows,), (len(rows),), {"data.tasks": examples.identity}, (str(rows),))
