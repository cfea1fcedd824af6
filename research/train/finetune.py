"""Fine-tuning of a loaded model on pairs in memory, with the training step and the data pipeline of runs."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace

import jax
import jax.numpy as jnp

from research.config import Adapter, ConfigError, Experiment, Loss, Optimizer, Supervised, require
from research.data.pipeline import Pipeline
from research.data.tasks.in_memory import prepare_pairs, task_of
from research.decode.loaded_model import LoadedModel
from research.parallel.mesh import check_divisible, host_shard, place_batch
from research.storage.progress import Progress
from research.train.optimizers import AdamW
from research.train.schedules import Constant
from research.train.state import new_state, with_first_values
from research.train.step import Metrics, compile_train_step


def finetune(
    model: LoadedModel,
    pairs: Sequence[tuple[str, str]],
    *,
    steps: int,
    learning_rate: float = 1e-4,
    batch_size: int | None = None,
    optimizer: Optimizer | None = None,
    loss: Loss = Loss(),
    adapter: Adapter | None = None,
    source_language: str | None = None,
    target_language: str | None = None,
    input_length: int | None = None,
    target_length: int | None = None,
    seed: int = 0,
    on_step: Callable[[int, Metrics], None] | None = None,
) -> LoadedModel:
    """Train a copy of the model on (source, target) pairs; the given model is not changed.

    The same arguments give the same numbers on the same devices. For training that evaluates, saves and resumes, write
    an experiment with `init` and use `scripts.train`.

    Args:
        batch_size: rows per step; by default 8, rounded up to a multiple of the devices. Pairs are packed into rows.
        optimizer: replaces AdamW at the constant `learning_rate`.
        adapter: trains few parameters instead of all, such as LoRA().
        source_language: code of the language of the sources, if the tokenizer has language codes.
        target_language: code of the language of the targets.
        input_length: tokens per row of sources; by default those of the longest source. Longer sources are cut.
        target_length: tokens per row of targets; by default those of the longest target. Longer targets are cut.
        seed: determines the order of the pairs, and dropout.
        on_step: called with the number of each step, from 1, and its metrics.

    Raises:
        ConfigError: an argument is not allowed, the pairs do not fit the model, or the loss is repeatedly not finite.
    """
    given = model.params
    if adapter is not None:
        require(model.config.adapter is None, "The model has an adapter already: it is trained without `adapter`.")
        model = replace(model, config=replace(model.config, adapter=adapter))
    task = task_of(pairs, (source_language, target_language))
    experiment = Experiment(
        model=model.config,
        data=Supervised((task,)),
        optimizer=AdamW(schedule=Constant(peak=learning_rate)) if optimizer is None else optimizer,
        steps=steps,
        batch_size=replace(model, batch_size=8).rows_at_once if batch_size is None else batch_size,
        seed=seed,
        loss=loss,
    )
    mesh = model.mesh
    check_divisible(experiment, mesh)
    longest, prompt = model.config.longest, model.config.prompt
    prepared = prepare_pairs(task, model.tokenizer, input_length, target_length, longest, prompt)
    pipeline = Pipeline(prepared, seed, experiment.batch_size, threads=1, start_token=model.config.zero_token)
    key, data_key = jax.random.split(jax.random.key(seed))
    # Copies, because a step donates the buffers of its state.
    state = new_state(
        experiment, mesh, key, with_first_values(experiment, jax.tree.map(jnp.copy, given), model.tokenizer)
    )
    train_step = compile_train_step(experiment, mesh, *pipeline.batch_shapes)
    skipped, in_a_row, limit = 0, 0, experiment.guard.nonfinite_limit
    batches = pipeline.train(0, host_shard(mesh))
    with Progress("Fine-tuning", steps, "steps") as progress:
        for step in range(1, steps + 1):
            state, metrics = train_step(state, place_batch(mesh, next(batches)), data_key)
            if on_step is not None:
                on_step(step, metrics)
            lost = int(metrics.skipped)
            skipped, in_a_row = skipped + lost, (in_a_row + 1) * lost
            if in_a_row == min(limit, steps):
                raise ConfigError(f"The loss was not finite for {in_a_row} steps in a row: lower the learning rate.")
            progress.advance()
    if skipped:
        warnings.warn(f"The loss was not finite at {skipped} of {steps} steps, which were left out.", stacklevel=2)
    return model.with_params(state.params)
