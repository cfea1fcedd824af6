"""Estimates of a run, and what a search finds."""

import re
from dataclasses import replace

import pytest

from research import Adafactor, Denoising, Experiment, Mesh, PlainText
from research.config import ConfigError
from research.model.family import preset
from research.parallel import hardware
from research.parallel.mesh import abstract_mesh
from research.plan import estimate
from research.plan.memory import device_bytes
from scripts.plan import main

EXPERIMENT = Experiment(
    model=preset("t5_v1_1/large"),
    data=Denoising(corpora=(PlainText("unread"),)),
    optimizer=Adafactor(),
    steps=1000,
    batch_size=512,
)
FILE = "experiments/t5/v1_1_c4.py:base"


def test_more_chips_take_less_time_and_memory_each():
    few, many = (estimate.estimate_run(EXPERIMENT, hardware.find(name)) for name in ("v5p-64", "v5p-256"))
    assert many.times.step < few.times.step
    assert many.memory < few.memory
    assert few.flops == many.flops
    assert few.experiment.mesh == Mesh(data=32, fsdp=1, tensor=1)


def test_a_vocabulary_of_any_size_is_planned_on_any_mesh_with_the_rows_that_fill_it_up():
    """29 rows of embedding and head are 32 over eight chips: four a chip."""
    tiny = replace(EXPERIMENT, model=replace(preset("t5_v1_1/small"), vocab_size=29), batch_size=8)
    whole = replace(tiny, model=replace(tiny.model, vocab_size=32))
    for sizes in (Mesh(data=1, fsdp=8), Mesh(data=2, fsdp=2, tensor=2)):
        odd, even = (replace(each, mesh=sizes) for each in (tiny, whole))
        mesh = abstract_mesh(sizes, 8)
        assert device_bytes(odd, mesh) == device_bytes(even, mesh)
        assert estimate.estimate_run(odd, hardware.find("8xH100")).fits
    assert device_bytes(tiny, abstract_mesh(Mesh(), 8)) < device_bytes(whole, abstract_mesh(Mesh(), 8))


@pytest.mark.slow
def test_a_search_finds_what_fits_and_the_fastest_first():
    found = estimate.search(EXPERIMENT, hardware.find("v5e-16"))
    assert all(each.fits for each in found)
    times = [each.times.step for each in found]
    assert times == sorted(times)
    assert not estimate.estimate_run(EXPERIMENT, hardware.find("v5e-16")).fits, "or there is nothing to search for"
    huge = replace(EXPERIMENT, model=preset("t5_v1_1/xxl"))
    with pytest.raises(ConfigError, match=r"Nothing fits v5e-4: .* 512 rows per step\. Lower batch_size"):
        estimate.search(huge, hardware.find("v5e-4"))


def test_the_plan_says_what_a_run_takes(capsys):
    assert main([FILE, "--hardware", "v5p-64", "--config.model.remat=dots"]) == 0
    shown = capsys.readouterr().out
    for said in (
        "32 chips of 459 TFLOP/s and 95.00 GiB",
        "247.6 M parameters, bfloat16, remat dots",
        "data 32, fsdp 1, sequence 1, tensor 1",
        "fits (estimated)",
        "2,048 rows of 512 inputs and 114 targets, 872.3 TFLOP",
    ):
        assert said in shown
    days, hours = re.search(r"([\d.]+) days, ([\d,]+) chip-hours at least", shown).groups()
    assert float(hours.replace(",", "")) == pytest.approx(float(days) * 24 * 32, rel=0.01)


def test_a_search_is_a_table(capsys):
    assert main([FILE, "--hardware", "8xH100", "--search"]) == 0
    shown = capsys.readouterr().out
    assert "The fastest on 8xH100 that fit, 2,048 rows a step" in shown
    assert len(shown.splitlines()) == 2 + estimate.SHOWN


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--hardware", "8xV100"], "8xV100 is not known"),
        (["--hardware", "8xH100", "--config.mesh.data=3"], "there are 8"),
        (["--hardware", "8xH100", "--config.mesh.tensor=8"], "model.heads is 12"),
        (["--hardware", "8xV100", "--compile"], "A100, H100, H200, B200"),
        (["--hardware", "8xH100,v5e-4", "--compile"], "--compile is for one experiment"),
        (["--hardware", "8xH100", "--rows_a_chip", "-1"], "--rows_a_chip is -1"),
        (["--hardware", "8xH100", "--config.model.depth=3"], "depth"),
    ],
)
def test_bad_input_is_one_sentence(arguments, said, capsys):
    assert main([FILE, *arguments]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


@pytest.mark.slow
def test_several_are_a_table_in_markdown_and_a_picture(tmp_path, capsys):
    small = FILE.replace("base", "small")
    picture = tmp_path / "scaling.png"
    hardware = ["--hardware", "v5p-16,v5e-4", "--rows_a_chip", "64", "--plot", str(picture)]
    assert main([FILE, small, *hardware]) == 0
    head, line, *rows = capsys.readouterr().out.splitlines()
    assert set(line) == set("| -")
    assert head.count("|") == line.count("|")
    assert all(row.count("|") == head.count("|") for row in rows)
    assert [row.split(" | ")[:3] for row in rows] == [
        [f"| {name}", chips, count]
        for name in ("v1_1_c4:base", "v1_1_c4:small")
        for chips, count in (("v5p-16", "512"), ("v5e-4", "256"))
    ]
    assert picture.stat().st_size > 10_000


@pytest.mark.slow
def test_what_fits_nowhere_says_so_in_the_table(capsys):
    xxl = FILE.replace("base", "xxl")
    assert main([xxl, FILE, "--hardware", "v5e-4", "--config.optimizer=AdamW(schedule=Constant(peak=1.0))"]) == 0
    assert "| v1_1_c4:xxl | v5e-4 |  | does not fit |" in capsys.readouterr().out
