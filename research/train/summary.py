"""Console summaries of a run: the launch summary, examples of the model's output, and the final scores."""

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

from research.config import TEACHER_FORCED, ConfigError, Denoising, Distil, Experiment, Model, Pretrained
from research.data.pipeline import Pipeline
from research.model import flops
from research.model.attention_backends import Record, backends_text
from research.model.layer import layers_per_step
from research.pretrained.find import overridden
from research.storage.best import Best
from research.storage.bucket import AnyPath
from research.storage.console import amount, byte_amount, console, table
from research.storage.files import append_lines, read_lines


class RunSample(NamedTuple):
    """An example of a task ("" for none): its input, the model's output and the reference, by name."""

    task: str
    texts: dict[str, str]


def launch(
    config: Experiment,
    mesh: jax.sharding.Mesh,
    data: Pipeline,
    train_step: jax.stages.Compiled,
    compiled: str,
    attention: Record,
) -> dict[str, str]:
    """Summarise a launch: sizes, memory per device as reported by the compiler, FLOPs, mesh, data, length."""
    model, schedule = config.model, config.optimizer.schedule
    memory: Any = train_step.memory_analysis()
    raw, rows = data.raw, config.batch_size
    return {
        **({"weights": describe_weights(model)} if isinstance(model, Pretrained) else {}),
        "model": f"{flops.describe_count(model)}, "
        f"{model.encoder_layers} + {model.decoder_layers} layers of width {model.width}, {model.compute}"
        + (f", muP from width {model.base.width}" if model.base != model else ""),
        **({} if config.distil is None else {"teacher": describe_teacher(config.distil)}),
        "attention": backends_text(attention),
        "layers": describe_scan(model, mesh),
        "memory a device": f"{byte_amount(memory.argument_size_in_bytes)} state and batch, "
        f"{byte_amount(memory.temp_size_in_bytes)} activations and gradients",
        "a step": f"{rows} rows of {data.inputs} inputs and {data.targets} targets, "
        f"{amount(flops.flops_per_step(config, data.inputs, data.targets), 'FLOP')}",
        "mesh": ", ".join(f"{axis} {size}" for axis, size in mesh.shape.items())
        + f" on {mesh.size} x {mesh.devices.flat[0].device_kind}",
        "data": f"{data.train_rows:,} rows of {raw} raw tokens, from {amount(data.train_tokens)} in all; "
        f"{data.held_out_rows:,} rows held out",
        **(
            {"documents" if isinstance(config.data, Denoising) else "examples": "; ".join(data.notes)}
            if data.notes
            else {}
        ),
        "vocabulary": f"{data.tokenizer.size} ids, {len(data.tokenizer.sentinel_ids)} of them sentinels; "
        f"{model.vocab_size} rows of embedding",
        "optimizer": f"{type(config.optimizer).__name__}, {type(schedule).__name__} with peak {schedule.peak:g}",
        "run": f"{config.steps:,} steps, {amount(config.steps * rows * raw)} raw tokens, "
        f"{config.steps * rows * raw / data.train_tokens:.2f} epochs",
        "compiled": compiled,
    }


def describe_weights(model: Pretrained) -> str:
    """Say where the model comes from, and which fields differ from those stored there."""
    try:
        changes = overridden(model)
    except ConfigError:  # a run that resumes needs its origin no more
        return f"{model.path}, which can no longer be read"
    shown = [f"{name} {new!r} (there {old!r})" for name, (old, new) in changes.items()]
    return f"{model.path}; {', '.join(shown) or 'every field as stored there'}"


def describe_teacher(distil: Distil) -> str:
    """Say where the teacher comes from, how large it is, and how it enters the loss."""
    size = f"{flops.describe_count(distil.teacher)}, {distil.teacher.compute}"
    return f"{describe_weights(distil.teacher)}; {size}; alpha {distil.alpha:g}, temperature {distil.temperature:g}"


def describe_scan(model: Model, mesh: jax.sharding.Mesh) -> str:
    """Say how many layers are compiled one by one, and who chose so."""
    with jax.set_mesh(mesh):
        steps = {layers_per_step(model, count): count for count in (model.encoder_layers, model.decoder_layers)}
    how = ", ".join(
        "scanned" if size == 1 else f"{size} unrolled" + (f" of {count}" if size < count else "")
        for size, count in steps.items()
    )
    return f"{how} (model.unroll is {model.unroll})"


def keep_examples(directory: Path, step: int, examples: Sequence[RunSample]) -> list[dict[str, str]]:
    """Append examples to samples.jsonl, unless it already has those of this step; return what is new, without it."""
    path = directory / "samples.jsonl"
    if jax.process_index() != 0 or any(line.get("step") == step for line in read_lines(path)):
        return []
    rows = [({"task": task} if task else {}) | texts for task, texts in examples]
    append_lines(path, [{"step": step} | row for row in rows])
    return rows


def show_examples(examples: Sequence[RunSample], supervised: bool) -> None:
    """Print the examples of each task under its title."""
    for task, group in itertools.groupby(examples, key=lambda example: example.task):
        what = "Held-out example" if supervised else "Held-out passage"
        show_samples(f"{task}: {what.lower()}" if task else what, [texts for _, texts in group])


def show_samples(title: str, samples: Sequence[Mapping[str, str]]) -> None:
    """Print examples, with one line each for input, output and reference."""
    if jax.process_index() != 0:
        return
    for number, sample in enumerate(samples, 1):
        console.print(f"\n{title} {number}", style="bold", markup=False)
        for name, text in sample.items():
            shown = "".join(each if each.isprintable() else " " for each in text)
            console.print(f"  {name:<9}  {' '.join(shown.split())}", markup=False)


def conclusion(
    directory: AnyPath, step: int, scores: Mapping[str, float], unigram_entropy: float, config: Experiment, best: Best
) -> None:
    """Print the scores, with the unigram entropy as baseline of the loss, and the paths of plot, run and checkpoint."""
    if jax.process_index() != 0:
        return
    rows = {
        "held-out loss": f"{scores['held_out_loss']:.4f} nats a target token, after {step} steps",
        "unigram entropy": f"{unigram_entropy:.4f} nats: the best that a model blind to context can do there",
        **{name: f"{scores[name]:.2f}" for name in config.scores if name not in TEACHER_FORCED},
        "plot": str(directory / "loss.png"),
        "run directory": str(directory),
    }
    if best.value is not None and config.checkpoint.keep_best:
        rows["best checkpoint"] = f"{directory / 'checkpoints' / str(best.step)}, by {best.name} {best.value:.4g}"
    console.print()
    table("Result", rows)
