"""HLO of 12 scanned layers of [8, 4] activations: their weights are sliced, and a stack keeps their inputs."""

SCAN = """HloModule jit_step

%fused_product (w: bf16[12,4,4], x: bf16[8,4], i: s32[]) -> bf16[8,4] {
  %w = bf16[12,4,4]{2,1,0} parameter(0)
  %x = bf16[8,4]{1,0} parameter(1)
  %i = s32[] parameter(2)
  %zero = s32[] constant(0)
  %slice = bf16[1,4,4]{2,1,0} dynamic-slice(%w, %i, %zero, %zero), dynamic_slice_sizes={1,4,4}
  %layer = bf16[4,4]{1,0} bitcast(%slice)
  ROOT %dot = bf16[8,4]{1,0} dot(%x, %layer), lhs_contracting_dims={1}, rhs_contracting_dims={0}, metadata={op_name="jit(step)/jvp(encoder)/while/body/feed_forward/dot_general"}
}

%fused_update (stack: bf16[12,8,4], x.1: bf16[8,4], i.1: s32[]) -> bf16[12,8,4] {
  %stack = bf16[12,8,4]{2,1,0} parameter(0)
  %x.1 = bf16[8,4]{1,0} parameter(1)
  %i.1 = s32[] parameter(2)
  %zero.1 = s32[] constant(0)
  %one = bf16[1,8,4]{2,1,0} bitcast(%x.1)
  ROOT %update = bf16[12,8,4]{2,1,0} dynamic-update-slice(%stack, %one, %i.1, %zero.1, %zero.1)
}

%body (c: (s32[], bf16[8,4], bf16[12,8,4], bf16[12,4,4])) -> (s32[], bf16[8,4], bf16[12,8,4], bf16[12,4,4]) {
  %c = (s32[], bf16[8,4]{1,0}, bf16[12,8,4]{2,1,0}, bf16[12,4,4]{2,1,0}) parameter(0)
  %n = s32[] get-tuple-element(%c), index=0
  %h = bf16[8,4]{1,0} get-tuple-element(%c), index=1
  %kept = bf16[12,8,4]{2,1,0} get-tuple-element(%c), index=2
  %weights = bf16[12,4,4]{2,1,0} get-tuple-element(%c), index=3
  %product = bf16[8,4]{1,0} fusion(%weights, %h, %n), kind=kLoop, calls=%fused_product
  %keep = bf16[12,8,4]{2,1,0} fusion(%kept, %h, %n), kind=kLoop, calls=%fused_update, metadata={op_name="jit(step)/jvp(encoder)/while/body/jit(dynamic_update_index_in_dim)/dynamic_update_slice"}
  ROOT %t = (s32[], bf16[8,4]{1,0}, bf16[12,8,4]{2,1,0}, bf16[12,4,4]{2,1,0}) tuple(%n, %product, %keep, %weights)
}

%cond (c.1: (s32[], bf16[8,4], bf16[12,8,4], bf16[12,4,4])) -> pred[] {
  %c.1 = (s32[], bf16[8,4]{1,0}, bf16[12,8,4]{2,1,0}, bf16[12,4,4]{2,1,0}) parameter(0)
  %n.1 = s32[] get-tuple-element(%c.1), index=0
  %twelve = s32[] constant(12)
  ROOT %lt = pred[] compare(%n.1, %twelve), direction=LT
}

%fused_zeros () -> bf16[12,8,4] {
  %nought = bf16[] constant(0)
  ROOT %zeros = bf16[12,8,4]{2,1,0} broadcast(%nought), dimensions={}
}

ENTRY %main (a: bf16[8,4], b: bf16[12,4,4]) -> bf16[12,8,4] {
  %a = bf16[8,4]{1,0} parameter(0)
  %b = bf16[12,4,4]{2,1,0} parameter(1)
  %start = s32[] constant(0)
  %loop_broadcast_fusion = bf16[12,8,4]{2,1,0} fusion(), kind=kLoop, calls=%fused_zeros
  %tuple = (s32[], bf16[8,4]{1,0}, bf16[12,8,4]{2,1,0}, bf16[12,4,4]{2,1,0}) tuple(%start, %a, %loop_broadcast_fusion, %b)
  %while = (s32[], bf16[8,4]{1,0}, bf16[12,8,4]{2,1,0}, bf16[12,4,4]{2,1,0}) while(%tuple), condition=%cond, body=%body
  ROOT %out = bf16[12,8,4]{2,1,0} get-tuple-element(%while), index=2
}
"""  # noqa: E501
ROW, WEIGHT, STACK, INDEX = 2 * 8 * 4, 2 * 4 * 4, 2 * 12 * 8 * 4, 4  # bytes
