"""A search: trials that a sampler asks for one after another, and stops when they promise little. Optuna does both.

DIR/study.journal   Optuna's journal of the trials     DIR/trial-0007/   a trial's run directory
"""

import contextlib
import importlib.util
import json
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from research.config import (
    TPE,
    Choice,
    ConfigError,
    Experiment,
    Hyperband,
    LogRange,
    Median,
    Random,
    Range,
    Search,
    SuccessiveHalving,
    override,
    require,
)
from research.config.names import short_names
from research.report.record import read_metrics
from research.storage.checkpoint import merit
from research.storage.run_directory import as_data
from research.sweep.local import OVER, Sweep, VariantRun
from research.sweep.variants import Variant

SHOWN = 10  # of the best trials, at the end
LOOK = 0.2  # seconds between two looks at a trial's metrics


@dataclass
class Trial(VariantRun):
    asked: Any = field(default=None, repr=False)  # Optuna's trial
    pruned: bool = False


class TrialSweep(Sweep):
    """The trials of one search in one directory."""

    def __init__(
        self, file: str, base: Experiment, common: Mapping[str, str], search: Search, directory: Path, count: int
    ) -> None:
        """`count` trials in all, those of earlier commands among them; `common` overrides are every trial's.

        Raises ConfigError for a field that is not there, and for an end or a choice that the experiment cannot have.
        """
        super().__init__(file, base, [], directory)
        self.common, self.search, self.count = common, search, count
        check_ranges(base, search)
        require(
            importlib.util.find_spec("optuna") is not None,
            "A search needs Optuna: pip install 'kintsugi[search]'.",
        )
        self.facts = {"search": repr(search)}
        self._optuna = threading.RLock()  # one thread at a time asks and tells

    def _check_same(self, recorded: dict[str, Any]) -> None:
        super()._check_same(recorded)
        if recorded:
            before, now = recorded["experiment"], as_data(self.base)
            for name in ("steps", "evaluation"):  # which a single run may change on its way
                said = f"{name} was {before[name]} and is now {now[name]}"
                require(before[name] == now[name], f"{self.directory} holds another search: {said}.")

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        with super().held():
            self._open()
            yield

    def _open(self) -> None:
        """The study, and the trials that it has."""
        import optuna
        from optuna.storages.journal import JournalFileBackend

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        path = self.directory / "study.journal"
        mend(path)
        self.study = optuna.create_study(
            storage=optuna.storages.JournalStorage(JournalFileBackend(str(path))),
            study_name="search",
            direction="maximize" if merit(self.aim, 1.0) > merit(self.aim, 0.0) else "minimize",
            pruner=pruner(self.search, self.base.steps),
            load_if_exists=True,
        )
        trials = self.study.get_trials(deepcopy=False)
        self._unfinished = iter([trial.number for trial in trials if not trial.state.is_finished()])
        ended = [trial for trial in trials if trial.state.is_finished() and trial.user_attrs["state"] != "refused"]
        for trial in ended:
            overrides = self._overrides(trial.params)
            self._add(trial.number, overrides, override.apply(self.base, overrides), state=trial.user_attrs["state"])

    @property
    def aim(self) -> str:
        return self.base.evaluation.best

    def train(self, jobs: int) -> bool:
        """Trains trials, so many at a time, until there are as many as asked for. Returns whether all have ended."""
        self._train_in_slots(self._next, jobs)
        trials = self.study.get_trials(deepcopy=False)
        return len(trials) >= self.count and all(trial.state.is_finished() for trial in trials)

    # --- One trial ----------------------------------------------------------------------------------------------------

    def _next(self) -> Trial | None:
        """A trial that was broken off, or a new one; those that the experiment refuses are passed over."""
        while True:
            with self._optuna:
                asked = self._asked()
                if asked is None:
                    return None
                overrides = self._overrides({name: suggest(asked, name, of) for name, of in self.search.ranges.items()})
                try:
                    config = override.apply(self.base, overrides)
                except ConfigError as error:
                    print(f"{name_of(asked.number)}  refused: {error}", flush=True)
                    self._tell(asked, "refused")
                    continue
                trial = self._add(asked.number, overrides, config, asked=asked)
                self._record(json.loads((self.directory / "sweep.json").read_bytes()))
                return trial

    def _asked(self) -> Any:
        """Optuna's trial; its sampler begins anew with each, so that a search that was broken off goes on the same."""
        import optuna

        trials = self.study.get_trials(deepcopy=False)
        number = next(self._unfinished, None)
        if number is None and len(trials) >= self.count:
            return None
        self.study.sampler = sampler(self.search, len(trials) if number is None else number)
        return self.study.ask() if number is None else optuna.trial.Trial(self.study, trials[number]._trial_id)

    def _train_one(self, run: VariantRun, variables: Mapping[str, str]) -> None:
        assert isinstance(run, Trial)
        ended = threading.Event()
        watching = threading.Thread(target=self._judge_until, args=(run, ended))
        watching.start()
        try:
            super()._train_one(run, variables)
        finally:
            ended.set()
            watching.join()
        with self._optuna:
            self._judge(run)
            if run.pruned:
                run.state = "pruned"
            elif run.state == "done":
                self._tell(run.asked, *self._value(run))
            elif run.state in ("refused", "diverged"):
                self._tell(run.asked, run.state)

    def _judge_until(self, run: Trial, ended: threading.Event) -> None:
        while not ended.wait(LOOK) and not run.pruned:
            with self._optuna:
                self._judge(run)

    def _judge(self, run: Trial) -> None:
        """Reports the evaluations that are new, in order, and stops the trial where the pruner says so.

        What came after that is not reported, and a trial that ended first is pruned all the same, so that how fast one
        looks decides nothing.
        """
        reported = self.study.get_trials(deepcopy=False)[run.asked.number].intermediate_values
        for step, value in evaluations(run.directory, self.aim):
            if run.pruned or step in reported:
                continue
            run.asked.report(value, step)
            last = step >= run.variant.config.steps
            if self.search.pruning is not None and not last and run.asked.should_prune():
                self._tell(run.asked, "pruned")  # before it ends, so that it is not taken up again
                run.pruned = True
                if run.process is not None and run.process.poll() is None:
                    run.process.terminate()

    def _value(self, run: VariantRun) -> tuple[str, float | None]:
        best = run.result().get("best", {}).get(self.aim)
        return ("done", best) if best is not None else ("diverged", None)

    def _tell(self, asked: Any, state: str, value: float | None = None) -> None:
        """What diverges counts as pruned, which Optuna learns from as from what is bad; as failed it would not."""
        import optuna

        asked.set_user_attr("state", state)
        ends = {"done": "COMPLETE", "refused": "FAIL"}
        self.study.tell(asked, value, state=optuna.trial.TrialState[ends.get(state, "PRUNED")])

    def _overrides(self, values: Mapping[str, Any]) -> dict[str, str]:
        return {**self.common, **{name: str(value) for name, value in values.items()}}

    def _add(self, number: int, overrides: dict[str, str], config: Experiment, **facts: Any) -> Trial:
        name = name_of(number)
        self.runs.append(trial := Trial(Variant(name, overrides, config), self.directory / name, **facts))
        return trial

    def shown(self) -> list[VariantRun]:
        """The last ones, and all that run."""
        late = len(self.runs) - SHOWN
        return [run for number, run in enumerate(self.runs) if number >= late or run.state not in OVER]

    # --- The end ------------------------------------------------------------------------------------------------------

    def best(self) -> Table:
        """The best trials of those that were trained to their end."""
        done: list[Any] = [trial for trial in self.study.get_trials(deepcopy=False) if trial.state.name == "COMPLETE"]
        order = sorted(done, key=lambda trial: -merit(self.aim, trial.value))
        names = list(self.search.ranges)
        shorter = short_names([{name: str(trial) for name in names} for trial in (0, 1)])
        table = Table("trial", self.aim, *shorter.values(), title=f"{len(done)} trials trained to their end")
        for trial in order[:SHOWN]:
            values = [trial.params[name] for name in names]
            shown = [f"{value:.4g}" if isinstance(value, float) else str(value) for value in values]
            table.add_row(name_of(trial.number), f"{trial.value:.4f}", *shown)
        return table


def name_of(number: int) -> str:
    return f"trial-{number:04}"


def check_ranges(base: Experiment, search: Search) -> None:
    """Each end and each choice is tried alone. Raises ConfigError that names the first that the experiment refuses."""
    if isinstance(search.pruning, SuccessiveHalving | Hyperband):
        first = search.pruning.first
        require(first <= base.steps, f"pruning.first is {first}: trials have {base.steps} steps, so at most that.")
    for name, space in search.ranges.items():
        ends = space.of if isinstance(space, Choice) else (space.low, space.high)
        for value in ends:
            try:
                override.apply(base, {name: str(value)})
            except ConfigError as error:
                raise ConfigError(f"search() asks for {name}={value}, which cannot be: {error}") from error


def suggest(asked: Any, name: str, space: Range | LogRange | Choice) -> Any:
    match space:
        case Choice(values):
            return asked.suggest_categorical(name, [str(value) for value in values])
        case Range(int(low), int(high)):
            return asked.suggest_int(name, low, high)
        case LogRange(int(low), int(high)):
            return asked.suggest_int(name, low, high, log=True)
        case Range(low, high):
            return asked.suggest_float(name, low, high)
        case LogRange(low, high):
            return asked.suggest_float(name, low, high, log=True)


def sampler(search: Search, number: int) -> Any:
    """Optuna's sampler for the trial of this number."""
    import optuna

    seed = int(np.random.SeedSequence([search.seed, number]).generate_state(1)[0])
    match search.sampler:
        case TPE(random_trials):
            return optuna.samplers.TPESampler(n_startup_trials=random_trials, seed=seed)
        case Random():
            return optuna.samplers.RandomSampler(seed=seed)


def pruner(search: Search, steps: int) -> Any:
    """Optuna's pruner, for trials of so many steps."""
    import optuna

    match search.pruning:
        case Median(finished, warmup):
            return optuna.pruners.MedianPruner(n_startup_trials=finished, n_warmup_steps=warmup)
        case SuccessiveHalving(first, factor):
            return optuna.pruners.SuccessiveHalvingPruner(min_resource=first, reduction_factor=factor)
        case Hyperband(first, factor):
            return optuna.pruners.HyperbandPruner(min_resource=first, max_resource=steps, reduction_factor=factor)
        case None:
            return optuna.pruners.NopPruner()


def mend(journal: Path) -> None:
    """Takes away what a process that was killed left: half a line, which would spoil all that follow, and its lock."""
    if journal.is_file():
        whole = journal.read_bytes()
        if not whole.endswith(b"\n"):
            with open(journal, "r+b") as file:
                file.truncate(whole.rfind(b"\n") + 1)
    lock = journal.with_name(journal.name + ".lock")
    lock.unlink(missing_ok=True)


def evaluations(directory: Path, name: str) -> list[tuple[int, float]]:
    """Steps and values of the evaluations so far; a line that is still being written is none yet."""
    return [(line["step"], line[name]) for line in read_metrics(directory) if line.get(name) is not None]
