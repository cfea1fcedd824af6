"""The training loop. Each step does, in this order: data, update, report, checks, evaluation, saving, stopping."""

import time
from functools import partial
from pathlib import Path
from typing import Any

import jax

from research.config import Experiment, Supervised, override
from research.config.load import ExperimentFile
from research.decode import evaluate
from research.parallel import hosts
from research.parallel.mesh import place_batch
from research.pretrained.find import Weights
from research.report.plot import plot_loss
from research.storage import code, run_directory
from research.storage.bucket import AnyPath
from research.storage.checkpoint import Checkpoints, check_same
from research.storage.console import say
from research.storage.files import write_json
from research.storage.run_directory import RunFiles
from research.train import log, summary
from research.train.compilation import enable_compilation_cache
from research.train.outcome import Preempted, ctrl_c_is_sigterm, outcome, record_hang
from research.train.preflight import preflight
from research.train.profile import Trace
from research.train.run import Run, best_of, checked_meta, early_stop_reason, prepare_data
from research.train.schedules import Decay
from research.train.startup import Startup
from research.train.watchdog import Watchdog


def train(
    config: Experiment,
    directory: AnyPath,
    *,
    file: ExperimentFile | None = None,
    accept_changed_code: bool = False,
    dry_run: bool = False,
    cluster: hosts.Cluster | None = None,
    startup: Startup | None = None,
) -> int:
    """Train up to `config.steps`, from the newest checkpoint of the directory if there is one; return the exit code.

    A dry run writes nothing to the directory.

    Raises:
        ConfigError: before any training, for a mistake that the user can fix.
    """
    startup = Startup() if startup is None else startup
    startup.done("imports")
    hosts.initialize_hosts(cluster, heartbeat=config.guard.heartbeat_seconds)
    enable_compilation_cache(by_names=config.profile is not None)
    users_code = {} if file is None else code.fingerprint(config, code.SourceFiles.of(file.path))
    settings = {"the experiment": override.to_json(config), "the commit": run_directory.commit()}
    hosts.check_agreement({**settings, "the code of the experiment's classes": str(sorted(users_code.items()))})
    mesh, weights = preflight(config, directory)
    if weights is not None:
        say(f"Starting from {config.init} ({weights.format} format).")
    startup.done("hosts")
    if dry_run:
        Run(config, mesh, prepare_data(config), startup)
        say("Dry run: nothing was trained.")
        return 0
    with run_directory.claim(directory, config, file, accept_changed_code) as run_files:
        best_by = config.evaluation.best
        checkpoints = Checkpoints(directory / "checkpoints", config.checkpoint, best_by, run_files.publish)
        newest = checkpoints.newest
        meta = None if newest is None else checked_meta(checkpoints.meta(newest), directory)
        best = best_of(meta, config)
        if newest is not None and run_directory.is_done(run_files.local, config.steps):
            if newest >= config.steps:
                more = "To continue, repeat the command with --config.steps=MORE."
                say(f"{directory} is complete at step {newest}. {more}")
                return 0
            if best.exhausts(config.evaluation.patience):
                reason = early_stop_reason(config, newest, best)
                more = "To continue, repeat the command with --config.evaluation.patience=MORE, or None."
                say(f"{directory} is complete: {reason}. {more}")
                return 0
        if meta is not None:
            run_directory.check_same_experiment(directory, meta["config"], config)
        startup.done("checkpoints")
        pipeline = prepare_data(config)
        hosts.check_agreement({name: str(entry) for name, entry in pipeline.fingerprint.items()})
        if meta is not None:
            code.check_same(directory, meta.get("code", {}), users_code, accept_changed_code or file is None)
            check_same(meta["data"], pipeline.fingerprint, directory)
            if meta["config"]["steps"] != config.steps and isinstance(config.optimizer.schedule, Decay):
                say("steps has changed, so the learning rate changes from here on: its schedule ends at the last step.")
        run = Run(config, mesh, pipeline, startup, best, users_code)
        with outcome(run, run_files.local, checkpoints):
            if jax.process_index() == 0:
                pipeline.tokenizer.save(run_files.local / "tokenizer.model")
                write_json(run_files.local / "launch.json", run.summary)
            _fit(run, run_files, checkpoints, weights)
        _write_page(run, run_files.local)
    return run.exit_code


def _write_page(run: Run, directory: Path) -> None:
    """Write report.html for a finished or diverged run. RESULT.json is already saved, so failures are only printed."""
    ended = [run_directory.EXIT_CODES[status] for status in ("done", "not finite")]
    if run.exit_code not in ended or jax.process_index() != 0:
        return
    from research.report import (
        record,
        run_page,  # importing the plots takes a second, which would delay a start
    )

    try:
        say(f"  report           {run_page.write(record.read(directory))}")
    except (OSError, ValueError) as error:
        say(f"The report could not be written: {error}")


def _fit(run: Run, run_files: RunFiles, checkpoints: Checkpoints, weights: Weights | None) -> None:
    config, directory = run.config, run_files.local
    state, key = run.start(checkpoints, weights)
    run.startup.done("state")
    run_directory.record_event(directory, run.step, "resumed from its checkpoint" if run.step else "started")
    due = False
    scores: dict[str, float] = {}
    on_hang = partial(record_hang, run, run_files)
    watchdog = Watchdog(config.guard.hang_seconds, run_directory.EXIT_CODES["hung"], on_hang)
    batches = run.pipeline.train(run.next_row, run.shard)
    with (
        log.open_reporter(directory, config, run.mesh, run.pipeline, run.step) as reporter,
        Trace(config.profile, directory / "profile", run.step) as trace,
        ctrl_c_is_sigterm(),
    ):

        def on_progress(done: int, total: int) -> None:
            watchdog.beat()
            reporter.show_evaluation(done, total)

        while run.step < config.steps and not run.stopped:
            trace.begin(run.step, state)
            began = time.perf_counter()
            batch = place_batch(run.mesh, next(batches))
            data_wait = time.perf_counter() - began

            state, metrics = run.train_step(state, batch, key)
            run.step, run.next_row = run.step + 1, run.next_row + config.batch_size
            reporter.step(run.step, metrics, data_wait)
            run.started(directory, metrics)
            trace.end(run.step, metrics)

            checkpoints.check()
            watchdog.beat()
            preempted = checkpoints.reached_preemption(run.step)
            last = run.step == config.steps

            evaluated = last or run.step % config.evaluation.every == 0
            if evaluated:
                with reporter.pause():
                    scores = run.evaluate(state.evaluated, on_progress)
                    reporter.held_out(run.step, scores)
                    summary.keep_examples(directory, run.step, run.examples(state.evaluated))
                    plot_loss(directory, run.unigram_entropy, config)
                # While updates are being skipped nothing is saved, so such an evaluation cannot be the best.
                run.best = run.best.after(run.step, scores, valid=not reporter.skipping)
                last |= run.stopped
                watchdog.beat()

            due |= run.step % config.checkpoint.every == 0
            if last or preempted or due or (evaluated and run.best.step == run.step):
                with reporter.pause():
                    # Not while updates are being skipped: keep the checkpoint from before them.
                    if last or preempted or not reporter.skipping:
                        checkpoints.save(run.step, state, run.meta(key), scores if evaluated else {})
                        run_directory.record_event(directory, run.step, "checkpoint")
                        due = False
                watchdog.beat()

            if preempted and not last:
                checkpoints.wait()
                raise Preempted
        checkpoints.wait()
        params = state.evaluated
        scores = scores or run.evaluate(params, on_progress)
        if run.eval_tasks and not run.predictions:
            run.predict(params, evaluate.greedy(config), on_progress)
    watchdog.stop()
    _conclude(run, directory, params, scores)


def _conclude(run: Run, directory: Path, params: Any, scores: dict[str, float]) -> None:
    """Show and save the conclusion of a run: scores beside the baseline, examples of its output, and the plot."""
    examples = run.examples(params)
    summary.keep_examples(directory, run.step, examples)
    summary.show_examples(examples, isinstance(run.config.data, Supervised))
    summary.conclusion(directory, run.step, scores, run.unigram_entropy, run.config, run.best)
    reason = early_stop_reason(run.config, run.step, run.best) if run.stopped else f"reached step {run.step}"
    best = {} if run.best.value is None else {"best": {run.best.name: run.best.value, "step": run.best.step}}
    facts = {"stopped_early": run.stopped, "unigram_entropy": run.unigram_entropy} | scores | best
    run.exit_code = run_directory.write_result(directory, "done", run.step, reason, **facts)
