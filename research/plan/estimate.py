"""What a person sees of a run on hardware that is not here: whether it fits, how fast it can be, and what it costs."""

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from rich.table import Table

from research.config import ConfigError, Experiment, Mesh, require
from research.data.shapes import row_lengths
from research.model.flops import flops_per_step, parameter_count
from research.model.transformer import abstract_params
from research.parallel.hardware import Hardware
from research.parallel.mesh import AXES, abstract_mesh, check_divisible, factorisations
from research.plan import memory, roofline
from research.plan.compiled import compile_for
from research.report.plot import plot_scaling
from research.storage.console import amount, byte_amount, console, table

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
    mesh = abstract_mesh(experiment.mesh, hardware.chips)
    check_divisible(experiment, mesh)
    experiment = dataclasses.replace(experiment, mesh=Mesh(*mesh.axis_sizes))
    lengths = row_lengths(experiment)
    times = roofline.step_times(experiment, hardware, experiment.mesh, *lengths)
    held = memory.chip_bytes(experiment, hardware.chip)
    flops = flops_per_step(experiment, *lengths)
    mfu = flops / (times.step * hardware.chip.flops * hardware.chips)
    return Foreseen(experiment, held, held < ROOM * hardware.chip.memory, times, flops, mfu)


def show(experiment: Experiment, hardware: Hardware, *, compile: bool) -> None:
    found = foresee(experiment, hardware)
    rows = _rows(found, hardware)
    if compile:
        compiled = compile_for(found.experiment, hardware)
        rows["memory, compiled"] = _memory(compiled.memory.total, hardware) + (
            f": {byte_amount(compiled.memory.arguments)} state and batch,"
            f" {byte_amount(compiled.memory.temporaries)} activations and gradients"
        )
        rows["compiled"] = f"in {compiled.seconds:.1f} s for {hardware.topology}"
        for (kind, axes), size in sorted(compiled.exchanged.items(), key=lambda item: -item[1]):
            rows[f"{kind} over {axes}"] = f"{byte_amount(size)} a chip and step"
    table("Plan", rows)


def _rows(found: Foreseen, hardware: Hardware) -> dict[str, str]:
    experiment, times = found.experiment, found.times
    model, (inputs, targets) = experiment.model, row_lengths(experiment)
    hours = experiment.steps * times.step / 3600
    parts = ", ".join(f"{name} {part * 1000:.3g} ms" for name, part in times._asdict().items() if part)
    tokens = experiment.batch_size * (inputs + targets)
    chip = hardware.chip
    return {
        "hardware": f"{hardware.chips:,} chips of {chip.flops / 1e12:g} TFLOP/s and {byte_amount(chip.memory)}"
        + (f", in {hardware.domains} parts that only a network joins" if hardware.domains > 1 else ""),
        "model": f"{amount(parameter_count(abstract_params(model)))} parameters, {model.compute}, remat {model.remat}",
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
    """The fastest that fit, with the rows of a step as they are. ConfigError where nothing does."""
    fastest_first = sorted(_candidates(experiment, hardware), key=lambda timed: timed[0])
    # One by one, because what they hold takes longer to find out.
    foreseen = (foresee(candidate, hardware) for _, candidate in fastest_first)
    found = list(itertools.islice((each for each in foreseen if each.fits), SHOWN))
    if not found:
        raise ConfigError(
            f"Nothing fits {hardware.name}: no mesh, with any remat and up to {MICROBATCHES[-1]} micro-batches, holds"
            f" {experiment.batch_size} rows a step. Lower batch_size, or take more chips."
        )
    return found


def _candidates(experiment: Experiment, hardware: Hardware) -> Iterator[tuple[float | int, Experiment]]:
    """Seconds a step, and of what."""
    for sizes in factorisations(hardware.chips):
        for microbatches in MICROBATCHES:
            for remat in ("none", "dots", "full"):
                try:
                    model = dataclasses.replace(experiment.model, remat=remat)
                    changed = dataclasses.replace(experiment, model=model, mesh=Mesh(*sizes), microbatches=microbatches)
                    check_divisible(changed, abstract_mesh(changed.mesh, hardware.chips))
                except ConfigError:
                    continue  # it divides something unevenly
                yield roofline.step_times(changed, hardware, changed.mesh, *row_lengths(changed)).step, changed


def show_search(experiment: Experiment, hardware: Hardware) -> None:
    shown = Table(title=f"The fastest on {hardware.name} that fit, {experiment.batch_size:,} rows a step", box=None)
    for name in COLUMNS:
        shown.add_column(name, justify="right")
    for each in search(experiment, hardware):
        shown.add_row(*_row(each))
    console.print(shown)


COLUMNS = (*AXES, "micro", "remat", "GiB", "s a step", "MFU", "limit")


def _row(each: Foreseen) -> tuple[str, ...]:
    made = each.experiment
    sizes = map(str, (*dataclasses.astuple(made.mesh), made.microbatches))
    numbers = f"{each.memory / 2**30:.1f}", f"{each.times.step:.3g}", f"{each.mfu:.1%}", each.times.limit
    return (*sizes, made.model.remat, *numbers)


# --- Several ----------------------------------------------------------------------------------------------------------


class Plan(NamedTuple):
    """The fastest that fits of one experiment on one kind of hardware; None where nothing does."""

    name: str
    hardware: Hardware
    best: Foreseen | None


def plans(
    experiments: Mapping[str, Experiment], hardware: Sequence[Hardware], rows_a_chip: int | None = None
) -> Iterator[Plan]:
    """Of each experiment on each hardware, with its own rows a step or so many for every chip."""
    for (name, experiment), each in itertools.product(experiments.items(), hardware):
        rows = experiment.batch_size if rows_a_chip is None else rows_a_chip * each.chips
        asked = dataclasses.replace(experiment, batch_size=rows, microbatches=1)
        try:
            yield Plan(name, each, search(asked, each)[0])
        except ConfigError:
            yield Plan(name, each, None)


def compare(
    experiments: Mapping[str, Experiment], hardware: Sequence[Hardware], rows_a_chip: int | None, picture: Path | None
) -> None:
    """Prints a table in Markdown, a row as soon as it is known, and draws it."""
    require(rows_a_chip is None or rows_a_chip > 0, f"--rows_a_chip is {rows_a_chip}: it must be above 0.")
    columns = ("experiment", "hardware", "rows a step", *COLUMNS, "tokens/s a chip", "days")
    print(f"| {' | '.join(columns)} |\n|{' --- |' * len(columns)}")
    lines: dict[str, list[tuple[int, float | int]]] = {name: [] for name in experiments}
    for name, each, best in plans(experiments, hardware, rows_a_chip):
        cells = ["", "does not fit"] + [""] * (len(COLUMNS) + 1)
        if best is not None:
            made, seconds = best.experiment, best.times.step
            tokens = made.batch_size * sum(row_lengths(made)) / seconds / each.chips
            cells = [f"{made.batch_size:,}", *_row(best), amount(tokens), f"{made.steps * seconds / 86_400:.2f}"]
            lines[name].append((each.chips, tokens))
        print(f"| {name} | {each.name} | {' | '.join(cells)} |", flush=True)
    if picture is not None:
        plot_scaling(picture, lines)
