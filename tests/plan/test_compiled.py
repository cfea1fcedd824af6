"""Exchange between devices in compiled text, and compilation for hardware that is not here."""

import importlib.util
from dataclasses import replace
from importlib import metadata

import jax
import pytest

from research import BART, UL2, AdamW, Constant, Denoising, Experiment, Mesh, Model, PlainText, SpanCorruption
from research.config import ConfigError
from research.data.shapes import abstract_batch, row_lengths
from research.model.flops import parameter_count
from research.model.mask import AttentionMask
from research.model.pallas_attention import pallas_attention
from research.model.transformer import abstract_params
from research.parallel import hardware
from research.parallel.mesh import make_mesh
from research.parallel.rules import flatten
from research.plan import compiled, targets
from research.plan.hlo import Module
from research.plan.parts import STACKS
from research.plan.traffic import kernels
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
    text = compile_train_step(EXPERIMENT, made, abstract_batch(EXPERIMENT)).as_text()
    return compiled.exchanged(kernels(Module(text)), made.devices.shape)


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


@pytest.mark.slow
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


# --- Compilers that may be missing ------------------------------------------------------------------------------------


def installed(monkeypatch, **versions: str) -> None:
    """Let the wheels have these versions, and none others."""

    def version(name: str) -> str:
        if name not in versions:
            raise metadata.PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr(targets.metadata, "version", version)


def test_without_the_cuda_plugin_its_command_is_named(monkeypatch):
    installed(monkeypatch)
    wheels = f"jax-cuda12-plugin=={jax.__version__} jax-cuda12-pjrt=={jax.__version__}"
    with pytest.raises(ConfigError, match=rf"jax-cuda12-pjrt is not installed: pip install --no-deps {wheels} "):
        compiled.compile_for(EXPERIMENT, hardware.find("8xH100"))


def test_a_plugin_of_another_version_than_jax_is_refused(monkeypatch):
    installed(monkeypatch, **{"jax-cuda12-plugin": jax.__version__, "jax-cuda12-pjrt": "0.4.1"})
    with pytest.raises(ConfigError, match=r"the version of jax, .* jax-cuda12-pjrt is 0\.4\.1: pip install"):
        compiled.compile_for(EXPERIMENT, hardware.find("1xH200"))


def test_without_libtpu_it_is_named(monkeypatch):
    monkeypatch.setattr(targets, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"needs libtpu: pip install 'kintsugi\[tpu\]'"):
        compiled.compile_for(replace(EXPERIMENT, mesh=Mesh(data=4)), hardware.find("v5e-4"))


def test_an_unknown_gpu_is_one_sentence_with_those_that_there_are():
    with pytest.raises(ConfigError, match=r"--hardware 8xH300 is not known. Chips: v4, .*A100, H100, H200, B200"):
        hardware.find("8xH300")


def test_every_gpu_of_the_planner_has_a_description():
    gpus = {name for name, chip in hardware.CHIPS.items() if not chip.dimensions}
    assert targets.GPUS.keys() == gpus
    for name in gpus:
        assert targets.GPUS[name].bandwidth == pytest.approx(hardware.CHIPS[name].bandwidth, rel=0.05)


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="needs libtpu")
@pytest.mark.parametrize("name", ["v4-8", "v5e-4", "v5p-8", "v6e-4"])
def test_a_step_compiles_for_a_tpu_that_is_not_here(name):
    found = compiled.compile_for(replace(EXPERIMENT, mesh=Mesh(fsdp=2)), hardware.find(name))
    assert found.memory.arguments > 0
    assert {axis for _, axes in found.exchanged for axis in axes.split("+")} == {"data", "fsdp"}
    assert found.total.cycles > 0
    check_products(found)


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="needs libtpu")
def test_a_tpu_scatters_gradients_over_fsdp_and_gives_no_chip_all_of_them():
    model = replace(MODEL, width=256, heads=4, head_width=64, feed_forward=512, compute="bfloat16")
    sharded = replace(EXPERIMENT, model=model, mesh=Mesh(data=1, fsdp=4))
    found = compiled.compile_for(sharded, hardware.find("v5e-4")).exchanged
    layers = sum(leaf.size for path, leaf in flatten(abstract_params(model)).items() if "layers/" in path)
    assert found["reduce-scatter", "fsdp"] > 2 * layers * 3 / 4
    assert found["all-reduce", "fsdp"] < 0.1 * 2 * layers


def check_products(found: compiled.Compiled) -> None:
    """The products of the program are those of the exact formula, and relative biases: no more than 5 % more."""
    assert found.flops <= sum(found.total.flops.values()) <= 1.05 * found.flops


BFLOAT16 = replace(
    EXPERIMENT, model=replace(MODEL, width=64, heads=2, head_width=32, feed_forward=128, compute="bfloat16")
)


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("jax_cuda12_plugin") is None, reason="needs JAX's CUDA plugin")
@pytest.mark.parametrize("name", ["A100", "H100", "H200", "B200"])
def test_a_step_compiles_for_a_gpu_that_is_not_here(name):
    found = compiled.compile_for(BFLOAT16, hardware.find(f"1x{name}"))
    assert found.memory.arguments > 0
    assert not found.exchanged
    check_products(found)
    parts = {(part.stack, part.name) for part in found.parts}
    stacks = {(stack, name) for stack in STACKS for name in ("norms", "self-attention", "feed-forward")}
    assert parts >= stacks | {("decoder", "cross-attention"), ("", "logits"), ("", "loss"), ("", "optimizer")}


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("jax_cuda12_plugin") is None, reason="needs JAX's CUDA plugin")
def test_eight_gpus_exchange_over_the_axes_of_their_mesh():
    found = compiled.compile_for(replace(BFLOAT16, mesh=Mesh(data=4, fsdp=2)), hardware.find("8xH100"))
    assert {axis for _, axes in found.exchanged for axis in axes.split("+")} == {"data", "fsdp"}
    one = compiled.compile_for(BFLOAT16, hardware.find("1xH100"))
    assert found.flops == one.flops / 8


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("jax_cuda12_plugin") is None, reason="needs JAX's CUDA plugin")
def test_attention_of_cudnn_compiles_without_a_device():
    """And its products are those of its two and four matrix products."""
    h200 = hardware.find("1xH200")
    place = jax.sharding.SingleDeviceSharding(targets.target_devices(h200)[0])
    shape = jax.ShapeDtypeStruct((2, 128, 2, 64), "bfloat16", sharding=place)
    bias = jax.ShapeDtypeStruct((1, 2, 128, 128), "bfloat16", sharding=place)

    def loss(query, key, value, bias):
        return jax.nn.dot_product_attention(query, key, value, bias, implementation="cudnn").astype("float32").sum()

    with targets.attention_of(h200):
        lowered = jax.jit(jax.grad(loss, (0, 1, 2, 3))).lower(shape, shape, shape, bias)
        text = lowered.compile(targets.compiler_options(h200)).as_text()
    work = [product for kernel in kernels(Module(text)) for product in kernel.products]
    pairs = 2 * 2 * 128 * 128
    assert {product.attention: product.flops for product in work} == {
        "forward": 4 * pairs * 64,
        "backward": 8 * pairs * 64,
    }
    assert sum(product.workspace for product in work) == 2 * 2 * pairs


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("jax_cuda12_plugin") is None, reason="needs JAX's CUDA plugin")
@pytest.mark.parametrize("name", ["A100", "H200", "B200"])
@pytest.mark.parametrize(("t", "s", "width", "rate"), [(128, 128, 64, 0.1), (113, 113, 128, 0.0), (30, 100, 32, 0.0)])
def test_own_kernels_of_attention_compile_without_a_device(name, t, s, width, rate):
    """And what they compute is counted: forward 2 products, and for the gradients 3, 4 and 2."""
    gpu, rows, heads = hardware.find(f"1x{name}"), 4, 2
    place = jax.sharding.SingleDeviceSharding(targets.target_devices(gpu)[0])
    shapes = (rows, t, heads, width), (rows, s, heads, width), (rows, s, heads, width)
    arrays = [jax.ShapeDtypeStruct(shape, "bfloat16", sharding=place) for shape in shapes]
    arrays.append(jax.ShapeDtypeStruct((heads, t, s), "float32", sharding=place))
    ids = [jax.ShapeDtypeStruct((rows, length), "int32", sharding=place) for length in (t, s)]

    def loss(query, key, value, bias, query_ids, key_ids):
        mask = AttentionMask("encoder", None, query_ids, key_ids, causal=t == s, packed=True)
        dropout_key = jax.random.key(0) if rate else None
        return pallas_attention(query, key, value, mask, bias, rate, dropout_key).astype("float32").sum()

    lowered = jax.jit(jax.grad(loss, (0, 1, 2, 3))).lower(*arrays, *ids)
    text = lowered.compile(targets.compiler_options(gpu)).as_text()
    work = [product for kernel in kernels(Module(text)) for product in kernel.products]
    assert sorted(product.flops for product in work) == [
        2 * count * rows * heads * t * s * width for count in (2, 2, 3, 4)
    ]
    assert {product.attention for product in work} == {"pallas"}
