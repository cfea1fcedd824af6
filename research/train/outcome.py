"""How a run ends: what is said of it, to the person and in RESULT.json, and its exit code."""

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
    """The run was asked to stop; what it did is saved."""


@contextlib.contextmanager
def outcome(run: Run, directory: Path, checkpoints: Checkpoints) -> Iterator[None]:
    """Says how the run ended, to the person and in RESULT.json, and sets the exit code."""

    def end(status: str, reason: str) -> None:
        run.exit_code = run_directory.write_result(directory, status, run.step, reason)
        say(reason)
        with contextlib.suppress(OSError):  # the reason may be a full disk
            run_directory.record_event(directory, run.step, f"{status}: {reason}")

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
        where = f"{checkpoints.directory.parent} stopped at step {run.step}"
        end("failed", f"{where}: {error}; {kept}. Mend that, then repeat the command.")
        _say_on_every_host(run, whole)
    except jax.errors.JaxRuntimeError as error:
        run_directory.write_result(directory, "failed", run.step, f"{type(error).__name__}: {error}")
        if jax.process_count() > 1:
            _say_on_every_host(run, checkpoints.latest(before=run.step + 1))
        raise
    except ConfigError as error:
        run_directory.write_result(directory, "bad input", run.step, str(error))
        raise
    except BaseException as error:
        run_directory.write_result(directory, "failed", run.step, f"{type(error).__name__}: {error}")
        raise


def _say_on_every_host(run: Run, whole: int | None) -> None:
    """Of several, since it may be the first that is lost; `whole` is the newest step that verifies."""
    if jax.process_count() > 1:
        goes_on = "begins again" if whole is None else f"goes on from the checkpoint of step {whole}"
        print(
            f"Host {jax.process_index()} of {jax.process_count()} stopped at step {run.step}. If another one was lost,"
            f" the same command on all of them {goes_on}.",
            file=sys.stderr,
        )


def record_hang(run: Run, run_files: RunFiles) -> None:
    """Write RESULT.json for a run that hangs, and try to publish it."""
    seconds = run.config.guard.hang_seconds
    run_directory.write_result(
        run_files.local, "hung", run.step, f"no step finished for {seconds} s after step {run.step}"
    )
    with contextlib.suppress(Exception):  # it ends in any case
        run_files.publish()


@contextlib.contextmanager
def ctrl_c_is_sigterm() -> Iterator[None]:
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
