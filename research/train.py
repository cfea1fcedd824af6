"""The training loop. What a step does, in this order: data, update, report, checks, evaluation, saving, stopping."""

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from research import evaluate, report, run_directory, sharding, weights
from research.best import Best
from research.checkpoint import CheckpointError, Checkpoints, check_same
from research.config import ConfigError, Decay, Experiment, Generation, Supervised, require
from research.data.pipeline import Pipeline, prepare, unigram_entropy
from research.evaluate import Asked, Passage, Sample
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
    evaluate.check_length(config.model, config.evaluation.generation)
    if config.init is not None and not any((directory / "checkpoints").glob("[0-9]*")):
        found = weights.find_initial(config, config.init)
        say(f"Starting from {config.init}, of the format {found.format}.")
    if dry_run:
        Run(config, mesh, prepared(config))
        say("Dry run: nothing was trained.")
        return 0
    with run_directory.claim(directory, config, file_config):
        checkpoints = Checkpoints(directory / "checkpoints", config.checkpoint, config.evaluation.best)
        newest = checkpoints.newest
        made_from = None if newest is None else checkpoints.meta(newest)
        best = _best_of(made_from, config)
        if newest is not None and run_directory.is_done(directory):
            if newest >= config.steps:
                say(f"{directory} is complete at step {newest}. To go on: the same command with --config.steps=MORE.")
                return 0
            if best.exhausts(config.evaluation.patience):
                to_go_on = "the same command with --config.evaluation.patience=MORE, or None"
                say(f"{directory} is complete: {_out_of_patience(config, newest, best)}. To go on: {to_go_on}.")
                return 0
        if made_from is not None:
            run_directory.check_same_experiment(directory, made_from["config"], config)
        pipeline = prepared(config)
        if made_from is not None:
            check_same(made_from["data"], pipeline.fingerprint, directory)
            if made_from["config"]["steps"] != config.steps and isinstance(config.optimizer.schedule, Decay):
                say(
                    "steps has changed, and with it the learning rate from here on: its schedule ends at the last step."
                )
        run = Run(config, mesh, pipeline, best)
        with _ending(run, directory, checkpoints):
            if jax.process_index() == 0:
                pipeline.tokenizer.save(directory / "tokenizer.model")
            _fit(run, directory, checkpoints)
    return run.exit_code


def prepared(config: Experiment) -> Pipeline:
    return prepare(config.data, config.seed, config.batch_size, config.model.zero_token)


class Run:
    """What a launch builds and the loop uses: data, compiled steps, and where the run stands."""

    def __init__(
        self, config: Experiment, mesh: jax.sharding.Mesh, pipeline: Pipeline, best: Best | None = None
    ) -> None:
        size, rows = pipeline.tokenizer.size, config.model.vocab_size
        require(size <= rows, f"model.vocab_size is {rows}: it must be at least the tokenizer's size, which is {size}.")
        self.config, self.mesh, self.pipeline = config, mesh, pipeline
        self.host = (jax.process_index(), jax.process_count())
        self.held_out = list(pipeline.held_out(config.evaluation.rows, self.host))
        whole = self.held_out if self.host[1] == 1 else pipeline.held_out(config.evaluation.rows)
        self.unigram_entropy = unigram_entropy(whole)
        evaluation, self.asked = config.evaluation, list[Asked]()
        if isinstance(config.data, Supervised):
            most = evaluation.samples if evaluation.generation is None else evaluation.examples
            self.asked = evaluate.ask(config.data, "held_out", most)
        self.best = Best(evaluation.best) if best is None else best
        self.written: list[list[str]] = []  # for what is asked, at the last evaluation
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
            params = weights.initial(self.config, state.params, places)
            average = None if state.average is None else jax.tree.map(jnp.copy, params)
            return state._replace(params=params, average=average), data_key
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

    @property
    def stopped(self) -> bool:
        """Whether it is over before its last step."""
        return self.step < self.config.steps and self.best.exhausts(self.config.evaluation.patience)

    def evaluate(self, params: Any, on_progress: Callable[[int, int], None]) -> dict[str, float]:
        """The numbers by name; `on_progress` is told how many examples of how many have been written."""
        placed = (sharding.place_batch(self.mesh, batch) for batch in self.held_out)
        scores = evaluate.held_out(self.eval_step, params, placed)
        if self.config.evaluation.generation is not None:
            self.write(params, self.config.evaluation.generation, on_progress)
            for asked, written in zip(self.asked, self.written, strict=True):
                scores |= {name: score.value for name, score in evaluate.score_written(asked, written).items()}
        return scores

    def write(self, params: Any, generation: Generation, on_progress: Callable[[int, int], None]) -> None:
        """Writes what is asked. All hosts decode one program, and all of them score what it gives."""
        done, total = 0, sum(len(asked.examples) for asked in self.asked)

        def advance(count: int) -> None:
            nonlocal done
            done += count
            on_progress(done, total)

        self.written = []
        for asked in self.asked:
            settings = (generation, params, self.pipeline.tokenizer, self.mesh)
            generator = evaluate.generator_for(self.config, asked.task, *settings)
            self.written.append(evaluate.write(generator, asked.sources, advance))


def _fit(run: Run, directory: Path, checkpoints: Checkpoints) -> None:
    config = run.config
    state, key = run.start(checkpoints)
    due = False
    scores: dict[str, float] = {}
    watchdog = Watchdog(config.guard.hang_seconds, run_directory.EXIT_CODES["hung"], lambda: _hung(run, directory))
    batches = run.pipeline.train(run.next_row, run.host)
    with report.open_reporter(directory, config, run.mesh, run.pipeline, run.step) as reporter, _ctrl_c_is_sigterm():

        def on_progress(done: int, total: int) -> None:
            watchdog.beat()
            reporter.writing(done, total)

        while run.step < config.steps and not run.stopped:
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

            evaluated = last or run.step % config.evaluation.every == 0
            if evaluated:
                with reporter.pause():
                    scores = run.evaluate(state.evaluated, on_progress)
                    reporter.held_out(run.step, scores)
                    report.plot_loss(directory, run.unigram_entropy, config)
                # What comes amid updates that were skipped is not kept, so it is not the best either.
                run.best = run.best.after(run.step, scores, valid=not reporter.skipping)
                last |= run.stopped
                watchdog.beat()

            due |= run.step % config.checkpoint.every == 0
            if last or preempted or due or (evaluated and run.best.step == run.step):
                with reporter.pause():
                    # Not amid updates that were skipped: what should be kept is what stood before them.
                    if last or preempted or not reporter.skipping:
                        checkpoints.save(run.step, state, _meta(run, key), scores if evaluated else {})
                        due = False
                watchdog.beat()

            if preempted and not last:
                checkpoints.wait()
                raise Preempted
        checkpoints.wait()
        params = state.evaluated
        scores = scores or run.evaluate(params, on_progress)
        if run.asked and not run.written:
            run.write(params, evaluate.greedy(config), on_progress)
    watchdog.stop()
    _conclude(run, directory, params, scores)


def _conclude(run: Run, directory: Path, params: Any, scores: dict[str, float]) -> None:
    """What a person looks at after a run: scores beside what they must beat, examples of what it writes, the plot."""
    if isinstance(run.config.data, Supervised):
        report.samples(directory, run.step, _samples(run))
    else:
        report.passages(directory, run.step, _passages(run, params))
    report.conclusion(directory, run.step, scores, run.unigram_entropy, run.config, run.best)
    end = _out_of_patience(run.config, run.step, run.best) if run.stopped else f"reached step {run.step}"
    best = {} if run.best.value is None else {"best": {run.best.name: run.best.value, "step": run.best.step}}
    facts = {"unigram_entropy": run.unigram_entropy} | scores | best
    run.exit_code = run_directory.write_result(directory, "done", run.step, end, **facts)


def _samples(run: Run) -> dict[str, list[Sample]]:
    """The first of each task, by what its examples are."""
    shown = zip(run.asked, run.written, strict=True)
    count = run.config.evaluation.samples
    return {asked.label.rstrip("/"): evaluate.samples(asked, written, count) for asked, written in shown}


def _passages(run: Run, params: Any) -> list[Passage]:
    first = next(run.pipeline.held_out(1))  # the same rows on every host, since decoding is one program over all
    shown = jax.tree.map(lambda rows: rows[: run.config.evaluation.samples], first)
    return evaluate.fill_in(run.config.model, params, shown, run.pipeline.tokenizer)


def _out_of_patience(config: Experiment, step: int, best: Best) -> str:
    counted = f"no evaluation of the last {best.since} was better than {best.said()}"
    return f"stopped at step {step} of {config.steps}, since {counted}"


def _best_of(meta: dict[str, Any] | None, config: Experiment) -> Best:
    """As the checkpoint has it; counted anew where another number is asked for."""
    new = Best(config.evaluation.best)
    kept = new if meta is None else Best(**meta.get("best", new._asdict()))
    return kept if kept.name == new.name else new


def _meta(run: Run, key: jax.Array) -> dict[str, Any]:
    return {
        "config": run_directory.as_data(run.config),
        "data": run.pipeline.fingerprint,
        "next_row": run.next_row,
        "random_key": jax.random.key_data(key).tolist(),
        "best": run.best._asdict(),
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
