"""The smallest real run: two steps, each with a checkpoint."""

import dataclasses
import json
import random
from pathlib import Path

import pytest

from research import (
    AdamW,
    Buckets,
    Bytes,
    Checkpoint,
    Constant,
    Denoising,
    Evaluation,
    Experiment,
    JSONExamples,
    Model,
    Packed,
    PlainText,
    Report,
    Supervised,
    TextToText,
)
from research.storage import manifest
from research.storage.files import write_json
from research.storage.run_directory import as_data
from research.train.loop import train


def experiment(folder: Path, **changes) -> Experiment:
    """Write a text into the folder; return an experiment on its bytes."""
    draw = random.Random(0)
    words = [line.split()[0] for line in Path(json.__file__).read_text().splitlines() if line.split()]
    for name, passages in (("train", 60), ("held_out", 20)):
        text = "\n\n".join(" ".join(draw.choices(words, k=60)) for _ in range(passages))
        (folder / f"{name}.txt").write_text(text)
    made = Experiment(
        model=Model(400, 16, 2, 8, 32, 1, 1, compute="float32"),
        data=Denoising((PlainText(f"{folder}/train.txt", f"{folder}/held_out.txt"),), Bytes(), input_length=48),
        optimizer=AdamW(schedule=Constant(peak=1e-2, warmup=0)),
        steps=2,
        batch_size=8,
        evaluation=Evaluation(every=1, rows=16, samples=0),
        checkpoint=Checkpoint(every=1),
        report=Report(every=1),
    )
    return dataclasses.replace(made, **changes)


def supervised(folder: Path, batching: Packed | Buckets) -> Experiment:
    """Write examples of a task into the folder; return an experiment on them."""
    for name, count in (("train", 300), ("held_out", 60)):
        rows = [{"source": "ab" * (number % 11 + 1), "target": f"{number:03}"} for number in range(count)]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    examples = JSONExamples(str(folder / "train.jsonl"), str(folder / "held_out.jsonl"))
    data = Supervised((TextToText(examples=examples),), Bytes(), 24, 24, batching=batching)
    return experiment(folder, data=data, steps=4)


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train once a session; return the run directory, which no test may change."""
    folder = tmp_path_factory.mktemp("tiny")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KINTSUGI_CACHE", str(folder / "cache"))
        assert train(experiment(folder), folder / "run") == 0
    return folder / "run"


def rewrite(run: Path, config: Experiment, **record: object) -> None:
    """Make it the experiment of a run, in its config.json and in the record of every checkpoint."""
    write_json(run / "config.json", as_data(config))
    for checkpoint in (run / "checkpoints").iterdir():
        path = checkpoint / "meta" / "metadata"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"config": as_data(config)} | record))
        manifest.write(checkpoint, sealed=True)


def held_out_losses(run: Path) -> list[float]:
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [line["held_out_loss"] for line in lines if "held_out_loss" in line]
