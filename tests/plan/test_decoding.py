"""One step of a decoding program: the least that it must read, the copies in its loop, and what touches the host."""

import importlib.util
from dataclasses import replace

import jax
import pytest

from research import AdamW, Beam, Constant, Denoising, Experiment, Generation, Mesh, Model, PlainText, Tied
from research.model.transformer import abstract_params
from research.parallel import hardware
from research.plan import decoding
from research.plan.hlo import Module
from research.plan.traffic import kernels
from scripts.plan import main

MODEL = Model(512, 64, 2, 32, 128, encoder_layers=1, decoder_layers=3, compute="bfloat16")
EXPERIMENT = Experiment(
    model=MODEL,
    data=Denoising(corpora=(PlainText(train="unread"),), input_length=32),
    optimizer=AdamW(schedule=Constant(peak=1e-3)),
    steps=10,
    batch_size=4,
    mesh=Mesh(data=1),
)

LOOP = """HloModule jit_decode

%fused_write (old: bf16[4,8], new: bf16[1,8], at: s32[]) -> bf16[4,8] {
  %old = bf16[4,8]{1,0} parameter(0)
  %new = bf16[1,8]{1,0} parameter(1)
  %at = s32[] parameter(2)
  %nought = s32[] constant(0)
  ROOT %written = bf16[4,8]{1,0} dynamic-update-slice(%old, %new, %at, %nought)
}

%body (c: (s32[], bf16[4,8], bf16[8,8])) -> (s32[], bf16[4,8], bf16[8,8]) {
  %c = (s32[], bf16[4,8]{1,0}, bf16[8,8]{1,0}) parameter(0)
  %n = s32[] get-tuple-element(%c), index=0
  %cache = bf16[4,8]{1,0} get-tuple-element(%c), index=1
  %weight = bf16[8,8]{1,0} get-tuple-element(%c), index=2
  %row = bf16[1,8]{1,0} slice(%cache), slice={[0:1], [0:8]}
  %projected = bf16[1,8]{1,0} dot(%row, %weight), lhs_contracting_dims={1}, rhs_contracting_dims={0}
  %write = bf16[4,8]{1,0} fusion(%cache, %projected, %n), kind=kLoop, calls=%fused_write
  %moved = bf16[4,8]{0,1} copy(%write)
  %turned = bf16[8,8]{0,1} transpose(%weight), dimensions={1,0}
  %cast = f32[8,8]{1,0} convert(%weight)
  %pair = (f32[8,8]{1,0}, s32[]) tuple(%cast, %n)
  %again = f32[8,8]{1,0} get-tuple-element(%pair), index=0
  %scaled = f32[8,8]{1,0} multiply(%again, %again)
  %told = () custom-call(%n), custom_call_target="xla_ffi_python_gpu_callback"
  ROOT %t = (s32[], bf16[4,8]{1,0}, bf16[8,8]{1,0}) tuple(%n, %moved, %turned)
}

%cond (c.1: (s32[], bf16[4,8], bf16[8,8])) -> pred[] {
  %c.1 = (s32[], bf16[4,8]{1,0}, bf16[8,8]{1,0}) parameter(0)
  %n.1 = s32[] get-tuple-element(%c.1), index=0
  %end = s32[] constant(3)
  ROOT %lt = pred[] compare(%n.1, %end), direction=LT
}

ENTRY %main (a: bf16[4,8], b: bf16[8,8]) -> bf16[4,8] {
  %a = bf16[4,8]{1,0} parameter(0)
  %b = bf16[8,8]{1,0} parameter(1)
  %start = s32[] constant(0)
  %first = (s32[], bf16[4,8]{1,0}, bf16[8,8]{1,0}) tuple(%start, %a, %b)
  %layers = (s32[], bf16[4,8]{1,0}, bf16[8,8]{1,0}) while(%first), condition=%cond, body=%body, metadata={op_name="jit(decode)/encoder/while"}
  %steps = (s32[], bf16[4,8]{1,0}, bf16[8,8]{1,0}) while(%layers), condition=%cond, body=%body, metadata={op_name="jit(decode)/while"}
  ROOT %out = bf16[4,8]{1,0} get-tuple-element(%steps), index=1
}
"""  # noqa: E501


def test_the_loop_over_steps_is_not_the_encoder_s_and_its_kernels_count_once():
    module = Module(LOOP)
    assert list(decoding.decoding_loops(module)) == [decoding.DecodingLoop("body", "cond")]
    found = kernels(module, "body")
    assert {kernel.name for kernel in found} == {
        "row",
        "projected",
        "write",
        "moved",
        "turned",
        "cast",
        "scaled",
        "told",
    }
    assert {kernel.times for kernel in found} == {1}
    assert {kernel.times for kernel in kernels(module)} == {3}


def test_copies_of_caches_and_weights_are_found_and_writes_in_place_are_not():
    module = Module(LOOP)
    assert [kernel.name for kernel in decoding.copies(module, "body", 2 * 4 * 8)] == ["moved", "turned", "cast"]
    assert [kernel.name for kernel in decoding.copies(module, "body", 2 * 8 * 8)] == ["turned", "cast"]


def test_what_exchanges_with_the_host_is_named():
    assert list(decoding.on_host(Module(LOOP), "body")) == ["told"]
    assert list(decoding.on_host(Module(LOOP), "cond")) == []


@pytest.mark.parametrize("head", [MODEL.head, Tied(False)], ids=["untied", "tied"])
def test_the_least_is_every_weight_of_a_step_and_the_cache_once(head):
    model = replace(MODEL, head=head)
    layer = 6 * 64 * 64 + 3 * 64 * 128 + 3 * 64  # query, key, value, output; query, output; feed-forward; norms
    layer -= 0 if model.gated else 64 * 128
    found = decoding.least_read(model, rows=4, inputs=32, length=16, hypotheses=1)
    table = sum(leaf.size for leaf in jax.tree.leaves(abstract_params(model)["decoder"].get("relative_bias", ())))
    assert found.weights == 2 * (3 * layer + 64 + table + 64 * 512)
    assert (found.own, found.cross) == (2 * 3 * 2 * 4 * 64 * 16, 2 * 3 * 2 * 4 * 64 * 32)
    assert decoding.least_read(model, 4, 32, 16, hypotheses=4).own == 4 * found.own


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--decode",), "--decode needs --compile"),
        (("--compile", "--generation.max_length=3"), "--generation needs --decode"),
        (("--compile", "--decode", "--generation.max_length=0"), "max_length is 0"),
    ],
)
def test_options_of_decoding_are_checked_before_anything_slow(options, message, capsys):
    assert main(["experiments/t5/v1_1_c4.py:base", "--hardware", "1xH200", *options]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("jax_cuda12_plugin") is None, reason="needs JAX's CUDA plugin")
@pytest.mark.parametrize("generation", [Generation(max_length=48), Generation(max_length=48, method=Beam(4))], ids=str)
def test_decoding_compiles_for_a_gpu_that_is_not_here(generation):
    """Products are in bfloat16 but for the table of relative biases, nothing is copied, and the host takes no part."""
    found = decoding.compile_decoding(EXPERIMENT, generation, hardware.find("1xH200"))
    assert found.stages == 2
    assert found.copies == []
    assert found.host == []
    assert found.step.total.flops.keys() == {"bf16", "f32"}
    hypotheses = generation.method.beams if isinstance(generation.method, Beam) else 1
    assert found.step.total.flops["f32"] == 2 * 32 * MODEL.heads * generation.max_length * hypotheses
    assert found.times_least > 1
