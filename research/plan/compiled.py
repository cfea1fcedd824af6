"""Compilation of the training step for hardware that is not here, and what its program does: memory, traffic, time.

The program is XLA's own for these chips. Memory, kernels, traffic and products are read from it; its time is modelled
(research/plan/time_model.py).
"""

import math
import re
import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax

from research.config import ConfigError, Experiment
from research.data.shapes import abstract_batch, row_lengths
from research.model.flops import flops_per_step
from research.parallel.hardware import Hardware
from research.parallel.mesh import make_mesh
from research.plan import targets, time_model
from research.plan.hlo import Module
from research.plan.parts import Cost, ModelPart, add, by_part
from research.plan.traffic import Kernel, kernels
from research.train.preflight import check
from research.train.step import compile_train_step

UNITS = {"K": 2**10, "M": 2**20, "G": 2**30}
DEFAULT_SHARE = 0.75  # of a GPU's memory, which JAX takes unless XLA_PYTHON_CLIENT_MEM_FRACTION is set


class Memory(NamedTuple):
    """Bytes per chip as reported by the compiler."""

    arguments: int  # state and batch
    temporaries: int  # activations and gradients

    @property
    def total(self) -> int:
        return self.arguments + self.temporaries


@dataclass(frozen=True)
class Compiled:
    """A compiled step. Figures are of one chip."""

    hardware: Hardware
    seconds: float  # compilation time
    memory: Memory
    kernels: list[Kernel]
    mesh_shape: tuple[int, ...]
    flops: float  # model FLOPs of a step and chip, by the exact formula
    text: str  # HLO

    @property
    def parts(self) -> dict[ModelPart, Cost]:
        return by_part(self.kernels, self.hardware)

    @property
    def total(self) -> Cost:
        cost = Cost()
        for kernel in self.kernels:
            add(cost, kernel, self.hardware)
        return cost

    @property
    def hidden_bytes(self) -> int:
        """Traffic inside cuDNN's attention, which the program does not show."""
        return sum(product.workspace * kernel.times for kernel in self.kernels for product in kernel.products)

    @property
    def share(self) -> int:
        """Bytes that JAX uses of a chip by default."""
        gpu = targets.find_gpu(self.hardware)
        return int(self.hardware.chip.memory if gpu is None else DEFAULT_SHARE * gpu.memory)

    @property
    def modelled_mfu(self) -> float:
        return self.flops / (self.total.seconds * self.hardware.chip.flops)

    @property
    def exchanged(self) -> dict[tuple[str, str], float]:
        return exchanged(self.kernels, self.mesh_shape)

    def heaviest(self, count: int) -> list[Kernel]:
        """Return the kernels that take the most modelled time a step."""

        def step_seconds(kernel: Kernel) -> float:
            return kernel.times * time_model.seconds(kernel, self.hardware)

        return sorted(self.kernels, key=step_seconds, reverse=True)[:count]


def compile_for(experiment: Experiment, hardware: Hardware) -> Compiled:
    """Compile the training step for that hardware. Raises ConfigError if it does not fit or cannot be compiled here."""
    mesh = make_mesh(experiment.mesh, targets.target_devices(hardware))
    try:
        with targets.attention_of(hardware):
            check(experiment, mesh)
            began = time.perf_counter()
            step = compile_train_step(
                experiment, mesh, abstract_batch(experiment), options=targets.compiler_options(hardware)
            )
    except jax.errors.JaxRuntimeError as error:
        raise ConfigError(too_large(str(error))) from error
    seconds = time.perf_counter() - began
    analysis: Any = step.memory_analysis()
    text = step.as_text() or ""
    return Compiled(
        hardware=hardware,
        seconds=seconds,
        memory=Memory(analysis.argument_size_in_bytes, analysis.temp_size_in_bytes),
        kernels=kernels(Module(text)),
        mesh_shape=mesh.devices.shape,
        flops=flops_per_step(experiment, *row_lengths(experiment)) / hardware.chips,
        text=text,
    )


def too_large(message: str, what: str = "The training step") -> str:
    """Turn XLA's out-of-memory error into a message with advice; shorten other errors to their first line."""
    match = re.search(
        r"required for HLO temporaries \(([\d.]+)([KMG])\) exceeds available HBM \(([\d.]+)([KMG])\)", message
    )
    if match is None:
        return f"{what} cannot be compiled: {message.splitlines()[0]}"
    needed, available = (float(match[i]) * UNITS[match[i + 1]] / 2**30 for i in (1, 3))
    return (
        f"{what} does not fit: {needed:.1f} GiB of activations and gradients beside the state, in"
        f" {available:.1f} GiB per chip. Lower batch_size, raise microbatches or mesh.fsdp, or set model.remat."
    )


def exchanged(program: Iterable[Kernel], mesh_shape: tuple[int, ...]) -> dict[tuple[str, str], float]:
    """Count the bytes that each chip sends in a step, by kind of collective and its mesh axes."""
    total: dict[tuple[str, str], float] = defaultdict(float)
    for kernel in program:
        if kernel.collective:
            key = kernel.collective.kind, kernel.collective.axes(mesh_shape)
            total[key] += kernel.times * kernel.collective.sent(math.prod(mesh_shape))
    return dict(total)
