"""Variants of an experiment, each trained by a process of its own in a directory of its own, and their table.

DIR/sweep.json   the experiment and every variant's whole config     DIR/sweep.lock   held while a sweep runs
DIR/NAME/        a variant's run directory                           DIR/NAME.log     what its process printed
"""

import contextlib
import fcntl
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from rich.live import Live
from rich.table import Table

from research import override, plan, run_directory
from research.config import ConfigError, Experiment, parse_json, require
from research.console import amount, clock, console
from research.data import cache
from research.data.shapes import row_lengths
from research.model.transformer import abstract_params

LONGEST_NAME = 100  # of a directory
TRIES = 3  # of a variant that crashes or hangs
LINES_EVERY = 30.0  # seconds, where there is no terminal
OVER = ("done", "failed", "refused", "diverged", "pruned", "cancelled")  # states that no further try would change


class Variant(NamedTuple):
    """What differs from the experiment's file, as text, and the whole config."""

    name: str
    overrides: dict[str, str]
    config: Experiment


def variants(base: Experiment, changes: Sequence[dict[str, str]]) -> list[Variant]:
    """The base under every change, named by what differs between them.

    Raises ConfigError for a change that cannot be applied, and for two that give the same config.
    """
    configs = [override.apply(base, change) for change in changes]
    for number, config in enumerate(configs):
        first = configs.index(config)
        require(first == number, f"Variants {first + 1} and {number + 1} are one and the same: {changes[number]}.")
    shown = short_values(changes)
    found = [
        Variant(directory_name(short_names(changes), one), change, config)
        for one, change, config in zip(shown, changes, configs, strict=True)
    ]
    alike = {variant.name for variant in found if sum(variant.name == other.name for other in found) > 1}
    require(not alike, f"Variants differ, but their names do not: {', '.join(sorted(alike))}.")
    return found


def short_names(changes: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """Of the fields that differ, by their dotted names, the shortest ends of those that tell them apart."""
    fields = {name: None for change in changes for name in change}
    differ = [name for name in fields if len({change.get(name) for change in changes}) > 1]
    shortest = {}
    for name in differ:
        parts = name.split(".")
        ends = [".".join(parts[start:]) for start in range(len(parts) - 1, -1, -1)]
        taken = [other for other in fields if other != name]
        shortest[name] = next(
            (end for end in ends if not any(f".{other}".endswith(f".{end}") for other in taken)), name
        )
    return shortest


def short_values(changes: Sequence[Mapping[str, str]]) -> list[dict[str, str]]:
    """The same, but of a field's constructors only the names, where these tell its values apart."""
    values: dict[str, set[str]] = {}
    for change in changes:
        for name, text in change.items():
            values.setdefault(name, set()).add(text)
    apart = {name for name, texts in values.items() if len({text.partition("(")[0] for text in texts}) == len(texts)}
    return [
        {name: text.partition("(")[0] if name in apart else text for name, text in change.items()} for change in changes
    ]


def directory_name(names: Mapping[str, str], change: Mapping[str, str]) -> str:
    said = [f"{short}={change[name]}" for name, short in names.items() if name in change]
    plain = ",".join(re.sub(r"[^A-Za-z0-9_.+=-]+", "-", one).strip("-") for one in said) or "base"
    return plain if len(plain) <= LONGEST_NAME else f"{plain[: LONGEST_NAME - 9]}-{cache.digest(said)[:8]}"


@dataclass
class Progress:
    """Where a variant stands, as its run directory says."""

    variant: Variant
    directory: Path
    state: str = "waiting"
    tries: int = 0
    process: subprocess.Popen | None = field(default=None, repr=False)

    def last(self) -> dict[str, Any]:
        """The newest line of its metrics that has a loss."""
        with contextlib.suppress(OSError, ValueError):
            lines = (self.directory / "metrics.jsonl").read_text().splitlines()
            return next((line for line in map(json.loads, reversed(lines)) if "loss" in line), {})
        return {}

    def result(self) -> dict[str, Any]:
        with contextlib.suppress(OSError, ValueError):  # what is damaged is for the training to refuse
            return json.loads((self.directory / "RESULT.json").read_bytes())
        return {}

    def is_done(self) -> bool:
        result = self.result()
        reached = result.get("step", 0) >= self.variant.config.steps or "stopped at" in result.get("reason", "")
        return result.get("status") == "done" and reached


class Sweep:
    """The variants of one experiment in one directory."""

    program = ("-m", "scripts.train")

    def __init__(self, file: str, base: Experiment, found: Sequence[Variant], directory: Path) -> None:
        self.file, self.base, self.directory = file, base, directory
        self.runs = [Progress(variant, directory / variant.name) for variant in found]
        self.facts: dict[str, str] = {}  # what sweep.json says besides, and what must not change
        self._stop = threading.Event()

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Holds the directory and writes sweep.json.

        Raises ConfigError where it holds another sweep or something else, or another process holds it.
        """
        path = self.directory / "sweep.json"
        there = self.directory.is_dir() and any(self.directory.iterdir())
        require(not there or path.is_file(), f"{self.directory} is not empty and holds no sweep: give another --dir.")
        self.directory.mkdir(parents=True, exist_ok=True)
        with (self.directory / "sweep.lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise ConfigError(f"{self.directory} is in use by another sweep: wait for it.") from error
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
        }
        run_directory.write_json(self.directory / "sweep.json", content)

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

    def _train_in_slots(self, take: Callable[[], Progress | None], jobs: int) -> None:
        """Trains what `take` gives, which several threads call, so many at a time, until it gives none."""
        slots = [threading.Thread(target=self._slot, args=(take, number, jobs)) for number in range(jobs)]
        with self._stopping_on_signals():
            for slot in slots:
                slot.start()
            self._watch(slots)

    def _slot(self, take: Callable[[], Progress | None], number: int, jobs: int) -> None:
        """Trains one variant after another, on this slot's share of cores and GPUs."""
        if hasattr(os, "sched_setaffinity"):  # of this thread, which its processes inherit
            cores = sorted(os.sched_getaffinity(0))
            os.sched_setaffinity(0, cores[number::jobs] or cores)
        while not self._stop.is_set() and (run := take()) is not None:
            while run.state not in OVER and not self._stop.is_set():
                if run_directory.is_held(run.directory):  # by what a sweep that was killed had started
                    run.state = "held by another process"
                    self._stop.wait(1.0)
                else:
                    self._train_one(run, share_of_gpus(number, jobs))

    def arguments(self, run: Progress) -> list[str]:
        overrides = [f"--config.{name}={text}" for name, text in run.variant.overrides.items()]
        return [self.file, "--run_dir", str(run.directory), *overrides]

    def _train_one(self, run: Progress, variables: Mapping[str, str]) -> None:
        command = [sys.executable, *self.program, *self.arguments(run)]
        run.tries += 1
        with open(f"{run.directory}.log", "ab") as log:
            run.process = subprocess.Popen(command, env=os.environ | dict(variables), stdout=log, stderr=log)
            run.state = "running"
            if self._stop.is_set():
                run.process.send_signal(signal.SIGTERM)
            code = run.process.wait()
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
                    print("  ".join([run.variant.name, *self._cells(run)]), flush=True)
            time.sleep(0.2 * alive)

    def _cells(self, run: Progress) -> list[str]:
        """Step, loss, time left, state."""
        last, steps = run.last(), run.variant.config.steps
        step, loss = last.get("step", 0), last.get("loss")
        left = (steps - step) * last["step_seconds"] if run.state == "running" and "step_seconds" in last else None
        shown = "-" if loss is None else f"{loss:.4f}"
        return [f"{step}/{steps}", f"loss {shown}", "" if left is None else f"left {clock(left)}", run.state]

    def shown(self) -> list[Progress]:
        """What is in the table."""
        return self.runs

    def table(self) -> Table:
        table = Table("variant", "step", "loss", "left", "state", title=str(self.directory))
        for run in self.shown():
            table.add_row(
                run.variant.name, *(cell.removeprefix("loss ").removeprefix("left ") for cell in self._cells(run))
            )
        return table

    def listing(self) -> Table:
        """Before anything runs: parameters, FLOPs, and the time of each where one has been timed."""
        table = Table("variant", "parameters", "FLOPs", "time", title=f"{len(self.runs)} variants of {self.file}")
        speeds = [speed for run in self.runs if (speed := flops_per_second(run)) is not None]
        for run in self.runs:
            flops = total_flops(run.variant.config)
            parameters = plan.parameter_count(abstract_params(run.variant.config.model))
            time_needed = clock(flops / (sum(speeds) / len(speeds))) if speeds else "-"
            table.add_row(run.variant.name, amount(parameters), amount(flops), time_needed)
        return table


def total_flops(config: Experiment) -> int:
    return config.steps * plan.flops_per_step(config, *row_lengths(config))


def flops_per_second(run: Progress) -> float | None:
    seconds = run.last().get("step_seconds")
    config = run.variant.config
    return plan.flops_per_step(config, *row_lengths(config)) / seconds if seconds else None


def share_of_gpus(number: int, jobs: int) -> dict[str, str]:
    """What shows a slot its share of the GPUs; nothing where there are fewer than slots."""
    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    cards = Path("/proc/driver/nvidia/gpus")
    all_of_them = [str(card) for card in range(len(list(cards.iterdir())))] if cards.is_dir() else []
    visible = [card for card in listed.split(",") if card] if listed is not None else all_of_them
    return {"CUDA_VISIBLE_DEVICES": ",".join(visible[number::jobs])} if len(visible) >= jobs > 1 else {}
