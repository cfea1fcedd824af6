"""Sweeps and runs as tables of pandas: each number is the one that the run directory has."""

import json
import sys
from pathlib import Path

import pandas
import pytest
from run_directories import experiment, made

import research
from research.config import ConfigError, override
from research.report.record import read
from research.report.results import curves, results


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two dropouts with two seeds each, one of which failed; another has not started."""
    folder = tmp_path_factory.mktemp("results")
    variants = {}
    for number, rate in enumerate(("0.15", "0.25")):
        for seed in range(2):
            name = f"dropout={rate},seed={seed}"
            config = experiment(folder, **{"model.dropout": rate, "seed": str(seed)})
            variants[name] = json.loads(override.to_json(config))
            status = "failed" if (number, seed) == (1, 1) else "done"
            made(folder / "sweep" / name, config, 3.0 + number + seed / 10, status)
    scores = folder / "sweep" / "dropout=0.25,seed=0" / "evaluations" / "test-40" / "scores.json"
    scores.parent.mkdir(parents=True)
    results_of_task = {"t": {"loss": 2.5, "scores": {"bleu": 9.0}}}
    scores.write_text(json.dumps({"split": "test", "step": 40, "results": results_of_task}))
    (folder / "sweep" / "sweep.json").write_text(json.dumps({"variants": variants | {"dropout=0.5,seed=0": {}}}))
    return folder / "sweep"


def test_a_row_is_a_run_with_its_fields_scores_and_costs(sweep: Path) -> None:
    with pytest.warns(UserWarning, match="1 variant not started"):
        table = research.results(sweep)
    assert list(table.columns) == [
        *("run", "variant", "seed", "model.dropout", "held_out_loss", "held_out_accuracy", "test loss", "test bleu"),
        *("state", "reason", "step", "steps", "parameters", "tokens", "flops", "seconds", "directory"),
    ]
    assert table["run"].tolist() == [f"dropout={rate},seed={seed}" for rate in (0.15, 0.25) for seed in range(2)]
    assert table["variant"].tolist() == ["dropout=0.15"] * 2 + ["dropout=0.25"] * 2
    assert table["seed"].tolist() == [0, 1, 0, 1]
    assert table["model.dropout"].tolist() == [0.15, 0.15, 0.25, 0.25]
    assert table["held_out_loss"].tolist() == [3.0, 3.1, 4.0, 4.1]
    assert table["test bleu"].isna().tolist() == [True, True, False, True]
    assert table["state"].tolist() == ["done"] * 3 + ["failed"]
    assert table["reason"].tolist() == ["", "", "", "a reason"]
    record = read(sweep / "dropout=0.15,seed=0")
    row = table.iloc[0]
    assert (row["step"], row["steps"]) == (40, 40)
    assert (row["tokens"], row["flops"]) == (40 * record.tokens_per_step, 40 * record.flops_per_step)
    assert row["seconds"] == 40 * 0.5
    assert row["parameters"] > 512 * 16
    assert read(Path(row["directory"])).config == record.config
    assert table.groupby("variant")["held_out_loss"].mean().tolist() == pytest.approx([3.05, 4.05])


@pytest.mark.filterwarnings("ignore:.*not started")
def test_a_curve_is_a_row_for_each_number(sweep: Path) -> None:
    table = research.curves(sweep, names=["nll", "held_out_loss"])
    assert list(table.columns) == ["run", "step", "tokens", "flops", "name", "value"]
    assert set(table["name"]) == {"nll", "held_out_loss"}
    record = read(sweep / "dropout=0.25,seed=1")
    of_run = table[(table["run"] == record.name) & (table["name"] == "nll")]
    assert list(zip(of_run["step"], of_run["value"], strict=True)) == record.curve("nll")
    assert (of_run["tokens"] / of_run["step"]).unique().tolist() == [record.tokens_per_step]
    assert (of_run["flops"] / of_run["step"]).unique().tolist() == [record.flops_per_step]
    everything = research.curves(sweep)
    assert {"gradient_norm", "held_out_accuracy"} < set(everything["name"])
    assert not {"step", "steps"} & set(everything["name"])


@pytest.mark.filterwarnings("ignore:.*not started")
def test_runs_and_sweeps_are_read_together_and_equal_names_told_apart(sweep: Path, tmp_path: Path) -> None:
    other = made(tmp_path / "dropout=0.15,seed=0", experiment(tmp_path, batch_size="16"), 2.0)
    alone = results(other)
    assert (alone["run"].tolist(), alone["held_out_loss"].tolist()) == ([other.name], [2.0])
    both, labels = results(sweep, str(other)), curves(sweep, other)["run"]
    assert len(both) == 5
    assert both["batch_size"].tolist() == [8, 8, 8, 8, 16]
    assert both["run"].tolist()[0] == str(sweep / other.name)
    assert both["run"].tolist()[-1] == str(other)
    assert both["run"].tolist() == labels.unique().tolist()


@pytest.mark.filterwarnings("ignore:.*not started")
def test_bad_input(sweep: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sweep.json").write_text('{"variants": {"a": {}}}')
    for given, message in (
        ((), "Give the directory of a sweep or of a run"),
        (("nowhere",), "nowhere: there is no such directory"),
        ((sweep.parent,), "holds no run"),
        ((tmp_path,), "has no started run"),
    ):
        with pytest.raises(ConfigError, match=message):
            results(*given)
    with pytest.raises(ConfigError, match=r"No run has recorded loss_of_mine: there are accuracy, data_wait"):
        curves(sweep, names=["loss_of_mine", "nll"])
    monkeypatch.setitem(sys.modules, pandas.__name__, None)
    with pytest.raises(ConfigError, match=r"need pandas: pip install 'kintsugi\[notebook\]'"):
        results(sweep)
