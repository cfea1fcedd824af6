"""Compilation of the training step for TPUs that are not attached: memory per chip and traffic between chips.

libtpu compiles for any topology on a machine without a TPU. It knows nothing about the machines themselves.
"""

import math
import os
import re
import time
from collections import defaultdict
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from research.config import ConfigError, Experiment
from research.data.shapes import abstract_batch
from research.parallel.hardware import Hardware
from research.parallel.mesh import AXES, make_mesh
from research.train.preflight import check
from research.train.step import compile_train_step

MEGACORE = ("v4", "v5p")  # chips with two cores that act as one device
UNITS = {"K": 2**10, "M": 2**20, "G": 2**30}
DTYPES = {"f32": 4, "bf16": 2, "s32": 4, "u32": 4, "pred": 1, "f16": 2, "s8": 1, "u8": 1}
KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")


class Memory(NamedTuple):
    """Bytes per chip as reported by the compiler."""

    arguments: int  # state and batch
    temporaries: int  # activations and gradients

    @property
    def total(self) -> int:
        return self.arguments + self.temporaries


class Compiled(NamedTuple):
    seconds: float  # compilation time
    memory: Memory
    exchanged: dict[tuple[str, str], float]  # bytes per chip and step by (kind of collective, mesh axes)


def compile_for(experiment: Experiment, hardware: Hardware) -> Compiled:
    """Compile the training step for that hardware. Raises ConfigError if it does not fit or cannot be compiled here."""
    mesh = make_mesh(experiment.mesh, topology_devices(hardware))
    check(experiment, mesh)
    began = time.perf_counter()
    try:
        step = compile_train_step(experiment, mesh, abstract_batch(experiment))
    except jax.errors.JaxRuntimeError as error:
        raise ConfigError(too_large(str(error))) from error
    analysis: Any = step.memory_analysis()
    memory = Memory(analysis.argument_size_in_bytes, analysis.temp_size_in_bytes)
    return Compiled(time.perf_counter() - began, memory, exchanged(step.as_text() or "", mesh))


def topology_devices(hardware: Hardware) -> list[jax.Device]:
    if hardware.topology is None:
        raise ConfigError(
            f"--hardware {hardware.name}: only TPUs can be compiled for without the hardware; leave out --compile."
        )
    from jax.experimental import topologies

    # Without these variables libtpu queries the network for its TPU.
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5e-4")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    kind = hardware.topology.partition(":")[0]
    options: dict[str, Any] = {"chip_config_name": "megacore"} if kind in MEGACORE else {}
    try:
        topology = topologies.get_topology_desc(
            platform="tpu", topology_name=hardware.topology, num_slices=hardware.domains, **options
        )
    except Exception as error:
        raise ConfigError(
            f"--compile for {hardware.topology} needs libtpu: pip install 'kintsugi[tpu]'"
            f" ({type(error).__name__}: {str(error).splitlines()[0]})."
        ) from error
    return list(topology.devices)


def too_large(message: str) -> str:
    """Turn XLA's out-of-memory error into a message with advice; shorten other errors to their first line."""
    match = re.search(
        r"required for HLO temporaries \(([\d.]+)([KMG])\) exceeds available HBM \(([\d.]+)([KMG])\)", message
    )
    if match is None:
        return f"The training step cannot be compiled: {message.splitlines()[0]}"
    needed, available = (float(match[i]) * UNITS[match[i + 1]] / 2**30 for i in (1, 3))
    return (
        f"The training step does not fit: {needed:.1f} GiB of activations and gradients beside the state, in"
        f" {available:.1f} GiB per chip. Lower batch_size, raise microbatches or mesh.fsdp, or set model.remat."
    )


# --- Collectives ------------------------------------------------------------------------------------------------------


def exchanged(text: str, mesh: jax.sharding.Mesh) -> dict[tuple[str, str], float | int]:
    """Count the bytes that each chip sends in a step, by kind of collective and its mesh axes, from compiled HLO.

    The body of a loop counts once per iteration. Collectives are counted as ring algorithms: an all-reduce of n chips
    sends 2 (n - 1) / n of its operand, the others send (n - 1) / n of the larger of operand and result.
    """
    computations = dict(_computations(text))
    total: dict[tuple[str, str], float | int] = defaultdict(float)

    def add(name: str, times: int) -> None:
        for line in computations.get(name, ()):
            for called, repeated in _called(line, computations):
                add(called, times * repeated)
            match = re.search(rf"= (.*?) ({'|'.join(KINDS)})(-start)?\(", line)
            if match is None:
                continue
            kind, group = match[2], _group(line, mesh)
            total[kind, _axes(group, mesh)] += times * _sent(kind, bool(match[3]), sum(_sizes(match[1])), len(group))

    entry = re.search(r"^ENTRY %?([\w.\-]+)", text, re.MULTILINE)
    add(entry[1] if entry else "", 1)
    return dict(total)


def _sent(kind: str, is_start: bool, size: int, chips: int) -> float | int:
    """Compute the bytes that a chip sends for a result of `size` bytes.

    The result of an asynchronous start, such as all-gather-start, contains the operands too.
    """
    whole: float | int = size
    if is_start and kind == "collective-permute":
        whole = size / 2
    elif is_start and kind != "all-reduce":
        whole = size * chips / (chips + 1)
    elif kind == "reduce-scatter":
        whole = size * chips
    return whole * (chips - 1) / chips * (2 if kind == "all-reduce" else 1)


def _computations(text: str) -> Iterator[tuple[str, list[str]]]:
    name, lines = "", list[str]()
    for line in text.splitlines():
        if header := re.match(r"(?:ENTRY )?%?([\w.\-]+) (?:\(.*\) -> .*)?\{$", line):
            name, lines = header[1], []
        elif line.startswith("}"):
            yield name, lines
        else:
            lines.append(line)


def _called(line: str, computations: dict[str, list[str]]) -> Iterator[tuple[str, int]]:
    """Yield the computations that an instruction calls, and how often."""
    loop = re.search(r" while\(.*condition=%?([\w.\-]+), body=%?([\w.\-]+)", line)
    if loop:
        known = re.search(r'"known_trip_count":\{"n":"(\d+)"', line)
        yield loop[2], int(known[1]) if known else _trips(computations.get(loop[1], []))
        return
    for called in re.findall(r"(?:calls|to_apply|branch_computations)=\{?%?([\w.\-]+)", line):
        if "fusion(" in line or "call(" in line or "conditional(" in line or "async" in line:
            yield called, 1


def _trips(condition: list[str]) -> int:
    """Return the trip count of a loop from 0 to the only constant in its condition."""
    bounds = [int(bound) for line in condition for bound in re.findall(r"s32\[\]\S* constant\((\d+)\)", line)]
    return max(bounds, default=1)


def _sizes(types: str) -> list[int]:
    """Return the bytes of each array in an HLO type, which may be a tuple."""
    arrays = re.findall(r"(\w+)\[([\d,]*)\]", types)
    return [DTYPES.get(kind, 4) * math.prod(int(n) for n in shape.split(",") if n) for kind, shape in arrays]


def _group(line: str, mesh: jax.sharding.Mesh) -> list[int]:
    """Return the first replica group of a collective, as flat indices of devices in the mesh."""
    listed = re.search(r"replica_groups=\{\{([\d,]+)\}", line)
    if listed:
        return [int(number) for number in listed[1].split(",")]
    iota = re.search(r"replica_groups=\[(\d+),(\d+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", line)
    if iota:
        shape = [int(n) for n in iota[3].split(",")]
        numbers = np.arange(math.prod(shape)).reshape(shape)
        if iota[4]:
            numbers = numbers.transpose([int(n) for n in iota[4].split(",")])
        return [int(number) for number in numbers.reshape(int(iota[1]), int(iota[2]))[0]]
    return list(range(mesh.size))


def _axes(group: list[int], mesh: jax.sharding.Mesh) -> str:
    """Name the mesh axes along which the members of a group differ."""
    coordinates = np.array(np.unravel_index(group, mesh.devices.shape))
    return "+".join(axis for axis, values in zip(AXES, coordinates, strict=True) if len(set(values.tolist())) > 1)
