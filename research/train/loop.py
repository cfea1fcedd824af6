"""The training loop. Each step does, in this order: data, update, report, checks, evaluation, saving, stopping."""

import contextlib
import os
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax

from research.config import Experiment, Supervised, override
from research.config.load import ExperimentFile
from research.config.logger import Logger
from research.decode import evaluate
from research.parallel import hosts
from research.parallel.mesh import place_batch
from research.pretrained.weights import Weights
from research.report.plot import plot_loss
from research.report.trackers.tracker import Tracker
from research.storage import code, output, run_directory, stop
from research.storage.best import Best
from research.storage.bucket import AnyPath
from research.storage.checkpoint import CheckpointError, Checkpoints, check_same
from research.storage.console import one_line, say
from research.storage.files import write_json
from research.storage.run_directory import RunFiles
from research.storage.stop import Stopped
from research.train import log, summary
from research.train.compilation import enable_compilation_cache
from research.train.log import NotFiniteError
from research.train.loggers import Loggers, loggers
from research.train.outcome import Outcome, Preempted, outcome, record_hang
from research.train.preflight import preflight
from research.train.profile import Trace
from research.train.run import Run, best_of, checked_meta, early_stop_reason, prepare_data
from research.train.schedules import Decay
from research.train.startup import Startup
from research.train.state import TrainState, saved
from research.train.teacher import FoundTeacher
from research.train.watchdog import Watchdog


class _Launch(NamedTuple):
    """The arguments and checked parts of a launch, before it opens the run directory."""

    config: Experiment
    directory: AnyPath
    mesh: jax.sharding.Mesh
    weights: Weights | None
    startup: Startup
    users_code: dict[str, str]
    accept_changed_code: bool
    base: str | None
    teacher: FoundTeacher | None


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

    A dry run writes nothing to the directory. SIGTERM, SIGHUP and Ctrl-C save the run and stop it.

    Raises:
        ConfigError: before any training, for a mistake that the user can fix.
    """
    with stop.listening():
        try:
            return _train(config, directory, file, accept_changed_code, dry_run, cluster, startup)
        except Stopped:
            say(f"Stopped before {directory} was opened: repeat the command.")
            return run_directory.EXIT_CODES["preempted"]
        except Exception as error:
            if not hosts.is_exchange_failure(error):
                raise
            where = f"Host {jax.process_index()} lost another host in its start"
            print(f"{where}: repeat the command on all hosts ({one_line(error)}).")
            return run_directory.EXIT_CODES["host lost"]


def _train(
    config: Experiment,
    directory: AnyPath,
    file: ExperimentFile | None,
    accept_changed_code: bool,
    dry_run: bool,
    cluster: hosts.Cluster | None,
    startup: Startup | None,
) -> int:
    startup = Startup() if startup is None else startup
    startup.done("imports")
    hosts.initialize_hosts(cluster, heartbeat=config.guard.heartbeat_seconds)
    enable_compilation_cache(by_names=config.profile is not None)
    users_code = {} if file is None else code.fingerprint(config, code.SourceFiles.of(file.path))
    commit = run_directory.commit([] if file is None else code.paths(file.path))
    settings = {"the experiment": override.to_json(config), "the commit, or changes to its files": commit}
    hosts.check_agreement({**settings, "the code of the experiment's classes": str(sorted(users_code.items()))})
    stop.together(lambda: None)
    mesh, weights, base, teacher = preflight(config, directory)
    if weights is not None:
        say(f"Starting from {config.weights} ({weights.format} format).")
    startup.done("hosts")
    if dry_run:
        Run(config, mesh, prepare_data(config), startup, Outcome(Path(directory), directory / "checkpoints"))
        say("Dry run: nothing was trained.")
        return 0
    accepts = accept_changed_code or file is None
    launch = _Launch(config, directory, mesh, weights, startup, users_code, accepts, base, teacher)
    with (
        run_directory.claim(directory, config, file, accept_changed_code) as run_files,
        loggers(lambda: str(run_directory.read_result(run_files.local).get("status", "failed"))) as logs,
    ):
        with outcome(run_files, directory / "checkpoints") as end:
            checkpoints = Checkpoints(
                directory / "checkpoints", config.checkpoint, config.evaluation.best, run_files.before_commit
            )
            run = _start(launch, run_files.local, checkpoints, end)
            if run is not None:
                _fit(run, run_files, checkpoints, weights, logs)
            else:
                logs.open(run_files.local, config, end.step, partial(_lacks, run_files.local, config))
        _write_page(end, run_files)
    return end.exit_code


def _start(launch: _Launch, local: Path, checkpoints: Checkpoints, end: Outcome) -> Run | None:
    """Check the newest checkpoint, prepare the data, compile the steps; return None if the run is complete already.

    Raises:
        ConfigError: the run was begun with another experiment, other data or other code of users' classes.
    """
    config, directory, newest = launch.config, launch.directory, checkpoints.newest
    end.step = newest or 0
    meta = None if newest is None else checked_meta(checkpoints.meta(newest), directory)
    best = best_of(meta, config)
    if newest is not None and _is_complete(config, directory, local, newest, best):
        end.exit_code = run_directory.EXIT_CODES["done"]
        return None
    if meta is not None:
        run_directory.check_same_experiment(directory, meta["config"], config)
    launch.startup.done("checkpoints")
    if end.began:
        end.begin()
    pipeline = stop.together(partial(prepare_data, config))
    hosts.check_agreement({name: str(entry) for name, entry in pipeline.fingerprint.items()})
    if meta is not None:
        code.check_same(directory, meta.get("code", {}), launch.users_code, launch.accept_changed_code)
        check_same(meta["data"], pipeline.fingerprint, directory)
        if meta["config"]["steps"] != config.steps and isinstance(config.optimizer.schedule, Decay):
            say("steps has changed, so the learning rate changes from here on: its schedule ends at the last step.")
    end.begin()
    run = Run(config, launch.mesh, pipeline, launch.startup, end, best, launch.users_code, launch.base, launch.teacher)
    if jax.process_index() == 0:
        pipeline.tokenizer.save(local / "tokenizer.model")
        write_json(local / "launch.json", run.summary)
    return run


def _is_complete(config: Experiment, directory: AnyPath, local: Path, newest: int, best: Best) -> bool:
    """Tell whether nothing is left to train, and say how to continue."""
    if not run_directory.is_done(local, config.steps):
        return False
    if newest >= config.steps:
        more = "To continue, repeat the command with --config.steps=MORE."
        say(f"{directory} is complete at step {newest}. {more}")
        return True
    if best.exhausts(config.evaluation.patience):
        more = "To continue, repeat the command with --config.evaluation.patience=MORE, or None."
        say(f"{directory} is complete: {early_stop_reason(config, newest, best)}. {more}")
        return True
    return False


def _lacks(local: Path, config: Experiment, logger: Logger) -> bool:
    """Tell whether a logger is a tracker that lacks records of the complete run."""
    return isinstance(logger, Tracker) and logger.lacks(local, config)


def _write_page(end: Outcome, run_files: RunFiles) -> None:
    """Write report.html for a finished or diverged run. RESULT.json is already saved, so failures are only printed."""
    ended = [run_directory.EXIT_CODES[status] for status in ("done", "not finite")]
    if not end.began or end.exit_code not in ended or jax.process_index() != 0:
        return
    from research.report import (
        record,
        run_page,  # importing the plots takes a second, which would delay a start
    )

    try:
        written = run_page.write(record.read(run_files.local))
        say(f"  report           {run_files.address / written.name}")
    except (OSError, ValueError) as error:
        say(f"The report could not be written: {error}")


def _fit(run: Run, run_files: RunFiles, checkpoints: Checkpoints, weights: Weights | None, logs: Loggers) -> None:
    config, directory = run.config, run_files.local
    state, key = run.start(checkpoints, weights)
    run.startup.done("state")
    run_directory.record_event(directory, run.step, "resumed from its checkpoint" if run.step else "started")
    on_hang = partial(record_hang, run.end, config.guard.hang_seconds, run_files)
    hung = run_directory.EXIT_CODES["hung"]
    with (
        Watchdog(config.guard.hang_seconds, hung, on_hang, checkpoints.unfinished) as watchdog,
        log.open_reporter(directory, config, run.mesh, run.pipeline, run.step, run.evaluation_due, logs) as reporter,
        Trace(config.profile, directory / "profile", run.step, run_files.address / "profile") as trace,
        _finished_saves(checkpoints),
    ):
        loop = _Loop(run, run_files, checkpoints, reporter, watchdog, state, key)
        while not loop.finished:
            if not run.evaluation_due:
                loop.update(trace)
            loop.evaluate()
            loop.save()
            if loop.stopping and not loop.finished:
                checkpoints.wait()
                raise Preempted
        checkpoints.wait()
        loop.predict()
    _conclude(run, run_files, loop.state.evaluated, loop.scores, reporter)


@contextlib.contextmanager
def _finished_saves(checkpoints: Checkpoints) -> Iterator[None]:
    """Wait for the last save before a message names the checkpoint to continue from, and a stray one is deleted."""
    try:
        yield
    except (NotFiniteError, OSError):
        with contextlib.suppress(CheckpointError):
            checkpoints.wait()
        raise


class _Loop:
    """One pass of the loop in parts, and what lasts from one pass to the next."""

    def __init__(
        self,
        run: Run,
        run_files: RunFiles,
        checkpoints: Checkpoints,
        reporter: log.Reporter,
        watchdog: Watchdog,
        state: TrainState,
        key: jax.Array,
    ) -> None:
        self.run, self.run_files, self.directory, self.checkpoints = run, run_files, run_files.local, checkpoints
        self.reporter, self.watchdog = reporter, watchdog
        self.state, self.key = state, key
        self.batches = run.pipeline.train(run.next_row, run.shard)
        self.scores: dict[str, float] = {}
        self.evaluated = self.save_due = self.stopping = False

    @property
    def finished(self) -> bool:
        """True if the run has made its last step, or stopped early, and has evaluated it."""
        return (self.run.step >= self.run.config.steps or self.run.stopped) and not self.run.evaluation_due

    def update(self, trace: Trace) -> None:
        """Make a step and report it."""
        run = self.run
        trace.begin(run.step, self.state)
        began = time.perf_counter()
        batch = place_batch(run.mesh, next(self.batches))
        data_wait = time.perf_counter() - began

        self.state, metrics = run.train_step(self.state, batch, self.key, *run.teacher)
        run.step, run.next_row = run.step + 1, run.next_row + run.config.batch_size
        self.reporter.step(run.step, metrics, data_wait)
        if run.started(self.directory, metrics):
            self.reporter.begin_timing()
        trace.end(run.step, metrics)

        self.checkpoints.check()
        run.evaluation_due = run.step == run.config.steps or run.step % run.config.evaluation.every == 0
        self.save_due |= run.step % run.config.checkpoint.every == 0
        if reason := output.failure():
            run_directory.record_event(self.directory, run.step, reason)
        self.stopping |= stop.reached()
        self.watchdog.beat()

    def evaluate(self) -> None:
        """Evaluate if it is due. A request to stop ends it; then it is still due when the run resumes."""
        run, self.evaluated = self.run, False
        if not run.evaluation_due or self.stopping:
            return
        with self.reporter.pause():
            try:
                self.scores = run.evaluate(self.state.evaluated, self.on_progress)
                examples = run.examples(self.state.evaluated)
            except Stopped:
                self.stopping = True
                return
            self.reporter.held_out(run.step, self.scores)
            self.reporter.samples(run.step, summary.keep_examples(self.directory, run.step, examples))
            plot_loss(self.directory, run.unigram_entropy, run.config)
        # While updates are being skipped nothing is saved, so such an evaluation cannot be the best.
        run.best = run.best.after(run.step, self.scores, valid=not self.reporter.skipping)
        self.checkpoints.protected = run.best.step
        run.evaluation_due, self.evaluated = False, True
        self.watchdog.beat()

    def on_progress(self, done: int, total: int) -> None:
        """Look, between the batches of an evaluation, for a request to stop; show how many examples are generated.

        Raises:
            Stopped: all hosts have agreed to stop here.
        """
        self.watchdog.beat()
        if total:
            self.reporter.show_evaluation(done, total)
        if not self.stopping and stop.reached():
            raise Stopped

    def save(self) -> None:
        """Save if it is due, the evaluation is the best, or the run ends."""
        run, last = self.run, self.finished or self.stopping
        if not (last or self.save_due or (self.evaluated and run.best.step == run.step)):
            return
        self.run_files.check()  # Orbax would make a directory that was moved anew
        with self.reporter.pause():
            # Not while updates are being skipped: keep the checkpoint from before them.
            if last or not self.reporter.skipping:
                kept = saved(run.config, self.state)
                self.checkpoints.save(run.step, kept, run.meta(self.key), self.scores if self.evaluated else {})
                run_directory.record_event(self.directory, run.step, "checkpoint")
                run.end.write("running", f"process {os.getpid()}")
                self.save_due = False
        self.watchdog.beat()

    def predict(self) -> None:
        """Compute, after the last step, the scores and outputs that the conclusion shows and that are not known yet."""
        run = self.run
        try:
            self.scores = self.scores or run.evaluate(self.state.evaluated, self.on_progress)
            if run.eval_tasks and not run.predictions:
                run.predict(self.state.evaluated, evaluate.greedy(run.config), self.on_progress)
        except Stopped:
            raise Preempted from None


def _conclude(run: Run, run_files: RunFiles, params: Any, scores: dict[str, float], reporter: log.Reporter) -> None:
    """Show and save the conclusion of a run: scores beside the baseline, examples of its output, and the plot."""
    directory = run_files.local
    examples = run.examples(params)
    reporter.samples(run.step, summary.keep_examples(directory, run.step, examples))
    summary.show_examples(examples, isinstance(run.config.data, Supervised))
    plot_loss(directory, run.unigram_entropy, run.config)
    summary.conclusion(run_files.address, run.step, scores, run.unigram_entropy, run.config, run.best)
    reason = early_stop_reason(run.config, run.step, run.best) if run.stopped else f"reached step {run.step}"
    best = {} if run.best.value is None else {"best": {run.best.name: run.best.value, "step": run.best.step}}
    facts = {"stopped_early": run.stopped, "unigram_entropy": run.unigram_entropy} | scores | best
    run.end.exit_code = run_directory.write_result(directory, "done", run.step, reason, **facts)
