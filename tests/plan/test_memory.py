"""What a step is said to hold, beside what compilers say that they allocate for it."""

from dataclasses import replace

import jax
import pytest

from research import Adafactor, AdamW, Constant, Denoising, Experiment, Mesh, PlainText
from research.config import load
from research.data.shapes import abstract_batch
from research.model.family import preset
from research.parallel.hardware import CHIPS, find
from research.parallel.mesh import make_mesh
from research.plan.memory import chip_bytes, chip_part, kept, kept_bytes, padded_bytes, working_bytes
from research.train.step import compile_train_step

pytestmark = pytest.mark.slow

EXPERIMENT = Experiment(
    model=replace(preset("t5_v1_1/small"), encoder_layers=4, decoder_layers=4, compute="float32"),
    data=Denoising(corpora=(PlainText("unread"),), input_length=256),
    optimizer=AdamW(schedule=Constant(peak=1e-3)),
    steps=10,
    batch_size=8,
    mesh=Mesh(data=1),
)

# GiB of temporaries a chip with the plain formula of attention, by libtpu 0.0.42.1 under jax 0.10.2: see "memory" in
# experiments/LOG.md.
COMPILED = (
    ("t5/v1_1_c4.py:base", 128, Mesh(data=16), "none", 4.18),
    ("t5/v1_1_c4.py:base", 128, Mesh(data=16), "dots", 2.67),
    ("t5/v1_1_c4.py:base", 512, Mesh(data=16), "full", 2.41),
    ("t5/v1_1_c4.py:large", 512, Mesh(data=32), "dots", 11.990),
    ("t5/v1_1_c4.py:large", 2048, Mesh(data=32, fsdp=8), "none", 8.77),
    ("bart/bart.py:large", 256, Mesh(data=32), "full", 3.01),
    ("t5/v1_1_c4.py:xxl", 1024, Mesh(data=4, fsdp=128), "full", 3.18),
)


@pytest.mark.parametrize(("name", "rows", "mesh", "remat", "compiled"), COMPILED)
def test_what_was_compiled_for_tpus_is_foreseen_to_a_tenth(name, rows, mesh, remat, compiled):
    made = replace(load.open_experiment(f"experiments/{name}").config, batch_size=rows, mesh=mesh)
    made = replace(made, model=replace(made.model, remat=remat, attention="reference"))
    assert working_bytes(made, find("v5e-16")) / 2**30 == pytest.approx(compiled, rel=0.1)


def test_cudnn_keeps_no_scores():
    """Compiled for an H200 by jax 0.10.2: 28.8 GiB with cuDNN's attention, 42.9 with the plain formula; unrolled."""
    base = replace(load.open_experiment("experiments/t5/v1_1_c4.py:base").config, batch_size=128, mesh=Mesh(data=1))
    assert working_bytes(base, find("H200")) / 2**30 == pytest.approx(28.8, rel=0.1)
    plain = replace(base, model=replace(base.model, attention="reference"))
    assert working_bytes(plain, find("H200")) / 2**30 == pytest.approx(42.9, rel=0.1)


@pytest.mark.parametrize("remat", ["none", "dots", "full"])
def test_a_compiled_step_of_this_machine_is_foreseen_to_a_third(remat):
    made = replace(EXPERIMENT, model=replace(EXPERIMENT.model, remat=remat))
    compiled = compile_train_step(made, make_mesh(Mesh(), jax.devices()[:1]), abstract_batch(made))
    assert working_bytes(made) == pytest.approx(compiled.memory_analysis().temp_size_in_bytes, rel=1 / 3)


def test_remat_microbatches_and_every_axis_save():
    many = replace(EXPERIMENT, batch_size=16)
    whole = working_bytes(many)
    for changed in (
        replace(many, model=replace(many.model, remat="dots")),
        replace(many, microbatches=4),
        *(replace(many, mesh=mesh) for mesh in (Mesh(2), Mesh(1, 2), Mesh(1, 1, 2), Mesh(1, 1, 1, 2))),
    ):
        assert working_bytes(changed) < 0.8 * whole
    assert kept_bytes(chip_part(EXPERIMENT)) > 4 * kept_bytes(
        chip_part(replace(EXPERIMENT, model=replace(EXPERIMENT.model, remat="full")))
    )


def test_dropout_keeps_its_masks():
    dropped = replace(EXPERIMENT, model=replace(EXPERIMENT.model, dropout=0.1))
    assert working_bytes(dropped) > working_bytes(EXPERIMENT)


def test_the_last_axis_is_padded_to_the_lanes():
    assert padded_bytes(jax.ShapeDtypeStruct((3, 64), "bfloat16"), 128) == 3 * 128 * 2
    assert padded_bytes(jax.ShapeDtypeStruct((3, 64), "bfloat16"), 1) == 3 * 64 * 2
    assert padded_bytes(jax.ShapeDtypeStruct((), "float32"), 1) == 4
    assert (CHIPS["v5e"].lanes, CHIPS["H100"].lanes) == (128, 1)
    shapes = {leaf.shape for leaf in kept(chip_part(EXPERIMENT), 3)}
    assert (4, 3, 6, 256, 256) in shapes, "the softmax of every layer"


def test_states_are_counted_too():
    lean = replace(EXPERIMENT, optimizer=Adafactor())
    assert chip_bytes(lean, find("H100")) < chip_bytes(EXPERIMENT, find("H100"))
