"""A `Supervised` config made ready: examples of tasks tokenised and packed into rows."""

import sys
from collections.abc import Sequence

from research.config import Mixing, Supervised
from research.data import cache, mixture
from research.data.packing import PackedRows
from research.data.pairs import SidesAsDocuments, open_pairs
from research.data.source import Prepared
from research.data.task import Split, TaskExamples, open_task
from research.data.tokenizer import Tokenizer
from research.data.vocabulary import tokenizer_for


def prepare(data: Supervised, batch_size: int) -> Prepared:
    """Examples found, built and checked, the vocabulary trained or opened, all of it tokenised and packed.

    Held-out rows are filled up to whole batches with empty ones, so that no example is left out. Raises ConfigError
    where what `data` asks for is missing, empty, damaged or does not fit together.
    """
    train, held_out = _opened(data, "train"), _opened(data, "held_out")
    documents = [SidesAsDocuments(examples) for examples in train]
    tokenizer = tokenizer_for(data.tokenizer, documents, Mixing(data.mixing.temperature))
    train_rows, held_out_rows = _packed(data, train, tokenizer), _packed(data, held_out, tokenizer)
    held_out_rows[-1].empty = -sum(map(len, held_out_rows)) % batch_size
    for rows in (*train_rows, *held_out_rows):
        _say(rows, data)
    weights = mixture.row_weights(tuple(rows.examples for rows in train_rows), tuple(map(len, train_rows)), data.mixing)
    fingerprint: dict[str, str | int] = {
        "data.tasks": cache.digest([examples.identity for examples in (*train, *held_out)]),
        "data.tasks, their languages": repr([task.languages for task in data.tasks]),
        "data.input_length": data.input_length,
        "data.target_length": data.target_length,
        "data.too_long": data.too_long,
        "data.batching": repr(data.batching),
        "data.mixing": repr(data.mixing),
    }
    return Prepared(
        tokenizer, tuple(train_rows), tuple(held_out_rows), weights, fingerprint, tuple(map(str, train_rows))
    )


def _opened(data: Supervised, split: Split) -> list[TaskExamples]:
    return [open_task(task, split, data.manual_dir) for task in data.tasks]


def _packed(data: Supervised, opened: Sequence[TaskExamples], tokenizer: Tokenizer) -> list[PackedRows]:
    lengths, drop = (data.input_length, data.target_length), data.too_long == "drop"
    return [
        PackedRows(open_pairs(examples, tokenizer, task.languages), examples.identity, *lengths, drop, tokenizer.pad_id)
        for examples, task in zip(opened, data.tasks, strict=True)
    ]


def _say(rows: PackedRows, data: Supervised) -> None:
    if rows.too_long:
        print(
            f"{rows.too_long:,} examples of {rows.name} are longer than {data.input_length} input or"
            f" {data.target_length} target tokens: they are {'left out' if data.too_long == 'drop' else 'cut'}.",
            file=sys.stderr,
            flush=True,
        )
