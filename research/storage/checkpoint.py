"""Checkpoints: all of a run's state or nothing, verified before it is believed.

Orbax writes asynchronously and commits by a rename. What it lacks is added here: a manifest of hashes inside every
checkpoint (Orbax restores a flipped bit without a word), falling back to the newest checkpoint that verifies, and a
comparison of what the checkpoint was made from before any array is read. A step's directory holds

    state/          step, parameters, optimizer state
    meta/           config, data fingerprint, next global row, random key, the best evaluation so far
    MANIFEST.json   blake2b of every file; in a bucket, MD5 as that keeps it of every object

In a bucket there is no renaming: there Orbax commits by writing commit_success.txt last.
"""

import contextlib
import hashlib
import json
import logging
import math
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils
from orbax.checkpoint import checkpoint_managers

from research.config import Checkpoint, ConfigError, parse_json, require
from research.storage import bucket
from research.storage.bucket import AnyPath, is_remote
from research.storage.files import write_text

MANIFEST = "MANIFEST.json"
MD5 = "md5:"
METRICS = "metrics"  # the directory in a checkpoint that holds the numbers of its evaluation, if there was one
COMMITTED = "commit_success.txt"
WRITTEN_LAST = ("_CHECKPOINT_METADATA", COMMITTED)  # by Orbax, after a checkpoint's manifest


class CheckpointError(RuntimeError):
    """A checkpoint could not be written; those before it are whole."""


class _Manager(ocp.CheckpointManager):
    """Orbax's, that asks JAX about no preemption.

    It would from the thread that finishes a save too, about the saved step. JAX would take that for where the loop is,
    and a SIGTERM that came before the loop's next step would be agreed upon for a step that is past: it would be lost.
    """

    def reached_preemption(self, step: int) -> bool:
        return False


class Checkpoints:
    """The checkpoints of one run, the best of them by the number of that name.

    `check` is called every step: it surfaces what went wrong in the background. There the first process calls
    `before_commit`, before a checkpoint counts.
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
        self.newest = _agreed(self._newest_that_verifies)
        rank = partial(_rank, best)
        policies = [checkpoint_managers.LatestN(config.keep)]
        if config.keep_best:
            policies.append(
                checkpoint_managers.BestN(
                    get_metric_fn=rank, n=config.keep_best, keep_checkpoints_without_metrics=False
                )
            )
        logging.getLogger("absl").addFilter(_is_news)
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
        """Where checkpoints went that did not verify, newest first."""
        return self._set_aside

    def latest(self, before: int) -> int | None:
        """The newest step below `before` that verifies."""
        before_it = (step for step in steps_on_disk(self.directory) if step < before)
        return next((step for step in before_it if not verify(self.directory / str(step))), None)

    @property
    def best(self) -> int | None:
        """The step of the best that is kept, if any was evaluated."""
        evaluated = [step for step in self._manager.all_steps() if self._manager.metrics(step)]
        return self._manager.best_step() if evaluated else None

    def save(self, step: int, state: Any, meta: Mapping[str, Any], scores: Mapping[str, float]) -> None:
        """Starts writing; the arrays are copied off the device before this returns, so the state may be donated.

        `scores` are those of the step's evaluation, or empty. Those that are not finite are left out.
        """
        self.wait()
        if step in self._manager.all_steps():
            return
        self._unsealed = step
        items = ocp.args.Composite(state=ocp.args.StandardSave(state), meta=ocp.args.JsonSave(dict(meta)))
        finite = {name: value for name, value in scores.items() if math.isfinite(value)}
        metrics = finite | {"step": step} if finite else None
        with self._reported():
            self._manager.save(step, args=items, metrics=metrics, force=True)

    def check(self) -> None:
        """Raises CheckpointError for a background write that failed; completes the manifest of one that is done."""
        if self._unsealed is None or self._manager.is_saving_in_progress():
            return
        with self._reported():
            # Never the manager's check_for_errors: it takes the error away from the thread that finishes a save, which
            # would then believe it good and delete those that it replaces.
            self._manager.wait_until_finished()
            if jax.process_index() == 0:
                _seal(self.directory / str(self._unsealed))
        self._unsealed = None

    def wait(self) -> None:
        """Until the last save is whole on disk. Raises CheckpointError."""
        with self._reported():
            self._manager.wait_until_finished()
        self.check()

    def reached_preemption(self, step: int) -> bool:
        """Whether all hosts have agreed that this is the step to stop after."""
        return multihost_utils.reached_preemption_sync_point(step)

    def meta(self, step: int) -> dict[str, Any]:
        """Raises ConfigError where there is none: of parameters alone."""
        require(
            (self.directory / str(step) / "meta").exists(),
            f"{self.directory.parent} holds parameters alone, from which no run goes on: start one from them with"
            f" --config.init={self.directory.parent}.",
        )
        try:
            return self._manager.restore(step, args=ocp.args.Composite(meta=ocp.args.JsonRestore())).meta
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"{self.directory / str(step) / 'meta'} is not JSON: {_one_line(error)}.") from error

    def restore(self, step: int, abstract_state: Any) -> Any:
        """The state, each array placed as its ShapeDtypeStruct's sharding says."""
        items = ocp.args.Composite(state=ocp.args.StandardRestore(abstract_state))
        return self._manager.restore(step, args=items).state

    def close(self) -> None:
        self._manager.close()

    @contextlib.contextmanager
    def _reported(self) -> Iterator[None]:
        """Whatever Orbax and the file system raise, as one error that says what it means for the run."""
        try:
            yield
        except Exception as error:
            said = f"The checkpoint of step {self._unsealed} could not be written: {_one_line(error)}"
            raise CheckpointError(said) from error

    def _write_manifest(self) -> None:
        """Runs in the background between the last byte of a checkpoint and what commits it."""
        if jax.process_index() == 0:
            self._before_commit()
            name = str(self._unsealed)
            unfinished = self.directory / name  # in a bucket it has its name from the first
            if not is_remote(self.directory):
                (unfinished,) = self.directory.glob(f"{name}.orbax-checkpoint-tmp*")
            _write_manifest(unfinished, _digests(unfinished, but=WRITTEN_LAST), sealed=False)

    def _newest_that_verifies(self) -> int | None:
        for unfinished in _unfinished(self.directory):
            remove(unfinished)  # left by a kill; Orbax would do it too, on a thread that can outlive the process
        newest, steps = None, steps_on_disk(self.directory)
        for step in steps:
            # Of those before the newest that verifies only the metrics are read, by Orbax, as soon as it starts.
            wrong = verify(self.directory / str(step), within="" if newest is None else METRICS)
            if not wrong:
                newest = step if newest is None else newest
                continue
            aside = _free_name(self.directory.parent / "set_aside", str(step))
            move(self.directory / str(step), aside)
            self._set_aside.append(aside)
            taken = "; the one before is taken" if newest is None else ""
            print(f"Checkpoint {step} does not verify: {wrong}. It was moved to {aside}{taken}.")
        require(
            newest is not None or not steps,
            f"No checkpoint of {self.directory} verifies; they were moved to {self.directory.parent / 'set_aside'}: "
            "give another --run_dir to begin again.",
        )
        return newest


def steps_on_disk(directory: AnyPath) -> list[int]:
    """Those that have a checkpoint there, newest first."""
    if not directory.is_dir():
        return []
    named = [path for path in directory.iterdir() if re.fullmatch("[0-9]+", path.name)]
    steps = [int(path.name) for path in named if not is_remote(path) or (path / COMMITTED).exists()]
    return sorted(steps, reverse=True)


def _unfinished(directory: AnyPath) -> list[AnyPath]:
    if not is_remote(directory):
        return list(directory.glob("*.orbax-checkpoint-tmp*"))
    committed = steps_on_disk(directory)
    there = list(directory.iterdir()) if directory.is_dir() else []
    return [path for path in there if path.name.isdigit() and int(path.name) not in committed]


def best_step(checkpoint: AnyPath) -> int | None:
    """The step of the best evaluation up to a checkpoint, as it says itself; None before the first."""
    meta = checkpoint / "meta" / "metadata"
    match parse_json(meta.read_bytes(), str(meta)) if meta.is_file() else None:
        case {"best": {"step": int(step), "value": int() | float()}}:
            return step
    return None


def write_parameters(directory: AnyPath, step: int, kind: str, params: Any) -> None:
    """A checkpoint of parameters alone, as `kind` of a state; to be read, not to go on from."""
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
        checkpointer.save(absolute(directory) / str(step) / "state", args=ocp.args.PyTreeSave({kind: params}))
    _write_manifest(directory / str(step), _digests(directory / str(step)), sealed=True)


def verify(directory: AnyPath, within: str = "") -> str:
    """What is wrong with a step's directory, or with one directory in it; empty when all is as its manifest says."""
    try:
        text = (directory / MANIFEST).read_text()
        manifest = json.loads(text)
        listed, sealed = dict(manifest["files"]), bool(manifest["sealed"])
        if text != _manifest_text(listed, sealed):
            return f"{MANIFEST} was changed"
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        return f"{MANIFEST} cannot be read ({type(error).__name__})"
    listed = {name: hash for name, hash in listed.items() if name.startswith(within)}
    present = {name: kept for name, kept in _files(directory).items() if name.startswith(within)}
    late = set() if sealed else set(WRITTEN_LAST)
    for name in sorted(listed.keys() | present.keys() - late):
        if name not in present:
            return f"{name} is missing"
        if name not in listed:
            return f"{name} is not in its manifest"
        if listed[name] != present[name] and listed[name] != digest(directory / name, listed[name].startswith(MD5)):
            return f"{name} was changed"
    return ""


def digest(path: AnyPath, md5: bool = False) -> str:
    """BLAKE2b of a file, or MD5, which buckets keep of theirs, after the word for it."""
    hash = partial(hashlib.md5, usedforsecurity=False) if md5 else partial(hashlib.blake2b, digest_size=16)
    with path.open("rb") as file:
        return MD5 * md5 + hashlib.file_digest(file, hash).hexdigest()


def check_same(before: Mapping[str, Any], after: Mapping[str, Any], where: AnyPath) -> None:
    """Raises ConfigError naming every entry in which two data fingerprints differ."""
    changed = [name for name in sorted(before.keys() | after.keys()) if before.get(name) != after.get(name)]
    said = "; ".join(f"{name} was {before.get(name)!r} and is now {after.get(name)!r}" for name in changed)
    require(not changed, f"{where} was trained on other data: {said}. Restore that data, or give another --run_dir.")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


def _seal(directory: AnyPath) -> None:
    """Adds to the manifest the small files that Orbax writes after it."""
    listed = json.loads((directory / MANIFEST).read_text())["files"]
    late = {name: digest(directory / name) for name in WRITTEN_LAST if (directory / name).is_file()}
    _write_manifest(directory, listed | late, sealed=True)


def _write_manifest(directory: AnyPath, files: dict[str, str], sealed: bool) -> None:
    write_text(directory / MANIFEST, _manifest_text(files, sealed))


def _manifest_text(files: dict[str, str], sealed: bool) -> str:
    own = hashlib.blake2b(json.dumps([sealed, sorted(files.items())]).encode(), digest_size=16).hexdigest()
    return json.dumps({"sealed": sealed, "own": own, "files": files}, indent=1, sort_keys=True)


def _digests(directory: AnyPath, but: tuple[str, ...] = ()) -> dict[str, str]:
    there = {name: kept for name, kept in _files(directory).items() if name not in but}
    return {name: kept or digest(directory / name) for name, kept in there.items()}


def _files(directory: AnyPath) -> dict[str, str | None]:
    """All in it but its manifest, by name, with the digest that a bucket keeps."""
    if is_remote(directory):
        there = {name: kept and MD5 + kept for name, kept in bucket.digests(directory).items()}
    else:
        there = {str(path.relative_to(directory)): None for path in sorted(directory.rglob("*")) if path.is_file()}
    return {name: kept for name, kept in there.items() if not name.rpartition("/")[2].startswith(MANIFEST)}


def absolute(path: AnyPath) -> AnyPath:
    return path if is_remote(path) else path.absolute()


def remove(directory: AnyPath) -> None:
    shutil.rmtree(directory) if isinstance(directory, Path) else directory.rmtree()


def move(directory: AnyPath, target: AnyPath) -> None:
    if is_remote(directory):
        bucket.move(directory, target)
    else:
        target.parent.mkdir(exist_ok=True)
        os.rename(directory, target)


def _free_name(directory: AnyPath, name: str) -> AnyPath:
    names = (name, *(f"{name}.{count}" for count in range(1, 1000)))
    return next(directory / free for free in names if not (directory / free).exists())


def _is_news(record: logging.LogRecord) -> bool:
    """Not what Orbax warns of at every save without an evaluation."""
    return not record.getMessage().startswith("Requested `tracked_metric`")


def _rank(best: str, metrics: Mapping[str, float]) -> tuple[float, int]:
    """What the best has most of. Of equals the first is the best; last comes what lacks the number."""
    return (merit(best, metrics[best]) if best in metrics else -math.inf), -int(metrics.get("step", 0))


def _agreed(choose: Any) -> int | None:
    """Process 0 chooses a step, all processes take it."""
    if jax.process_count() == 1:
        return choose()
    chosen = choose() if jax.process_index() == 0 else None
    step = int(multihost_utils.broadcast_one_to_all(-1 if chosen is None else chosen))
    return None if step < 0 else step


class Best(NamedTuple):
    """By the number `name`. Kept in every checkpoint, so that a run that goes on counts as if it had not stopped."""

    name: str
    value: float | None = None  # None before the first finite one
    step: int = 0
    since: int = 0  # evaluations after it

    def after(self, step: int, scores: Mapping[str, float], valid: bool = True) -> "Best":
        """With one evaluation more, which cannot be the best where it is not `valid` or its number not finite."""
        value = scores[self.name]
        better = self.value is None or merit(self.name, value) > merit(self.name, self.value)
        if valid and math.isfinite(value) and better:
            return Best(self.name, value, step)
        return self._replace(since=self.since + 1)

    def exhausts(self, patience: int | None) -> bool:
        return patience is not None and self.since >= patience

    def said(self) -> str:
        return f"any {self.name}" if self.value is None else f"{self.name} {self.value:.4g} of step {self.step}"


def merit(name: str, value: float) -> float:
    """More is better. Of all numbers only the loss is better when lower."""
    return -value if name == "held_out_loss" else value
