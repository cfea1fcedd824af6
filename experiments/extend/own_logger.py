"""A new logger: all numbers of a run in one CSV file, which a resumed run continues.

Command: python -m scripts.train experiments/extend/own_logger.py --run_dir runs/logged
Hardware, time: 2 CPU cores, half a minute, most of it compiling.
Result: not run yet, as it is an example; tests/extend/test_own_logger.py trains a few steps of it.
"""

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from research import (
    TFDS,
    AdamW,
    Bytes,
    Checkpoint,
    Constant,
    Denoising,
    Evaluation,
    Experiment,
    Logger,
    Model,
    Report,
    TensorBoard,
)


@dataclass(frozen=True)
class CSVLogger(Logger):
    """A CSV file in the run directory with a row (step, name, value) for every number."""

    file: str = "numbers.csv"

    def open(self, directory: Path, experiment: Experiment, step: int) -> "CSVWriter":
        return CSVWriter(directory / self.file, step)


class CSVWriter:
    def __init__(self, path: Path, step: int) -> None:
        # Drop rows of later steps: a killed process may have written them, and they are trained again.
        rows = list(csv.reader(path.open())) if path.exists() else []
        self._file = path.open("w")
        self._rows = csv.writer(self._file)
        self._rows.writerows(row for row in rows if int(row[0]) <= step)

    def write(self, step: int, numbers: Mapping[str, float | int]) -> None:
        self._rows.writerows((step, name, value) for name, value in numbers.items())
        self._file.flush()

    def close(self) -> None:
        self._file.close()


def get_config() -> Experiment:
    return Experiment(
        model=Model(400, 64, 2, 32, 128, 1, 1, compute="float32"),
        data=Denoising((TFDS("python_docs"),), Bytes(), input_length=64),
        optimizer=AdamW(schedule=Constant(peak=3e-3, warmup=10)),
        steps=200,
        batch_size=16,
        evaluation=Evaluation(every=100, rows=64),
        checkpoint=Checkpoint(every=100),
        report=Report(every=20, loggers=(TensorBoard(), CSVLogger())),
    )
