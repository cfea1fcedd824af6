"""The text of a compiled HLO module, parsed into computations and instructions, and those that a step executes."""

import math
import re
from collections.abc import Iterator
from functools import cached_property
from typing import NamedTuple

# Bits of an element of each primitive type of XLA. Tokens and opaque values are not in memory.
BITS = {
    **dict.fromkeys(("token", "opaque"), 0),
    **dict.fromkeys(("s2", "u2"), 2),
    **dict.fromkeys(("s4", "u4", "f4e2m1fn"), 4),
    **dict.fromkeys(("pred", "s8", "u8", "f8e4m3", "f8e4m3fn", "f8e5m2", "f8e4m3fnuz", "f8e5m2fnuz", "f8e8m0fnu"), 8),
    **dict.fromkeys(("s16", "u16", "f16", "bf16"), 16),
    **dict.fromkeys(("s32", "u32", "f32"), 32),
    **dict.fromkeys(("s64", "u64", "f64", "c64"), 64),
    "c128": 128,
}
ARRAY = re.compile(r"\b(\w+)\[([\d,]*)\](?:\{([^}]*)\})?")
HEADER = re.compile(r"(ENTRY )?%?([\w.\-]+) (?:\(.*\) -> .*)?\{$")
INSTRUCTION = re.compile(r"\s+(ROOT )?%?([\w.\-]+) = (.*)$")
NAME = re.compile(r"%([\w.\-]+)")
CALLED = re.compile(r"(?:calls|to_apply|branch_computations)=(?:\{([^}]*)\}|(%?[\w.\-]+))")
ON_CHIP = "S(1)"  # the memory space of a TPU's VMEM in a layout


class HloArray(NamedTuple):
    """One array of an HLO type."""

    dtype: str
    shape: tuple[int, ...]
    bytes: int  # with the padding of a TPU's tiles
    on_chip: bool  # in a TPU's VMEM instead of HBM

    @property
    def hbm_bytes(self) -> int:
        return 0 if self.on_chip else self.bytes

    @property
    def size(self) -> int:
        """Number of elements, without padding."""
        return math.prod(self.shape)


def arrays(type_text: str) -> list[HloArray]:
    """Parse an HLO type, which may be a tuple, into its arrays.

    Raises:
        ValueError: a primitive type is not known.
    """
    found = []
    for dtype, dimensions, layout in ARRAY.findall(type_text):
        if dtype not in BITS:
            raise ValueError(f"The HLO type {dtype}[{dimensions}] is not known.")
        shape = tuple(int(size) for size in dimensions.split(",") if size)
        elements = math.prod(_padded(shape, layout))
        found.append(HloArray(dtype, shape, -(-elements * BITS[dtype] // 8), ON_CHIP in layout))
    return found


def _padded(shape: tuple[int, ...], layout: str) -> list[int]:
    """Pad the minor axes of a shape to the first tile of its layout, such as {1,0:T(8,128)}."""
    sizes = list(shape)
    tile = re.search(r"T\(([\d,]+)\)", layout)
    if tile is None:
        return sizes
    order = [int(axis) for axis in layout.partition(":")[0].split(",") if axis]
    for axis, size in zip(order, reversed([int(size) for size in tile[1].split(",")]), strict=False):
        sizes[axis] = -(-sizes[axis] // size) * size
    return sizes


class Instruction:
    """One instruction of a computation."""

    def __init__(self, name: str, type_text: str, opcode: str, rest: str) -> None:
        end = _closing(rest)
        self.name, self.type_text, self.opcode = name, type_text, opcode
        self.arguments = rest[:end]
        self.operands = NAME.findall(self.arguments)
        self.attributes = rest[end + 1 :]

    @cached_property
    def arrays(self) -> list[HloArray]:
        return arrays(self.type_text)

    @cached_property
    def op_name(self) -> str:
        """The operation of JAX that it comes from, with the named scopes around it; empty if XLA has forgotten it."""
        return self.attribute(r'op_name="([^"]*)"') or ""

    @cached_property
    def target(self) -> str:
        """The target of a custom call; empty for other instructions."""
        return self.attribute(r'custom_call_target="([^"]*)"') or "" if self.opcode == "custom-call" else ""

    @property
    def called(self) -> list[str]:
        """Names of the computations that it calls, without those of a loop."""
        names = ", ".join(several or one for several, one in CALLED.findall(self.attributes))
        return [name.lstrip("%") for name in names.split(", ") if name]

    @property
    def hbm_bytes(self) -> int:
        return sum(array.hbm_bytes for array in self.arrays)

    def attribute(self, pattern: str) -> str | None:
        """Return the group of a regular expression in the attributes, or None."""
        match = re.search(pattern, self.attributes)
        return None if match is None else match[1]


def _closing(text: str) -> int:
    """Return the index of the bracket that closes a list of operands."""
    depth = 1
    for match in re.finditer(r"[()]", text):
        depth += 1 if match[0] == "(" else -1
        if depth == 0:
            return match.start()
    return len(text)


class Computation:
    """The instructions of a computation by name, in the order of their execution."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.instructions: dict[str, Instruction] = {}
        self.root = ""

    @cached_property
    def users(self) -> dict[str, list[Instruction]]:
        """The instructions that read each one."""
        found: dict[str, list[Instruction]] = {name: [] for name in self.instructions}
        for instruction in self.instructions.values():
            for operand in set(instruction.operands) & found.keys():
                found[operand].append(instruction)
        return found

    @cached_property
    def parameters(self) -> dict[int, Instruction]:
        each = self.instructions.values()
        return {int(parameter.arguments): parameter for parameter in each if parameter.opcode == "parameter"}

    def operand(self, instruction: Instruction, index: int) -> Instruction:
        return self.instructions[instruction.operands[index]]


class Executed(NamedTuple):
    """An instruction and the number of times that a step executes it."""

    instruction: Instruction
    computation: Computation
    times: int


class Module:
    """A compiled program."""

    def __init__(self, text: str) -> None:
        self.computations: dict[str, Computation] = {}
        self.entry = ""
        current: Computation | None = None
        for line in text.splitlines():
            header = None if line.startswith(" ") else HEADER.match(line)
            if header:
                current = self.computations[header[2]] = Computation(header[2])
                self.entry = header[2] if header[1] else self.entry
            elif line.startswith("}"):
                current = None
            elif current is not None:
                _add(current, line)

    def executed(self, computation: str | None = None) -> Iterator[Executed]:
        """Yield all instructions of a computation, by default the program, outside of fusions.

        Those of a loop are executed as often as it runs.
        """
        yield from self._executed(computation or self.entry, 1)

    def _executed(self, name: str, times: int) -> Iterator[Executed]:
        computation = self.computations[name]
        for instruction in computation.instructions.values():
            match instruction.opcode:
                case "while":
                    yield from self._executed(
                        str(instruction.attribute(r"body=%?([\w.\-]+)")), times * self.trips(instruction)
                    )
                case "call" | "conditional" | "async-start":
                    for called in instruction.called:
                        yield from self._executed(called, times)
                case _:
                    yield Executed(instruction, computation, times)

    def trips(self, loop: Instruction) -> int:
        """Return how often a loop runs: as XLA knows it, or the largest constant of its condition."""
        known = loop.attribute(r'"known_trip_count":\{"n":"(\d+)"')
        if known is not None:
            return int(known)
        condition = self.computations[str(loop.attribute(r"condition=%?([\w.\-]+)"))]
        constants = [each.arguments for each in condition.instructions.values() if each.opcode == "constant"]
        return max((int(text) for text in constants if text.isdigit()), default=1)


def _add(computation: Computation, line: str) -> None:
    match = INSTRUCTION.match(line)
    if match is None:
        return
    type_text, rest = _split_type(match[3])
    opcode = re.match(r"([\w\-]+)\(", rest)
    if opcode is None:
        return
    name = match[2]
    computation.instructions[name] = Instruction(name, type_text, opcode[1], rest[opcode.end() :])
    computation.root = name if match[1] else computation.root


def _split_type(text: str) -> tuple[str, str]:
    """Split `TYPE opcode(...)` after the type."""
    end = _closing(text[1:]) + 2 if text.startswith("(") else text.index(" ")
    return text[:end], text[end:].lstrip()
