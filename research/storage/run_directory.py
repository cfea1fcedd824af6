"""The directory of one run: who holds it, what was asked for, how it ended.

    config.json   the whole experiment          RESULT.json     how the run ended, and why
    diff.json     against the experiment file   history.jsonl   one line a start: when, command, commit, versions
    code/         the experiment's file and those it imports beside it
    launch.json   what was said before a start  events.jsonl    starts, saves, spikes, skipped updates, ends
    RUN.lock      held while a process trains   checkpoints/, metrics.jsonl, tensorboard/, loss.png, samples.jsonl

Only process 0 writes here, checkpoints apart. A directory in a bucket has a copy here, where all but checkpoints are
written first.
"""

import contextlib
import datetime
import importlib.metadata
import json
import os
import platform
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils

from research.config import ConfigError, Experiment, override, parse_json, require
from research.config.load import ExperimentFile
from research.storage import bucket, code
from research.storage.bucket import AnyPath, is_remote
from research.storage.files import UNFINISHED, append_lines, read_lines, try_lock, write_json, write_lines

# What may change between two starts of one run. Beyond float rounding it decides no number, but for `steps`, to the end
# of which linear and cosine schedules run.
CHANGEABLE = (
    "steps", "evaluation", "checkpoint", "report", "profile", "guard", "mesh", "data.threads",
    "model.remat", "model.unroll",
)  # fmt: skip

EXIT_CODES = {"running": 1, "done": 0, "failed": 1, "bad input": 2, "preempted": 42, "hung": 43, "not finite": 44}

PACKAGES = (
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "orbax-checkpoint",
    "grain",
    "tensorflow-datasets",
    "sentencepiece",
    "sacrebleu",
    "rouge-score",
    "numpy",
)


class Claimed(NamedTuple):
    """A run directory that is held: where its files are written, and what copies them to a bucket."""

    here: Path
    publish: Callable[[], None] = lambda: None


@contextlib.contextmanager
def claim(
    directory: AnyPath, config: Experiment, file: ExperimentFile | None = None, accept_changed_code: bool = False
) -> Iterator[Claimed]:
    """Hold the directory for this process and record what is run in it, `file` with the size of the experiment too.

    Raises ConfigError when it cannot be written, is held by another process, is no run directory, or holds a run whose
    config differs in a field that decides its numbers, or whose users' classes have other code and that is not
    accepted.
    """
    with contextlib.ExitStack() as held:
        refusal = ConfigError("The first process could not claim the run directory; it says why.")
        claimed, whether = Claimed(Path(directory)), True
        if jax.process_index() == 0:
            try:
                if is_remote(directory):
                    mirror = held.enter_context(bucket.mirrored(directory))
                    claimed = Claimed(mirror.here, mirror.publish)
                held.enter_context(_claimed(claimed.here, config, file, accept_changed_code))
                claimed.publish()
            except ConfigError as error:
                whether, refusal = False, ConfigError(str(error).replace(str(claimed.here), str(directory)))
        elif is_remote(directory):
            claimed = Claimed(bucket.here(directory))
        # All wait for the first here, and none goes on without it.
        if not multihost_utils.broadcast_one_to_all(np.int32(whether)):
            raise refusal
        yield claimed


@contextlib.contextmanager
def _claimed(
    directory: Path, config: Experiment, file: ExperimentFile | None, accept_changed_code: bool
) -> Iterator[None]:
    with _writable(directory):
        _check_new_or_run(directory)
        check_contained(directory)
        directory.mkdir(parents=True, exist_ok=True)
        lock = open(directory / "RUN.lock", "a+")  # noqa: SIM115 (closed below, with the lock)
    with lock:
        _lock(lock, directory)
        _check_same_run(directory, config)
        if file is not None and _has_begun(directory):
            code.check_kept(directory, code.Sources.of(file.path), config, accept_changed_code)
        with _writable(directory):
            _record_start(directory, config, file)
        yield


@contextlib.contextmanager
def _writable(directory: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ConfigError(f"{directory} cannot be written ({error.strerror}): give another --run_dir.") from error


def _record_start(directory: Path, config: Experiment, file: ExperimentFile | None) -> None:
    write_json(directory / "config.json", as_data(config))
    if file is not None:
        differences = override.diff(file.config, config)
        write_json(directory / "diff.json", {path: [repr(a), repr(b)] for path, (a, b) in differences.items()})
        code.keep(directory, code.Sources.of(file.path), config)
    append_lines(directory / "history.jsonl", [{"experiment": None if file is None else str(file)} | environment()])


def record_startup(directory: Path, startup: dict[str, Any]) -> None:
    """Adds to the line of this start what is known of it after its first step."""
    if jax.process_index() != 0:
        return
    path = directory / "history.jsonl"
    *before, last = read_lines(path)
    write_lines(path, [*before, last | startup])


def record_event(directory: Path, step: int, event: str) -> None:
    """Adds a line to events.jsonl, which nothing of the run depends on."""
    if jax.process_index() == 0:
        append_lines(directory / "events.jsonl", [{"time": _now(), "step": step, "event": event}])


def write_result(directory: Path, status: str, step: int, reason: str, **facts: Any) -> int:
    """Writes RESULT.json and returns the exit code of the status. "running" stays there if the process is killed."""
    code = EXIT_CODES[status]
    if jax.process_index() == 0:
        result = {"status": status, "exit_code": code, "step": step, "reason": reason, "time": _now(), **facts}
        try:
            write_json(directory / "RESULT.json", result)
        except OSError as error:
            print(f"RESULT.json could not be written: {error}.", file=sys.stderr)
    return code


def read_result(directory: Path) -> dict[str, Any]:
    """RESULT.json, empty before the first start. Raises ConfigError where it is damaged."""
    path = directory / "RESULT.json"
    result = _read_json(path) if path.is_file() else {}
    if not isinstance(result, dict):
        return {}
    # Runs of earlier versions have no such field: their reason alone tells it.
    early = result.get("status") == "done" and str(result.get("reason", "")).startswith("stopped at step")
    return {"stopped_early": early} | result


def is_done(directory: Path, steps: int) -> bool:
    """Tell whether a run of so many steps ended as it should: at its last step, or before it, out of patience.

    Raises ConfigError where RESULT.json is damaged.
    """
    result = read_result(directory)
    step = result.get("step", 0)
    reached = isinstance(step, int) and step >= steps
    return result.get("status") == "done" and (reached or result["stopped_early"] is True)


def read_config(directory: AnyPath) -> Experiment:
    """The experiment of a run, by its config.json and the users' files that are kept with it.

    Raises ConfigError, naming the file, where it holds no experiment.
    """
    path = directory / "config.json"
    with code.known(directory, parse_json(path.read_bytes(), str(path))):
        return override.read(path)


def as_data(config: Experiment) -> Any:
    """The config as JSON holds it."""
    return json.loads(override.to_json(config))


def _read_json(path: Path) -> Any:
    try:
        return parse_json(path.read_bytes(), str(path))
    except ConfigError as error:
        raise ConfigError(f"{path} is damaged, it is not JSON ({error.__cause__}): give another --run_dir.") from error


def environment() -> dict[str, Any]:
    """Time, command, commit and versions: what it takes to repeat a run."""
    return {
        "time": _now(),
        "command": command(),
        "commit": commit(),
        "python": platform.python_version(),
        "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
        "host": socket.gethostname(),
    }


def command() -> str:
    """What was typed to start this process."""
    program, *arguments = sys.orig_argv[1:]
    if Path(program).name == "kintsugi":  # the installed command is a file that Python runs
        return shlex.join(["kintsugi", *arguments])
    return shlex.join([Path(sys.executable).name, program, *arguments])


def commit() -> str:
    """The git commit of this source tree, "+changes" when files differ from it.

    Without git, as in an image, it is what $KINTSUGI_COMMIT says, or "unknown"; installed, it is the package's version.
    """
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():  # a repository around the environment is not this source tree's
        return os.environ.get("KINTSUGI_COMMIT") or _installed() or "unknown"
    try:
        head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, check=True)
        changed = subprocess.run(["git", "status", "--porcelain"], cwd=root, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return os.environ.get("KINTSUGI_COMMIT", "unknown")
    return head.stdout.strip() + ("+changes" if changed.stdout.strip() else "")


def _installed() -> str | None:
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        return f"kintsugi {importlib.metadata.version('kintsugi')}"
    return None


def _check_new_or_run(directory: Path) -> None:
    require(
        not directory.exists() or directory.is_dir(),
        f"{directory} is a file: --run_dir needs a directory, new or of a run.",
    )
    used = directory.is_dir() and not all(_left_by_a_start(path.name) for path in directory.iterdir())
    require(
        not used or (directory / "config.json").is_file(),
        f"{directory} is not empty and holds no run: give a new or empty --run_dir, nothing is overwritten.",
    )


def _left_by_a_start(name: str) -> bool:
    """Tell whether a start that was killed before it wrote the config leaves a file of this name."""
    return name == "RUN.lock" or (name.startswith("config.json") and name.endswith(UNFINISHED))


def check_contained(directory: Path) -> None:
    """Raises ConfigError for what would have a run write elsewhere: links that lead out, and what is no file."""
    for path in directory.rglob("*"):
        target = Path(os.path.realpath(path))
        inside = not path.is_symlink() or target.is_relative_to(os.path.realpath(directory))
        require(inside, f"{path} is a link out of the run directory, to {target}: link the whole directory instead.")
        require(path.is_file() or path.is_dir() or not path.exists(), f"{path} is neither a file nor a directory.")


def _lock(lock: Any, directory: Path) -> None:
    for attempt in range(10):
        if try_lock(lock):
            break
        if attempt < 9:
            time.sleep(0.05)  # `is_held` of another process holds the lock for an instant
            continue
        lock.seek(0)
        holder = lock.read().strip() or "another process"
        raise ConfigError(f"{directory} is in use by {holder}: wait for it, or give another --run_dir.")
    lock.truncate(0)
    lock.write(f"process {os.getpid()} on {socket.gethostname()}\n")
    lock.flush()


def is_held(directory: Path) -> bool:
    """Whether a process trains there now."""
    path = directory / "RUN.lock"
    if not path.is_file():
        return False
    with open(path) as lock:
        return not try_lock(lock)


def _check_same_run(directory: Path, config: Experiment) -> None:
    """A run that has begun may go on only as the run it was."""
    path = directory / "config.json"
    if path.is_file() and _has_begun(directory):
        check_same_experiment(directory, _read_json(path), config)


def check_same_experiment(directory: AnyPath, before: Any, config: Experiment) -> None:
    """Raises ConfigError naming every field in which the config differs from the one `before`, as JSON holds it."""
    free = CHANGEABLE if config.model.dropped else (*CHANGEABLE, "microbatches")  # each draws dropout of its own
    changes = {
        name: change
        for name, change in override.diff(override.from_json(json.dumps(before)), config).items()
        if not any(name == field or name.startswith(field + ".") for field in free)
    }
    said = "; ".join(f"{name} was {old!r} and is now {new!r}" for name, (old, new) in changes.items())
    require(
        not changes,
        f"{directory} holds another experiment: {said}. Give another --run_dir, or the values it was started with.",
    )


def _has_begun(directory: Path) -> bool:
    metrics = directory / "metrics.jsonl"
    checkpoints = directory / "checkpoints"
    return (metrics.is_file() and metrics.stat().st_size > 0) or (
        checkpoints.is_dir() and any(path.name.isdigit() for path in checkpoints.iterdir())
    )


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
