"""What a person sees before a run and after it: the launch summary, examples of what the model writes, the scores."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from research import plan
from research.best import Best
from research.config import FORCED, Experiment
from research.console import amount, byte_amount, console, table
from research.data.pipeline import Pipeline
from research.evaluate import Passage, Sample
from research.model.transformer import abstract_params
from research.plot import plot_loss


def launch_summary(
    config: Experiment, mesh: jax.sharding.Mesh, data: Pipeline, train_step: jax.stages.Compiled, compiled: str
) -> None:
    """Prints what is about to run: sizes, memory a device by the compiler's own account, FLOPs, mesh, data, length."""
    model, schedule = config.model, config.optimizer.schedule
    memory: Any = train_step.memory_analysis()
    raw, rows = data.raw, config.batch_size
    table(
        "Launch",
        {
            "model": f"{amount(plan.parameter_count(abstract_params(model)))} parameters, "
            f"{model.encoder_layers} + {model.decoder_layers} layers of width {model.width}, {model.compute}",
            "memory a device": f"{byte_amount(memory.argument_size_in_bytes)} state and batch, "
            f"{byte_amount(memory.temp_size_in_bytes)} activations and gradients",
            "a step": f"{rows} rows of {data.inputs} inputs and {data.targets} targets, "
            f"{amount(plan.flops_per_step(config, data.inputs, data.targets), 'FLOP')}",
            "mesh": ", ".join(f"{axis} {size}" for axis, size in mesh.shape.items())
            + f" on {mesh.size} x {mesh.devices.flat[0].device_kind}",
            "data": f"{data.train_rows:,} rows of {raw} raw tokens, from {amount(data.train_tokens)} in all; "
            f"{data.held_out_rows:,} rows held out",
            **({"examples": "; ".join(data.notes)} if data.notes else {}),
            "vocabulary": f"{data.tokenizer.size} ids, {len(data.tokenizer.sentinel_ids)} of them sentinels; "
            f"{model.vocab_size} rows of embedding",
            "optimizer": f"{type(config.optimizer).__name__}, {type(schedule).__name__} with peak {schedule.peak:g}",
            "run": f"{config.steps:,} steps, {amount(config.steps * rows * raw)} raw tokens, "
            f"{config.steps * rows * raw / data.train_tokens:.2f} epochs",
            "compiled": compiled,
        },
    )


def passages(directory: Path, step: int, passages: Sequence[Passage]) -> None:
    """Held-out text that was broken and mended, to the person and to samples.jsonl."""
    if jax.process_index() != 0:
        return
    with open(directory / "samples.jsonl", "a") as file:
        for passage in passages:
            file.write(json.dumps({"step": step, **dataclasses.asdict(passage)}) + "\n")
    for number, passage in enumerate(passages, 1):
        console.print(f"\nHeld-out passage {number}", style="bold")
        console.print(f"  input     {passage.input}", markup=False)
        console.print(f"  filled    {passage.filled}", markup=False)
        console.print(f"  original  {passage.original}", markup=False)


def samples(directory: Path, step: int, by_task: Mapping[str, Sequence[Sample]]) -> None:
    """Held-out examples and what was written for them, to the person and to samples.jsonl."""
    if jax.process_index() != 0:
        return
    with open(directory / "samples.jsonl", "a") as file:
        for task, shown in by_task.items():
            named = {"task": task} if task else {}
            for sample in shown:
                file.write(json.dumps({"step": step} | named | sample._asdict(), ensure_ascii=False) + "\n")
    for task, shown in by_task.items():
        show_samples(f"{task}: held-out example" if task else "Held-out example", shown)


def show_samples(title: str, samples: Sequence[Sample]) -> None:
    """Prints examples, on a line each what is read, what was written and what should have been."""
    for number, sample in enumerate(samples, 1):
        console.print(f"\n{title} {number}", style="bold", markup=False)
        for name, text in sample._asdict().items():
            shown = "".join(each if each.isprintable() else " " for each in text)
            console.print(f"  {name:<9}  {' '.join(shown.split())}", markup=False)


def conclusion(
    directory: Path, step: int, scores: Mapping[str, float], unigram_entropy: float, config: Experiment, best: Best
) -> None:
    """The scores, the loss beside what a model blind to context reaches; the plot, and where the best checkpoint is."""
    if jax.process_index() != 0:
        return
    rows = {
        "held-out loss": f"{scores['held_out_loss']:.4f} nats a target token, after {step} steps",
        "unigram entropy": f"{unigram_entropy:.4f} nats: the best that a model blind to context can do there",
        **{name: f"{scores[name]:.2f}" for name in config.scores if name not in FORCED},
        "plot": str(plot_loss(directory, unigram_entropy, config)),
        "all of the run": str(directory),
    }
    if best.value is not None and config.checkpoint.keep_best:
        rows["best checkpoint"] = f"{directory / 'checkpoints' / str(best.step)}, by {best.name} {best.value:.4g}"
    console.print()
    table("Result", rows)
