"""A sweep on this machine: each variant is trained by a separate process in its own directory.

DIR/sweep.json   the experiment and every variant's whole config     DIR/sweep.lock   locked while a sweep runs
DIR/NAME/        a variant's run directory                           DIR/NAME.log     the output of its process
"""

import contextlib
import importlib.util
import os
import re
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.live import Live
from rich.table import Column, Table

from research.config import ConfigError, Experiment, parse_json, require
from research.data.shapes import row_lengths
from research.model.flops import flops_per_step, parameter_count
from research.model.transformer import abstract_params
from research.parallel.hardware import PEAK_FLOPS
from research.report.record import read_metrics
from research.storage import run_directory
from research.storage.best import merit
from research.storage.console import amount, clock, console
from research.storage.files import write_json
from research.storage.lock import FileLock, taken_in_time
from research.sweep.variants import Machine, Variant, total_flops

TRIES = 3  # attempts to train a variant that crashes or hangs
LINES_EVERY = 30.0  # seconds between progress lines without a terminal
# States after which a variant is not trained again.
FINAL_STATES = ("done", "failed", "refused", "diverged", "below the median", "pruned", "cancelled")


@dataclass
class VariantRun:
    """A variant's progress, read from its run directory."""

    variant: Variant
    directory: Path
    state: str = "waiting"
    tries: int = 0
    process: subprocess.Popen | None = field(default=None, repr=False)

    def last(self) -> dict[str, Any]:
        """Return the newest line of its training metrics, or an empty dict."""
        return next((line for line in reversed(self.lines()) if "nll" in line), {})

    def lines(self) -> list[dict[str, Any]]:
        return read_metrics(self.directory)

    def merits(self) -> dict[float, float]:
        """Map the share of the steps done at each evaluation to its merit; higher is better."""
        name, steps = self.variant.config.evaluation.best, self.variant.config.steps
        return {line["step"] / steps: merit(name, line[name]) for line in self.lines() if line.get(name) is not None}

    def result(self) -> dict[str, Any]:
        with contextlib.suppress(OSError, ConfigError):  # the training itself rejects damaged files
            return run_directory.read_result(self.directory)
        return {}

    def is_done(self) -> bool:
        with contextlib.suppress(OSError, ConfigError):
            return run_directory.is_done(self.directory, self.variant.config.steps)
        return False


class Sweep:
    """The variants of one experiment in one directory."""

    program = ("-m", "scripts.train")

    def __init__(
        self,
        file: str,
        base: Experiment,
        found: Sequence[Variant],
        directory: Path,
        *,
        published: Sequence[dict[str, Any]] = (),
        stop_below_median_after: float | None = None,
    ) -> None:
        """Create a sweep; `published`, for the report, is a result of `matched`. See also `is_below_median`."""
        self.file, self.base, self.directory = file, base, directory
        self.published, self.stop_below_median_after = list(published), stop_below_median_after
        self.runs = [VariantRun(variant, directory / variant.name) for variant in found]
        self.facts: dict[str, str] = {}  # further entries of sweep.json, which must not change
        self._stop = threading.Event()

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Lock the directory and write sweep.json.

        Raises ConfigError if it holds another sweep or other files, or if another process has locked it.
        """
        path = self.directory / "sweep.json"
        usable = self.directory.is_dir() or not self.directory.exists()
        require(usable, f"{self.directory} is not a directory: give another --dir.")
        in_use = self.directory.is_dir() and any(self.directory.iterdir())
        require(not in_use or path.is_file(), f"{self.directory} is not empty and holds no sweep: give another --dir.")
        self.directory.mkdir(parents=True, exist_ok=True)
        with FileLock(self.directory / "sweep.lock") as lock:
            require(lock.take() or taken_in_time(lock), f"{self.directory} is in use by another sweep: wait for it.")
            recorded = parse_json(path.read_bytes(), str(path)) if path.is_file() else {}
            self._check_same(recorded)
            self._record(recorded)
            yield

    def _record(self, recorded: Mapping[str, Any]) -> None:
        """Write sweep.json; keep recorded variants that are not part of this sweep."""
        configs = {run.variant.name: run_directory.as_data(run.variant.config) for run in self.runs}
        overrides = {run.variant.name: run.variant.overrides for run in self.runs}
        content = {
            "file": self.file,
            "experiment": run_directory.as_data(self.base),
            **self.facts,
            "overrides": recorded.get("overrides", {}) | overrides,
            "variants": recorded.get("variants", {}) | configs,
            "published": self.published,
        }
        write_json(self.directory / "sweep.json", content)

    def _check_same(self, recorded: dict[str, Any]) -> None:
        if recorded:
            run_directory.check_same_experiment(self.directory, recorded["experiment"], self.base)
            before, now = recorded.get("search", "none"), self.facts.get("search", "none")
            require(before == now, f"{self.directory} holds another search: it was {before} and is now {now}.")
        for run in self.runs:
            if run.variant.name in recorded.get("variants", {}):
                before = recorded["variants"][run.variant.name]
                run_directory.check_same_experiment(run.directory, before, run.variant.config)

    def train(self, jobs: int) -> bool:
        """Train all unfinished variants, `jobs` at a time. Return True if all variants are done."""
        for run in self.runs:
            run.state = "done" if run.is_done() else "waiting"
        waiting = [run for run in self.runs if run.state == "waiting"]
        one_by_one = iter(waiting)
        self._train_in_slots(lambda: next(one_by_one, None), max(1, min(jobs, len(waiting))))
        return all(run.state == "done" for run in self.runs)

    def _train_in_slots(self, take: Callable[[], VariantRun | None], jobs: int) -> None:
        """Train the variants that `take` returns, in `jobs` threads that call it until it returns None."""
        slots = [threading.Thread(target=self._slot, args=(take, number, jobs)) for number in range(jobs)]
        with self._stopping_on_signals():
            for slot in slots:
                slot.start()
            self._watch(slots)

    def _slot(self, take: Callable[[], VariantRun | None], number: int, jobs: int) -> None:
        """Train one variant after another, on this slot's share of cores and GPUs."""
        if hasattr(os, "sched_setaffinity"):  # affinity of this thread, which its processes inherit
            cores = sorted(os.sched_getaffinity(0))
            os.sched_setaffinity(0, cores[number::jobs] or cores)
        while not self._stop.is_set() and (run := take()) is not None:
            while run.state not in FINAL_STATES and not self._stop.is_set():
                if run_directory.is_held(run.directory):  # by a process of an earlier sweep that was killed
                    run.state = "held by another process"
                    self._stop.wait(1.0)
                elif self.is_below_median(run):
                    run.state = "below the median"
                else:
                    self._train_one(run, share_of_gpus(number, jobs))

    def command(self, run: VariantRun) -> list[str]:
        """Build the command that trains a variant and imports the project's modules from where this process does.

        `-m` puts the working directory first on sys.path, and `-P` prevents that: the user's directory may contain
        another scripts/.
        """
        on_path = any(Path(entry or ".").resolve() == Path.cwd() for entry in sys.path)
        return [sys.executable, *(() if on_path else ("-P",)), *self.program, *self.arguments(run)]

    def arguments(self, run: VariantRun) -> list[str]:
        overrides = [f"--config.{name}={text}" for name, text in run.variant.overrides.items()]
        return [self.file, "--run_dir", str(run.directory), *overrides]

    def _train_one(self, run: VariantRun, variables: Mapping[str, str]) -> None:
        run.tries += 1
        with open(f"{run.directory}.log", "ab") as log:
            run.process = subprocess.Popen(self.command(run), env=os.environ | dict(variables), stdout=log, stderr=log)
            run.state = "running"
            if self._stop.is_set():
                run.process.send_signal(signal.SIGTERM)
            code = self._exit_code(run, run.process)
        if code == 42 and self.is_below_median(run):
            run.state = "below the median"
            return
        match code:
            case 0:
                run.state = "done"
            case 2:
                run.state = "refused"
            case 42:
                run.state, run.tries = "preempted", run.tries - 1
            case 44:
                run.state = "diverged"
            case _:
                run.state = "failed" if run.tries >= TRIES else "to be tried again"

    def _exit_code(self, run: VariantRun, process: subprocess.Popen) -> int:
        """Wait for a process and return its exit code; send it SIGTERM if its variant falls below the median."""
        stopping = False
        while True:
            try:
                return process.wait(1.0)
            except subprocess.TimeoutExpired:
                if not stopping and self.is_below_median(run):
                    process.send_signal(signal.SIGTERM)
                    stopping = True

    def is_below_median(self, run: VariantRun) -> bool:
        """Return True if a variant is worse than the median of the others.

        It is False until the share `stop_below_median_after` of the variant's steps is done. Compared are the variant's
        last evaluation and, of each other variant that has come that far, the last evaluation up to the same share of
        its own steps; there must be at least three others. Losses of different targets are not comparable, which is
        not checked.
        """
        share = self.stop_below_median_after
        mine = {} if share is None else run.merits()
        if share is None or not mine or max(mine) < share or max(mine) >= 1:
            return False
        now = max(mine)
        others = [one.merits() for one in self.runs if one is not run]
        reached = [one[max(at for at in one if at <= now)] for one in others if one and min(one) <= now <= max(one)]
        return len(reached) >= 3 and mine[now] < statistics.median(reached)

    @contextlib.contextmanager
    def _stopping_on_signals(self) -> Iterator[None]:
        """Handle SIGTERM and Ctrl-C: running variants save a checkpoint and end, and no further ones start."""

        def stop(number: int, frame: Any) -> None:
            self._stop.set()
            for run in self.runs:
                if run.process is not None and run.process.poll() is None:
                    run.process.send_signal(signal.SIGTERM)

        before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _watch(self, slots: Sequence[threading.Thread]) -> None:
        """Show progress until the slots end: a table on a terminal, else lines on changes of state and at intervals."""
        if console.is_terminal:
            with Live(self.table(), console=console, refresh_per_second=2) as live:
                while any(slot.is_alive() for slot in slots):
                    time.sleep(0.5)
                    live.update(self.table())
                live.update(self.table())
            return
        printed: dict[str, str] = {}  # the state last printed for each variant
        shown, alive = time.monotonic(), True
        while alive:
            alive = any(slot.is_alive() for slot in slots)
            due = time.monotonic() - shown > LINES_EVERY
            shown = time.monotonic() if due else shown
            for run in self.runs:
                if printed.get(run.variant.name) != run.state or (due and run.state == "running"):
                    printed[run.variant.name] = run.state
                    step, nll, left, state = self._cells(run)
                    left = f"left {left}" if left else ""
                    print("  ".join([run.variant.name, step, f"nll {nll}", left, state]), flush=True)
            time.sleep(0.2 if alive else 0.0)

    def _cells(self, run: VariantRun) -> list[str]:
        """Return the table cells step, nll, time left and state."""
        last, steps = run.last(), run.variant.config.steps
        step, nll = last.get("step", 0), last.get("nll")
        left = (steps - step) * last["step_seconds"] if run.state == "running" and "step_seconds" in last else None
        return [
            f"{step}/{steps}",
            "-" if nll is None else f"{nll:.4f}",
            "" if left is None else clock(left),
            run.state,
        ]

    def write_page(self) -> None:
        """Write the sweep's report if any variant has started. A failure is only printed."""
        from research.report import sweep_page  # slow: imports matplotlib

        try:
            runs, waiting, published = sweep_page.runs_of(self.directory)
            if runs:
                page = sweep_page.write(
                    self.directory / "report", f"Sweep {self.directory.name}", runs, waiting, published
                )
                console.print(f"Report: {page}", markup=False)
        except (OSError, ValueError) as error:
            console.print(f"The sweep's report could not be written: {error}", markup=False)

    def print_failures(self) -> None:
        """Print each variant that ended without being done, with the reason and its log file."""
        for run in (run for run in self.runs if run.state in FINAL_STATES and run.state != "done"):
            reason = run.result().get("reason") or "its process ended without giving a reason"
            if run.state == "below the median":
                reason = "worse than the median of the others at the same share of the steps"
            console.print(f"{run.variant.name} {run.state}: {reason} ({run.directory}.log)", markup=False)

    def shown(self) -> list[VariantRun]:
        """Return the variants to show in the table."""
        return self.runs

    def table(self) -> Table:
        name = Column("variant", overflow="fold")
        table = Table(name, "step", "nll", "left", "state", title=str(self.directory))
        for run in self.shown():
            table.add_row(run.variant.name, *self._cells(run))
        return table

    def listing(self, machine: Machine | None) -> Table:
        """Make the table of --list: parameters, FLOPs, and time per variant.

        The time comes from the speeds measured in this sweep or, without any, is the lower bound of the machine.
        """
        name = Column("variant", overflow="fold")
        table = Table(name, "parameters", "FLOPs", "time", title=f"{len(self.runs)} variants of {self.file}")
        speeds = [speed for run in self.runs if (speed := flops_per_second(run)) is not None]
        for run in self.runs:
            flops = total_flops(run.variant.config)
            parameters = parameter_count(abstract_params(run.variant.config.model))
            least = None if machine is None else machine.seconds(run.variant.config)
            bound = "-" if least is None else f"at least {clock(least)}"
            time_needed = clock(flops / (sum(speeds) / len(speeds))) if speeds else bound
            table.add_row(run.variant.name, amount(parameters), amount(flops), time_needed)
        return table


def flops_per_second(run: VariantRun) -> float | None:
    seconds = run.last().get("step_seconds")
    config = run.variant.config
    return flops_per_step(config, *row_lengths(config)) / seconds if seconds else None


def share_of_gpus(number: int, jobs: int) -> dict[str, str]:
    """Return the environment variable that limits a slot to its share of the GPUs; none if there are too few GPUs."""
    visible = visible_gpus()
    return {"CUDA_VISIBLE_DEVICES": ",".join(visible[number::jobs])} if len(visible) >= jobs > 1 else {}


def visible_gpus() -> list[str]:
    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    cards = Path("/proc/driver/nvidia/gpus")
    all_of_them = [str(card) for card in range(len(list(cards.iterdir())))] if cards.is_dir() else []
    return [card for card in listed.split(",") if card] if listed is not None else all_of_them


def local_machine(jobs: int) -> Machine | None:
    """Describe the share of this machine that one of `jobs` jobs gets; None if unknown, as on TPUs."""
    gpus = visible_gpus()
    if gpus:
        query = ("nvidia-smi", "--query-gpu=memory.total,name", "--format=csv,noheader,nounits")
        with contextlib.suppress(OSError, subprocess.CalledProcessError, ValueError):
            lines = subprocess.run(query, capture_output=True, text=True, check=True).stdout.splitlines()
            mebibytes, _, name = lines[0].partition(", ")
            devices = max(1, len(gpus) // jobs)
            return Machine(name, devices, int(mebibytes) * 2**20, at_peak(PEAK_FLOPS.get(name), devices))
        return None
    if importlib.util.find_spec("libtpu") and os.environ.get("JAX_PLATFORMS") != "cpu":
        return None
    simulated = re.search(r"xla_force_host_platform_device_count=(\d+)", os.environ.get("XLA_FLAGS", ""))
    devices = int(simulated[1]) if simulated else 1
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return Machine("this machine", devices, memory / devices, at_peak(processor_flops() / jobs, 1))


def at_peak(flops: float | int | None, devices: int) -> Callable[[Experiment], float | int | None]:
    return lambda config: None if flops is None else total_flops(config) / (flops * devices)


def processor_flops(size: int = 1024) -> float:
    """Measure FLOP/s of all cores together in a float32 matrix product of NumPy, the best of three."""
    matrix = np.ones((size, size), np.float32)
    seconds = []
    for _ in range(4):  # the first is a warm-up, which starts the threads
        began = time.perf_counter()
        matrix @ matrix
        seconds.append(time.perf_counter() - began)
    return 2 * size**3 / min(seconds[1:])
