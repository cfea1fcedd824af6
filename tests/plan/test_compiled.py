"""What compiled text says of exchange between devices; and compiling for TPUs where libtpu is installed."""

import importlib.util
from dataclasses import replace

import jax
import pytest

from research import BART, UL2, AdamW, Constant, Denoising, Experiment, Mesh, Model, PlainText, SpanCorruption
from research.config import ConfigError
from research.data.shapes import abstract_batch, row_lengths
from research.model.flops import parameter_count
from research.model.transformer import abstract_params
from research.parallel import hardware
from research.parallel.mesh import make_mesh
from research.parallel.rules import flatten
from research.plan import compiled
from research.train.step import compile_train_step

MODEL = Model(64, 32, 8, 4, 48, encoder_layers=3, decoder_layers=2, compute="float32")
EXPERIMENT = Experiment(
    model=MODEL,
    data=Denoising(corpora=(PlainText(train="unread"),), input_length=16),
    optimizer=AdamW(schedule=Constant(peak=1e-3)),
    steps=10,
    batch_size=16,
)


def exchanged(mesh: Mesh) -> dict[tuple[str, str], float]:
    made = make_mesh(mesh)
    return compiled.exchanged(compile_train_step(EXPERIMENT, made, abstract_batch(EXPERIMENT)).as_text(), made)


def test_over_data_alone_gradients_are_summed():
    """All of them once, relative biases as their tables too; but the embedding once for either stack (compiled for TPUs
    it is once). And four sums over targets."""
    found = exchanged(Mesh(data=8))
    floats = parameter_count(abstract_params(MODEL)) + 64 * 32 + 4
    assert found == {("all-reduce", "data"): 4 * floats * 2 * 7 / 8}


def test_over_fsdp_weights_are_gathered_in_every_layer():
    found = exchanged(Mesh(data=1, fsdp=8))
    assert {axes for _, axes in found} == {"fsdp"}
    layers = sum(leaf.size for path, leaf in flatten(abstract_params(MODEL)).items() if "layers/" in path)
    assert found["all-gather", "fsdp"] > 4 * layers * 7 / 8, "the bodies of loops count as often as they run"


def test_over_the_sequence_keys_and_values_are_gathered_and_each_device_projects_its_own():
    found = exchanged(Mesh(data=1, sequence=8))
    assert {axes for _, axes in found} == {"sequence"}
    places = 3 * 16 + 2 * (5 + 16)  # of the layers' attentions
    gathered = 4 * EXPERIMENT.batch_size * 2 * 32 * places * 7 / 8
    assert gathered < found["all-gather", "sequence"] < 1.2 * gathered
    batch = abstract_batch(EXPERIMENT)
    whole, part = (
        compile_train_step(EXPERIMENT, mesh, batch).cost_analysis()["flops"]
        for mesh in (make_mesh(Mesh(), jax.devices()[:1]), make_mesh(Mesh(data=1, sequence=8)))
    )
    assert part < 0.25 * whole


@pytest.mark.parametrize("mesh", [Mesh(1, 4, 1, 2), Mesh(2, 2, 2, 1), Mesh(1, 2, 2, 2)], ids=str)
def test_nothing_is_gathered_whole_because_the_partitioner_knows_no_better(mesh, capfd):
    compile_train_step(EXPERIMENT, make_mesh(mesh), abstract_batch(EXPERIMENT))
    assert "rematerialization" not in capfd.readouterr().err


def test_tensor_sums_are_over_tensor():
    found = exchanged(Mesh(data=2, tensor=4))
    assert found["all-reduce", "tensor"] > 0
    assert found["all-reduce", "data"] > 0


def test_rows_without_data_are_those_with_it():
    assert row_lengths(replace(EXPERIMENT, data=replace(EXPERIMENT.data, input_length=512))) == (512, 114)
    plain = abstract_batch(EXPERIMENT)
    assert plain.encoder_segment_ids is None
    for objective in (BART(), UL2()):
        data = replace(EXPERIMENT.data, objective=objective, input_length=64)
        assert abstract_batch(replace(EXPERIMENT, data=data)).encoder_segment_ids is not None
    assert isinstance(EXPERIMENT.data.objective, SpanCorruption)


def test_too_little_memory_is_one_sentence():
    said = compiled.too_large(
        "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO temporaries (24.62G) exceeds"
        " available HBM (15.75G)."
    )
    assert said.startswith(
        "The training step does not fit: 24.6 GiB of activations and gradients beside the state, in 15.8 GiB per chip."
    )


def test_gpus_are_not_compiled_for():
    with pytest.raises(ConfigError, match="only TPUs can be compiled for"):
        compiled.compile_for(EXPERIMENT, hardware.find("8xH100"))


@pytest.mark.skipif(importlib.util.find_spec("libtpu") is not None, reason="libtpu is here")
def test_without_libtpu_it_is_named():
    with pytest.raises(ConfigError, match=r"needs libtpu: pip install 'kintsugi\[tpu\]'"):
        compiled.compile_for(replace(EXPERIMENT, mesh=Mesh(data=4)), hardware.find("v5e-4"))


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="needs libtpu")
@pytest.mark.parametrize("name", ["v4-8", "v5e-4", "v5p-8", "v6e-4"])
def test_a_step_compiles_for_a_tpu_that_is_not_here(name):
    found = compiled.compile_for(replace(EXPERIMENT, mesh=Mesh(fsdp=2)), hardware.find(name))
    assert found.memory.arguments > 0
    assert {axis for _, axes in found.exchanged for axis in axes.split("+")} == {"data", "fsdp"}
