"""Variants of an experiment, each trained by a process of its own in a directory of its own, and their table.

DIR/sweep.json   the experiment and every variant's whole config     DIR/sweep.lock   held while a sweep runs
DIR/NAME/        a variant's run directory                           DIR/NAME.log     what its process printed
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
from research.storage.checkpoint import merit
from research.storage.console import amount, clock, console
from research.storage.files import try_lock, write_json
from research.sweep.variants import Place, Variant, total_flops

TRIES = 3  # of a variant that crashes or hangs
LINES_EVERY = 30.0  # seconds, where there is no terminal
# States that no further try would change.
OVER = ("done", "failed", "refused", "diverged", "hopeless", "pruned", "cancelled")


@dataclass
class VariantRun:
    """Where a variant stands, as its run directory says."""

    variant: Variant
    directory: Path
    state: str = "waiting"
    tries: int = 0
    process: subprocess.Popen | None = field(default=None, repr=False)

    def last(self) -> dict[str, Any]:
        """The newest line of its metrics that has a loss."""
        return next((line for line in reversed(self.lines()) if "loss" in line), {})

    def lines(self) -> list[dict[str, Any]]:
        return read_metrics(self.directory)

    def judged(self) -> dict[float, float]:
        """How good its evaluations are, more being better, by the share of the steps done."""
        name, steps = self.variant.config.evaluation.best, self.variant.config.steps
        return {line["step"] / steps: merit(name, line[name]) for line in self.lines() if line.get(name) is not None}

    def result(self) -> dict[str, Any]:
        with contextlib.suppress(OSError, ConfigError):  # the training refuses what is damaged
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
        hopeless_after: float | None = None,
    ) -> None:
        """`published` is what `matched` gives, for the report; `hopeless_after` as in `is_hopeless`."""
        self.file, self.base, self.directory = file, base, directory
        self.published, self.hopeless_after = list(published), hopeless_after
        self.runs = [VariantRun(variant, directory / variant.name) for variant in found]
        self.facts: dict[str, str] = {}  # what sweep.json says besides, and what must not change
        self._stop = threading.Event()

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Holds the directory and writes sweep.json.

        Raises ConfigError where it holds another sweep or something else, or another process holds it.
        """
        path = self.directory / "sweep.json"
        usable = self.directory.is_dir() or not self.directory.exists()
        require(usable, f"{self.directory} is no directory: give another --dir.")
        there = self.directory.is_dir() and any(self.directory.iterdir())
        require(not there or path.is_file(), f"{self.directory} is not empty and holds no sweep: give another --dir.")
        self.directory.mkdir(parents=True, exist_ok=True)
        with (self.directory / "sweep.lock").open("w") as lock:
            require(try_lock(lock), f"{self.directory} is in use by another sweep: wait for it.")
            recorded = parse_json(path.read_bytes(), str(path)) if path.is_file() else {}
            self._check_same(recorded)
            self._record(recorded)
            yield

    def _record(self, recorded: Mapping[str, Any]) -> None:
        """Writes sweep.json; variants that are there and not of this sweep stay."""
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
        """Trains what is not done yet, so many at a time. Returns whether all are."""
        for run in self.runs:
            run.state = "done" if run.is_done() else "waiting"
        waiting = [run for run in self.runs if run.state == "waiting"]
        one_by_one = iter(waiting)
        self._train_in_slots(lambda: next(one_by_one, None), max(1, min(jobs, len(waiting))))
        return all(run.state == "done" for run in self.runs)

    def _train_in_slots(self, take: Callable[[], VariantRun | None], jobs: int) -> None:
        """Trains what `take` gives, which several threads call, so many at a time, until it gives none."""
        slots = [threading.Thread(target=self._slot, args=(take, number, jobs)) for number in range(jobs)]
        with self._stopping_on_signals():
            for slot in slots:
                slot.start()
            self._watch(slots)

    def _slot(self, take: Callable[[], VariantRun | None], number: int, jobs: int) -> None:
        """Trains one variant after another, on this slot's share of cores and GPUs."""
        if hasattr(os, "sched_setaffinity"):  # of this thread, which its processes inherit
            cores = sorted(os.sched_getaffinity(0))
            os.sched_setaffinity(0, cores[number::jobs] or cores)
        while not self._stop.is_set() and (run := take()) is not None:
            while run.state not in OVER and not self._stop.is_set():
                if run_directory.is_held(run.directory):  # by what a sweep that was killed had started
                    run.state = "held by another process"
                    self._stop.wait(1.0)
                elif self.is_hopeless(run):
                    run.state = "hopeless"
                else:
                    self._train_one(run, share_of_gpus(number, jobs))

    def command(self, run: VariantRun) -> list[str]:
        """The training of a variant, which finds the project's modules where this process does.

        `-m` puts the working directory first, `-P` prevents it: a folder of the user's may have a scripts/ too.
        """
        here = any(Path(entry or ".").resolve() == Path.cwd() for entry in sys.path)
        return [sys.executable, *(() if here else ("-P",)), *self.program, *self.arguments(run)]

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
        if code == 42 and self.is_hopeless(run):
            run.state = "hopeless"
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
        """The exit code of a process, which is stopped, as by a scheduler, where its variant is hopeless."""
        told = False
        while True:
            try:
                return process.wait(1.0)
            except subprocess.TimeoutExpired:
                if not told and self.is_hopeless(run):
                    process.send_signal(signal.SIGTERM)
                    told = True

    def is_hopeless(self, run: VariantRun) -> bool:
        """Whether after a share `hopeless_after` of its steps an evaluation is worse than the median of the others.

        Each of the others counts by its last evaluation up to the same share of its own steps, if it has come that
        far; there must be three of them. Numbers of unlike targets are not comparable: this is for the user to know.
        """
        share = self.hopeless_after
        mine = {} if share is None else run.judged()
        if share is None or not mine or max(mine) < share or max(mine) >= 1:
            return False
        now = max(mine)
        others = [one.judged() for one in self.runs if one is not run]
        reached = [one[max(at for at in one if at <= now)] for one in others if one and min(one) <= now <= max(one)]
        return len(reached) >= 3 and mine[now] < statistics.median(reached)

    @contextlib.contextmanager
    def _stopping_on_signals(self) -> Iterator[None]:
        """SIGTERM and Ctrl-C let the running variants save, and start no further ones."""

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
        """Until the slots end: a table on a terminal, else a line for every change of a state and now and then."""
        if console.is_terminal:
            with Live(self.table(), console=console, refresh_per_second=2) as live:
                while any(slot.is_alive() for slot in slots):
                    time.sleep(0.5)
                    live.update(self.table())
                live.update(self.table())
            return
        said: dict[str, str] = {}
        shown, alive = time.monotonic(), True
        while alive:
            alive = any(slot.is_alive() for slot in slots)
            due = time.monotonic() - shown > LINES_EVERY
            shown = time.monotonic() if due else shown
            for run in self.runs:
                if said.get(run.variant.name) != run.state or (due and run.state == "running"):
                    said[run.variant.name] = run.state
                    step, loss, left, state = self._cells(run)
                    left = f"left {left}" if left else ""
                    print("  ".join([run.variant.name, step, f"loss {loss}", left, state]), flush=True)
            time.sleep(0.2 if alive else 0.0)

    def _cells(self, run: VariantRun) -> list[str]:
        """Step, loss, time left, state."""
        last, steps = run.last(), run.variant.config.steps
        step, loss = last.get("step", 0), last.get("loss")
        left = (steps - step) * last["step_seconds"] if run.state == "running" and "step_seconds" in last else None
        return [
            f"{step}/{steps}",
            "-" if loss is None else f"{loss:.4f}",
            "" if left is None else clock(left),
            run.state,
        ]

    def write_page(self) -> None:
        """The sweep's report, once something has begun; what may go wrong with it is said and changes nothing."""
        from research.report import sweep_page  # drawing takes a second to import, which a start need not wait for

        try:
            runs, waiting, published = sweep_page.runs_of(self.directory)
            if runs:
                made = sweep_page.write(
                    self.directory / "report", f"Sweep {self.directory.name}", runs, waiting, published
                )
                console.print(f"Report: {made}", markup=False)
        except (OSError, ValueError) as error:
            console.print(f"The sweep's page could not be written: {error}", markup=False)

    def say_what_is_not_done(self) -> None:
        """The variants that did not end as they should, each with why and where to look."""
        for run in (run for run in self.runs if run.state in OVER and run.state != "done"):
            why = run.result().get("reason") or "its process ended before it could say why"
            said = "worse than most at the same share of the steps" if run.state == "hopeless" else why
            console.print(f"{run.variant.name} {run.state}: {said} ({run.directory}.log)", markup=False)

    def shown(self) -> list[VariantRun]:
        """What is in the table."""
        return self.runs

    def table(self) -> Table:
        name = Column("variant", overflow="fold")
        table = Table(name, "step", "loss", "left", "state", title=str(self.directory))
        for run in self.shown():
            table.add_row(run.variant.name, *self._cells(run))
        return table

    def listing(self, place: Place | None) -> Table:
        """Before anything runs: parameters, FLOPs, and time, by what was timed here or at least what a place takes."""
        name = Column("variant", overflow="fold")
        table = Table(name, "parameters", "FLOPs", "time", title=f"{len(self.runs)} variants of {self.file}")
        speeds = [speed for run in self.runs if (speed := flops_per_second(run)) is not None]
        for run in self.runs:
            flops = total_flops(run.variant.config)
            parameters = parameter_count(abstract_params(run.variant.config.model))
            least = None if place is None else place.seconds(run.variant.config)
            bound = "-" if least is None else f"at least {clock(least)}"
            time_needed = clock(flops / (sum(speeds) / len(speeds))) if speeds else bound
            table.add_row(run.variant.name, amount(parameters), amount(flops), time_needed)
        return table


def flops_per_second(run: VariantRun) -> float | None:
    seconds = run.last().get("step_seconds")
    config = run.variant.config
    return flops_per_step(config, *row_lengths(config)) / seconds if seconds else None


def share_of_gpus(number: int, jobs: int) -> dict[str, str]:
    """What shows a slot its share of the GPUs; nothing where there are fewer than slots."""
    visible = visible_gpus()
    return {"CUDA_VISIBLE_DEVICES": ",".join(visible[number::jobs])} if len(visible) >= jobs > 1 else {}


def visible_gpus() -> list[str]:
    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    cards = Path("/proc/driver/nvidia/gpus")
    all_of_them = [str(card) for card in range(len(list(cards.iterdir())))] if cards.is_dir() else []
    return [card for card in listed.split(",") if card] if listed is not None else all_of_them


def here(jobs: int) -> Place | None:
    """What one of so many jobs has of this machine; None where that cannot be told, as on TPUs."""
    gpus = visible_gpus()
    if gpus:
        asked = ("nvidia-smi", "--query-gpu=memory.total,name", "--format=csv,noheader,nounits")
        with contextlib.suppress(OSError, subprocess.CalledProcessError, ValueError):
            lines = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.splitlines()
            mebibytes, _, name = lines[0].partition(", ")
            devices = max(1, len(gpus) // jobs)
            return Place(name, devices, int(mebibytes) * 2**20, at_peak(PEAK_FLOPS.get(name), devices))
        return None
    if importlib.util.find_spec("libtpu") and os.environ.get("JAX_PLATFORMS") != "cpu":
        return None
    simulated = re.search(r"xla_force_host_platform_device_count=(\d+)", os.environ.get("XLA_FLAGS", ""))
    devices = int(simulated[1]) if simulated else 1
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return Place("this machine", devices, memory / devices, at_peak(processor_flops() / jobs, 1))


def at_peak(flops: float | int | None, devices: int) -> Callable[[Experiment], float | int | None]:
    return lambda config: None if flops is None else total_flops(config) / (flops * devices)


def processor_flops(size: int = 1024) -> float:
    """FLOP/s of all cores together, in a float32 matrix product of NumPy's, the best of three."""
    matrix = np.ones((size, size), np.float32)
    seconds = []
    for _ in range(4):  # the first starts threads
        began = time.perf_counter()
        matrix @ matrix
        seconds.append(time.perf_counter() - began)
    return 2 * size**3 / min(seconds[1:])
