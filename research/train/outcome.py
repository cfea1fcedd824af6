"""The end of a run: its message to the user, its RESULT.json and its exit code."""

import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

from research.config import ConfigError
from research.storage import run_directory
from research.storage.checkpoint import CheckpointError, Checkpoints
from research.storage.console import say
from research.storage.run_directory import RunFiles
from research.train.log import NotFiniteError
from research.train.run import Run


class Preempted(Exception):
    """A request to stop the run, raised once its progress is saved."""


@contextlib.contextmanager
def outcome(run: Run, directory: Path, checkpoints: Checkpoints) -> Iterator[None]:
    """Print how the run ended, write it to RESULT.json, and set the exit code."""

    def end(status: str, reason: str) -> None:
        run.exit_code = run_directory.write_result(directory, status, run.step, reason)
        say(reason)
        with contextlib.suppress(OSError):  # the reason may be a full disk
            run_directory.record_event(directory, run.step, f"{status}: {reason}")

    try:
        run_directory.write_result(directory, "running", run.step, f"process {os.getpid()}")
        yield
    except Preempted:
        end("preempted", f"Preempted at step {run.step}, which is saved: repeat the command to resume.")
    except NotFiniteError as error:
        with contextlib.suppress(CheckpointError):
            checkpoints.wait()
        whole = checkpoints.latest(before=error.first)
        back = "there is no checkpoint before it" if whole is None else f"go back to the checkpoint of step {whole}"
        advice = (
            "the same command would diverge again: give another --run_dir, with a lower learning rate or other data"
        )
        end("not finite", f"{error}: {back}; {advice}.")
    except (CheckpointError, OSError) as error:
        whole = checkpoints.latest(before=run.step + 1)
        kept = "there is no complete checkpoint" if whole is None else f"the checkpoint of step {whole} is complete"
        where = f"{checkpoints.directory.parent} stopped at step {run.step}"
        end("failed", f"{where}: {error}; {kept}. Fix the cause, then repeat the command.")
        _print_on_every_host(run, whole)
    except jax.errors.JaxRuntimeError as error:
        run_directory.write_result(directory, "failed", run.step, f"{type(error).__name__}: {error}")
        if jax.process_count() > 1:
            _print_on_every_host(run, checkpoints.latest(before=run.step + 1))
        raise
    except ConfigError as error:
        run_directory.write_result(directory, "bad input", run.step, str(error))
        raise
    except BaseException as error:
        run_directory.write_result(directory, "failed", run.step, f"{type(error).__name__}: {error}")
        raise


def _print_on_every_host(run: Run, whole: int | None) -> None:
    """Print on every host, since host 0 may be the dead one. `whole` is the newest step that verifies."""
    if jax.process_count() > 1:
        effect = "starts again" if whole is None else f"resumes from the checkpoint of step {whole}"
        print(
            f"Host {jax.process_index()} of {jax.process_count()} stopped at step {run.step}. If another host was lost,"
            f" repeat the command on all hosts: it {effect}.",
            file=sys.stderr,
        )


def record_hang(run: Run, run_files: RunFiles) -> None:
    """Write RESULT.json for a run that hangs, and try to publish it."""
    seconds = run.config.guard.hang_seconds
    run_directory.write_result(
        run_files.local, "hung", run.step, f"no step finished for {seconds} s after step {run.step}"
    )
    with contextlib.suppress(Exception):  # the process exits in any case
        run_files.publish()


@contextlib.contextmanager
def ctrl_c_is_sigterm() -> Iterator[None]:
    """Make the first Ctrl-C save and stop, as SIGTERM does, and the second stop at once."""

    def stop(number: int, frame: Any) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        say("Saving, then stopping. Ctrl-C again to stop at once.")
        os.kill(os.getpid(), signal.SIGTERM)

    before = signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
