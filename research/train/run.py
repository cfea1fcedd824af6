"""The state of a run: what a launch builds, and the progress of the training loop."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from research.config import ConfigError, Experiment, Generation, Supervised, require
from research.data.pipeline import Pipeline, prepare, unigram_entropy
from research.decode import evaluate
from research.decode.evaluate import EvalTask
from research.model.attention_backends import recorded
from research.parallel.mesh import host_shard, place_batch
from research.pretrained.weights import Weights, read
from research.storage import run_directory
from research.storage.best import Best
from research.storage.bucket import AnyPath
from research.storage.checkpoint import Checkpoints, stored_shapes
from research.storage.console import say, table
from research.train import summary
from research.train.outcome import Outcome
from research.train.startup import Startup
from research.train.state import (
    TrainState,
    abstract_state,
    check_stored,
    new_state,
    saved,
    with_base,
    with_first_values,
)
from research.train.step import EachShape, compile_eval_step, compile_train_step
from research.train.summary import RunSample
from research.train.teacher import FoundTeacher, check_ids, read_teacher


def prepare_data(config: Experiment) -> Pipeline:
    """Prepare the data of an experiment."""
    return prepare(config.data, config.seed, config.batch_size, config.model.zero_token, config.model.prompt)


def check_rows(config: Experiment, size: int) -> None:
    """Raise ConfigError unless the embedding has a row for each of the tokenizer's `size` ids."""
    rows = config.model.vocab_size
    message = f"model.vocab_size is {rows}: it must be at least the tokenizer's size, which is {size}"
    if config.weights is not None:
        message += f"; {config.weights} may not have so many rows: name embedding and head in init_fresh, or take its"
        message += " tokenizer"
    require(size <= rows, f"{message}.")


class Run:
    """A run: its data, its compiled steps and its progress."""

    def __init__(
        self,
        config: Experiment,
        mesh: jax.sharding.Mesh,
        pipeline: Pipeline,
        startup: Startup,
        end: Outcome,
        best: Best | None = None,
        users_code: Mapping[str, str] = {},
        base: str | None = None,
        teacher: FoundTeacher | None = None,
    ) -> None:
        check_rows(config, pipeline.tokenizer.size)
        if config.distil is not None:
            check_ids(config.distil.teacher, pipeline.tokenizer)
        self.config, self.mesh, self.pipeline, self.startup = config, mesh, pipeline, startup
        self.users_code, self.base = dict(users_code), base
        self.found_teacher = teacher
        self.teacher: tuple[Any, ...] = ()  # further arguments of a step: the parameters of a teacher
        self.shard = host_shard(mesh)
        self.held_out = list(pipeline.held_out(config.evaluation.rows, self.shard))
        whole = self.held_out if jax.process_count() == 1 else pipeline.held_out(config.evaluation.rows)
        self.unigram_entropy = unigram_entropy(whole)
        evaluation, self.eval_tasks = config.evaluation, list[EvalTask]()
        if isinstance(config.data, Supervised):
            most = evaluation.samples if evaluation.generation is None else evaluation.examples
            self.eval_tasks = evaluate.load_eval_tasks(config.data, "held_out", most)
        self.best = Best(evaluation.best) if best is None else best
        self.predictions: list[evaluate.Written] = []  # for each of eval_tasks, at the last evaluation
        startup.done("data")
        with recorded() as attention:
            self.train_step = EachShape(partial(compile_train_step, config, mesh), pipeline.batch_shapes)
        self.eval_step = EachShape(partial(compile_eval_step, config, mesh), pipeline.batch_shapes)
        startup.done("tracing")
        compiled = startup.compiled()
        self.summary = summary.launch(config, mesh, pipeline, self.train_step.largest, compiled, attention)
        table("Launch", self.summary)
        self.end, self.next_row = end, 0
        self.evaluation_due = False  # of the state, in the order of the loop before any further step

    def start(self, checkpoints: Checkpoints, weights: Weights | None) -> tuple[TrainState, jax.Array]:
        """Return the state and random key to start from: those of the newest checkpoint, or new ones with `weights`.

        Read the teacher too, if there is one.
        """
        if self.found_teacher is not None and self.config.distil is not None:
            self.teacher = (read_teacher(self.found_teacher, self.config.distil.teacher, self.mesh),)
        if checkpoints.newest is None:
            require(
                (weights is None) == (self.config.weights is None),
                f"{checkpoints.directory} changed during the start: repeat the command.",
            )
            key, data_key = jax.random.split(jax.random.key(self.config.seed))
            given = None
            if weights is not None:
                given = read(weights, self.config.model, self.mesh, self.config.init_fresh)
                given = with_first_values(self.config, given, self.pipeline.tokenizer)
            return new_state(self.config, self.mesh, key, given), data_key
        meta = checkpoints.meta(checkpoints.newest)
        # Another mesh may have padded the vocabulary to another size; nothing else may differ.
        check_stored(self.config, stored_shapes(checkpoints.directory / str(checkpoints.newest)))
        whole = saved(self.config, abstract_state(self.config, self.mesh))
        state = checkpoints.restore(checkpoints.newest, whole, strict=False)
        if weights is not None:  # of which an adapter trains a part
            given = read(weights, self.config.model, self.mesh, self.config.init_fresh)
            state = with_base(self.config, self.mesh, state, given)
        self.step, self.next_row = checkpoints.newest, meta["next_row"]
        self.evaluation_due = meta.get("evaluation_due") is True
        checkpoints.protected = self.best.step
        say(f"Resuming from the checkpoint of step {self.step}.")
        return state, jax.random.wrap_key_data(jnp.asarray(meta["random_key"], jnp.uint32))

    def started(self, directory: Path, metrics: Any) -> bool:
        """Tell whether this is the first step; after it, report and record the startup time by part."""
        if self.startup.finished:
            return False
        jax.block_until_ready(metrics)
        run_directory.record_startup(directory, self.startup.finish())
        say(self.startup.describe())
        return True

    @property
    def step(self) -> int:
        """The steps that the state has made, which the end of the run reports."""
        return self.end.step

    @step.setter
    def step(self, step: int) -> None:
        self.end.step = step

    @property
    def stopped(self) -> bool:
        """True if the run stopped early, before its last step."""
        return self.step < self.config.steps and self.best.exhausts(self.config.evaluation.patience)

    def evaluate(self, params: Any, on_progress: Callable[[int, int], None]) -> dict[str, float]:
        """Compute the scores by name.

        `on_progress` gets the number of generated examples and their total. It is called after each batch, the
        batches of the held-out loss too, before there are any.
        """
        placed = (place_batch(self.mesh, batch) for batch in self.held_out)
        scores = evaluate.held_out(self.eval_step, params, placed, lambda: on_progress(0, 0))
        if self.config.generation is not None:
            self.predict(params, self.config.generation, on_progress)
            for task, (texts, unfinished) in zip(self.eval_tasks, self.predictions, strict=True):
                scores |= {name: score.value for name, score in evaluate.score_predictions(task, texts).items()}
                scores[f"{task.label}unfinished_outputs"] = float(unfinished)
        return scores

    def predict(self, params: Any, generation: Generation, on_progress: Callable[[int, int], None]) -> None:
        """Generate the predictions of all evaluation tasks. All hosts run one program, and all get its results."""
        done, total = 0, sum(len(task.examples) for task in self.eval_tasks)

        def advance(count: int) -> None:
            nonlocal done
            done += count
            on_progress(done, total)

        self.predictions = []
        for task in self.eval_tasks:
            settings = (generation, params, self.pipeline.tokenizer, self.mesh)
            generator = evaluate.generator_for(self.config, task.task, *settings)
            self.predictions.append(evaluate.write(generator, task.sources, advance))

    def examples(self, params: Any) -> list[RunSample]:
        """Make examples to show: held-out rows with gaps filled, or the first examples of each task with outputs."""
        count = self.config.evaluation.samples
        if isinstance(self.config.data, Supervised):
            shown = zip(self.eval_tasks, self.predictions, strict=False)  # there may be no predictions yet
            return [
                RunSample(task.label.rstrip("/"), sample._asdict())
                for task, written in shown
                for sample in evaluate.samples(task, written.texts, count)
            ]
        first = next(self.pipeline.held_out(1))  # equal rows on every host, since all hosts decode in one program
        rows = jax.tree.map(lambda rows: rows[:count], first)
        filled = evaluate.fill_in(self.config.model, params, rows, self.pipeline.tokenizer)
        return [RunSample("", {"input": it.input, "filled": it.filled, "original": it.original}) for it in filled]

    def meta(self, key: jax.Array) -> dict[str, Any]:
        """Collect what a checkpoint holds besides the state."""
        return {
            "config": run_directory.as_data(self.config),
            "data": self.pipeline.fingerprint,
            "code": self.users_code,
            "next_row": self.next_row,
            "random_key": jax.random.key_data(key).tolist(),
            "best": self.best._asdict(),
            "evaluation_due": self.evaluation_due,
            **({} if self.base is None else {"base": self.base}),
            **({} if self.found_teacher is None else {"teacher": self.found_teacher.digest}),
        }


def checked_meta(meta: Any, directory: AnyPath) -> dict[str, Any]:
    """Return what a checkpoint holds besides the state, after checking it.

    Raises:
        ConfigError: it does not have the structure of `Run.meta`.
    """
    match meta:
        case {"config": dict(), "data": dict(), "next_row": int(row), "random_key": [*words]} if 0 <= row < 2**63:
            best = meta.get("best", {})
            known = isinstance(best, dict) and (not best or best.keys() == set(Best._fields))
            if known and all(type(word) is int and 0 <= word < 2**32 for word in words):
                return meta
    raise ConfigError(
        f"The newest checkpoint of {directory} lacks what a run needs to resume: start a new run with --config.init."
    )


def best_of(meta: dict[str, Any] | None, config: Experiment) -> Best:
    """Return the best evaluation of a checkpoint, or a new count if the run now uses another score."""
    new = Best(config.evaluation.best)
    kept = new if meta is None else Best(**meta.get("best", new._asdict()))
    return kept if kept.name == new.name else new


def early_stop_reason(config: Experiment, step: int, best: Best) -> str:
    """Explain why a run stopped before its last step."""
    counted = f"no evaluation of the last {best.since} was better than {best.describe()}"
    return f"stopped at step {step} of {config.steps}, since {counted}"
