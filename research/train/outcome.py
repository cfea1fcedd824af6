"""The end of a run: its message to the user, its RESULT.json and its exit code."""

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import jax

from research.config import ConfigError
from research.parallel import hosts
from research.storage import manifest, run_directory
from research.storage.bucket import AnyPath
from research.storage.checkpoint import CheckpointError
from research.storage.console import one_line, say
from research.storage.run_directory import RunFiles
from research.storage.stop import Stopped
from research.train.log import NotFiniteError


class Preempted(Exception):
    """A request to stop the run, raised once its progress is saved."""


class Outcome:
    """The end of a run: the step that it has reached and its exit code."""

    def __init__(self, directory: Path, checkpoints: AnyPath) -> None:
        self.directory, self.checkpoints = directory, checkpoints
        self.step = next(iter(manifest.steps_on_disk(checkpoints)), 0)
        self.exit_code = run_directory.EXIT_CODES["failed"]
        # What a complete run has written stays until all is checked with which it would continue.
        self.began = run_directory.read_result(directory).get("status") != "done"

    def begin(self) -> None:
        """Write to RESULT.json that the run is running."""
        self.began = True
        self.write("running", f"process {os.getpid()}")

    def write(self, status: str, reason: str) -> None:
        """Write RESULT.json, if the run has begun, and set the exit code."""
        self.exit_code = run_directory.EXIT_CODES[status]
        if self.began:
            run_directory.write_result(self.directory, status, self.step, reason)

    def end(self, status: str, reason: str) -> None:
        """Write how the run ended, and print it."""
        self.write(status, reason)
        say(reason)
        with contextlib.suppress(OSError):  # the reason may be a full disk
            run_directory.record_event(self.directory, self.step, f"{status}: {reason}")


@contextlib.contextmanager
def outcome(run_files: RunFiles, checkpoints: AnyPath) -> Iterator[Outcome]:
    """Print how a run ended, from its first look at its checkpoints on, write it to RESULT.json, set the exit code."""
    run = Outcome(run_files.local, checkpoints)
    try:
        with _surviving(run):
            yield run
    except Preempted:
        run.end("preempted", f"Preempted at step {run.step}, which is saved: repeat the command to resume.")
    except Stopped:
        run.end("preempted", f"Stopped before a step was made; {manifest.kept(checkpoints)}: repeat the command.")
    except NotFiniteError as error:
        whole = next((step for step in manifest.whole_steps(checkpoints) if step < error.first), None)
        back = "there is no checkpoint before it" if whole is None else f"go back to the checkpoint of step {whole}"
        advice = (
            "the same command would diverge again: give another --run_dir, with a lower learning rate or other data"
        )
        run.end("not finite", f"{error}: {back}; {advice}.")
    except (CheckpointError, OSError) as error:
        where = f"{checkpoints.parent} stopped at step {run.step}"
        try:
            run_files.check()
        except OSError as lost:  # and so whatever failed
            run_directory.remove_stray(run_files.local)
            run.exit_code = run_directory.EXIT_CODES["failed"]
            say(f"{where}: {lost}. Repeat the command where it is now.")
        else:
            kept = manifest.kept(checkpoints)
            run.end("failed", f"{where}: {error}; {kept}. Fix the cause, then repeat the command.")
        _print_on_every_host(run)
    except ConfigError as error:
        run.write("bad input", str(error))
        raise
    except BaseException as error:
        run.write("failed", f"{type(error).__name__}: {error}; {manifest.kept(checkpoints)}")
        raise


@contextlib.contextmanager
def _surviving(run: Outcome) -> Iterator[None]:
    """End a run whose hosts cannot exchange data any more, on each of those that are left."""
    try:
        yield
    except Exception as error:
        if not hosts.is_exchange_failure(error):
            raise
        reason = one_line(error)
        run.write("host lost", f"another host was lost, or the network to it: start all hosts again ({reason})")
        print(f"An exchange between the hosts failed: {reason}", file=sys.stderr)
        _print_on_every_host(run)


def _print_on_every_host(run: Outcome) -> None:
    """Print on every host, since host 0 may be the dead one."""
    if jax.process_count() > 1:
        whole = next(manifest.whole_steps(run.checkpoints), None)
        effect = "starts again" if whole is None else f"resumes from the checkpoint of step {whole}"
        print(
            f"Host {jax.process_index()} of {jax.process_count()} stopped at step {run.step}. If another host was lost,"
            f" repeat the command on all hosts: it {effect}.",
            file=sys.stderr,
        )


def record_hang(run: Outcome, seconds: float | int, run_files: RunFiles) -> None:
    """Write RESULT.json for a run that hangs, and try to publish it."""
    run.write("hung", f"no step finished for {seconds} s after step {run.step}")
    with contextlib.suppress(Exception):  # the process exits in any case
        run_files.publish()
