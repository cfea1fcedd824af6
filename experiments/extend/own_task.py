"""A new task with a new kind of examples: write the numbers of a CSV file in words.

Command: python -m scripts.train experiments/extend/own_task.py --run_dir runs/own_task
Hardware, time: 2 CPU cores, under a minute, most of it compiling.
Result: not run yet, as it is an example; tests/extend/test_own_task.py trains a few steps of it.
"""

import csv
from dataclasses import dataclass

from research import (
    Accuracy,
    AdamW,
    Bytes,
    Checkpoint,
    ChrF,
    Constant,
    Evaluation,
    ExamplesInMemory,
    Experiment,
    Generation,
    Metric,
    Model,
    Names,
    Report,
    Split,
    Supervised,
    Task,
    TextRecord,
)


@dataclass(frozen=True)
class CSVExamples(ExamplesInMemory):
    """Rows of a CSV file that has a header. Every tenth row is held out."""

    file: str

    def records(self, split: Split) -> list[dict[str, str]]:
        with open(self.file, newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        return [row for number, row in enumerate(rows) if (number % 10 == 9) == (split != "train")]


@dataclass(frozen=True, kw_only=True)
class NumbersInWords(Task):
    """Numbers as words: the source "42 = 40 + 2" has the target "forty-two"."""

    metrics: tuple[Metric, ...] = (Accuracy(), ChrF())

    @property
    def names(self) -> Names:
        return Names(source=("number",), target=("words",))

    def example(self, record: TextRecord) -> tuple[str, str]:
        digits = record["number"][0]
        parts = [digit + "0" * zeros for zeros, digit in enumerate(reversed(digits))]
        return f"{digits} = {' + '.join(reversed(parts))}", record["words"][0]


def get_config() -> Experiment:
    return Experiment(
        model=Model(400, 64, 2, 32, 128, 1, 1, compute="float32"),
        data=Supervised((NumbersInWords(examples=CSVExamples("experiments/extend/numbers.csv")),), Bytes(), 32, 48),
        optimizer=AdamW(schedule=Constant(peak=3e-3, warmup=10)),
        steps=200,
        batch_size=16,
        evaluation=Evaluation(every=100, rows=64, generation=Generation(max_length=48), examples=50, best="chrf"),
        checkpoint=Checkpoint(every=100),
        report=Report(every=20),
    )
