"""A `Supervised` config made ready: the examples of its tasks as tokens, packed into rows."""

import sys
from pathlib import Path

import numpy as np
from jaxtyping import Int64

from research.config import Mixing, Supervised, Task, TrainedSentencePiece, require
from research.data import cache, mixture
from research.data.example_tokens import example_tokens
from research.data.packing import PackedExamples, Plan, plan
from research.data.source import Prepared
from research.data.task import Split, TaskExamples, open_task
from research.data.tokenizer import Tokenizer, open_tokenizer
from research.data.vocabulary import tokenizer_for

FORMAT = 1  # raised when the same tokens would be packed otherwise


class BothSides:
    """The examples of a task as documents, from which a vocabulary of both sides is trained."""

    def __init__(self, examples: TaskExamples) -> None:
        self.name = examples.name
        self.identity = cache.digest(["both sides", examples.identity])
        self._examples = examples

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, index: int) -> str:
        return self.read(np.array([index]))[0]

    def read(self, indices: Int64[np.ndarray, " n"]) -> list[str]:
        return [f"{example.source}\n{example.target}" for example in self._examples.read(indices)]


def prepare(data: Supervised) -> Prepared:
    """Examples found, built and checked, the vocabulary trained or opened, text tokenised and packed.

    Raises ConfigError where what `data` asks for is missing, empty, damaged or does not fit together.
    """
    if not isinstance(data.tokenizer, TrainedSentencePiece):
        check_languages(data.tasks, open_tokenizer(data.tokenizer))  # before anything is built

    def opened(split: Split) -> list[TaskExamples]:
        return [open_task(task, split, data.manual_dir) for task in data.tasks]

    train, held_out = opened("train"), opened("held_out")
    tokenizer = tokenizer_for(data.tokenizer, [BothSides(examples) for examples in train], data.mixing)
    check_languages(data.tasks, tokenizer)

    def packed(examples: list[TaskExamples]) -> tuple[PackedExamples, ...]:
        pairs = zip(data.tasks, examples, strict=True)
        return tuple(_packed(data, task, of_task, tokenizer) for task, of_task in pairs)

    train_sources, held_out_sources = packed(train), packed(held_out)
    fingerprint: dict[str, str | int] = {
        "data.tasks": cache.digest([source.digest for source in (*train_sources, *held_out_sources)]),
        "data.input_length": data.input_length,
        "data.target_length": data.target_length,
        "data.too_long": data.too_long,
        "data.batching": repr(data.batching),
        "data.mixing": repr(data.mixing),
    }
    return Prepared(tokenizer, train_sources, held_out_sources, weights(train_sources, data.mixing), fingerprint)


def check_languages(tasks: tuple[Task, ...], tokenizer: Tokenizer) -> None:
    """Raises ConfigError where a task's languages are not the tokenizer's."""
    for task in tasks:
        source, target = task.languages
        tokenizer.source([], source)
        tokenizer.target([], target)
        tokenizer.start_id(target)


def weights(sources: tuple[PackedExamples, ...], mixing: Mixing) -> tuple[int, ...]:
    """Of the rows, such that examples come at T5's rates (arXiv:1910.10683, 3.5.2), whatever a row holds of them."""
    examples = tuple(source.examples for source in sources)
    rates = mixture.weights(examples, mixing)
    if rates == examples:
        return tuple(map(len, sources))
    rows = [rate * len(source) / source.examples for rate, source in zip(rates, sources, strict=True)]
    return tuple(max(1, round(row / sum(rows) * 2**30)) for row in rows)


def _packed(data: Supervised, task: Task, examples: TaskExamples, tokenizer: Tokenizer) -> PackedExamples:
    sizes = data.input_length, data.target_length
    tokens = example_tokens(examples, tokenizer, task.languages, sizes)
    kept = np.arange(len(examples))
    if data.too_long == "drop":
        kept = np.delete(kept, tokens.cut)
        require(len(kept) > 0, f"No example of {examples.name} fits {sizes[0]} source and {sizes[1]} target tokens.")

    def write(folder: Path) -> None:
        made = plan(np.stack([tokens.source.lengths, tokens.target.lengths], axis=1)[kept], sizes, examples.name)
        np.save(folder / "order.npy", kept[made.order])
        np.save(folder / "starts.npy", made.starts)

    folder = cache.entry("packed", cache.digest([FORMAT, tokens.digest, sizes, data.too_long]), write)
    rows = Plan(np.load(folder / "order.npy"), np.load(folder / "starts.npy"))
    packed = PackedExamples(tokens, rows, sizes, tokenizer, tokenizer.start_id(task.languages[1]))
    print(_told(packed, len(tokens.cut), data.too_long), file=sys.stderr, flush=True)
    return packed


def _told(packed: PackedExamples, cut: int, too_long: str) -> str:
    source, target = packed.padding
    told = (
        f"{packed.name}: {packed.examples:,} examples in {len(packed):,} rows of {packed.inputs} + {packed.targets}"
        f" tokens, {source:.1%} and {target:.1%} of them padding"
    )
    done = {"truncate": "truncated", "drop": "dropped"}[too_long]
    return told + (f"; {cut:,} longer ones were {done}." if cut else ".")
