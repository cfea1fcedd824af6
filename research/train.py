"""The training loop. What a step does, in this order: data, update, report, checks, evaluation, saving, stopping."""

import contextlib
import math
import os
import signal
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from research import evaluate, report, run_directory, sharding, weights
from research.checkpoint import CheckpointError, Checkpoints, check_same
from research.config import ConfigError, Decay, Denoising, Experiment, require
from research.data.pipeline import Pipeline, prepare, unigram_entropy
from research.report import NotFiniteError, say
from research.step import (
    EachShape,
    TrainState,
    abstract_state,
    compile_eval_step,
    compile_train_step,
    new_state,
    state_shardings,
)
from research.watchdog import Watchdog


class Preempted(Exception):
    """The run was asked to stop; what it did is saved."""


def train(config: Experiment, directory: Path, *, file_config: Experiment | None = None, dry_run: bool = False) -> int:
    """Trains up to `config.steps`, from the directory's newest checkpoint if there is one. Returns the exit code.

    Raises ConfigError, before any training, for what a person can mend. A dry run writes nothing to the directory.
    """
    sharding.initialize_hosts()
    mesh = sharding.make_mesh(config.mesh)
    sharding.check_divisible(config, mesh)
    if config.init is not None and not any((directory / "checkpoints").glob("[0-9]*")):
        found = weights.find_initial(config, config.init)
        say(f"Starting from {config.init}, of the format {found.format}.")
    if dry_run:
        Run(config, mesh, prepare(config.data, config.seed, config.batch_size))
        say("Dry run: nothing was trained.")
        return 0
    with run_directory.claim(directory, config, file_config):
        checkpoints = Checkpoints(directory / "checkpoints", config.checkpoint)
        newest = checkpoints.newest
        if newest is not None and newest >= config.steps and run_directory.is_done(directory):
            say(f"{directory} is complete at step {newest}. To go on: the same command with --config.steps=MORE.")
            return 0
        made_from = None if newest is None else checkpoints.meta(newest)
        if made_from is not None:
            run_directory.check_same_experiment(directory, made_from["config"], config)
        pipeline = prepare(config.data, config.seed, config.batch_size)
        if made_from is not None:
            check_same(made_from["data"], pipeline.fingerprint, directory)
            if made_from["config"]["steps"] != config.steps and isinstance(config.optimizer.schedule, Decay):
                say(
                    "steps has changed, and with it the learning rate from here on: its schedule ends at the last step."
                )
        run = Run(config, mesh, pipeline)
        with _ending(run, directory, checkpoints):
            if jax.process_index() == 0:
                pipeline.tokenizer.save(directory / "tokenizer.model")
            _fit(run, directory, checkpoints)
    return run.exit_code


class Run:
    """What a launch builds and the loop uses: data, compiled steps, and where the run stands."""

    def __init__(self, config: Experiment, mesh: jax.sharding.Mesh, pipeline: Pipeline) -> None:
        size, rows = pipeline.tokenizer.size, config.model.vocab_size
        require(size <= rows, f"model.vocab_size is {rows}: it must be at least the tokenizer's size, which is {size}.")
        self.config, self.mesh, self.pipeline = config, mesh, pipeline
        self.host = (jax.process_index(), jax.process_count())
        self.held_out = list(pipeline.held_out(config.evaluation.rows, self.host))
        whole = self.held_out if self.host[1] == 1 else pipeline.held_out(config.evaluation.rows)
        self.unigram_entropy = unigram_entropy(whole)
        began = time.perf_counter()
        self.train_step = EachShape(partial(compile_train_step, config, mesh), pipeline.batch_shapes)
        self.eval_step = EachShape(partial(compile_eval_step, config, mesh), pipeline.batch_shapes)
        report.launch_summary(config, mesh, pipeline, self.train_step.largest, time.perf_counter() - began)
        self.step, self.next_row, self.exit_code = 0, 0, run_directory.EXIT_CODES["failed"]

    def start(self, checkpoints: Checkpoints) -> tuple[TrainState, jax.Array]:
        """The state and random key to go on from: the newest checkpoint's, or new ones."""
        if checkpoints.newest is None:
            key, data_key = jax.random.split(jax.random.key(self.config.seed))
            state = new_state(self.config, self.mesh, key)
            places = state_shardings(self.config, self.mesh).params
            return state._replace(params=weights.initial(self.config, state.params, places)), data_key
        meta = checkpoints.meta(checkpoints.newest)
        abstract = jax.tree.map(
            lambda leaf, where: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where),
            abstract_state(self.config),
            state_shardings(self.config, self.mesh),
        )
        state = checkpoints.restore(checkpoints.newest, abstract)
        self.step, self.next_row = checkpoints.newest, meta["next_row"]
        say(f"Going on from the checkpoint of step {self.step}.")
        return state, jax.random.wrap_key_data(jnp.asarray(meta["random_key"], jnp.uint32))

    def evaluate(self, params: Any) -> dict[str, float]:
        placed = (sharding.place_batch(self.mesh, batch) for batch in self.held_out)
        return evaluate.held_out(self.eval_step, params, placed)


def _fit(run: Run, directory: Path, checkpoints: Checkpoints) -> None:
    config = run.config
    state, key = run.start(checkpoints)
    best, due = checkpoints.best_held_out(), False
    scores: dict[str, float] = {}
    watchdog = Watchdog(config.guard.hang_seconds, run_directory.EXIT_CODES["hung"], lambda: _hung(run, directory))
    batches = run.pipeline.train(run.next_row, run.host)
    with report.open_reporter(directory, config, run.mesh, run.pipeline, run.step) as reporter, _ctrl_c_is_sigterm():
        while run.step < config.steps:
            began = time.perf_counter()
            batch = sharding.place_batch(run.mesh, next(batches))
            data_wait = time.perf_counter() - began

            state, metrics = run.train_step(state, batch, key)
            run.step, run.next_row = run.step + 1, run.next_row + config.batch_size
            reporter.step(run.step, metrics, data_wait)

            checkpoints.check()
            watchdog.beat()
            preempted = checkpoints.reached_preemption(run.step)
            last = run.step == config.steps

            held_out_loss, improved = None, False
            if last or run.step % config.evaluation.every == 0:
                with reporter.pause():
                    scores = run.evaluate(state.params)
                    reporter.held_out(run.step, scores)
                    report.plot_loss(directory, run.unigram_entropy)
                if math.isfinite(scores["held_out_loss"]):
                    held_out_loss = scores["held_out_loss"]
                    improved = best is None or held_out_loss < best
                watchdog.beat()

            due |= run.step % config.checkpoint.every == 0
            if last or preempted or improved or due:
                with reporter.pause():
                    # Not amid updates that were skipped: what should be kept is what stood before them.
                    if last or preempted or not reporter.skipping:
                        checkpoints.save(run.step, state, _meta(run, key), held_out_loss)
                        best, due = held_out_loss if improved else best, False
                watchdog.beat()

            if preempted and not last:
                checkpoints.wait()
                raise Preempted
        checkpoints.wait()
    watchdog.stop()
    _conclude(run, directory, state.params, scores or run.evaluate(state.params))


def _conclude(run: Run, directory: Path, params: Any, scores: dict[str, float]) -> None:
    """What a person looks at after a run: scores beside what they must beat, passages filled in, the plot."""
    passages = []
    if isinstance(run.config.data, Denoising):
        first = next(run.pipeline.held_out(1))  # the same rows on every host, since decoding is one program over all
        shown = jax.tree.map(lambda rows: rows[: run.config.evaluation.samples], first)
        passages = evaluate.fill_in(run.config.model, params, shown, run.pipeline.tokenizer)
    report.conclusion(directory, run.step, scores["held_out_loss"], run.unigram_entropy, passages)
    run.exit_code = run_directory.write_result(
        directory, "done", run.step, f"reached step {run.step}", unigram_entropy=run.unigram_entropy, **scores
    )


def _meta(run: Run, key: jax.Array) -> dict[str, Any]:
    return {
        "config": run_directory.as_data(run.config),
        "data": run.pipeline.fingerprint,
        "next_row": run.next_row,
        "random_key": jax.random.key_data(key).tolist(),
    }


@contextlib.contextmanager
def _ending(run: Run, directory: Path, checkpoints: Checkpoints) -> Iterator[None]:
    """Says how the run ended, to the person and in RESULT.json, and sets the exit code."""

    def end(status: str, reason: str) -> None:
        run.exit_code = run_directory.write_result(directory, status, run.step, reason)
        say(reason)

    try:
        run_directory.write_result(directory, "running", run.step, f"process {os.getpid()}")
        yield
    except Preempted:
        end("preempted", f"Preempted at step {run.step}, which is saved: the same command goes on from it.")
    except NotFiniteError as error:
        with contextlib.suppress(CheckpointError):
            checkpoints.wait()
        whole = checkpoints.latest(before=error.first)
        back = "there is no checkpoint before it" if whole is None else f"go back to the checkpoint of step {whole}"
        again = "the same command would repeat it: give another --run_dir, with a lower learning rate or other data"
        end("not finite", f"{error}: {back}; {again}.")
    except (CheckpointError, OSError) as error:
        whole = checkpoints.latest(before=run.step + 1)
        kept = "there is no whole checkpoint" if whole is None else f"the checkpoint of step {whole} is whole"
        end("failed", f"{directory} stopped at step {run.step}: {error}; {kept}. Mend that, then repeat the command.")
    except ConfigError as error:
        run_directory.write_result(directory, "bad input", run.step, str(error))
        raise
    except BaseException as error:
        run_directory.write_result(directory, "failed", run.step, f"{type(error).__name__}: {error}")
        raise


def _hung(run: Run, directory: Path) -> None:
    seconds = run.config.guard.hang_seconds
    run_directory.write_result(directory, "hung", run.step, f"no step finished for {seconds} s after step {run.step}")


@contextlib.contextmanager
def _ctrl_c_is_sigterm() -> Iterator[None]:
    """The first Ctrl-C saves and stops as a scheduler's SIGTERM would; the second stops at once."""

    def stop(number: int, frame: Any) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        say("Saving, then stopping. Ctrl-C again to stop at once.")
        os.kill(os.getpid(), signal.SIGTERM)

    before = signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
