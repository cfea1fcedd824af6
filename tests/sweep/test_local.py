"""Variants named by what differs, trained by processes; what is done is kept, what breaks does not stop the rest."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import pytest
from real_runs import EXPERIMENT, ROOT, environment

from research import Adafactor, Cosine, Model, Published, chain, equal, grid, product, seeds, together, widths
from research.config import ConfigError, load, override
from research.config.names import LONGEST_NAME
from research.sweep import local
from research.sweep.local import Sweep
from research.sweep.variants import Machine, Variant, check_fits, matched, total_flops, total_tokens, variants
from scripts import sweep as script

# --- Variants ---------------------------------------------------------------------------------------------------------


def test_sweeps_are_put_together() -> None:
    assert grid({"a": (1, 2), "b": "xy"}) == [
        {"a": 1, "b": "x"}, {"a": 1, "b": "y"}, {"a": 2, "b": "x"}, {"a": 2, "b": "y"},
    ]  # fmt: skip
    assert together({"a": (1, 2), "b": (3, 4)}) == [{"a": 1, "b": 3}, {"a": 2, "b": 4}]
    assert chain(grid({"a": (1,)}), seeds(2)) == [{"a": 1}, {"seed": 0}, {"seed": 1}]
    assert product(grid({"a": (1, 2)}), seeds(2)) == [
        {"a": 1, "seed": 0}, {"a": 1, "seed": 1}, {"a": 2, "seed": 0}, {"a": 2, "seed": 1},
    ]  # fmt: skip
    model = Model(512, 64, 2, 32, 192, 1, 1)
    wider = {"model.width": 96, "model.heads": 3, "model.feed_forward": 288}
    assert widths(model, (64, 96)) == [{"model.width": 64, "model.heads": 2, "model.feed_forward": 192}, wider]
    with pytest.raises(ConfigError, match=r"A model of width 64 cannot be scaled to width 80: model\.heads would be"):
        widths(model, (80,))
    with pytest.raises(
        ConfigError, match=r"together needs equally many values of each field: there are {'a': 1, 'b': 2}"
    ):
        together({"a": (1,), "b": (1, 2)})
    with pytest.raises(ConfigError, match="product: seed is set by several of the sweeps"):
        product(seeds(2), grid({"a": (1,), "seed": (3,)}))


def test_many_variants_of_one_model_are_traced_once(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tracing takes tens of milliseconds: a list of 1,500 variants took 45 s."""
    base = override.apply(load.open_experiment(file).config, {"model.width": "48"})  # which no other test has
    swept = {"optimizer.schedule.peak": [str(n / 1000) for n in range(1, 11)], "model.dropout": ["0.0", "0.1"]}
    swept["seed"] = ["0", "1", "2"]
    found = variants(base, grid(swept))
    traced: list[object] = []
    original = jax.eval_shape

    def eval_shape(function: Any, *given: Any) -> Any:
        traced.append(function)
        return original(function, *given)

    monkeypatch.setattr(jax, "eval_shape", eval_shape)
    machine = Machine("a machine", 1, 1e12, lambda config: 1.0)
    check_fits(found, machine)
    table = Sweep(str(file), base, found, file.parent / "sweep").listing(machine)
    assert table.row_count == 60
    assert len(traced) <= 3  # a key, the parameters, the optimizer's state
    late = replace(base, steps=5, optimizer=Adafactor(schedule=Cosine(peak=1e-3, warmup=6)))
    with pytest.raises(ConfigError, match="warmup"):  # checked for every variant
        check_fits([*found, Variant("late", {}, late)], machine)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """An experiment whose sweep has four variants, over text that is not there."""
    content = EXPERIMENT.format(folder=tmp_path, steps=6)
    content += "\n\ndef sweep():\n    return product(grid({'optimizer.schedule.peak': (1e-3, 2e-3)}), seeds(2))\n"
    (tmp_path / "experiment.py").write_text(content)
    return tmp_path / "experiment.py"


def opened(file: Path, directory: Path, **changes: str) -> Sweep:
    base = override.apply(load.open_experiment(file).config, changes)
    return Sweep(
        str(file), base, variants(base, [changes | one for one in load.open_experiment(file).sweep]), directory
    )


def test_variants_are_named_by_what_differs(file: Path) -> None:
    base = load.open_experiment(file).config
    names = [variant.name for variant in variants(base, load.open_experiment(file).sweep)]
    assert names == ["peak=0.001,seed=0", "peak=0.001,seed=1", "peak=0.002,seed=0", "peak=0.002,seed=1"]
    several = grid({"checkpoint.every": ("1", "2"), "evaluation.every": ("3", "4"), "steps": ("7",)})
    assert variants(base, several)[0].name == "checkpoint.every=1,evaluation.every=3"
    (only,) = variants(base, [{"steps": "9"}])
    assert (only.name, only.config.steps) == ("base", 9)
    constructors = [{"optimizer": f"{name}(schedule=Constant(peak=1e-3))"} for name in ("AdamW", "Adafactor")]
    found = [variant.name for variant in variants(base, constructors)]
    assert found == ["optimizer=AdamW", "optimizer=Adafactor"]
    constructors.append({"optimizer": "AdamW(schedule=Constant(peak=2e-3))"})
    assert variants(base, constructors)[0].name == "optimizer=AdamW-schedule=Constant-peak=1e-3"
    long = [{"init": f"{'runs/' * 40}{digit}"} for digit in "12"]
    names = [variant.name for variant in variants(base, long)]
    assert [len(name) for name in names] == [LONGEST_NAME] * 2
    assert names[0] != names[1]


def test_equal_compute_decides_the_number_of_steps(file: Path) -> None:
    base = override.apply(load.open_experiment(file).config, {"steps": "1000"})
    widths = grid({"model.width": ("16", "64"), "data.input_length": ("48",)})
    for cost, counted in (("flops", total_flops), ("tokens", total_tokens)):
        as_written = [
            {name: value if isinstance(value, str) else override.as_text(value) for name, value in change.items()}
            for change in equal(widths, cost)
        ]
        narrow, wide = variants(base, as_written)
        assert narrow.config.steps == 1000
        assert (wide.config.steps < 1000) == (cost == "flops")
        assert counted(wide.config) == pytest.approx(counted(base), rel=5e-3)
        assert [narrow.name, wide.name] == ["width=16", "width=64"]


def test_a_vocabulary_cannot_change_under_weights_that_stay(file: Path) -> None:
    base = load.open_experiment(file).config
    vocabularies = grid({"data.tokenizer": ("Bytes()", "Bytes(sentinels=50)")})
    assert len(variants(base, vocabularies)) == 2
    with pytest.raises(ConfigError, match=r"Bytes-.* start from the same weights, runs/a, with different vocabularies"):
        variants(base, product([{"init": "runs/a"}], vocabularies))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--hardware=H100", "--config.model.width=65536", "--config.model.feed_forward=200000"], "can never fit H100"),
        (["--hardware", "8xH100", "--config.mesh.fsdp=3"], "seed=0 can never run on 8xH100: mesh"),
        (["--hardware", "H900"], "--hardware H900 is not known"),
        (["--stop_below_median_after", "2"], "--stop_below_median_after is 2.0: it must be between 0 and 1"),
        (["--jobs", "0"], "--jobs is 0: it must be above 0"),
        (["--dir", "gs://bucket/sweep"], "--dir gs://bucket/sweep is in a bucket: give a path of this machine"),
        (["--from", "nowhere"], "nowhere holds no sweep: it has no sweep.json"),
    ],
)  # fmt: skip
def test_what_cannot_run_is_refused_before_anything_does(file: Path, arguments: list[str], said: str, capsys) -> None:
    assert script.main([str(file), "--dir", str(file.parent / "sweep"), *arguments]) == 2
    assert said in capsys.readouterr().err
    assert not (file.parent / "sweep").exists()


def test_a_papers_numbers_stand_for_the_variants_that_set_what_a_row_sets(file: Path) -> None:
    found = variants(load.open_experiment(file).config, load.open_experiment(file).sweep)
    rows = (({"optimizer.schedule.peak": 1e-3}, (1.0, None)), ({"optimizer.schedule.peak": 5.0}, (2.0, 3.0)))
    (table,) = matched([Published("A paper, table 1", ("loss", "bleu"), rows, lower_is_better=("loss",))], found)
    assert [row["variants"] for row in table["rows"]] == [["peak=0.001,seed=0", "peak=0.001,seed=1"], []]
    with pytest.raises(ConfigError, match=r"Published numbers of {'seed': 1} are 1: table 2 has 2 columns"):
        Published("table 2", ("a", "b"), (({"seed": 1}, (1.0,)),))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "has no sweep() that returns a list of dicts of overrides"),
        ("def sweep(): return []", "returned no variants"),
        ("def sweep(): return [3]", "it must return dicts, such as {'seed': 1}"),
        ("def sweep(): return seeds(2) + seeds(1)", "Variants 1 and 3 are identical: {'seed': '0'}."),
        ("def sweep(): return [{'seed': 0}, {}]", "Variants 1 and 2 are identical: {}."),
        ("def sweep(): return [{'optimizer.pek': 1}]", "optimizer.pek is no field"),
        ("def sweep(): return [{'steps': 'many'}]", "steps is 'many': allowed is an integer"),
    ],
)
def test_sweeps_refused(file: Path, text: str, said: str, capsys) -> None:
    content = file.read_text().partition("\n\ndef sweep")[0]
    file.write_text(f"{content}\n{text}\n")
    directory = file.parent / "sweep"
    assert script.main([str(file), "--dir", str(directory)]) == 2
    assert said in capsys.readouterr().err
    assert not directory.exists()


def test_a_list_of_them_before_anything_runs(file: Path, capsys) -> None:
    assert script.main([str(file), "--dir", str(file.parent / "sweep"), "--list"]) == 0
    said = capsys.readouterr().out
    assert "4 variants of " in said
    assert "peak=0.002,seed=1" in said
    assert not (file.parent / "sweep").exists()


# --- What runs, under a stand-in for the training ---------------------------------------------------------------------

TRAINING = """
import fcntl, json, os, sys, time
from pathlib import Path
run = Path(sys.argv[sys.argv.index("--run_dir") + 1])
run.mkdir(exist_ok=True)
lock = open(run / "RUN.lock", "w")
fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
with open(run.parent / "starts", "a") as starts:
    starts.write(json.dumps([run.name, sys.argv[1:], sorted(os.sched_getaffinity(0))]) + "\\n")
ends = json.loads(os.environ.get("ENDS", "{}")).get(run.name, [0])
starts = sum(json.loads(line)[0] == run.name for line in open(run.parent / "starts"))
code = ends[min(starts, len(ends)) - 1]
time.sleep(float(os.environ.get("SECONDS", 0)))
if code == 0:
    (run / "metrics.jsonl").write_text('{"step": 6, "nll": 1.5, "step_seconds": 0.5}\\n')
    (run / "RESULT.json").write_text(json.dumps({"status": "done", "step": 6, "reason": ""}))
sys.exit(code)
"""


@pytest.fixture
def stand_in(file: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where its sweep goes."""
    (file.parent / "training.py").write_text(TRAINING)
    monkeypatch.setattr(Sweep, "program", (str(file.parent / "training.py"),))
    return file.parent / "sweep"


def starts(directory: Path) -> list[list]:
    path = directory / "starts"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_all_are_trained_and_what_is_done_is_kept(file: Path, stand_in: Path, capsys) -> None:
    assert script.main([str(file), "--dir", str(stand_in), "--jobs", "2", "--config.batch_size=16"]) == 0
    assert sorted(name for name, _, _ in starts(stand_in)) == [
        "peak=0.001,seed=0", "peak=0.001,seed=1", "peak=0.002,seed=0", "peak=0.002,seed=1",
    ]  # fmt: skip
    arguments = next(arguments for name, arguments, _ in starts(stand_in) if name == "peak=0.001,seed=0")
    changes = ["--config.batch_size=16", "--config.optimizer.schedule.peak=0.001", "--config.seed=0"]
    assert arguments[3:] == changes
    assert "peak=0.002,seed=1  6/6  nll 1.5000    done" in capsys.readouterr().out
    held = json.loads((stand_in / "sweep.json").read_text())
    assert held["variants"]["peak=0.002,seed=1"]["seed"] == 1
    assert script.main([str(file), "--dir", str(stand_in), "--config.batch_size=16"]) == 0
    assert len(starts(stand_in)) == 4
    assert script.main([str(file), "--dir", str(stand_in), "--config.batch_size=8"]) == 2
    assert "holds another experiment: batch_size was 16 and is now 8" in capsys.readouterr().err
    assert script.main([str(file), "--dir", str(stand_in), "--config.batch_size=16", "--list"]) == 0
    assert " 0:03 " in capsys.readouterr().out  # 6 steps of half a second, as was timed


def test_what_breaks_is_tried_again_or_left_and_the_rest_goes_on(file: Path, stand_in: Path, monkeypatch) -> None:
    ends = {
        "peak=0.001,seed=0": [1, 43, 0],
        "peak=0.001,seed=1": [1, 1, 1],
        "peak=0.002,seed=0": [44],
        "peak=0.002,seed=1": [42, 42, 42, 42, 0],
    }
    monkeypatch.setenv("ENDS", json.dumps(ends))
    made = opened(file, stand_in)
    with made.held():
        assert not made.train(jobs=2)
    assert {run.variant.name: run.state for run in made.runs} == dict(
        zip(ends, ("done", "failed", "diverged", "done"), strict=True)
    )
    counted = [name for name, _, _ in starts(stand_in)]
    assert [counted.count(name) for name in ends] == [3, 3, 1, 5]


def test_each_job_has_its_share_of_cores_and_gpus(file: Path, stand_in: Path, monkeypatch) -> None:
    made = opened(file, stand_in)
    with made.held():
        made.train(jobs=2)
    cores = {tuple(cores) for _, _, cores in starts(stand_in)}
    every = sorted(os.sched_getaffinity(0))
    assert cores <= {tuple(every[0::2]), tuple(every[1::2])}
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6,7")
    assert local.share_of_gpus(1, 2) == {"CUDA_VISIBLE_DEVICES": "5,7"}
    assert local.share_of_gpus(0, 1) == {}
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert local.share_of_gpus(0, 2) == {}


def test_what_a_killed_sweep_left_running_is_waited_for(file: Path, stand_in: Path, monkeypatch) -> None:
    stand_in.mkdir()
    (stand_in / "sweep.json").write_text(json.dumps({}))
    monkeypatch.setenv("SECONDS", "2")
    made = opened(file, stand_in)
    first = made.runs[0]
    command = [sys.executable, *Sweep.program, str(file), "--run_dir", str(first.directory)]
    orphan = subprocess.Popen(command)
    while not (first.directory / "RUN.lock").exists() or not starts(stand_in):
        time.sleep(0.01)
    with made.held():
        assert made.train(jobs=4)
    assert orphan.poll() == 0
    assert [run.state for run in made.runs] == ["done"] * 4


@pytest.mark.parametrize("what", ["file", "lock"])
def test_directories_refused(file: Path, stand_in: Path, what: str, capsys) -> None:
    stand_in.mkdir()
    if what == "file":
        (stand_in / "thesis.tex").write_text("text")
        assert script.main([str(file), "--dir", str(stand_in)]) == 2
        assert "is not empty and holds no sweep: give another --dir" in capsys.readouterr().err
        return
    with opened(file, stand_in).held():
        assert script.main([str(file), "--dir", str(stand_in)]) == 2
    assert "is in use by another sweep: wait for it" in capsys.readouterr().err


def test_variants_begin_from_every_run_of_another_sweep(file: Path, stand_in: Path, monkeypatch, capsys) -> None:
    table = "Published('paper', ('a',), (({'optimizer.schedule.peak': 2e-3}, (1.0,)),))"
    file.write_text(f"{file.read_text()}\n\ndef published(): return [{table}]\n")
    monkeypatch.setenv("ENDS", json.dumps({"peak=0.001,seed=1": [44]}))
    assert script.main([str(file), "--dir", str(stand_in)]) == 1
    assert "peak=0.001,seed=1 diverged: " in capsys.readouterr().out
    for run in (path for path in stand_in.iterdir() if (path / "RESULT.json").exists()):
        config = json.loads((stand_in / "sweep.json").read_text())["variants"][run.name]
        (run / "config.json").write_text(json.dumps(config))
    after = file.parent / "after"
    later = file.parent / "later.py"
    later.write_text(file.read_text().partition("\n\ndef sweep")[0].replace("Model(512, 16,", "Model(512, 32,"))
    assert script.main([str(later), "--dir", str(after), "--list"]) == 2  # nothing is swept
    assert script.main([str(later), "--dir", str(after), "--from", str(stand_in), "--list"]) == 0
    sevens = "def columns(): return {'a': {'steps': 7}}"
    later.write_text(later.read_text() + f"\n\ndef sweep(): return grid({{'steps': (6, 7)}})\n\n\n{sevens}\n")
    monkeypatch.setenv("ENDS", "{}")
    assert script.main([str(later), "--dir", str(after), "--from", str(stand_in), "--jobs", "2", "--list"]) == 0
    assert "Left out, not done in" in capsys.readouterr().out
    assert script.main([str(later), "--dir", str(after), "--from", str(stand_in), "--jobs", "2"]) == 0
    held = json.loads((after / "sweep.json").read_text())
    assert list(held["variants"]) == [
        f"{name},steps={steps}" for name in ("peak=0.001,seed=0", "peak=0.002,seed=0", "peak=0.002,seed=1")
        for steps in (6, 7)
    ]  # fmt: skip
    assert {config["model"]["width"] for config in held["variants"].values()} == {16}
    third = held["variants"]["peak=0.002,seed=1,steps=7"]
    assert (third["init"], third["seed"], third["steps"]) == (str(stand_in / "peak=0.002,seed=1"), 1, 7)
    (row,) = held["published"][0]["rows"]
    assert row["variants"] == [name for name in held["variants"] if "0.002" in name]
    assert held["published"][0]["columns"] == {"a": [name for name in held["variants"] if "steps=7" in name]}


def test_the_former_name_of_stop_below_median_after_is_accepted_but_hidden() -> None:
    options = script.parser().parse_args(["experiment.py", "--dir", "sweep", "--hopeless_after", "0.3"])
    assert options.stop_below_median_after == 0.3
    assert "hopeless" not in script.parser().format_help()


def test_variants_worse_than_the_median_are_stopped(file: Path, tmp_path: Path) -> None:
    def lines(run: str, *losses: float) -> None:
        (tmp_path / "sweep" / run).mkdir(parents=True)
        written = [{"step": 2 * (number + 1), "held_out_loss": loss} for number, loss in enumerate(losses)]
        (tmp_path / "sweep" / run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in written))

    made = opened(file, tmp_path / "sweep")
    first, second, _, last = made.runs
    for run, losses in zip(made.runs, ([5.0, 4.0, 3.0], [5.0, 4.2, 3.0], [5.0, 4.4, 3.0], [4.9, 4.3]), strict=True):
        lines(run.variant.name, *losses)
    assert not made.is_below_median(last)  # nobody asked
    made.stop_below_median_after = 0.5
    assert made.is_below_median(last)  # 4.3 after two thirds, where the others' median is 4.2
    assert not made.is_below_median(first)  # it is at its end
    made.stop_below_median_after = 0.8
    assert not made.is_below_median(last)
    made.stop_below_median_after, made.runs = 0.5, [first, second, last]
    assert not made.is_below_median(last)  # two others are no majority


# --- Real training ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_stopped_and_started_again_it_ends_as_if_nothing_had_happened(folder: Path) -> None:
    """SIGTERM in the middle of the first variant: it is saved, and goes on."""
    file = folder / "swept.py"
    file.write_text((folder / "experiment.py").read_text() + "\n\ndef sweep():\n    return seeds(2)\n")
    command = [sys.executable, "-m", "scripts.sweep", str(file), "--dir", str(folder / "sweep")]
    started = subprocess.Popen(command, cwd=ROOT, env=environment(folder))
    metrics = folder / "sweep" / "seed=0" / "metrics.jsonl"
    while not metrics.exists() or not metrics.read_text():
        assert started.poll() is None
        time.sleep(0.01)
    started.send_signal(signal.SIGTERM)
    assert started.wait(timeout=120) == 1
    assert json.loads((folder / "sweep" / "seed=0" / "RESULT.json").read_text())["status"] in ("preempted", "done")
    assert subprocess.run(command, cwd=ROOT, env=environment(folder), timeout=300).returncode == 0
    whole, again = (
        [json.loads(line)["loss"] for line in (path / "metrics.jsonl").read_text().splitlines() if '"loss"' in line]
        for path in (folder / "whole", folder / "sweep" / "seed=0")
    )
    assert whole == again
