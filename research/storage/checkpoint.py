"""Checkpoints: the complete state of a run, written atomically and verified before use.

Orbax writes asynchronously and commits by a rename. This module adds a manifest of hashes inside every checkpoint, a
fallback to the newest checkpoint that verifies, and a comparison of config and data before any array is read. The
directory of a step holds

    state/          step, parameters (with an adapter, those that it trains), optimizer state
    meta/           config, data fingerprint, next global row, random key, the best evaluation so far, and with an
                    adapter the hash of the weights that it is trained on
    MANIFEST.json   see manifest.py

Buckets have no renaming: there Orbax commits by writing commit_success.txt last.
"""

import contextlib
import logging
import math
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, cast

import jax
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils
from orbax.checkpoint import checkpoint_managers

from research.config import Checkpoint, ConfigError, parse_json, require
from research.storage import bucket, manifest, stop
from research.storage.best import merit
from research.storage.bucket import AnyPath, is_remote
from research.storage.console import one_line
from research.storage.files import sync_tree, write_json
from research.storage.manifest import steps_on_disk, verify, whole_steps

OF_PARAMETERS = {"config", "data", "base"}  # all that the `meta/` of a checkpoint of parameters holds
METRICS = "metrics"  # directory in a checkpoint with the scores of its evaluation, if there was one


class CheckpointError(RuntimeError):
    """A failed write of a checkpoint. Earlier checkpoints are complete."""


class _Manager(ocp.CheckpointManager):
    """Orbax's manager without its check for preemption.

    Orbax also checks from the thread that finishes a save, for the saved step. JAX would take that for the current step
    of the loop. The hosts would then agree to stop at a step that is already past, and a SIGTERM would be lost.
    """

    def reached_preemption(self, step: int) -> bool:
        return False


class _Protected(NamedTuple):
    """Orbax's policy that keeps the protected step: a save that a request to stop has hurried has no scores yet."""

    checkpoints: "Checkpoints"

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        return [checkpoint.step == self.checkpoints.protected for checkpoint in checkpoints]


class Checkpoints:
    """The checkpoints of one run, with the best chosen by the score named `best`.

    `check` is called every step and raises errors of the background write. That write calls `before_commit` on the
    first process before a checkpoint is committed.
    """

    def __init__(
        self,
        directory: AnyPath,
        config: Checkpoint,
        best: str = "held_out_loss",
        before_commit: Callable[[], None] = lambda: None,
    ) -> None:
        self.directory = directory = absolute(directory)  # as Orbax requires
        self._before_commit = before_commit
        directory.mkdir(exist_ok=True)
        self._set_aside: list[AnyPath] = []
        self._unsealed: int | None = None
        self._waiting = False
        self.newest = _agree(self._newest_that_verifies)
        rank = partial(_rank, best)
        self.protected = 0  # step of the best evaluation so far, kept also if it was made after the save
        policies: list[Any] = [checkpoint_managers.LatestN(config.keep)]
        if config.keep_best:
            policies.append(_Protected(self))
            policies.append(
                checkpoint_managers.BestN(
                    get_metric_fn=rank, n=config.keep_best, keep_checkpoints_without_metrics=False
                )
            )
        logging.getLogger("absl").addFilter(_keep_log_record)
        self._manager = _Manager(
            directory,
            item_names=("state", "meta"),
            options=ocp.CheckpointManagerOptions(
                preservation_policy=checkpoint_managers.AnyPreservationPolicy(policies),
                best_fn=rank,  # makes Orbax write the metrics
                async_options=ocp.AsyncOptions(post_finalization_callback=self._write_manifest),
            ),
        )

    @property
    def set_aside(self) -> list[AnyPath]:
        """Paths to which checkpoints that did not verify were moved, newest first."""
        return self._set_aside

    def latest(self, before: int) -> int | None:
        """Find the newest step below `before` with a checkpoint that verifies."""
        return next((step for step in whole_steps(self.directory) if step < before), None)

    @property
    def best(self) -> int | None:
        """The step of the best checkpoint that is kept, or None if none was evaluated."""
        evaluated = [step for step in self._manager.all_steps() if self._manager.metrics(step)]
        return self._manager.best_step() if evaluated else None

    def save(self, step: int, state: Any, meta: Mapping[str, Any], scores: Mapping[str, float]) -> None:
        """Start writing a checkpoint. Arrays are copied off the device before this returns: the state may be donated.

        `scores` are those of the step's evaluation, or empty. Scores that are not finite are left out.
        """
        self.wait()
        if step in self._manager.all_steps():
            return
        self._unsealed = step
        items = ocp.args.Composite(state=ocp.args.StandardSave(state), meta=ocp.args.JsonSave(dict(meta)))
        finite = {name: value for name, value in scores.items() if math.isfinite(value)}
        metrics = finite | {"step": step} if finite else None
        with self._wrap_errors():
            self._manager.save(step, args=items, metrics=metrics, force=True)

    def unfinished(self) -> str:
        """Name the save that the only host waits for; "" if it waits for none. Several may wait for one another."""
        if not self._waiting or jax.process_count() > 1:
            return ""
        return f"The save of step {self._unsealed} to {self.directory}"

    def check(self) -> None:
        """Complete the manifest of a background write that has finished.

        Raises:
            CheckpointError: the write failed.
        """
        if self._unsealed is None or self._manager.is_saving_in_progress():
            return
        with self._wrap_errors():
            # Never call the manager's check_for_errors: it clears the error, so the thread that finishes a save would
            # take the save as good and delete the checkpoints that it replaces.
            self._manager.wait_until_finished()
            if jax.process_index() == 0:
                manifest.seal(self.directory / str(self._unsealed))
        self._unsealed = None

    def wait(self) -> None:
        """Wait until the last save is complete on disk.

        Raises:
            CheckpointError: the write failed.
        """
        with self._wrap_errors():
            self._manager.wait_until_finished()
        self.check()

    def meta(self, step: int) -> dict[str, Any]:
        """Read the `meta/` of a step.

        Raises:
            ConfigError: it has no state of a run, since the checkpoint holds parameters only, or it is not JSON.
        """
        path, meta = self.directory / str(step) / "meta", cast("dict[str, Any]", {})
        try:
            if path.exists():
                meta = self._manager.restore(step, args=ocp.args.Composite(meta=ocp.args.JsonRestore())).meta
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"{path} is not JSON: {one_line(error)}.") from error
        require(
            not isinstance(meta, dict) or not meta.keys() <= OF_PARAMETERS,
            f"{self.directory.parent} holds parameters only, so no run can resume from it: start one from them with"
            f" --config.init={self.directory.parent}.",
        )
        return meta

    def restore(self, step: int, abstract_state: Any, strict: bool = True) -> Any:
        """Restore the state. Each array gets the sharding of its ShapeDtypeStruct.

        An array of another shape is refused; if not `strict`, it is cut off or filled up with zeros.
        """
        items = ocp.args.Composite(state=ocp.args.StandardRestore(abstract_state, strict=strict))
        return self._manager.restore(step, args=items).state

    def close(self) -> None:
        self._manager.close()

    @contextlib.contextmanager
    def _wrap_errors(self) -> Iterator[None]:
        """Turn errors of Orbax and the file system into a CheckpointError; note that the caller waits."""
        self._waiting = True
        try:
            yield
        except Exception as error:
            message = f"The checkpoint of step {self._unsealed} could not be written: {one_line(error)}"
            raise CheckpointError(message) from error
        finally:
            self._waiting = False

    def _write_manifest(self) -> None:
        """Write the manifest. Runs in the background, after the last byte of a checkpoint and before its commit."""
        if jax.process_index() == 0:
            self._before_commit()
            name = str(self._unsealed)
            unfinished = self.directory / name  # in a bucket it has its final name from the start
            if not is_remote(self.directory):
                (unfinished,) = self.directory.glob(f"{name}.orbax-checkpoint-tmp*")
            manifest.write(unfinished, sealed=False)
            if not is_remote(unfinished):
                sync_tree(unfinished)  # Orbax renames it next, without waiting for the disk

    def _newest_that_verifies(self) -> int | None:
        for unfinished in _unfinished(self.directory):
            remove(unfinished)  # left by a kill; Orbax would remove it on a thread that can outlive the process
        newest, steps = None, steps_on_disk(self.directory)
        for step in steps:
            # For steps before the newest that verifies, verify only the metrics: Orbax reads them as soon as it starts.
            problem = verify(self.directory / str(step), within="" if newest is None else METRICS)
            if not problem:
                newest = step if newest is None else newest
                continue
            aside = _free_name(self.directory.parent / "set_aside", str(step))
            move(self.directory / str(step), aside)
            self._set_aside.append(aside)
            fallback = "; the one before it is used" if newest is None else ""
            print(f"Checkpoint {step} does not verify: {problem}. It was moved to {aside}{fallback}.")
        require(
            newest is not None or not steps,
            f"No checkpoint of {self.directory} verifies; they were moved to {self.directory.parent / 'set_aside'}: "
            "give another --run_dir to start again.",
        )
        return newest


def _unfinished(directory: AnyPath) -> list[AnyPath]:
    if not is_remote(directory):
        return list(directory.glob("*.orbax-checkpoint-tmp*"))
    committed = steps_on_disk(directory)
    paths = list(directory.iterdir()) if directory.is_dir() else []
    return [path for path in paths if path.name.isdigit() and int(path.name) not in committed]


def best_step(checkpoint: AnyPath) -> int | None:
    """Read from a checkpoint the step of the best evaluation so far; None before the first evaluation."""
    meta = checkpoint / "meta" / "metadata"
    match parse_json(meta.read_bytes(), str(meta)) if meta.is_file() else None:
        case {"best": {"step": int(step), "value": int() | float()}}:
            return step
    return None


def write_parameters(directory: AnyPath, step: int, kind: str, params: Any, record: Mapping[str, Any]) -> None:
    """Write a checkpoint of parameters, as the field `kind` of a state, and a record. A run cannot resume from it."""
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
        checkpointer.save(absolute(directory) / str(step) / "state", args=ocp.args.PyTreeSave({kind: params}))
    (directory / str(step) / "meta").mkdir()
    write_json(directory / str(step) / "meta" / "metadata", dict(record))
    manifest.write(directory / str(step), sealed=True)


def stored_shapes(checkpoint: AnyPath) -> dict[str, tuple[int, ...]]:
    """Read the shapes of the arrays of a checkpoint's state, by path, without the arrays."""
    tree = ocp.PyTreeCheckpointHandler().metadata(absolute(checkpoint) / "state").tree
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): tuple(leaf.shape) for path, leaf in leaves}


def check_same(before: Mapping[str, Any], after: Mapping[str, Any], where: AnyPath) -> None:
    """Check that a run resumes with the data it was trained on.

    Raises:
        ConfigError: the data fingerprints differ; the message names every entry that does.
    """
    changed = [name for name in sorted(before.keys() | after.keys()) if before.get(name) != after.get(name)]
    changes = "; ".join(f"{name} was {before.get(name)!r} and is now {after.get(name)!r}" for name in changed)
    require(not changed, f"{where} was trained on other data: {changes}. Restore that data, or give another --run_dir.")


def absolute(path: AnyPath) -> AnyPath:
    """Make a local path absolute."""
    return path if is_remote(path) else path.absolute()


def remove(directory: AnyPath) -> None:
    """Delete a directory, local or in a bucket."""
    shutil.rmtree(directory) if isinstance(directory, Path) else directory.rmtree()


def move(directory: AnyPath, target: AnyPath) -> None:
    """Move a directory, local or in a bucket."""
    if is_remote(directory):
        bucket.move(directory, target)
    else:
        target.parent.mkdir(exist_ok=True)
        os.rename(directory, target)


def _free_name(directory: AnyPath, name: str) -> AnyPath:
    names = (name, *(f"{name}.{count}" for count in range(1, 1000)))
    return next(directory / free for free in names if not (directory / free).exists())


def _keep_log_record(record: logging.LogRecord) -> bool:
    """Drop the warning that Orbax logs at every save without an evaluation, and tracebacks of errors that it raises."""
    ours = record.exc_info is not None and "orbax" in record.pathname  # `check` raises it as one sentence
    return not ours and not record.getMessage().startswith("Requested `tracked_metric`")


def _rank(best: str, metrics: Mapping[str, float]) -> tuple[float, int]:
    """Compute the rank of a checkpoint, highest for the best. The first of equals wins; without a score it is last."""
    return (merit(best, metrics[best]) if best in metrics else -math.inf), -int(metrics.get("step", 0))


def _agree(choose: Any) -> int | None:
    """Let process 0 choose a step and broadcast it to all processes."""
    chosen = stop.together(lambda: choose() if jax.process_index() == 0 else None)
    if jax.process_count() == 1:
        return chosen
    step = int(multihost_utils.broadcast_one_to_all(-1 if chosen is None else chosen))
    return None if step < 0 else step
