"""FLOPs of the matrix products in a compiled program: dots, convolutions, calls of cuBLAS and cuDNN, our own kernels.

A multiplication and an addition are two FLOPs. TPUs compute products as convolutions, whose batch axes are dilated
spatial axes: only positions where an element of the input meets one of the kernel count.
"""

import json
import math
import re
from collections.abc import Iterator
from functools import cache
from typing import NamedTuple

import numpy as np

from research.plan.hlo import Computation, Instruction, Module

CUBLAS, ATTENTION, TRITON = "__cublas$", "__cudnn$fmha", "__gpu$xla.gpu.triton"
# Products of a head's width for each score in the kernels of research/model/pallas_kernels.py.
PRODUCTS_OF = {"forward": 2, "query": 3, "key": 4, "bias": 2}


class Product(NamedTuple):
    """The work of one matrix product, or of one attention."""

    flops: int
    dtype: str  # of its operands; float32 if either is
    attention: str = ""  # "forward" or "backward" for cuDNN's fused attention, "pallas" for a kernel of our own
    workspace: int = 0  # bytes of HBM that a fused attention writes and reads inside


def products(module: Module, computation: Computation, instruction: Instruction) -> Iterator[Product]:
    """Yield the products that an instruction computes, in nested fusions too."""
    match instruction.opcode:
        case "dot":
            yield _dot(computation, instruction, _listed(instruction, r"lhs_contracting_dims=\{([\d,]*)\}"))
        case "convolution":
            yield _convolution(computation, instruction)
        case "custom-call":
            target = instruction.target
            if target.startswith(CUBLAS):
                axes = instruction.attribute(r'"lhs_contracting_dimensions":(\[[^\]]*\])')
                yield _dot(computation, instruction, [int(axis) for axis in json.loads(axes or "[]")])
            elif target.startswith(ATTENTION):
                yield _attention(computation, instruction, target)
            elif target == TRITON:
                yield from _own_kernel(computation, instruction)
        case "fusion":
            for called in instruction.called:
                inner = module.computations[called]
                for each in inner.instructions.values():
                    yield from products(module, inner, each)


def _listed(instruction: Instruction, pattern: str) -> list[int]:
    return [int(axis) for axis in (instruction.attribute(pattern) or "").split(",") if axis]


def _dtype(computation: Computation, instruction: Instruction) -> str:
    dtypes = [computation.operand(instruction, index).arrays[0].dtype for index in (0, 1)]
    return "f32" if "f32" in dtypes else dtypes[0]


def _dot(computation: Computation, instruction: Instruction, contracted: list[int]) -> Product:
    left = computation.operand(instruction, 0).arrays[0].shape
    summed = math.prod(left[axis] for axis in contracted)
    return Product(2 * instruction.arrays[0].size * summed, _dtype(computation, instruction))


def _attention(computation: Computation, instruction: Instruction, target: str) -> Product:
    """Count cuDNN's attention: two products forward, four backward. The operands are [b t h k] and [b s h k].

    Its backward pass also computes the scores again, which does not count. With a bias it writes the gradient of the
    scores, [b h t s] in the compute dtype, and reads it to sum it over the batch; the program does not show this array.
    """
    query, key = (computation.operand(instruction, index).arrays[0] for index in (0, 1))
    rows, length, heads, width = query.shape
    scores = rows * heads * length * key.shape[1]
    if "Backward" not in target:
        return Product(4 * scores * width, query.dtype, "forward")
    workspace = 2 * scores * query.bytes // query.size if "Bias" in target else 0
    return Product(8 * scores * width, query.dtype, "backward", workspace)


def _own_kernel(computation: Computation, instruction: Instruction) -> Iterator[Product]:
    """Count every product of a kernel of attention, as if it skipped no tile. Other kernels have none."""
    kernel = re.search(r"attention_(\w+)_kernel", instruction.attribute(r'op_name="([^"]*)"') or "")
    if kernel:
        query, key = (computation.operand(instruction, index).arrays[0] for index in (0, 1))
        rows, length, heads, width = query.shape
        flops = 2 * PRODUCTS_OF[kernel[1]] * rows * heads * length * key.shape[1] * width
        yield Product(flops, query.dtype, "pallas")


def _convolution(computation: Computation, instruction: Instruction) -> Product:
    labels = re.match(r"(\w+)_(\w+)->(\w+)", instruction.attribute(r"dim_labels=(\S+?)(?:,|$)") or "")
    if labels is None:
        raise ValueError(f"The convolution {instruction.name} has no dim_labels.")
    left, right = (computation.operand(instruction, index).arrays[0].shape for index in (0, 1))
    inputs, kernel, outputs = (
        dict(zip(axes, shape, strict=True))
        for axes, shape in zip(labels.groups(), (left, right, instruction.arrays[0].shape), strict=True)
    )
    window = instruction.attribute(r"window=\{([^}]*)\}") or ""
    positions = 1
    for index, axis in enumerate(sorted(set(inputs) - {"b", "f"})):
        positions *= _positions(inputs[axis], kernel[axis], outputs[axis], _of_axis(window, index))
    groups = _listed(instruction, r"batch_group_count=(\d+)") or [1]
    flops = 2 * positions * (inputs["b"] // groups[0]) * kernel["o"] * kernel["i"]
    return Product(flops, _dtype(computation, instruction))


def _of_axis(window: str, axis: int) -> tuple[int, int, int, int]:
    """Return stride, low padding, dilation of the input and dilation of the kernel along a spatial axis."""

    def listed(name: str, default: str) -> str:
        match = re.search(rf"\b{name}=(\S+)", window)
        return match[1].split("x")[axis] if match else default

    low = listed("pad", "0_0").partition("_")[0]
    return int(listed("stride", "1")), int(low), int(listed("lhs_dilate", "1")), int(listed("rhs_dilate", "1"))


@cache
def _positions(inputs: int, kernel: int, outputs: int, window: tuple[int, int, int, int]) -> int:
    """Count the pairs of an output and a kernel position along one axis that meet an element of the input."""
    stride, low, dilation, kernel_dilation = window
    if kernel == 1 and dilation == 1 and low == 0:
        return outputs
    at = np.arange(outputs)[:, None] * stride - low + np.arange(kernel) * kernel_dilation
    return int(((at >= 0) & (at % dilation == 0) & (at // dilation < inputs)).sum())
