"""A hyperparameter search: Optuna's sampler proposes trials one after another, and its pruner stops the poor ones.

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
from research.storage.best import merit
from research.storage.run_directory import as_data
from research.sweep.local import FINAL_STATES, Sweep, VariantRun
from research.sweep.variants import Variant

SHOWN = 10  # trials in a table
POLL = 0.2  # seconds between two reads of a trial's metrics


@dataclass
class Trial(VariantRun):
    optuna_trial: Any = field(default=None, repr=False)
    pruned: bool = False


class TrialSweep(Sweep):
    """The trials of one search in one directory."""

    def __init__(
        self, file: str, base: Experiment, common: Mapping[str, str], search: Search, directory: Path, count: int
    ) -> None:
        """Create a search of `count` trials in total, including those of earlier commands.

        `common` overrides apply to every trial. Raises ConfigError for an unknown field, and for an end of a range or a
        choice that is invalid for the experiment.
        """
        super().__init__(file, base, [], directory)
        self.common, self.search, self.count = common, search, count
        check_ranges(base, search)
        require(
            importlib.util.find_spec("optuna") is not None,
            "A search needs Optuna: pip install 'kintsugi[search]'.",
        )
        self.facts = {"search": repr(search)}
        self._optuna = threading.RLock()  # one thread at a time uses the study

    def _check_same(self, recorded: dict[str, Any]) -> None:
        super()._check_same(recorded)
        if recorded:
            before, now = recorded["experiment"], as_data(self.base)
            for name in ("steps", "evaluation"):  # a single run may change these when it is resumed
                change = f"{name} was {before[name]} and is now {now[name]}"
                require(before[name] == now[name], f"{self.directory} holds another search: {change}.")

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        with super().held():
            self._open()
            yield

    def _open(self) -> None:
        """Open or create the study, and add the trials that it has recorded."""
        import optuna
        from optuna.storages.journal import JournalFileBackend

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        path = self.directory / "study.journal"
        repair_journal(path)
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
        """Train trials, `jobs` at a time, until there are `count` of them. Return True if all have ended."""
        self._train_in_slots(self._next, jobs)
        trials = self.study.get_trials(deepcopy=False)
        return len(trials) >= self.count and all(trial.state.is_finished() for trial in trials)

    # --- One trial ----------------------------------------------------------------------------------------------------

    def _next(self) -> Trial | None:
        """Return an interrupted trial or a new one, or None at the end; skip trials that the experiment rejects."""
        while True:
            with self._optuna:
                proposed = self._propose()
                if proposed is None:
                    return None
                values = {name: suggest(proposed, name, space) for name, space in self.search.ranges.items()}
                overrides = self._overrides(values)
                try:
                    config = override.apply(self.base, overrides)
                except ConfigError as error:
                    print(f"{name_of(proposed.number)}  refused: {error}", flush=True)
                    self._tell(proposed, "refused")
                    continue
                trial = self._add(proposed.number, overrides, config, optuna_trial=proposed)
                self._record(json.loads((self.directory / "sweep.json").read_bytes()))
                return trial

    def _propose(self) -> Any:
        """Return Optuna's next trial, or None at the end.

        The sampler is created anew for each trial, so an interrupted search continues with the trials that it would
        have proposed.
        """
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
                self._tell(run.optuna_trial, *self._value(run))
            elif run.state in ("refused", "diverged"):
                self._tell(run.optuna_trial, run.state)

    def _judge_until(self, run: Trial, ended: threading.Event) -> None:
        while not ended.wait(POLL) and not run.pruned:
            with self._optuna:
                self._judge(run)

    def _judge(self, run: Trial) -> None:
        """Report new evaluations to Optuna in order, and stop the trial at the first one that the pruner rejects.

        Later evaluations are not reported, and a trial that has already ended counts as pruned too, so the result does
        not depend on how often the metrics are read.
        """
        reported = self.study.get_trials(deepcopy=False)[run.optuna_trial.number].intermediate_values
        for step, value in evaluations(run.directory, self.aim):
            if run.pruned or step in reported:
                continue
            run.optuna_trial.report(value, step)
            last = step >= run.variant.config.steps
            if self.search.pruning is not None and not last and run.optuna_trial.should_prune():
                self._tell(run.optuna_trial, "pruned")  # before its process ends, so that it is not resumed
                run.pruned = True
                if run.process is not None and run.process.poll() is None:
                    run.process.terminate()

    def _value(self, run: VariantRun) -> tuple[str, float | None]:
        best = run.result().get("best", {}).get(self.aim)
        return ("done", best) if best is not None else ("diverged", None)

    def _tell(self, trial: Any, state: str, value: float | None = None) -> None:
        """Report a trial's end to Optuna.

        Diverged trials are reported as pruned: samplers treat those as bad results, but ignore failed ones.
        """
        import optuna

        trial.set_user_attr("state", state)
        ends = {"done": "COMPLETE", "refused": "FAIL"}
        self.study.tell(trial, value, state=optuna.trial.TrialState[ends.get(state, "PRUNED")])

    def _overrides(self, values: Mapping[str, Any]) -> dict[str, str]:
        return {**self.common, **{name: str(value) for name, value in values.items()}}

    def _add(self, number: int, overrides: dict[str, str], config: Experiment, **facts: Any) -> Trial:
        name = name_of(number)
        self.runs.append(trial := Trial(Variant(name, overrides, config), self.directory / name, **facts))
        return trial

    def shown(self) -> list[VariantRun]:
        """Return the last SHOWN trials, and all that have not ended."""
        late = len(self.runs) - SHOWN
        return [run for number, run in enumerate(self.runs) if number >= late or run.state not in FINAL_STATES]

    # --- The end ------------------------------------------------------------------------------------------------------

    def best(self) -> Table:
        """Make the table of the best trials among those that were trained to the end."""
        done: list[Any] = [trial for trial in self.study.get_trials(deepcopy=False) if trial.state.name == "COMPLETE"]
        order = sorted(done, key=lambda trial: -merit(self.aim, trial.value))
        names = list(self.search.ranges)
        shorter = short_names([{name: str(trial) for name in names} for trial in (0, 1)])
        table = Table("trial", self.aim, *shorter.values(), title=f"{len(done)} trials trained to the end")
        for trial in order[:SHOWN]:
            values = [trial.params[name] for name in names]
            shown = [f"{value:.4g}" if isinstance(value, float) else str(value) for value in values]
            table.add_row(name_of(trial.number), f"{trial.value:.4f}", *shown)
        return table


def name_of(number: int) -> str:
    return f"trial-{number:04}"


def check_ranges(base: Experiment, search: Search) -> None:
    """Apply each end of a range and each choice alone. Raise ConfigError for the first invalid one."""
    if isinstance(search.pruning, SuccessiveHalving | Hyperband):
        first = search.pruning.first
        require(first <= base.steps, f"pruning.first is {first}: it must be at most the {base.steps} steps of a trial.")
    for name, space in search.ranges.items():
        values = space.of if isinstance(space, Choice) else (space.low, space.high)
        if not isinstance(space, Choice) and float in (type(space.low), type(space.high)):
            values += (space.low + 0.382 * (space.high - space.low),)  # where ends are whole, what is drawn is not
        for value in values:
            try:
                override.apply(base, {name: str(value)})
            except ConfigError as error:
                raise ConfigError(f"search() contains {name}={value}, which is invalid: {error}") from error


def suggest(trial: Any, name: str, space: Range | LogRange | Choice) -> Any:
    match space:
        case Choice(values):
            return trial.suggest_categorical(name, [str(value) for value in values])
        case Range(int(low), int(high)):
            return trial.suggest_int(name, low, high)
        case LogRange(int(low), int(high)):
            return trial.suggest_int(name, low, high, log=True)
        case Range(low, high):
            return trial.suggest_float(name, low, high)
        case LogRange(low, high):
            return trial.suggest_float(name, low, high, log=True)


def sampler(search: Search, number: int) -> Any:
    """Create Optuna's sampler for the trial of this number."""
    import optuna

    seed = int(np.random.SeedSequence([search.seed, number]).generate_state(1)[0])
    match search.sampler:
        case TPE(random_trials):
            return optuna.samplers.TPESampler(n_startup_trials=random_trials, seed=seed)
        case Random():
            return optuna.samplers.RandomSampler(seed=seed)


def pruner(search: Search, steps: int) -> Any:
    """Create Optuna's pruner, for trials of `steps` steps."""
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


def repair_journal(journal: Path) -> None:
    """Remove the remains of a killed process: an incomplete last line, which would corrupt later ones, and its lock."""
    if journal.is_file():
        whole = journal.read_bytes()
        if not whole.endswith(b"\n"):
            with open(journal, "r+b") as file:
                file.truncate(whole.rfind(b"\n") + 1)
    lock = journal.with_name(journal.name + ".lock")
    lock.unlink(missing_ok=True)


def evaluations(directory: Path, name: str) -> list[tuple[int, float]]:
    """Return (step, value) of the evaluations so far; an incomplete last line is ignored."""
    return [(line["step"], line[name]) for line in read_metrics(directory) if line.get(name) is not None]
