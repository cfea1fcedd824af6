"""Run directories with the files that training writes, made without training."""

import json
from pathlib import Path

from research import Experiment
from research.config import load, override

TINY = """
from research import *

def get_config():
    return Experiment(
        model=Model(512, 16, 2, 8, 32, 2, 2, compute="float32"),
        data=Denoising((PlainText("train.txt", "held_out.txt"),), Bytes(), input_length=48),
        optimizer=Adafactor(),
        steps=40,
        batch_size=8,
    )
"""


def experiment(folder: Path, text: str = TINY, **changes: str) -> Experiment:
    (folder / "experiment.py").write_text(text)
    return override.apply(load.open_experiment(folder / "experiment.py").config, changes)


def made(directory: Path, config: Experiment, held_out: float, status: str = "done") -> Path:
    """Write a run directory. Its loss falls to `held_out`; it has evaluations after half of the steps and the end."""
    (directory / "checkpoints").mkdir(parents=True)
    (directory / "config.json").write_text(override.to_json(config))
    lines = [
        {"step": step, "loss": 9.0 - step / 20, "nll": 9.0 - step / 20, "accuracy": step / 100, "gradient_norm": 1.0,
         "parameter_norm": 2.0, "learning_rate": 0.01, "skipped": 0, "steps": 4, "step_seconds": 0.5,
         "tokens_per_second": 1000.0 + step, "data_wait_seconds": 0.01}
        for step in range(4, config.steps + 1, 4)
    ]  # fmt: skip
    for step, loss in ((config.steps // 2, held_out + 1), (config.steps, held_out)):
        lines.append({"step": step, "held_out_loss": loss, "held_out_accuracy": 1 / loss})
    (directory / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 44, "lo')
    result = {"status": status, "step": config.steps, "reason": "a reason", "unigram_entropy": 5.5}
    (directory / "RESULT.json").write_text(json.dumps(result))
    samples = [{"step": step, "input": "<script>x", "filled": f"at {step}", "original": "o"} for step in (20, 40)]
    (directory / "samples.jsonl").write_text("".join(json.dumps(sample) + "\n" for sample in samples))
    history = {"time": "2026-01-02T03:04:05+00:00", "command": "python -m scripts.train x.py", "commit": "abc+changes",
               "python": "3.11.7", "packages": {"jax": "1"}, "host": "h"}  # fmt: skip
    (directory / "history.jsonl").write_text(json.dumps(history) + "\n")
    events = [(0, "started"), (10, "checkpoint"), (20, "checkpoint"), (30, "the loss of 9 spikes"), (40, "checkpoint")]
    written = [{"time": "2026-01-02T03:04:05+00:00", "step": step, "event": event} for step, event in events]
    (directory / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in written))
    (directory / "launch.json").write_text(json.dumps({"model": "tiny & small"}))
    (directory / "diff.json").write_text(json.dumps({"seed": ["0", "1"]}))
    return directory
