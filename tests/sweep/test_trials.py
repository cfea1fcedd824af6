"""Trials proposed by a sampler and pruned by their evaluations; an interrupted search continues as it would have."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from real_runs import EXPERIMENT, ROOT, environment

from research import TPE, Choice, Hyperband, LogRange, Median, Random, Range, Search, SuccessiveHalving
from research.config import ConfigError, load, override
from research.sweep import trials as trials
from research.sweep.local import Sweep
from scripts import sweep as script

# The loss is a parabola of the learning rate's logarithm, with its bottom at 0.01; $PLACE/ends has exit codes.
TRAINING = """
import json, math, os, signal, sys, time
from pathlib import Path
run = Path(sys.argv[sys.argv.index("--run_dir") + 1])
run.mkdir(exist_ok=True)
place = Path(os.environ["PLACE"])
signal.signal(signal.SIGTERM, lambda *_: os._exit(42))
with open(place / "starts", "a") as starts:
    starts.write(json.dumps([run.name, sys.argv[1:]]) + "\\n")
count = sum(json.loads(line)[0] == run.name for line in open(place / "starts"))
ends = json.loads((place / "ends").read_text()).get(run.name, [0]) if (place / "ends").exists() else [0]
code = ends[min(count, len(ends)) - 1]
given = dict(argument.removeprefix("--config.").split("=", 1) for argument in sys.argv[4:])
loss = 2 + (math.log10(float(given["optimizer.schedule.peak"])) + 2) ** 2 + float(given.get("model.dropout", 0))
lines = (run / "metrics.jsonl").read_text().splitlines() if (run / "metrics.jsonl").exists() else []
with open(run / "metrics.jsonl", "a") as metrics:
    for step in range(len(lines) + 1, 7):
        if code == "hang" and step > 3:
            (place / "hangs").touch()
            while True: time.sleep(0.01)
        if code in (1, 44) and step > 3:
            sys.exit(code)
        line = {"step": step, "loss": loss, "held_out_loss": loss + 1 / step, "held_out_accuracy": 1 / loss}
        metrics.write(json.dumps(line) + "\\n")
        metrics.flush()
        if os.environ.get("SECONDS"): time.sleep(float(os.environ["SECONDS"]))
best = {"held_out_loss": loss + 1 / 6, "step": 6}
(run / "RESULT.json").write_text(json.dumps({"status": "done", "step": 6, "reason": "", "best": best}))
sys.exit(code)
"""
SEARCH = """
def search():
    return Search({ranges}, sampler={sampler}, pruning={pruning}, seed={seed})
"""
RANGES = '{"optimizer.schedule.peak": LogRange(1e-4, 1e-1), "model.dropout": Range(0.0, 0.3)}'


class Place:
    def __init__(self, folder: Path) -> None:
        self.folder, self.directory = folder, folder / "search"
        self.write()
        (folder / "training.py").write_text(TRAINING)

    def write(self, ranges: str = RANGES, sampler: str = "TPE(3)", pruning: str = "None", seed: int = 0) -> None:
        content = EXPERIMENT.format(folder=self.folder, steps=6)
        content += SEARCH.format(ranges=ranges, sampler=sampler, pruning=pruning, seed=seed)
        (self.folder / "experiment.py").write_text(content)

    def arguments(self, trials: int, *others: str, directory: str = "search") -> list[str]:
        where = ["--dir", str(self.folder / directory), "--trials", str(trials)]
        return [str(self.folder / "experiment.py"), *where, *others]

    def command(self, trials: int, *others: str, directory: str = "search") -> int:
        return script.main(self.arguments(trials, *others, directory=directory))

    def starts(self) -> list[str]:
        path = self.folder / "starts"
        return [json.loads(line)[0] for line in path.read_text().splitlines()] if path.exists() else []

    def overrides(self, directory: str = "search") -> dict[str, dict[str, str]]:
        return json.loads((self.folder / directory / "sweep.json").read_text())["overrides"]

    def ends(self, **ends: list) -> None:
        (self.folder / "ends").write_text(json.dumps({name.replace("_", "-"): codes for name, codes in ends.items()}))

    def trials(self, directory: str = "search") -> list:
        return studied(self.folder / directory)

    def states(self, directory: str = "search") -> list[str]:
        return [trial.state.name for trial in self.trials(directory)]


def studied(directory: Path) -> list:
    return study(directory).trials


def study(directory: Path):
    """As Optuna itself reads it."""
    import optuna

    backend = optuna.storages.journal.JournalFileBackend(str(directory / "study.journal"))
    return optuna.load_study(study_name="search", storage=optuna.storages.JournalStorage(backend))


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    pytest.importorskip("optuna")
    found = Place(tmp_path)
    monkeypatch.setattr(Sweep, "program", (str(tmp_path / "training.py"),))
    monkeypatch.setattr(trials, "POLL", 0.02)
    monkeypatch.setenv("PLACE", str(tmp_path))
    return found


@pytest.mark.slow
def test_trials_are_runs_and_the_best_are_shown(place: Place, capsys, recwarn) -> None:
    assert place.command(12, "--jobs", "2", "--config.batch_size=4") == 0
    assert sorted(place.starts()) == [f"trial-{number:04}" for number in range(12)]
    said = capsys.readouterr().out
    assert "12 trials trained to the end" in said
    values = {f"trial-{trial.number:04}": trial.value for trial in place.trials()}
    best = min(values, key=values.get)
    assert said.index(best, said.index("to the end")) < said.index(f"{sorted(values.values())[1]:.4f}")
    for trial in place.trials():
        asked = place.overrides()[f"trial-{trial.number:04}"]
        assert asked == {"batch_size": "4"} | {name: str(value) for name, value in trial.params.items()}
        assert 1e-4 <= float(asked["optimizer.schedule.peak"]) <= 1e-1
        assert list(trial.intermediate_values) == [1, 2, 3, 4, 5, 6]
        result = json.loads((place.directory / f"trial-{trial.number:04}" / "RESULT.json").read_text())
        assert trial.value == result["best"]["held_out_loss"]
    assert place.command(12, "--config.batch_size=4") == 0
    assert not [warning for warning in recwarn if "already reported" in str(warning.message)]
    assert len(place.starts()) == 12
    assert place.command(13, "--config.batch_size=4") == 0
    assert place.starts()[12:] == ["trial-0012"]


@pytest.mark.slow
def test_it_learns_from_the_trials_there_are(place: Place) -> None:
    place.write(sampler="TPE(5)")
    assert place.command(15) == 0
    values = [trial.value for trial in place.trials()]
    assert sum(values[-5:]) < sum(values[:5])


@pytest.mark.slow
def test_one_at_a_time_a_search_can_be_repeated(place: Place) -> None:
    place.write(pruning="Median(finished=2)")
    assert place.command(10, directory="a") == 0
    assert place.command(10, directory="b") == 0
    assert place.overrides("a") == place.overrides("b")
    assert place.states("a") == place.states("b")
    assert [trial.intermediate_values for trial in place.trials("a")] == [
        trial.intermediate_values for trial in place.trials("b")
    ]
    place.write(pruning="Median(finished=2)", seed=1)
    assert place.command(10, directory="c") == 0
    assert place.overrides("a") != place.overrides("c")


@pytest.mark.slow
def test_killed_it_goes_on_as_if_nothing_had_happened(place: Place) -> None:
    place.write(pruning="Median(finished=5)")  # so that it is not stopped before it is killed
    assert place.command(8, directory="whole") == 0
    (place.folder / "starts").unlink()
    place.ends(trial_0004=["hang", 0])
    program = f"from research.sweep.local import Sweep; Sweep.program = ({str(place.folder / 'training.py')!r},)"
    program += f"; from scripts import sweep; sweep.main({place.arguments(8)!r})"
    killed = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, start_new_session=True)
    while not (place.folder / "hangs").exists():
        assert killed.poll() is None
        time.sleep(0.01)
    time.sleep(1)  # until what there is of the trial is noted
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    with open(place.directory / "study.journal", "ab") as journal:
        journal.write(b'{"op_code":9,"wor')  # as if it had been writing
    (place.directory / "study.journal.lock").symlink_to(place.directory / "study.journal")
    assert place.command(8) == 0
    assert [place.starts().count(f"trial-{number:04}") for number in range(8)] == [1, 1, 1, 1, 2, 1, 1, 1]
    assert place.overrides() == place.overrides("whole")
    assert [(trial.state, trial.value) for trial in place.trials()] == [
        (trial.state, trial.value) for trial in place.trials("whole")
    ]


@pytest.mark.slow
def test_killed_before_it_had_drawn_a_trial_it_draws_the_same(place: Place) -> None:
    assert place.command(6, directory="whole") == 0
    assert place.command(5) == 0
    study(place.directory).ask()
    assert place.command(6) == 0
    assert place.overrides() == place.overrides("whole")


@pytest.mark.slow
def test_at_its_last_step_no_trial_is_stopped_any_more(place: Place) -> None:
    place.write(pruning="Median(1, warmup=6)", sampler="Random()")
    assert place.command(5) == 0
    assert place.states() == ["COMPLETE"] * 5


@pytest.mark.slow
def test_a_trial_that_promises_little_is_stopped_and_saves(place: Place, monkeypatch, capsys) -> None:
    place.write(ranges='{"optimizer.schedule.peak": LogRange(1e-8, 1e-1)}', pruning="Median(1)", sampler="Random()")
    monkeypatch.setenv("SECONDS", "0.2")
    assert place.command(6) == 0
    states = place.states()
    assert states.count("PRUNED") >= 1
    assert states.count("COMPLETE") >= 1
    for number, trial in enumerate(place.trials()):
        result = place.directory / f"trial-{number:04}" / "RESULT.json"
        assert result.exists() == (trial.state.name == "COMPLETE")
        if trial.state.name == "PRUNED":
            assert list(trial.intermediate_values) == [1]
            earlier = [other.intermediate_values[1] for other in place.trials()[:number]]
            assert trial.intermediate_values[1] > min(earlier)
    assert "pruned" in capsys.readouterr().out
    count = len(place.starts())
    assert place.command(6) == 0
    assert len(place.starts()) == count


@pytest.mark.slow
def test_what_breaks_is_tried_again_and_the_rest_goes_on(place: Place) -> None:
    place.ends(trial_0001=[1, 43, 0], trial_0002=[1, 1, 1, 0], trial_0003=[44], trial_0004=[42, 42, 42, 42, 0])
    assert place.command(6, "--jobs", "2") == 1
    assert [place.starts().count(f"trial-{number:04}") for number in range(6)] == [1, 3, 3, 1, 5, 1]
    assert place.states() == ["COMPLETE", "COMPLETE", "RUNNING", "PRUNED", "COMPLETE", "COMPLETE"]
    assert place.trials()[3].user_attrs["state"] == "diverged"
    assert place.command(6) == 0  # what failed is tried once more
    assert place.states() == ["COMPLETE", "COMPLETE", "COMPLETE", "PRUNED", "COMPLETE", "COMPLETE"]


@pytest.mark.slow
def test_a_trial_that_the_experiment_refuses_is_marked_and_passed_over(place: Place, capsys) -> None:
    """Each end can be had alone; not all of them together."""
    place.write(
        ranges=f'{{"batch_size": Choice((8, 9)), "microbatches": Choice((1, 2)), {RANGES[1:]}', sampler="Random()"
    )
    assert place.command(12) == 0
    refused = [trial for trial in place.trials() if trial.state.name == "FAIL"]
    assert refused
    assert all(trial.params["batch_size"] + trial.params["microbatches"] == "92" for trial in refused)
    said = f"trial-{refused[0].number:04}  refused: microbatches is 2: it must divide batch_size, which is 9."
    assert said in capsys.readouterr().out
    assert len(place.starts()) == 12 - len(refused)
    assert place.command(12) == 0


@pytest.mark.slow
def test_another_number_may_be_the_aim_and_more_of_it_is_better(place: Place, capsys) -> None:
    (place.folder / "training.py").write_text(
        TRAINING.replace('{"held_out_loss": loss + 1 / 6', '{"held_out_accuracy": 1 / loss')
    )
    assert place.command(6, "--config.evaluation=Evaluation(best='held_out_accuracy')") == 0
    values = {f"trial-{trial.number:04}": trial.value for trial in place.trials()}
    said = capsys.readouterr().out.partition("6 trials trained to the end")[2]
    assert said.index(max(values, key=values.get)) < said.index(min(values, key=values.get))
    assert place.trials()[0].intermediate_values[6] == values["trial-0000"]
    assert study(place.directory).best_value == max(values.values())


@pytest.mark.slow
def test_a_search_is_not_another(place: Place, capsys) -> None:
    assert place.command(1) == 0
    place.write(seed=3)
    assert place.command(2) == 2
    assert "holds another search: it was Search(" in capsys.readouterr().err
    place.write()
    assert place.command(2, "--config.steps=7") == 2
    assert "holds another search: steps was 6 and is now 7" in capsys.readouterr().err
    assert place.command(2, "--config.batch_size=4") == 2
    assert "holds another experiment: batch_size was 8 and is now 4" in capsys.readouterr().err
    (place.folder / "experiment.py").write_text(
        (place.folder / "experiment.py").read_text() + "\ndef sweep():\n    return seeds(2)\n"
    )
    assert script.main([str(place.folder / "experiment.py"), "--dir", str(place.directory)]) == 2
    assert "holds another search" in capsys.readouterr().err


@pytest.mark.slow
def test_kinds_of_values_are_those_of_the_field(place: Place) -> None:
    ranges = """{"optimizer.schedule.peak": Choice((0.1, 0.2)), "model.heads": Choice((2, 4)), "seed": Range(1, 9),
        "model.feed_forward": LogRange(16, 64), "loss": Choice((Loss(), Loss(z_loss=0.0)))}"""
    place.write(ranges=ranges)
    assert place.command(3) == 0
    for asked in place.overrides().values():
        config = override.apply(load.open_experiment(place.folder / "experiment.py").config, asked)
        assert 1 <= config.seed <= 9
        assert 16 <= config.model.feed_forward <= 64
        assert config.model.heads in (2, 4)
        assert config.loss.z_loss in (1e-4, 0.0)


# --- What is refused before anything runs -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ranges", "others", "said"),
    [
        ('{"optimizer.pek": Range(0.0, 1.0)}', {}, "optimizer.pek=0.0, which is invalid: optimizer.pek is no field"),
        ('{"model.dropout": Range(0.0, 1.5)}', {}, "model.dropout=1.5, which is invalid: model.dropout is 1.5"),
        ('{"model.heads": Choice((2, "many"))}', {}, "model.heads=many, which is invalid: model.heads is 'many'"),
        ('{"model.heads": Range(2.0, 4.0)}', {}, "allowed is an integer"),
        ("{}", {}, "search.ranges is empty"),
        (
            '{"steps": Range(5, 10)}',
            {},
            "search.ranges names steps: all trials must have the same steps and evaluation",
        ),
        (RANGES, {"pruning": "Hyperband(7)"}, "pruning.first is 7: it must be at most the 6 steps of a trial"),
        (RANGES, {"seed": -1}, "search.seed is -1"),
    ],
)  # fmt: skip
def test_searches_refused(tmp_path: Path, ranges: str, others: dict, said: str, capsys) -> None:
    place = Place(tmp_path)
    place.write(ranges=ranges, **others)
    assert place.command(3) == 2
    assert said in capsys.readouterr().err
    assert not place.directory.exists()


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (lambda: Range(1.0, 1.0), "Range(1.0, 1.0): the first must be below the second"),
        (lambda: LogRange(0.0, 1.0), "LogRange(0.0, 1.0): its ends must be above 0"),
        (lambda: Range(0.0, float("inf")), "both must be numbers"),
        (lambda: Choice(()), "give at least one value"),
        (lambda: Choice((1, 1)), "its values must differ"),
        (lambda: TPE(0), "sampler.random_trials is 0"),
        (lambda: Median(finished=0), "pruning.finished is 0"),
        (lambda: Median(warmup=-1), "pruning.warmup is -1"),
        (lambda: SuccessiveHalving(0), "pruning.first is 0"),
        (lambda: SuccessiveHalving(1, 1), "pruning.factor is 1"),
        (lambda: Hyperband(1, 1), "pruning.factor is 1"),
    ],
)
def test_ranges_refused(build, said: str) -> None:
    with pytest.raises(ConfigError) as error:
        build()
    assert said in str(error.value)


def test_values_of_other_kinds_are_refused() -> None:
    """In a process of its own, since here the annotations are checked before."""
    built = {
        "Range('a', 1.0)": "Range('a', 1.0): both must be numbers.",
        "Search({'seed': (2, 4)})": "search.ranges['seed'] is (2, 4): it must be Range, LogRange or Choice.",
        "Search({'seed': Range(1, 2)}, Median())": (
            "search.sampler is Median(finished=5, warmup=0): it must be TPE or Random."
        ),
        "Search({'seed': Range(1, 2)}, pruning=Random())": (
            "search.pruning is Random(): it must be Median, SuccessiveHalving, Hyperband or None."
        ),
    }
    program = "import sys; from research.config import *\nfor text in sys.argv[1:]:\n    try: eval(text)\n"
    program += "    except ConfigError as error: print(error)"
    found = subprocess.run([sys.executable, "-c", program, *built], cwd=ROOT, capture_output=True, text=True)
    assert found.stdout.splitlines() == list(built.values())


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "has no search() that returns a Search: it cannot run trials"),
        ("def search(): return 3", "returned int, no Search"),
    ],
)
def test_files_refused(tmp_path: Path, text: str, said: str, capsys) -> None:
    place = Place(tmp_path)
    file = place.folder / "experiment.py"
    file.write_text(EXPERIMENT.format(folder=tmp_path, steps=6) + "\n" + text)
    assert place.command(3) == 2
    assert said in capsys.readouterr().err
    place.write()
    assert script.main([str(file), "--dir", str(place.directory)]) == 2
    assert "has no sweep() that returns a list of dicts of overrides; with --trials N its search() is" in (
        capsys.readouterr().err
    )


def test_without_optuna_one_sentence_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr(trials.importlib.util, "find_spec", lambda name: None)
    assert Place(tmp_path).command(3) == 2
    needed = "error: A search needs Optuna: pip install 'kintsugi[search]'.\n"
    assert capsys.readouterr().err == needed


# --- Samplers and pruners ---------------------------------------------------------------------------------------------


def test_pruners_are_those_of_optuna() -> None:
    optuna = pytest.importorskip("optuna")
    ranges = {"seed": Range(0, 3)}
    made = [
        trials.pruner(Search(ranges, pruning=one), 27) for one in (None, Median(), SuccessiveHalving(3), Hyperband(3))
    ]
    kinds = ("NopPruner", "MedianPruner", "SuccessiveHalvingPruner", "HyperbandPruner")
    assert [type(one) for one in made] == [getattr(optuna.pruners, name) for name in kinds]
    samplers = [trials.sampler(Search(ranges, sampler=one), 0) for one in (TPE(), Random())]
    assert [type(one) for one in samplers] == [optuna.samplers.TPESampler, optuna.samplers.RandomSampler]


@pytest.mark.slow
@pytest.mark.parametrize("pruning", ["SuccessiveHalving(1, 2)", "Hyperband(1, 2)"])
def test_halving_stops_the_worse_ones_and_never_the_best(place: Place, pruning: str) -> None:
    place.write(pruning=pruning, sampler="Random()")
    assert place.command(12) == 0
    assert {"PRUNED", "COMPLETE"} <= set(place.states())
    last = [trial for trial in place.trials() if trial.state.name == "PRUNED"]
    best = min(place.trials(), key=lambda trial: trial.intermediate_values[1])
    assert best not in last


# --- Real training ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_real_trials_stopped_and_started_again(folder: Path) -> None:
    pytest.importorskip("optuna")
    file = folder / "searched.py"
    asked = 'Search({"optimizer.schedule.peak": LogRange(1e-6, 1e-1)}, Random(), pruning=Median(1))'
    file.write_text((folder / "experiment.py").read_text() + f"\n\ndef search():\n    return {asked}\n")
    where = folder / "searched"
    command = [sys.executable, "-m", "scripts.sweep", str(file), "--dir", str(where), "--trials", "3"]
    started = subprocess.Popen(command, cwd=ROOT, env=environment(folder))
    metrics = where / "trial-0001" / "metrics.jsonl"
    while not metrics.exists() or not metrics.read_text():
        assert started.poll() is None
        time.sleep(0.01)
    started.send_signal(signal.SIGTERM)
    assert started.wait(timeout=120) == 1
    again = subprocess.run(command, cwd=ROOT, env=environment(folder), timeout=500, capture_output=True, text=True)
    assert again.returncode == 0, again.stdout + again.stderr
    trials = studied(where)
    assert [trial.state.name for trial in trials[:1]] == ["COMPLETE"]
    shown = again.stdout.partition("trials trained to the end")[2]
    for trial in trials:
        name = f"trial-{trial.number:04}"
        assert (name in shown) == (trial.state.name == "COMPLETE")
        if trial.state.name == "COMPLETE":
            result = json.loads((where / name / "RESULT.json").read_text())
            assert trial.value == result["best"]["held_out_loss"]
            assert f"{trial.value:.4f}" in shown
