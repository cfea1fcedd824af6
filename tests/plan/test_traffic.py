"""Bytes that kernels move, on programs written by hand; and collectives."""

import pytest
from scanned_step import INDEX, ROW, SCAN, STACK, WEIGHT

from research.parallel import hardware
from research.plan import time_model
from research.plan.collectives import Collective
from research.plan.hlo import Module
from research.plan.traffic import Kernel, kernels


def moved(text: str) -> dict[str, tuple[int, int, int]]:
    return {kernel.name: (kernel.times, kernel.read, kernel.written) for kernel in kernels(Module(text))}


def entry(*lines: str) -> str:
    return "\n".join(["ENTRY %main () -> f32[] {", *(f"  {line}" for line in lines), "}"])


def test_a_scan_reads_slices_and_writes_updates_as_often_as_it_runs():
    assert moved(SCAN) == {
        "loop_broadcast_fusion": (1, 0, STACK),
        "product": (12, WEIGHT + ROW + INDEX, ROW),
        "keep": (12, ROW + INDEX, ROW),
    }


def test_a_slice_in_a_nested_fusion_counts_as_a_slice_too():
    nested = SCAN.replace(
        "%slice = bf16[1,4,4]{2,1,0} dynamic-slice(%w, %i, %zero, %zero), dynamic_slice_sizes={1,4,4}",
        "%slice = bf16[1,4,4]{2,1,0} fusion(%w, %i), kind=kLoop, calls=%inner",
    )
    inner = """
%inner (w.9: bf16[12,4,4], i.9: s32[]) -> bf16[1,4,4] {
  %w.9 = bf16[12,4,4]{2,1,0} parameter(0)
  %i.9 = s32[] parameter(1)
  %o.9 = s32[] constant(0)
  ROOT %s.9 = bf16[1,4,4]{2,1,0} dynamic-slice(%w.9, %i.9, %o.9, %o.9), dynamic_slice_sizes={1,4,4}
}
"""
    assert moved(nested + inner) == moved(SCAN)


def test_an_operand_that_is_read_whole_beside_a_slice_counts_whole():
    whole = SCAN.replace("ROOT %dot =", "%all = bf16[12,4,4]{2,1,0} negate(%w)\n  ROOT %dot =")
    assert moved(whole)["product"] == (12, 12 * WEIGHT + ROW + INDEX, ROW)


def test_an_update_that_is_itself_the_operand_is_read():
    """The stack is not read; what is written into it is."""
    assert moved(SCAN)["keep"][1] == ROW + INDEX
    elsewhere = SCAN.replace("dynamic-update-slice(%stack, %one, %i.1", "dynamic-update-slice(%one, %stack, %i.1")
    assert moved(elsewhere)["keep"][1] == STACK + INDEX


def test_copies_between_hbm_and_vmem_move_hbm_once():
    hbm, vmem = "f32[8,128]{1,0:T(8,128)}", "f32[8,128]{1,0:T(8,128)S(1)}"
    assert moved(
        entry(
            f"%a = {hbm} parameter(0)",
            f"%in = ({vmem}, {hbm}, u32[]{{:S(2)}}) copy-start(%a)",
            f"%a.1 = {vmem} copy-done(%in)",
            f"%out = ({hbm}, {vmem}, u32[]{{:S(2)}}) copy-start(%a.1)",
            f"%part = (({hbm}), f32[4,128]{{1,0:T(4,128)S(1)}}, s32[]{{:S(2)}}) slice-start(%a), slice={{[0:4]}}",
            f'%empty = {hbm} custom-call(), custom_call_target="AllocateBuffer"',
        )
    ) == {"in": (1, 4096, 0), "out": (1, 0, 4096), "part": (1, 2048, 0)}


# --- Collectives ------------------------------------------------------------------------------------------------------


def exchange(lines: list[str]) -> Collective:
    return next(kernel.collective for kernel in kernels(Module(entry(*lines))) if kernel.collective)


@pytest.mark.parametrize(
    ("groups", "first"),
    [
        ("{{0,4},{1,5},{2,6},{3,7}}", (0, 4)),
        ("[4,2]<=[2,4]T(1,0)", (0, 4)),
        ("[2,4]<=[8]", (0, 1, 2, 3)),
        ("mesh['axis_0'=2,'axis_1'=4] {'axis_0'}", (0, 4)),
        ("mesh['axis_0'=2,'axis_1'=4] {'axis_1'}", (0, 1, 2, 3)),
        ("mesh['axis_0'=8] {'axis_0':(1)2}", (0, 4)),
        ("mesh['axis_0'=8] {'axis_0':(2)4}", (0, 1, 2, 3)),
        ("mesh['axis_0'=2,'axis_1'=4], device_ids=([2,4]<=[4,2]T(1,0)) {'axis_1'}", (0, 2, 4, 6)),
        ("mesh['axis_0'=4], device_ids=(3,1,2,0) {'axis_0'}", (3, 1, 2, 0)),
        ("{}", ()),
    ],
)
def test_the_members_of_a_group_in_every_notation(groups, first):
    found = exchange(
        [
            "%x = f32[100]{0} parameter(0)",
            f"%r = f32[100]{{0}} all-reduce(%x), channel_id=1, replica_groups={groups}, to_apply=%add",
        ]
    )
    assert found == Collective("all-reduce", 400, first)


@pytest.mark.parametrize(
    ("line", "sent"),
    [
        ("%r = f32[100]{0} all-reduce(%x)", 2 * 400 * 3 / 4),
        ("%r = f32[100]{0} all-reduce-start(%x)", 2 * 400 * 3 / 4),
        ("%r = f32[400]{0} all-gather(%x)", 1600 * 3 / 4),
        ("%r = (f32[100]{0}, f32[400]{0}) all-gather-start(%x)", 1600 * 3 / 4),
        ("%r = f32[25]{0} reduce-scatter(%x)", 400 * 3 / 4),
        ("%r = ((f32[100]{0}), f32[25]{0}) reduce-scatter-start(%x)", 400 * 3 / 4),
        ("%r = f32[100]{0} all-to-all(%x)", 400 * 3 / 4),
    ],
)
def test_the_bytes_that_a_ring_of_four_sends(line, sent):
    found = exchange(["%x = f32[100]{0} parameter(0)", f"{line}, replica_groups={{{{0,1,2,3}}}}, to_apply=%add"])
    assert found.sent(8) == sent
    assert found.axes((2, 1, 1, 4)) == "tensor"


@pytest.mark.parametrize(
    ("inner", "kind", "sent"),
    [
        (["%r = f32[100]{0} all-reduce(%x), replica_groups={{0,1,2,3}}"], "all-reduce", 2 * 400 * 3 / 4),
        (
            [
                "%r = f32[100]{0} all-reduce(%x), replica_groups={{0,1,2,3}}",
                "ROOT %s = f32[25]{0} dynamic-slice(%r, %i), dynamic_slice_sizes={25}",
            ],
            "reduce-scatter",
            400 * 3 / 4,
        ),
        (
            [
                "%r = f32[400]{0} all-gather(%x), replica_groups={{0,1,2,3}}",
                'ROOT %s = f32[400]{0} custom-call(%r), custom_call_target="AsyncCollectiveStart"',
            ],
            "all-gather",
            1600 * 3 / 4,
        ),
        (
            [
                "%r = f32[400]{0} all-gather(%x), replica_groups={{0,1,2,3}}",
                'ROOT %s = f32[400]{0} custom-call(%r), custom_call_target="AsyncCollectiveDone"',
            ],
            None,
            0,
        ),
    ],
)
def test_a_collective_in_a_fusion_of_a_tpu_counts_where_it_starts(inner, kind, sent):
    fused = "\n  ".join(["%fused (x: f32[100]) -> f32[100] {", "%x = f32[100]{0} parameter(0)", *inner])
    text = f"{fused}\n}}\n\n" + entry(
        "%a = f32[100]{0} parameter(0)", "%f = f32[100]{0} fusion(%a), kind=kCustom, calls=%fused"
    )
    (found,) = (kernel.collective for kernel in kernels(Module(text)))
    assert (found and found.kind, found.sent(4) if found else 0) == (kind, sent)


# --- Time -------------------------------------------------------------------------------------------------------------


def kernel(text: str) -> Kernel:
    return kernels(Module(text))[0]


def test_a_kernel_takes_the_longer_of_its_bytes_and_its_products():
    h200 = hardware.find("1xH200")
    line = '%p = bf16[{n},{n}]{{1,0}} custom-call(%a, %b), custom_call_target="__cublas$gemm",'
    line += ' backend_config={{"dot_dimension_numbers":{{"lhs_contracting_dimensions":["1"]}}}}'

    def product(n: int, dtype: str = "bf16") -> Kernel:
        operands = [f"%{name} = {dtype}[{n},{n}]{{1,0}} parameter({index})" for index, name in enumerate("ab")]
        return kernel(entry(*operands, line.format(n=n)))

    rate = time_model.PRODUCTS * h200.chip.flops
    assert time_model.seconds(product(8192), h200) == pytest.approx(time_model.LAUNCH + 2 * 8192**3 / rate)
    assert time_model.seconds(product(8192, "f32"), h200) == pytest.approx(time_model.LAUNCH + 4 * 8192**3 / rate)
    small = product(64)
    memory = small.bytes / (time_model.BANDWIDTH * h200.chip.bandwidth)
    assert time_model.seconds(small, h200) == pytest.approx(time_model.LAUNCH + memory)


def test_a_collective_takes_the_links_of_its_domain_or_the_network():
    lines = [
        "%x = f32[1000000]{0} parameter(0)",
        "%r = f32[1000000]{0} all-reduce(%x), replica_groups={{0,1,2,3,4,5,6,7}}",
    ]
    two_hosts = hardware.find("16xH100")
    near = time_model.seconds(kernel(entry(*lines)), two_hosts)
    assert near == pytest.approx(time_model.LAUNCH + 2 * 4e6 * 7 / 8 / two_hosts.chip.links)
    far = [lines[0], lines[1].replace("0,1,2,3,4,5,6,7", "0,8")]
    slow = time_model.seconds(kernel(entry(*far)), two_hosts)
    assert slow == pytest.approx(time_model.LAUNCH + 4e6 / two_hosts.chip.network)


def test_a_tpus_time_is_that_of_its_estimated_cycles():
    line = '%c = f32[8]{0} copy(%a), backend_config={"estimated_cycles":"3000"}'
    v5e = hardware.find("v5e-4")
    assert time_model.seconds(kernel(entry("%a = f32[8]{0} parameter(0)", line)), v5e) == pytest.approx(2e-6)
