"""Measure everything that only an accelerator can tell, in at most 8 minutes: scripts/benchmark/accelerator.sh

Each phase is a process with a time limit, the most important first:
  attention    output and gradients of every backend against the plain formula in float32, and their time
  step_...     training steps of T5 v1.1 base, small and large, and of base with dropout and packed rows
  peers        PyTorch's training step, with and without torch.compile, and nanoT5's recipe, in turns with ours
  calibration  rates of products, copies, kernels and attention, for the model of a step's time
  decode_...   greedy decoding of BART large and Flan-T5 XL shapes, in turns with transformers
  trace        a profiler's trace of 20 steps of base

It needs jax, flax, optax and jaxtyping; the peers also need torch, transformers and safetensors.
"""

import argparse
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from research.config import require
from research.config.base import closest
from research.storage.files import append_lines, write_json, write_text
from scripts import command_line
from scripts.benchmark.accelerator import table
from scripts.benchmark.accelerator.phase import RECORDS, Phase, records
from scripts.benchmark.accelerator.phases import PHASES, SMOKE

ROOT = Path(__file__).resolve().parents[3]
LOG = "log.txt"
LEAST = 20  # seconds of the budget, below which no phase is started
SMOKE_PATIENCE = 3  # times as long as on an accelerator: other work may keep the CPU busy

EPILOG = """
what --out holds
  results.json   every figure, with hardware, versions, commit and command
  table.txt      the same as a table
  phases.jsonl   a record of each phase, written as soon as it is done
  log.txt        what the phases printed
  step_base.hlo.gz, trace.tar.gz

again
  The same command continues: phases that have finished are skipped, those that failed or found no time run again.
  --again repeats finished ones too. Killing it loses no phase that is done, and of most others what they had.

exit codes
  0  every phase is done, and nothing is wrong
  1  a phase failed, was stopped or left out, or found something wrong; a line below the table for each
  2  bad input

examples
  scripts/benchmark/accelerator.sh --out runs/h200
  scripts/benchmark/accelerator.sh --out runs/h200 --only peers --again
  scripts/benchmark/accelerator.sh --out runs/h200 --markdown     prints the table of an earlier run as Markdown
  scripts/benchmark/accelerator.sh --smoke --out /tmp/smoke       all of it with tiny sizes, on a CPU
"""


def main(arguments: list[str] | None = None) -> int:
    parser = command_line.parser("benchmark.accelerator", __doc__, EPILOG)
    parser.add_argument(
        "--out", type=Path, default=Path("runs/accelerator"), help="folder of the results (%(default)s)"
    )
    parser.add_argument("--only", nargs="+", metavar="PHASE", help=f"some of {', '.join(each.name for each in PHASES)}")
    parser.add_argument("--again", action="store_true", help="repeat phases that have finished")
    parser.add_argument("--budget", type=float, default=480, help="seconds in all (%(default)s)")
    parser.add_argument("--smoke", action="store_true", help="tiny sizes: the same code on any machine")
    parser.add_argument("--markdown", action="store_true", help="print the results in --out as Markdown, and no more")
    return command_line.run(parser, run, arguments)


def run(options: argparse.Namespace, every: Sequence[Phase] = PHASES) -> int:
    folder = options.out.absolute()
    if options.markdown:
        require((folder / RECORDS).is_file(), f"--out {options.out} has no results: run without --markdown first.")
        print(table.markdown(results(folder, every)))
        return 0
    phases = chosen(options, every)
    check_folder(options, folder)
    deadline = time.monotonic() + options.budget
    with tempfile.TemporaryDirectory() as programs:  # so that the first compilation of a program is measured whole
        for phase in phases:
            if not options.again and is_done(records(folder).get(phase.name, {})):
                print(f"{phase.name:<14} done before", flush=True)
                continue
            left = deadline - time.monotonic()
            run_phase(phase, folder, options.smoke, left, Path(programs))
            print(f"{phase.name:<14} {table.state(records(folder)[phase.name])}", flush=True)
            write(folder, every)
    found = write(folder, every)
    print(f"\n{table.text(found)}")
    return 1 if table.problems(found) else 0


def chosen(options: argparse.Namespace, every: Sequence[Phase]) -> list[Phase]:
    names = [phase.name for phase in every]
    for name in options.only or ():
        like = closest(name, names)
        hint = f"; did you mean {like}?" if like else f": there are {', '.join(names)}."
        require(name in names, f"--only {name} is not a phase{hint}")
    require(options.budget > 0, f"--budget is {options.budget:g}: it must be above 0.")
    return [phase for phase in every if options.only is None or phase.name in options.only]


def check_folder(options: argparse.Namespace, folder: Path) -> None:
    """Make the folder. Raises ConfigError if it holds results of the other kind, or something else."""
    require(not folder.exists() or folder.is_dir(), f"--out {options.out} is a file: give a new folder.")
    before = {line.get("smoke") for line in records(folder).values()} - {None}
    kind = "results of --smoke" if True in before else "results without --smoke"
    require(before <= {options.smoke}, f"--out {options.out} holds {kind}: give another folder.")
    used = folder.is_dir() and any(folder.iterdir()) and not (folder / RECORDS).exists()
    require(not used, f"--out {options.out} is not empty and holds no results: give a new folder.")
    folder.mkdir(parents=True, exist_ok=True)


def is_done(record: dict[str, Any]) -> bool:
    return bool(record.get("finished"))


# --- A phase ----------------------------------------------------------------------------------------------------------


def run_phase(phase: Phase, folder: Path, smoke: bool, left: float, programs: Path) -> None:
    """Run a phase in its process, and record why if it fails or is left out."""
    began = time.monotonic()
    if left < LEAST:
        error = f"left out: {max(left, 0):.0f} s of --budget are left; the same command runs it"
    else:
        limit = phase.limit * (SMOKE_PATIENCE if smoke else 1)
        error = outcome(phase, folder, smoke, min(limit, left), programs)
    if error:
        record = {"phase": phase.name, "smoke": smoke, "seconds": time.monotonic() - began}
        append_lines(folder / RECORDS, [{**record, "finished": False, "error": error}])


def outcome(phase: Phase, folder: Path, smoke: bool, limit: float, programs: Path) -> str:
    """Run the process of a phase; return a sentence if it fails, or is stopped at its limit."""
    environment = {**os.environ, **cache_in(programs), **dict(phase.environment + SMOKE * smoke)}
    with (folder / LOG).open("ab") as log:
        log.write(f"\n--- {phase.name} ---\n".encode())
        log.flush()
        start = log.tell()
        # A group of its own, so that what the phase starts ends with it; not a session, which would outlive this one.
        process = subprocess.Popen(
            phase.command(folder, smoke), cwd=ROOT, env=environment, stdout=log, stderr=log, process_group=0
        )
        try:
            code = process.wait(limit)
        except subprocess.TimeoutExpired:
            return f"stopped after {limit:.0f} s, its limit"
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    if code == 0:
        return "" if is_done(records(folder).get(phase.name, {})) else "it ended without a result"
    printed = (folder / LOG).read_bytes()[start:].decode(errors="replace").splitlines()
    last = next((line.strip() for line in reversed(printed) if line.strip()), "nothing was printed")
    return f"exit code {code}: {last}"


def cache_in(programs: Path) -> dict[str, str]:
    """Let phases share whole programs, and nothing else that would make the next one compile faster."""
    return {"JAX_COMPILATION_CACHE_DIR": str(programs), "JAX_PERSISTENT_CACHE_ENABLE_XLA_CACHES": "none"}


# --- Results ----------------------------------------------------------------------------------------------------------


def results(folder: Path, every: Sequence[Phase]) -> table.Results:
    """Collect the records of all phases, in their order."""
    found = records(folder)
    return [(phase, found.get(phase.name, {"error": "not run yet", "figures": {}})) for phase in every]


def write(folder: Path, every: Sequence[Phase]) -> table.Results:
    found = results(folder, every)
    phases = {phase.name: record for phase, record in found}
    write_json(folder / "results.json", {"gpu": gpu(), "phases": phases, "problems": table.problems(found)})
    write_text(folder / "table.txt", table.text(found) + "\n")
    return found


@cache
def gpu() -> str | None:
    """Return what nvidia-smi says of the GPU and its driver, if it is there."""
    if shutil.which("nvidia-smi") is None:
        return None
    query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    return subprocess.run(query, capture_output=True, text=True).stdout.strip()


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends the running phase too
    sys.exit(main())
