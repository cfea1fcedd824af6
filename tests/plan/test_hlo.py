"""Compiled text, parsed: types, operands, loops; and the work of its products."""

import pytest

from research.plan.hlo import Module, arrays
from research.plan.products import products

MODULE = """HloModule jit_step, is_scheduled=true

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}

%body (carried: (s32[], f32[4,8])) -> (s32[], f32[4,8]) {
  %carried = (s32[], f32[4,8]{1,0}) parameter(0)
  %index = s32[] get-tuple-element(%carried), index=0
  %x = f32[4,8]{1,0} get-tuple-element(%carried), index=1
  %doubled = f32[4,8]{1,0} add(%x, %x), metadata={op_name="jit(step)/while/body/add"}
  ROOT %next = (s32[], f32[4,8]{1,0}) tuple(%index, %doubled)
}

%condition (carried.1: (s32[], f32[4,8])) -> pred[] {
  %carried.1 = (s32[], f32[4,8]{1,0}) parameter(0)
  %index.1 = s32[] get-tuple-element(%carried.1), index=0
  %bound = s32[] constant(5)
  ROOT %less = pred[] compare(%index.1, %bound), direction=LT
}

ENTRY %main (p: f32[4,8]) -> f32[4,8] {
  %p = f32[4,8]{1,0} parameter(0)
  %zero = s32[] constant(0)
  %first = (s32[], f32[4,8]{1,0}) tuple(%zero, %p)
  %known = (s32[], f32[4,8]{1,0}) while(%first), condition=%condition, body=%body, backend_config={"known_trip_count":{"n":"3"}}
  %loop = (s32[], /*index=1*/f32[4,8]{1,0}) while(%known), condition=%condition, body=%body
  %out = f32[4,8]{1,0} get-tuple-element(%loop), index=1
  ROOT %copy = f32[4,8]{1,0} copy(%out)
}
"""  # noqa: E501


def test_a_loop_executes_as_often_as_xla_knows_or_as_its_condition_bounds():
    executed = {each.instruction.name: each.times for each in Module(MODULE).executed()}
    found = [each.times for each in Module(MODULE).executed() if each.instruction.name == "doubled"]
    assert found == [3, 5]
    assert executed["copy"] == 1
    assert "sum" not in executed


def test_an_instruction_has_its_operands_and_its_name_in_jax():
    add = Module(MODULE).computations["body"].instructions["doubled"]
    assert add.operands == ["x", "x"]
    assert add.op_name == "jit(step)/while/body/add"
    assert add.hbm_bytes == 4 * 8 * 4


@pytest.mark.parametrize(
    ("text", "sizes"),
    [
        ("bf16[3,5]{1,0}", [30]),
        ("(f32[], pred[7]{0}, token[])", [4, 7, 0]),
        ("s4[3]{0}", [2]),
        ("bf16[5,100]{1,0:T(8,128)(2,1)}", [2 * 8 * 128]),
        ("bf16[5,100]{0,1:T(8,128)(2,1)}", [2 * 104 * 128]),
        ("f32[100]{0:T(1024)}", [4 * 1024]),
        ("f8e4m3fn[16]{0:T(8,128)S(1)}", [128]),
    ],
)
def test_arrays_take_their_bytes_and_on_tpus_those_of_whole_tiles(text, sizes):
    assert [array.bytes for array in arrays(text)] == sizes


def test_an_array_in_vmem_takes_no_hbm():
    assert [array.hbm_bytes for array in arrays("(f32[8,128]{1,0:T(8,128)S(1)}, f32[8,128]{1,0:T(8,128)})")] == [
        0,
        4096,
    ]


def test_an_unknown_type_is_no_guess():
    with pytest.raises(ValueError, match="f7"):
        arrays("f7[2]{0}")


# --- Products ---------------------------------------------------------------------------------------------------------


def work(*lines: str) -> list[tuple[int, str]]:
    """FLOPs and dtype of the products of a computation of these lines."""
    module = Module("\n".join(["ENTRY %main () -> f32[] {", *(f"  {line}" for line in lines), "}"]))
    computation = module.computations["main"]
    found = [products(module, computation, each) for each in computation.instructions.values()]
    return [(product.flops, product.dtype) for each in found for product in each]


def test_a_dot_counts_two_flops_for_each_pair():
    assert work(
        "%a = bf16[6,10,20]{2,1,0} parameter(0)",
        "%b = f32[6,20,30]{2,1,0} parameter(1)",
        "%dot = f32[6,10,30]{2,1,0} dot(%a, %b), lhs_batch_dims={0}, rhs_batch_dims={0}, lhs_contracting_dims={2},"
        " rhs_contracting_dims={1}",
    ) == [(2 * 6 * 10 * 20 * 30, "f32")]


def test_a_product_of_cublas_counts_without_its_workspace():
    assert work(
        "%a = bf16[128,64]{1,0} parameter(0)",
        "%b = bf16[64,32]{1,0} parameter(1)",
        '%call = (bf16[128,32]{1,0}, s8[4194304]{0}) custom-call(%a, %b), custom_call_target="__cublas$lt$matmul",'
        ' backend_config={"gemm_backend_config":{"dot_dimension_numbers":{"lhs_contracting_dimensions":["1"]}}}',
    ) == [(2 * 128 * 64 * 32, "bf16")]


@pytest.mark.parametrize(
    ("target", "factor"), [("__cudnn$fmhaScaleBiasSoftmax", 4), ("__cudnn$fmhaScaleBiasSoftmaxBackward", 8)]
)
def test_attention_of_cudnn_counts_two_products_forward_and_four_backward(target, factor):
    assert work(
        "%q = bf16[2,10,3,64]{3,2,1,0} parameter(0)",
        "%k = bf16[2,20,3,64]{3,2,1,0} parameter(1)",
        "%v = bf16[2,20,3,64]{3,2,1,0} parameter(2)",
        f'%call = (bf16[2,3,10,64]{{3,1,2,0}}, u8[0]{{0}}) custom-call(%q, %k, %v), custom_call_target="{target}"',
    ) == [(factor * 2 * 3 * 10 * 20 * 64, "bf16")]


@pytest.mark.parametrize(("kernel", "count"), [("forward", 2), ("query", 3), ("key", 4), ("bias", 2), ("other", 0)])
def test_own_kernels_of_attention_count_every_product(kernel, count):
    name = "attention_bias" if kernel == "other" else f"attention_{kernel}_kernel"
    expected = [(2 * count * 2 * 3 * 10 * 20 * 64, "bf16")] if count else []
    assert (
        work(
            "%q = bf16[2,10,3,64]{3,2,1,0} parameter(0)",
            "%k = bf16[2,20,3,64]{3,2,1,0} parameter(1)",
            '%call = bf16[2,10,3,64]{3,2,1,0} custom-call(%q, %k), custom_call_target="__gpu$xla.gpu.triton",'
            f' metadata={{op_name="jit(step)/transpose(jvp())/{name}/pallas_call" stack_frame_id=6}}',
        )
        == expected
    )


ATTENTION = 8 * 6 * 512 * 512 * 64  # rows, heads, queries, keys, head width


@pytest.mark.parametrize(
    ("left", "right", "out", "window", "labels", "pairs"),
    [  # as libtpu compiles a matrix product, projections to heads, scores and averages
        ("16,32", "32,48", "16,48", "", "bf_io->bf", 16 * 32 * 48),
        ("8,512,512,1", "512,6,64,1", "8,512,6,64", "size=1x6 pad=0_0x5_5 rhs_reversal=0x1", "0bf1_i1o0->0b1f",
         8 * 512 * 512 * 6 * 64),
        ("8,512,6,64", "8,512,6,64", "8,6,512,512", "size=8x6 stride=7x5 lhs_dilate=8x6", "0b1f_0o1i->01bf", ATTENTION),
        ("8,512,6,64", "8,6,512,512", "8,6,512,64", "size=8x6 stride=8x6 pad=7_7x5_5 lhs_dilate=7x5 rhs_reversal=1x1",
         "0f1b_01oi->01fb", ATTENTION),
    ],
)  # fmt: skip
def test_convolutions_of_tpus_count_only_where_elements_meet(left, right, out, window, labels, pairs):
    assert work(
        f"%a = bf16[{left}] parameter(0)",
        f"%b = bf16[{right}] parameter(1)",
        f"%c = bf16[{out}] convolution(%a, %b), window={{{window}}}, dim_labels={labels}, metadata={{}}",
    ) == [(2 * pairs, "bf16")]
