"""The bound on a step's time: its parts move as they must, and published steps take as much longer as they should."""

from dataclasses import replace

import pytest

from research import Adafactor, AdamW, Constant, Denoising, Experiment, Mesh, PlainText
from research.model.family import preset
from research.model.flops import train_flops
from research.parallel import hardware
from research.plan.roofline import step_times

DATA = Denoising(corpora=(PlainText("unread"),))


def experiment(model: str, rows: int, mesh: Mesh, **fields) -> Experiment:
    optimizer = fields.pop("optimizer", Adafactor())
    return Experiment(preset(model, **fields), DATA, optimizer, steps=10, batch_size=rows, mesh=mesh)


# Sequences a second and GPU, and where they were published: nanoT5's README; NVIDIA's JAX-Toolbox (T5X for GPUs, at
# commit ddf1b9914^) for small, large and XL; NVIDIA's DeepLearningExamples for BART.
PUBLISHED = [
    ("t5_v1_1/base", "A100", 128, (512, 114), Mesh(1, 1, 1, 1), 229.0),
    ("t5_v1_1/small", "8xA100", 256, (512, 128), Mesh(8, 1, 1, 1), 714.0),
    ("t5_v1_1/large", "64xA100", 32, (512, 128), Mesh(64, 1, 1, 1), 75.8),
    ("t5_v1_1/xl", "144xA100", 8, (512, 128), Mesh(18, 8, 1, 1), 21.0),
    ("t5_v1_1/xxl", "512xA100", 4.5, (512, 128), Mesh(64, 1, 1, 8), 3.69),
    ("bart/large", "A100", 32, (512, 512), Mesh(1, 1, 1, 1), 69.31),
    ("bart/large", "A100", 200, (128, 128), Mesh(1, 1, 1, 1), 326.5),
]


@pytest.mark.parametrize(("model", "name", "rows", "lengths", "mesh", "published"), PUBLISHED)
def test_published_throughputs_are_below_the_bound_by_a_third_to_three_quarters(
    model, name, rows, lengths, mesh, published
):
    found = hardware.find(name)
    made = experiment(model, int(rows * found.chips), mesh, attention="reference")  # they write their scores
    bound = made.batch_size / step_times(made, found, mesh, *lengths).step / found.chips
    assert 1.25 < bound / published < 1.75


def test_products_take_the_time_of_their_flops():
    chip = hardware.find("H100")
    made = experiment("t5_v1_1/base", 64, Mesh(1, 1, 1, 1))
    flops = 64 * train_flops(made.model, 512, 114)
    assert step_times(made, chip, made.mesh, 512, 114).products == pytest.approx(flops / (0.8 * 989.4e12))
    full = replace(made, model=replace(made.model, remat="full"))
    assert 1.25 < step_times(full, chip, made.mesh, 512, 114).products / (flops / (0.8 * 989.4e12)) < 4 / 3
    precise = replace(made, model=replace(made.model, compute="float32"))
    assert step_times(precise, chip, made.mesh, 512, 114).products == pytest.approx(2 * flops / (0.8 * 989.4e12))


def test_one_chip_exchanges_nothing_and_small_batches_cannot_hide_what_many_do():
    alone = experiment("t5_v1_1/large", 8, Mesh(1, 1, 1, 1))
    assert step_times(alone, hardware.find("H100"), alone.mesh, 512, 114)[2:] == (0.0, 0.0)
    many = hardware.find("512xH100")
    waits = {}
    for rows in (512, 4096):
        made = experiment("t5_v1_1/large", rows, Mesh(512, 1, 1, 1))
        waits[rows] = step_times(made, many, made.mesh, 512, 114).exchange
    assert waits[512] > 0 == waits[4096]
    tensor = experiment("t5_v1_1/large", 64, Mesh(1, 1, 1, 8))
    assert step_times(tensor, hardware.find("8xH100"), tensor.mesh, 512, 114).activations > 0


def test_a_slow_network_costs_more_than_links():
    made = experiment("t5_v1_1/xl", 32, Mesh(32, 1, 1, 1), optimizer=AdamW(schedule=Constant(peak=1e-4)))
    one, two = hardware.find("v5e-32"), hardware.find("8xv5e-4")
    assert one.chips == two.chips
    times = [step_times(made, found, made.mesh, 512, 114) for found in (one, two)]
    assert times[1].step > times[0].step
    assert times[1].limit == "exchange"
