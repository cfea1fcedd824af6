"""The directory of one run: its lock, its experiment, its history and its result.

    config.json   the whole experiment          RESULT.json     how the run ended, and why
    diff.json     against the experiment file   history.jsonl   one line per start: time, command, commit, versions
    code/         the experiment's file and those it imports beside it
    launch.json   the launch summary            events.jsonl    starts, saves, spikes, skipped updates, ends
    RUN.lock      held while a process trains   checkpoints/, metrics.jsonl, tensorboard/, loss.png, samples.jsonl
    trackers/     what trackers have of the run, and their own files

Only process 0 writes to it, except checkpoints. A directory in a bucket has a local copy, where everything but the
checkpoints is written first.
"""

import contextlib
import datetime
import errno
import hashlib
import importlib.metadata
import itertools
import json
import os
import platform
import shlex
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils

from research.config import ConfigError, Experiment, override, parse_json, require
from research.config.load import ExperimentFile
from research.storage import bucket, code, manifest
from research.storage.bucket import AnyPath, is_remote
from research.storage.files import UNFINISHED, append_lines, keep_lines, read_lines, write_json, write_lines
from research.storage.lock import FileLock, taken_in_time

# Fields that may change between two starts of one run; "*" is any part of a name. They change no number of the training
# beyond float rounding, except `steps`: linear and cosine schedules end at the last step.
CHANGEABLE = (
    "steps", "evaluation", "checkpoint", "report", "profile", "guard", "mesh", "data.threads", "data.shared_files",
    "data.tasks.*.metrics", "model.remat", "model.unroll", "model.attention",
)  # fmt: skip

ROOT = Path(__file__).resolve().parents[2]  # of the source tree
FOLDERS = ("checkpoints", "set_aside", "tensorboard", "trackers", "profile")

EXIT_CODES = {
    "running": 1, "done": 0, "failed": 1, "bad input": 2, "preempted": 42, "hung": 43, "not finite": 44,
    "host lost": 45,
}  # fmt: skip

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


class RunFiles(NamedTuple):
    """The files of a run directory that this process holds."""

    local: Path  # directory to write to
    address: AnyPath  # its name in messages; `local` is a copy if it is in a bucket
    publish: Callable[[], None] = lambda: None  # uploads the files to a bucket
    check: Callable[[], None] = lambda: None  # raises OSError if the directory is no more this process's

    def before_commit(self) -> None:
        """Let a checkpoint be committed only in a directory that is this process's, and with the files beside it."""
        self.check()
        self.publish()


@contextlib.contextmanager
def claim(
    directory: AnyPath, config: Experiment, file: ExperimentFile | None = None, accept_changed_code: bool = False
) -> Iterator[RunFiles]:
    """Hold the directory for this process; record the start: the config, and the experiment's file and size if given.

    Raises:
        ConfigError: the directory cannot be written, is held by another process, is not a run directory, or holds a run
            with another config (fields in `CHANGEABLE` may differ), or with other code of users' classes if that is
            not accepted.
    """
    with contextlib.ExitStack() as held:
        refusal = ConfigError("The first process could not claim the run directory: see its message.")
        run_files, succeeded = RunFiles(Path(directory), directory), True
        if jax.process_index() == 0:
            try:
                if is_remote(directory):
                    mirror = held.enter_context(bucket.mirrored(directory))
                    run_files = RunFiles(mirror.local, directory, mirror.publish)
                checkpoints = directory / "checkpoints"
                claimed = _claim_local(run_files.local, checkpoints, config, file, accept_changed_code)
                run_files = run_files._replace(check=held.enter_context(claimed))
                run_files.publish()
            except ConfigError as error:
                message = str(error).replace(str(run_files.local), str(directory))
                succeeded, refusal = False, ConfigError(message)
        elif is_remote(directory):
            run_files = RunFiles(bucket.new_local_path(directory), directory)
            held.callback(_remove_if_empty, run_files.local.parent)
        # All processes wait for the first one, and stop if it failed.
        if not multihost_utils.broadcast_one_to_all(np.int32(succeeded)):
            raise refusal
        yield run_files


def _remove_if_empty(directory: Path) -> None:
    with contextlib.suppress(OSError):
        directory.rmdir()


@contextlib.contextmanager
def _claim_local(
    directory: Path, checkpoints: AnyPath, config: Experiment, file: ExperimentFile | None, accept_changed_code: bool
) -> Iterator[Callable[[], None]]:
    with _writable(directory, checkpoints):
        _check_new_or_run(directory, checkpoints)
        check_contained(directory)
        directory.mkdir(parents=True, exist_ok=True)
        lock = FileLock(directory / "RUN.lock")
    with lock:
        _lock(lock, directory)
        _check_same_run(directory, checkpoints, config)
        if file is not None and _has_begun(directory, checkpoints):
            code.check_kept(directory, code.SourceFiles.of(file.path), config, accept_changed_code)
        with _writable(directory, checkpoints):
            _record_start(directory, config, file)
        yield partial(_check_still_ours, lock, directory)


@contextlib.contextmanager
def _writable(directory: Path, checkpoints: AnyPath) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        advice = "free disk space, then repeat the command" if full else "give another --run_dir"
        raise ConfigError(
            f"{directory} cannot be written ({error.strerror}): {advice}; {manifest.kept(checkpoints)}."
        ) from error


def _record_start(directory: Path, config: Experiment, file: ExperimentFile | None) -> None:
    write_json(directory / "config.json", as_data(config))
    if file is not None:
        differences = override.diff(file.config, config)
        write_json(directory / "diff.json", {path: [repr(a), repr(b)] for path, (a, b) in differences.items()})
        code.keep(directory, code.SourceFiles.of(file.path), config)
    for name in ("history.jsonl", "events.jsonl"):
        keep_lines(directory / name)
    own = [] if file is None else code.paths(file.path)
    append_lines(directory / "history.jsonl", [{"experiment": None if file is None else str(file)} | environment(own)])


def record_startup(directory: Path, startup: dict[str, Any]) -> None:
    """Add facts that are known after the first step to the history line of this start."""
    if jax.process_index() != 0:
        return
    path = directory / "history.jsonl"
    lines = read_lines(path)
    write_lines(path, [*lines[:-1], (lines[-1] if lines else {}) | startup])


def record_event(directory: Path, step: int, event: str) -> None:
    """Append a line to events.jsonl, which the run itself never reads."""
    if jax.process_index() == 0:
        append_lines(directory / "events.jsonl", [{"time": _now(), "step": step, "event": event}])


def write_result(directory: Path, status: str, step: int, reason: str, **facts: Any) -> int:
    """Write RESULT.json; return the exit code of the status. "running" remains if the process is killed."""
    code = EXIT_CODES[status]
    if jax.process_index() == 0:
        result = {"status": status, "exit_code": code, "step": step, "reason": reason, "time": _now(), **facts}
        try:
            write_json(directory / "RESULT.json", result)
        except OSError as error:
            print(f"RESULT.json could not be written: {error}.", file=sys.stderr)
    return code


def read_result(directory: Path) -> dict[str, Any]:
    """Read RESULT.json; {} before the first start and, with one message, if it is damaged."""
    path = directory / "RESULT.json"
    result = _read_json(path) or {}
    if path.exists() and not result and path not in _reported:
        _reported.add(path)
        print(f"{path} is damaged: the next start of the run writes it again.", file=sys.stderr)
    # Earlier versions wrote no such field: infer it from the reason.
    early = result.get("status") == "done" and str(result.get("reason", "")).startswith("stopped at step")
    return {"stopped_early": early} | result


_reported: set[AnyPath] = set()  # damaged files, which are read again and again


def is_done(directory: Path, steps: int) -> bool:
    """Tell whether a run of `steps` steps is done: it reached its last step, or stopped early."""
    result = read_result(directory)
    step = result.get("step", 0)
    reached = isinstance(step, int) and step >= steps
    return result.get("status") == "done" and (reached or result["stopped_early"] is True)


def read_config(directory: AnyPath) -> Experiment:
    """Read the experiment of a run from its config.json and the users' files stored with it.

    Raises:
        ConfigError: the file holds no experiment; the message names it.
    """
    path = directory / "config.json"
    with code.known(directory, parse_json(path.read_bytes(), str(path))):
        return override.read(path)


def read_recorded(directory: AnyPath, checkpoint: AnyPath | None = None) -> tuple[Experiment, dict[str, Any]]:
    """Read the experiment of a run from the verified record of a checkpoint, by default the newest; and that record.

    Without a record, config.json decides, and the record is {}. A config.json that differs is named in a message.

    Raises:
        ConfigError: there is neither a record nor an experiment in config.json.
    """
    checkpoints, path = directory / "checkpoints", directory / "config.json"
    found = None if checkpoint is None else manifest.record(checkpoint)
    step, record = (0, {}) if checkpoint is None or found is None else (int(checkpoint.name), found)
    if not record:
        step, record = manifest.newest_record(checkpoints) or (0, {})
    if not record:
        return read_config(directory), {}
    with code.known(directory, record["config"]):
        experiment = override.from_json(json.dumps(record["config"]))
        in_file = _read_json(path)
        if (in_file is None or not _is_same_experiment(in_file, experiment)) and path not in _reported:
            _reported.add(path)
            print(
                f"note: {path} is missing or damaged: the record in the checkpoint of step {step} decides.",
                file=sys.stderr,
            )
    return experiment, record


def read_last_config(directory: Path) -> Experiment:
    """Read a run's experiment with what its last start changed, such as more steps, which config.json has.

    If that is missing, damaged or another experiment than the newest checkpoint's, the checkpoint's record decides.
    """
    experiment, record = read_recorded(directory)
    in_file = _read_json(directory / "config.json")
    same = in_file is not None and _is_same_experiment(in_file, experiment)
    return read_config(directory) if record and same else experiment


def as_data(config: Experiment) -> Any:
    """Convert a config to plain JSON data."""
    return json.loads(override.to_json(config))


def _read_json(path: AnyPath) -> dict[str, Any] | None:
    """Read a JSON object; None if there is none, or it is damaged."""
    with contextlib.suppress(OSError, ConfigError):
        content = parse_json(path.read_bytes(), str(path))
        return content if isinstance(content, dict) else None
    return None


def environment(own: Iterable[Path] = ()) -> dict[str, Any]:
    """Collect the time, command, commit, versions and host, with which a run can be repeated.

    `own` are the experiment's files, as for `commit`.
    """
    return {
        "time": _now(),
        "command": command(),
        "commit": commit(own),
        "python": platform.python_version(),
        "packages": installed(PACKAGES),
        "host": socket.gethostname(),
    }


def installed(packages: Iterable[str]) -> dict[str, str]:
    """Return the versions of those packages that are installed."""
    versions = {}
    for name in packages:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return versions


def command() -> str:
    """Reconstruct the command that started this process."""
    program, *arguments = sys.orig_argv[1:]
    if Path(program).name == "kintsugi":  # the installed command is a file that Python runs
        return shlex.join(["kintsugi", *arguments])
    return shlex.join([Path(sys.executable).name, program, *arguments])


def commit(own: Iterable[Path] = ()) -> str:
    """Find the git commit of this source tree, with "+changes-" and a hash of the difference if files differ from it.

    Files that git tracks count, and `own` files of the experiment in the tree; not logs and other files beside them.
    Without git, as in an image, it is $KINTSUGI_COMMIT; else the version of the installed package; else "unknown".
    """
    if not (ROOT / ".git").exists():  # ignore the repository of a parent directory
        return os.environ.get("KINTSUGI_COMMIT") or _installed() or "unknown"
    try:
        head = _git("rev-parse", "HEAD").decode().strip()
        changes = _git("diff", "--no-ext-diff", "--no-textconv", "--no-color", "--binary", "--full-index", "HEAD")
        for path in sorted(path for path in map(Path.resolve, own) if path.is_relative_to(ROOT)):
            name = path.relative_to(ROOT).as_posix()
            if not _git("ls-files", "--", f":(literal){name}"):
                changes += name.encode() + b"\0" + path.read_bytes() + b"\0"
    except (OSError, subprocess.CalledProcessError):
        return os.environ.get("KINTSUGI_COMMIT", "unknown")
    return f"{head}+changes-{hashlib.sha256(changes).hexdigest()[:12]}" if changes else head


def _git(*arguments: str) -> bytes:
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, check=True).stdout


def _installed() -> str | None:
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        return f"kintsugi {importlib.metadata.version('kintsugi')}"
    return None


def _check_new_or_run(directory: Path, checkpoints: AnyPath) -> None:
    require(
        not directory.exists() or directory.is_dir(),
        f"{directory} is a file: give --run_dir a new directory, or one of a run.",
    )
    used = directory.is_dir() and not all(_left_by_a_start(path.name) for path in directory.iterdir())
    require(
        not used or (directory / "config.json").is_file() or manifest.newest_record(checkpoints) is not None,
        f"{directory} is not empty and holds no run: give a new or empty --run_dir, nothing is overwritten.",
    )


def _left_by_a_start(name: str) -> bool:
    """Tell whether a start that is killed before it writes the config can leave a file of this name."""
    return name.startswith("RUN.lock") or (name.startswith("config.json") and name.endswith(UNFINISHED))


def check_contained(directory: Path) -> None:
    """Check that a run writes only inside its directory, of which a process that holds it may remove parts meanwhile.

    Raises:
        ConfigError: a path in it is a link that leads out, is neither a file nor a directory, or is a file where a
            run has a directory.
    """
    for path in (Path(folder, name) for folder, *names in os.walk(directory) for name in itertools.chain(*names)):
        target = Path(os.path.realpath(path))
        inside = not path.is_symlink() or target.is_relative_to(os.path.realpath(directory))
        require(inside, f"{path} is a link out of the run directory, to {target}: link the whole directory instead.")
        require(path.is_file() or path.is_dir() or not path.exists(), f"{path} is neither a file nor a directory.")
    for path in (directory / name for name in FOLDERS):
        require(path.is_dir() or not path.exists(), f"{path} must be a directory, and is a file: move it away.")


def _lock(lock: FileLock, directory: Path) -> None:
    taken = lock.take()
    for _ in range(9):
        if not taken and not lock.leased:
            time.sleep(0.05)  # `is_held` in another process takes the lock briefly
            taken = lock.take()
    require(
        taken or taken_in_time(lock),
        f"{directory} is in use by {lock.holder()}: wait for it, or give another --run_dir.",
    )
    lock.file.truncate(0)
    lock.file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
    lock.file.flush()


def _check_still_ours(lock: FileLock, directory: Path) -> None:
    """Raise OSError if the directory was moved or deleted, or its lock was taken over, since this process has it."""
    if lock.lost:
        raise OSError(f"{directory} was taken over by {lock.lost}: this process saves nothing more")
    with contextlib.suppress(FileNotFoundError):
        if os.path.samestat(os.fstat(lock.file.fileno()), os.stat(lock.path)):
            return
    raise OSError(f"{directory} was moved or deleted while the run used it")


def remove_stray(directory: Path) -> None:
    """Delete what a save in the background has made under the old name of a directory that was moved meanwhile."""
    names = [path.name for path in directory.iterdir()] if directory.is_dir() else []
    saves = list((directory / "checkpoints").iterdir()) if names == ["checkpoints"] else []
    if names == ["checkpoints"] and all(".orbax-checkpoint-tmp" in path.name for path in saves):
        shutil.rmtree(directory, ignore_errors=True)


def is_held(directory: Path) -> bool:
    """Tell whether a process is training in a run directory. Takes the lock briefly."""
    path = directory / "RUN.lock"
    if not path.is_file():
        return False
    with FileLock(path, "r") as lock:
        return lock.is_held_elsewhere()


def _check_same_run(directory: Path, checkpoints: AnyPath, config: Experiment) -> None:
    """Check that a run that has begun continues with the same experiment, by the newest checkpoint's own record.

    Only a run without a checkpoint is held to its config.json, which has no hash.
    """
    path = directory / "config.json"
    found, record = _read_json(path), manifest.newest_record(checkpoints)
    if record is not None:
        step, content = record
        check_same_experiment(directory, content["config"], config)
        if found is None or not _is_same_experiment(found, config):
            print(f"{path} is missing or damaged: it is written again, as in the checkpoint of step {step}.")
    elif _has_begun(directory, checkpoints):
        require(found is not None, f"{path} is damaged and there is no complete checkpoint: give another --run_dir.")
        check_same_experiment(directory, found, config)


def _is_same_experiment(before: Any, config: Experiment) -> bool:
    try:
        check_same_experiment(Path(), before, config)
    except ConfigError:
        return False
    return True


def check_same_experiment(directory: AnyPath, before: Any, config: Experiment) -> None:
    """Check a config against the earlier one of the run, `before` (parsed JSON).

    Raises:
        ConfigError: fields differ other than those in `CHANGEABLE`; the message names them.
    """
    free = CHANGEABLE if config.model.dropped else (*CHANGEABLE, "microbatches")  # each micro-batch has its own dropout
    changes = {
        name: change
        for name, change in override.diff(override.from_json(json.dumps(before)), config).items()
        if not any(_covers(field, name) for field in free)
    }
    listed = "; ".join(f"{name} was {old!r} and is now {new!r}" for name, (old, new) in changes.items())
    require(
        not changes,
        f"{directory} holds another experiment: {listed}. Give another --run_dir, or the values it was started with.",
    )


def _covers(field: str, name: str) -> bool:
    """Tell whether a dotted name is that of a field, or of a part of it."""
    pairs = zip_longest(field.split("."), name.split(".")[: field.count(".") + 1])
    return all(part in ("*", given) for part, given in pairs)


def _has_begun(directory: Path, checkpoints: AnyPath) -> bool:
    metrics = directory / "metrics.jsonl"
    return (metrics.is_file() and metrics.stat().st_size > 0) or bool(manifest.steps_on_disk(checkpoints))


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
