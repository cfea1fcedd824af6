"""Collectives of a compiled program: the bytes that each chip sends, by kind and by axes of the mesh."""

import math
import re
from typing import NamedTuple

import numpy as np

from research.parallel.layout import AXES
from research.plan.hlo import Computation, Instruction, Module

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "ragged-all-to-all", "all-to-all", "collective-permute")

MESH_GROUPS = re.compile(
    r"replica_groups=mesh\[([^\]]*)\]"  # axes and their sizes
    r"(?:, device_ids=\(([^)]*(?:\([\d,]+\))?)\))?"
    r" \{([^}]*)\}"  # axes along which the members of a group differ
)


class Collective(NamedTuple):
    """One collective operation."""

    kind: str
    size: int  # bytes of the whole array: of the result, or of the operand before a reduce-scatter
    group: tuple[int, ...]  # the first group of devices, as flat indices in the mesh; empty if there is only one

    def devices(self, count: int) -> tuple[int, ...]:
        """Return the first group, of `count` devices."""
        return self.group or tuple(range(count))

    def sent(self, count: int) -> float:
        """Compute the bytes that one of `count` chips sends, by the algorithms of a ring.

        An all-reduce among n chips sends 2 (n - 1) / n of the array, the others (n - 1) / n.
        """
        chips = len(self.devices(count))
        return self.size * (chips - 1) / chips * (2 if self.kind == "all-reduce" else 1)

    def axes(self, shape: tuple[int, ...]) -> str:
        """Name the axes of a mesh of that shape along which the members of the group differ."""
        coordinates = np.array(np.unravel_index(self.devices(math.prod(shape)), shape))
        return "+".join(axis for axis, values in zip(AXES, coordinates, strict=True) if len(set(values.tolist())) > 1)


def collective(module: Module, computation: Computation, instruction: Instruction) -> Collective | None:
    """Return the collective that an instruction is, starts or fuses, or None."""
    if instruction.opcode == "fusion":
        return _fused(module, module.computations[instruction.called[0]])
    kind = next((kind for kind in KINDS if instruction.opcode in (kind, f"{kind}-start")), None)
    if kind is None:
        return None
    operands = sum(array.bytes for name in instruction.operands for array in computation.instructions[name].arrays)
    results = sum(array.bytes for array in instruction.arrays)
    if instruction.opcode.endswith("-start") and kind != "all-reduce":
        results -= operands  # the type of a start has the operands too
    return Collective(kind, max(operands, results), _group(instruction.attributes))


def _fused(module: Module, fusion: Computation) -> Collective | None:
    """Return the collective of a TPU's fusion: a whole one, or the start of one that other fusions continue."""
    inner = list(fusion.instructions.values())
    found = next(filter(None, (collective(module, fusion, each) for each in inner if each.opcode in KINDS)), None)
    if found and found.kind == "all-reduce":
        scattered = any(each.opcode == "dynamic-slice" for each in inner)
        return found._replace(kind="reduce-scatter") if scattered else found
    return found if any(each.target == "AsyncCollectiveStart" for each in inner) else None


def _group(attributes: str) -> tuple[int, ...]:
    """Return the first replica group, in any of the three notations of HLO: a list, an iota, or axes of a mesh."""
    listed = re.search(r"replica_groups=\{\{([\d,]+)\}", attributes)
    if listed:
        return tuple(int(number) for number in listed[1].split(","))
    iota = re.search(r"replica_groups=(\[\d+,\d+\]<=\[[\d,]+\](?:T\([\d,]+\))?)", attributes)
    if iota:
        return tuple(_iota(iota[1])[0].tolist())
    named = MESH_GROUPS.search(attributes)
    return _mesh_group(*named.groups("")) if named else ()


def _iota(text: str) -> np.ndarray:
    """Evaluate [2,4]<=[4,2]T(1,0): the numbers from 0 in the second shape, transposed, in the first shape."""
    shape, source, order = re.fullmatch(r"\[([\d,]+)\](?:<=\[([\d,]+)\])?(?:T\(([\d,]+)\))?", text).groups()  # type: ignore[union-attr]
    numbers = np.arange(math.prod(_integers(shape))).reshape(_integers(source or shape))
    return (numbers.transpose(_integers(order)) if order else numbers).reshape(_integers(shape))


def _integers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


def _mesh_group(axes: str, ids: str, reduced: str) -> tuple[int, ...]:
    """Return the first group of mesh['a'=4,'b'=2] {'a':(1)2,'b'}.

    (1)2 is a part of an axis: of its size, 2, and the product of the sizes of the parts before it, 1.
    """
    parts = {
        name: (int(before or 1), int(size or 0))
        for name, before, size in re.findall(r"([^,:]+)(?::\((\d+)\)(\d+))?", reduced)
    }
    shape: list[int] = []
    for name, size in re.findall(r"([^,=]+)=(\d+)", axes):
        before, within = parts.get(name, (1, 1))
        within = within or int(size)
        shape += [before, within, int(size) // before // within]
    numbers = np.arange(math.prod(shape))
    if ids:
        numbers = _iota(ids).reshape(-1) if "[" in ids else np.array(_integers(ids))
    members = range(1, len(shape), 3)
    others = [axis for axis in range(len(shape)) if axis not in members]
    groups = numbers.reshape(shape).transpose(*others, *members)
    return tuple(groups.reshape(-1, math.prod(shape[axis] for axis in members))[0].tolist())
