"""HBM traffic of a compiled program, kernel by kernel: operands and results, times the trips of the loops around it.

A kernel that reads only slices of an operand counts those slices, and one that updates an array in place counts the
update. cuBLAS's workspace counts as written. TPUs' arrays count with the padding of their tiles, and not at all where
they are in VMEM. Hits in caches are not considered.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

from research.plan.collectives import Collective, collective
from research.plan.hlo import Computation, Instruction, Module
from research.plan.products import Product, products

FREE = {
    *("parameter", "get-tuple-element", "tuple", "bitcast", "constant", "iota"),
    *("after-all", "partition-id", "replica-id", "opt-barrier"),
}  # instructions that run no kernel
FREE_TARGETS = (
    "AllocateBuffer",
    "ConcatBitcast",
    "AssumeGatherIndicesInBound",
)  # custom calls of TPUs that move nothing
COPIES = ("copy", "copy-start", "slice-start", "bitcast", "get-tuple-element")
SLICES = ("dynamic-slice", "slice", "gather")


class Kernel(NamedTuple):
    """One kernel of a step, or one copy or collective operation. Figures are of one execution."""

    name: str
    kind: str  # opcode, or the target of a custom call
    op_name: str
    inner_names: tuple[str, ...]  # of the operations in a fusion
    results: str  # its type
    times: int  # executions a step
    read: int  # bytes
    written: int  # bytes
    products: tuple[Product, ...]
    collective: Collective | None
    cycles: int  # as XLA estimates for TPUs; 0 for others

    @property
    def bytes(self) -> int:
        return self.read + self.written


def kernels(module: Module, computation: str | None = None) -> list[Kernel]:
    """List the kernels that a computation runs, by default the whole program."""
    return [_kernel(module, *each) for each in module.executed(computation) if _runs(each.instruction)]


def _runs(instruction: Instruction) -> bool:
    return not (
        instruction.opcode in FREE or instruction.opcode.endswith("-done") or instruction.target in FREE_TARGETS
    )


def _kernel(module: Module, instruction: Instruction, computation: Computation, times: int) -> Kernel:
    cycles = instruction.attribute(r'"estimated_cycles":"(\d+)"')
    return Kernel(
        name=instruction.name,
        kind=instruction.target or instruction.opcode,
        op_name=_op_name(computation, instruction),
        inner_names=tuple(_inner_names(module, instruction)),
        results=re.sub(r"\{[^}]*\}|/\*.*?\*/", "", instruction.type_text),
        times=times,
        read=_read(module, computation, instruction),
        written=_written(module, instruction),
        products=tuple(products(module, computation, instruction)),
        collective=collective(module, computation, instruction),
        cycles=int(cycles or 0),
    )


def _op_name(computation: Computation, instruction: Instruction) -> str:
    """Return the name of the operation, or for a copy without one that of what it copies."""
    while not instruction.op_name and instruction.opcode in COPIES and instruction.operands:
        instruction = computation.instructions[instruction.operands[0]]
    return instruction.op_name


def _inner_names(module: Module, fusion: Instruction) -> Iterator[str]:
    """Yield the names of the operations in a fusion."""
    if fusion.opcode != "fusion":
        return
    for instruction in module.computations[fusion.called[0]].instructions.values():
        if instruction.op_name and instruction.opcode != "parameter":
            yield instruction.op_name
        yield from _inner_names(module, instruction)


# --- Bytes ------------------------------------------------------------------------------------------------------------


def _read(module: Module, computation: Computation, instruction: Instruction) -> int:
    operands = [computation.instructions[name] for name in instruction.operands]
    if instruction.opcode == "fusion":
        return sum(_read_by_fusion(module, instruction, index, each) for index, each in enumerate(operands))
    if instruction.opcode == "slice-start":
        return min(operands[0].hbm_bytes, instruction.arrays[1].bytes)
    return sum(each.hbm_bytes for each in operands)


def _read_by_fusion(module: Module, fusion: Instruction, index: int, operand: Instruction) -> int:
    """Count the bytes that a fusion reads of an operand: its slices, nothing where it is updated in place, or all."""
    inner, whole = module.computations[fusion.called[0]], operand.hbm_bytes
    parameter = inner.parameters.get(index)
    if parameter is None or whole == 0:
        return whole
    total = 0
    for name, user in _users(inner, parameter.name):
        place = user.operands.index(name)
        if user.opcode in SLICES and place == 0:
            total += user.arrays[0].bytes
        elif user.opcode == "fusion":
            total += _read_by_fusion(module, user, place, operand)
        elif user.opcode != "dynamic-update-slice" or place > 0:
            return whole
    return min(total, whole)


def _users(fusion: Computation, name: str) -> Iterator[tuple[str, Instruction]]:
    """Yield the users of an instruction, through bitcasts, each with the name by which it reads it."""
    for user in fusion.users[name]:
        if user.opcode == "bitcast":
            yield from _users(fusion, user.name)
        else:
            yield name, user


def _written(module: Module, instruction: Instruction) -> int:
    if instruction.opcode == "copy-start":
        return instruction.arrays[0].hbm_bytes  # the others are the source and a context
    if instruction.opcode == "slice-start":
        return instruction.arrays[1].hbm_bytes
    total = instruction.hbm_bytes
    if instruction.opcode == "fusion":
        inner = module.computations[instruction.called[0]]
        for each in inner.instructions.values():
            if each.opcode == "dynamic-update-slice" and each.hbm_bytes <= total:
                total -= max(0, each.hbm_bytes - inner.operand(each, 1).arrays[0].bytes)
    return total
