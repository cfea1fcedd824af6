"""Runs beside one another: what differs is found, seeds are taken together, and the spread is theirs."""

import dataclasses
import json
import statistics
from pathlib import Path

import pytest
from run_directories import experiment, made

from research.config import ConfigError, override
from research.report.comparison import compared, scores_table
from research.report.record import read


def test_seeds_are_one_group_with_their_mean_and_spread(tmp_path: Path) -> None:
    runs = [
        made(tmp_path / f"{peak}-{seed}", experiment(tmp_path, **{"optimizer.schedule.peak": peak, "seed": seed}), loss)
        for peak, seed, loss in (("0.01", "0", 3.0), ("0.01", "1", 4.0), ("0.02", "0", 2.0), ("0.02", "1", 2.5))
    ]
    made(tmp_path / "broken", experiment(tmp_path, **{"optimizer.schedule.peak": "0.02", "seed": "2"}), 1.0, "failed")
    groups = compared([*runs, tmp_path / "broken"])
    assert [(group.label, len(group.records), len(group.done)) for group in groups] == [
        ("peak=0.01", 2, 2),
        ("peak=0.02", 3, 2),
    ]
    assert groups[0].values("held_out_loss") == [3.0, 4.0]
    table = scores_table(groups)
    assert table.header[:5] == ("peak", "done", "parameters", "FLOPs", "tokens")
    first, second = ({name: cell for name, cell in zip(table.header, row, strict=True)} for row in table.rows)
    assert first["held out loss"].text == f"3.5000 ± {statistics.stdev([3.0, 4.0]):.4f}"
    assert not first["held out loss"].best
    assert second["held out loss"].best
    assert second["held out accuracy"].best
    assert second["done"].text == "2 of 3"


def test_what_one_class_alone_has_is_no_difference(tmp_path: Path) -> None:
    texts = (
        "ReplaceSpans(0.15)",
        "ReplaceSpans(0.5)",
        "SpanCorruption(0.15, 2.0)",
        "SpanCorruption(0.15, 3.0)",
        "PrefixLM()",
    )
    runs = [
        made(tmp_path / str(number), experiment(tmp_path, **{"data.objective": text}), 3.0)
        for number, text in enumerate(texts)
    ]
    assert [group.label for group in compared(runs)] == [
        "objective=ReplaceSpans, noise_density=0.15",
        "objective=ReplaceSpans, noise_density=0.5",
        "objective=SpanCorruption, noise_density=0.15, mean_span_length=2.0",
        "objective=SpanCorruption, noise_density=0.15, mean_span_length=3.0",
        "objective=PrefixLM, noise_density=0.5",
    ]
    two = [
        made(tmp_path / name, experiment(tmp_path, **{"optimizer": f"{name}(schedule=Constant(peak=0.1))"}), 3.0)
        for name in ("AdamW", "RMSScaledAdamW")  # whose epsilons are not the same
    ]
    assert [group.label for group in compared(two)] == ["optimizer=AdamW", "optimizer=RMSScaledAdamW"]


def test_what_decides_no_number_makes_no_group(tmp_path: Path) -> None:
    runs = [
        made(
            tmp_path / str(number),
            experiment(tmp_path, **{"checkpoint.every": str(number + 1), "seed": str(number)}),
            3.0,
        )
        for number in range(2)
    ]
    (group,) = compared(runs)
    assert (group.label, len(group.records)) == ("2 runs", 2)


def test_runs_are_told_apart_by_what_they_began_from(tmp_path: Path) -> None:
    later = []
    for seed in ("0", "1"):
        for objective in ("SpanCorruption()", "PrefixLM()"):
            changes = {"data.objective": objective, "seed": seed}
            before = made(tmp_path / "first" / f"{objective}{seed}", experiment(tmp_path, **changes), 3.0)
            changes = {"init": str(before), "seed": seed, "data.tokenizer": "Bytes(sentinels=100)"}
            later.append(made(tmp_path / "later" / f"{objective}{seed}", experiment(tmp_path, **changes), 2.0))
    groups = compared(later)
    assert [(group.label, len(group.records)) for group in groups] == [
        ("objective=SpanCorruption", 2),
        ("objective=PrefixLM", 2),
    ]
    scratch = made(tmp_path / "scratch", experiment(tmp_path, **{"data.tokenizer": "Bytes(sentinels=100)"}), 5.0)
    assert [group.label for group in compared([*later[:1], scratch])] == ["init=a run", "init=None"]
    (tmp_path / "first").rename(tmp_path / "gone")
    assert all("init=" in group.label for group in compared(later))


def test_how_it_was_evaluated_is_a_difference_and_so_is_the_checkpoint_it_began_from(tmp_path: Path) -> None:
    before = made(tmp_path / "before", experiment(tmp_path), 3.0)
    for number, changes in enumerate(
        ({"evaluation.rows": "64"}, {"init": f"{before}/checkpoints/10"}, {"init": str(before)})
    ):
        made(tmp_path / str(number), experiment(tmp_path, **changes), 3.0)
    assert len(compared([before, tmp_path / "0"])) == 2
    assert [group.label for group in compared([tmp_path / "1", tmp_path / "2"])] == [
        "checkpoint=10",
        "checkpoint=newest",
    ]
    with pytest.raises(ConfigError, match=r"before is given twice: give each run once"):
        compared([before, tmp_path / "0", before])


def test_several_tasks_of_one_evaluation_keep_their_names(tmp_path: Path) -> None:
    run = made(tmp_path / "run", experiment(tmp_path), 3.0)
    (run / "evaluations" / "test-40").mkdir(parents=True)
    results = {"first": {"scores": {"bleu": 1.0}, "loss": 2.0}, "second": {"scores": {"bleu": 3.0}}}
    scores = {"split": "test", "step": 40, "results": results}
    (run / "evaluations" / "test-40" / "scores.json").write_text(json.dumps(scores))
    found = read(run).scores()
    assert {name: value for name, value in found.items() if "test" in name} == {
        "test first bleu": 1.0, "test first loss": 2.0, "test second bleu": 3.0,
    }  # fmt: skip


def test_directories_that_hold_no_run_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no such directory"):
        compared([tmp_path / "nowhere"])
    with pytest.raises(
        ConfigError, match=r"holds no run: a run directory has a config\.json, a sweep has a sweep\.json"
    ):
        compared([tmp_path])
    run = made(tmp_path / "run", experiment(tmp_path), 3.0)
    (run / "config.json").write_text('{"model": 3}')
    with pytest.raises(ConfigError, match=r"config\.json: config\.model is 3"):
        compared([run])


def test_every_field_of_an_experiment_is_looked_at(tmp_path: Path) -> None:
    base = experiment(tmp_path)
    changed = dataclasses.replace(base, loss=dataclasses.replace(base.loss, z_loss=0.5))
    runs = [made(tmp_path / name, config, 3.0) for name, config in (("a", base), ("b", changed))]
    assert [group.label for group in compared(runs)] == ["z_loss=0.0001", "z_loss=0.5"]
    assert override.diff(base, changed)
