"""What a person sees of a run on hardware that is not here: whether it fits, how fast it can be, and what it costs."""

import dataclasses
from collections.abc import Iterator
from typing import NamedTuple

import jax

from research import aot, plan, roofline, sharding
from research.config import ConfigError, Experiment, Mesh
from research.console import amount, byte_amount, console, table
from research.hardware import Hardware
from research.model.transformer import abstract_params

ROOM = 0.92  # of a chip's memory, the rest being the runtime's
SHOWN = 8  # of what a search finds
MICROBATCHES = (1, 2, 4, 8, 16, 32)


class Foreseen(NamedTuple):
    """A run on some hardware, by formulas alone."""

    experiment: Experiment  # its mesh without a -1
    memory: float | int  # bytes a chip
    fits: bool
    times: roofline.Times
    flops: float | int  # of a step, on all chips
    mfu: float | int  # at most, of the data sheet's FLOP/s


def foresee(experiment: Experiment, hardware: Hardware) -> Foreseen:
    """Raises ConfigError where the mesh does not fit the chips, or divides a size of the model unevenly."""
    mesh = sharding.abstract_mesh(experiment.mesh, hardware.chips)
    sharding.check_divisible(experiment, mesh)
    experiment = dataclasses.replace(experiment, mesh=Mesh(*mesh.axis_sizes))
    lengths = aot.row_lengths(experiment)
    times = roofline.step_times(experiment, hardware, experiment.mesh, *lengths)
    memory = plan.device_bytes(experiment, mesh) + roofline.working_bytes(experiment, *lengths)
    flops = plan.flops_per_step(experiment, *lengths)
    mfu = flops / (times.step * hardware.chip.flops * hardware.chips)
    return Foreseen(experiment, memory, memory < ROOM * hardware.chip.memory, times, flops, mfu)


def show(experiment: Experiment, hardware: Hardware, *, compile: bool) -> None:
    found = foresee(experiment, hardware)
    rows = _rows(found, hardware)
    if compile:
        compiled = aot.compile_for(found.experiment, hardware)
        rows["memory a chip"] = _memory(compiled.memory.total, hardware) + (
            f": {byte_amount(compiled.memory.arguments)} state and batch,"
            f" {byte_amount(compiled.memory.temporaries)} activations and gradients"
        )
        rows["compiled"] = f"in {compiled.seconds:.1f} s for {hardware.topology}"
        for (kind, axes), size in sorted(compiled.exchanged.items(), key=lambda item: -item[1]):
            rows[f"{kind} over {axes}"] = f"{byte_amount(size)} a chip and step"
    table("Plan", rows)


def _rows(found: Foreseen, hardware: Hardware) -> dict[str, str]:
    experiment, times = found.experiment, found.times
    model, (inputs, targets) = experiment.model, aot.row_lengths(experiment)
    hours = experiment.steps * times.step / 3600
    parts = ", ".join(f"{name} {part * 1000:.3g} ms" for name, part in times._asdict().items() if part)
    tokens = experiment.batch_size * (inputs + targets)
    chip = hardware.chip
    return {
        "hardware": f"{hardware.chips:,} chips of {chip.flops / 1e12:g} TFLOP/s and {byte_amount(chip.memory)}"
        + (f", in {hardware.domains} parts that only a network joins" if hardware.domains > 1 else ""),
        "model": f"{amount(plan.parameter_count(abstract_params(model)))} parameters, {model.compute}, "
        f"remat {model.remat}",
        "mesh": ", ".join(f"{axis} {size}" for axis, size in dataclasses.asdict(experiment.mesh).items()),
        "memory a chip": _memory(found.memory, hardware) + " (estimated)",
        "a step": f"{experiment.batch_size:,} rows of {inputs} inputs and {targets} targets, "
        f"{amount(found.flops, 'FLOP')}",
        "takes at least": f"{times.step:.3g} s: {parts}; most of it {times.limit}",
        "so at most": f"MFU {found.mfu:.1%}, {amount(tokens / times.step)} tokens/s",
        "run": f"{experiment.steps:,} steps, {hours / 24:.2f} days, {hours * hardware.chips:,.0f} chip-hours at least",
    }


def _memory(size: float | int, hardware: Hardware) -> str:
    room = hardware.chip.memory
    return f"{byte_amount(size)} of {byte_amount(room)}, {'fits' if size < ROOM * room else 'does not fit'}"


# --- Search -----------------------------------------------------------------------------------------------------------


def search(experiment: Experiment, hardware: Hardware) -> list[Foreseen]:
    """What fits, the fastest first, with the rows of a step as they are. ConfigError where nothing does."""
    found = [foreseen for foreseen in _candidates(experiment, hardware) if foreseen.fits]
    if not found:
        raise ConfigError(
            f"Nothing fits {hardware.name}: no mesh, with any remat and up to {MICROBATCHES[-1]} micro-batches, holds"
            f" {experiment.batch_size} rows a step. Lower batch_size, or take more chips."
        )
    return sorted(found, key=lambda foreseen: (foreseen.times.step, foreseen.memory))


def _candidates(experiment: Experiment, hardware: Hardware) -> Iterator[Foreseen]:
    for sizes in sharding.factorisations(hardware.chips):
        for microbatches in MICROBATCHES:
            for remat in ("none", "dots", "full"):
                try:
                    model = dataclasses.replace(experiment.model, remat=remat)
                    changed = dataclasses.replace(experiment, mesh=Mesh(*sizes), microbatches=microbatches)
                    yield foresee(dataclasses.replace(changed, model=model), hardware)
                except ConfigError:
                    continue  # it divides something unevenly


def show_search(experiment: Experiment, hardware: Hardware) -> None:
    from rich.table import Table

    if jax.process_index() != 0:
        return
    shown = Table(title=f"The fastest on {hardware.name} that fit, {experiment.batch_size:,} rows a step", box=None)
    for name in (*sharding.AXES, "micro-batches", "remat", "GiB a chip", "s a step", "MFU", "limit"):
        shown.add_column(name, justify="right")
    for each in search(experiment, hardware)[:SHOWN]:
        made = each.experiment
        sizes = map(str, (*dataclasses.astuple(made.mesh), made.microbatches))
        numbers = f"{each.memory / 2**30:.1f}", f"{each.times.step:.3g}", f"{each.mfu:.1%}", each.times.limit
        shown.add_row(*sizes, made.model.remat, *numbers)
    console.print(shown)
