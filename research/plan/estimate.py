"""Estimates of a run on hardware that is not attached: fit in memory, highest speed, and cost, as printed tables."""

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from rich.table import Table

from research.config import ConfigError, Experiment, Mesh, require
from research.data.shapes import row_lengths
from research.model.flops import describe_count, flops_per_step
from research.parallel.hardware import Hardware
from research.parallel.mesh import AXES, abstract_mesh, check_divisible, factorisations
from research.plan import memory, roofline
from research.plan.compiled import Compiled, compile_for
from research.report.plot import plot_scaling
from research.storage.console import amount, byte_amount, console, table

USABLE = 0.92  # share of a chip's memory; the rest is for the runtime
SHOWN = 8  # results of a search
MICROBATCHES = (1, 2, 4, 8, 16, 32)


class Estimate(NamedTuple):
    """The estimated memory and speed of a run on some hardware, from formulas alone."""

    experiment: Experiment  # with a resolved mesh: no size is -1
    memory: float | int  # bytes per chip
    fits: bool
    times: roofline.Times
    flops: float | int  # per step, on all chips
    mfu: float | int  # upper bound, relative to the data sheet's FLOP/s


def estimate_run(experiment: Experiment, hardware: Hardware) -> Estimate:
    """Estimate a run. Raises ConfigError if the mesh does not fit the chips or does not divide the model's sizes."""
    mesh = abstract_mesh(experiment.mesh, hardware.chips)
    check_divisible(experiment, mesh)
    experiment = dataclasses.replace(experiment, mesh=Mesh(*mesh.axis_sizes))
    lengths = row_lengths(experiment)
    times = roofline.step_times(experiment, hardware, experiment.mesh, *lengths)
    held = memory.chip_bytes(experiment, hardware)
    flops = flops_per_step(experiment, *lengths)
    mfu = flops / (times.step * hardware.chip.flops * hardware.chips)
    return Estimate(experiment, held, held < USABLE * hardware.chip.memory, times, flops, mfu)


def show(experiment: Experiment, hardware: Hardware) -> None:
    """Print the estimate of a run."""
    table("Plan", _rows(estimate_run(experiment, hardware), hardware))


def show_compiled(experiment: Experiment, hardware: Hardware) -> Compiled:
    """Print the estimate of a run beside what the compiled step needs, and return the latter."""
    estimate = estimate_run(experiment, hardware)
    compiled = compile_for(estimate.experiment, hardware)
    table("Plan", _rows(estimate, hardware) | _compiled_rows(compiled, experiment))
    return compiled


def _compiled_rows(compiled: Compiled, experiment: Experiment) -> dict[str, str]:
    memory, total, hardware = compiled.memory, compiled.total, compiled.hardware
    tokens = experiment.batch_size * sum(row_lengths(experiment))
    hidden = compiled.hidden_bytes
    rows = {
        "compiled": f"in {compiled.seconds:.1f} s, for {hardware.topology or hardware.name}",
        "memory, compiled": f"{byte_amount(memory.total)}: {byte_amount(memory.arguments)} state and batch,"
        f" {byte_amount(memory.temporaries)} activations and gradients",
        "": f"{'fits' if memory.total <= compiled.share else 'does not fit'} in the {byte_amount(compiled.share)} of"
        " a chip that JAX takes by default"
        + ("" if hardware.topology else " (XLA_PYTHON_CLIENT_MEM_FRACTION changes this share)"),
        "traffic": f"{total.bytes / 1e9:,.1f} GB of HBM a step and chip, in {total.kernels:,} kernels"
        + (f", and {hidden / 1e9:,.1f} GB inside cuDNN's attention" if hidden else ""),
        "takes, modelled": f"{total.seconds:.3g} s from the compiled program, not measured: MFU"
        f" {compiled.modelled_mfu:.1%}, {amount(tokens / total.seconds)} tokens/s"
        + (f"; {total.cycles / 1e6:,.1f} M cycles as XLA estimates" if total.cycles else ""),
    }
    for (kind, axes), size in sorted(compiled.exchanged.items(), key=lambda item: -item[1]):
        rows[f"{kind} over {axes}"] = f"{byte_amount(size)} per chip and step"
    return rows


def _rows(estimate: Estimate, hardware: Hardware) -> dict[str, str]:
    experiment, times = estimate.experiment, estimate.times
    model, (inputs, targets) = experiment.model, row_lengths(experiment)
    hours = experiment.steps * times.step / 3600
    parts = ", ".join(f"{name} {part * 1000:.3g} ms" for name, part in times._asdict().items() if part)
    tokens = experiment.batch_size * (inputs + targets)
    chip = hardware.chip
    return {
        "hardware": f"{hardware.chips:,} chips of {chip.flops / 1e12:g} TFLOP/s and {byte_amount(chip.memory)}"
        + (f", in {hardware.domains} domains connected by a network" if hardware.domains > 1 else ""),
        "model": f"{describe_count(model)}, {model.compute}, remat {model.remat}",
        **({} if experiment.distil is None else {"teacher": describe_count(experiment.distil.teacher)}),
        "mesh": ", ".join(f"{axis} {size}" for axis, size in dataclasses.asdict(experiment.mesh).items()),
        "memory a chip": _memory(estimate.memory, hardware) + " (estimated)",
        "a step": f"{experiment.batch_size:,} rows of {inputs} inputs and {targets} targets, "
        f"{amount(estimate.flops, 'FLOP')}",
        "takes at least": f"{times.step:.3g} s: {parts}; most of it {times.limit}",
        "so at most": f"MFU {estimate.mfu:.1%}, {amount(tokens / times.step)} tokens/s",
        "run": f"{experiment.steps:,} steps, {hours / 24:.2f} days, {hours * hardware.chips:,.0f} chip-hours at least",
    }


def _memory(size: float | int, hardware: Hardware) -> str:
    total = hardware.chip.memory
    return f"{byte_amount(size)} of {byte_amount(total)}, {'fits' if size < USABLE * total else 'does not fit'}"


# --- Search -----------------------------------------------------------------------------------------------------------


def search(experiment: Experiment, hardware: Hardware) -> list[Estimate]:
    """Find the fastest meshes, remats and micro-batches that fit at this batch_size. Raises ConfigError without any."""
    fastest_first = sorted(_candidates(experiment, hardware), key=lambda timed: timed[0])
    # Lazily, because estimating memory takes longer than estimating time.
    estimates = (estimate_run(candidate, hardware) for _, candidate in fastest_first)
    fitting = list(itertools.islice((each for each in estimates if each.fits), SHOWN))
    if not fitting:
        raise ConfigError(
            f"Nothing fits {hardware.name}: no mesh, with any remat and up to {MICROBATCHES[-1]} micro-batches, has"
            f" room for {experiment.batch_size} rows per step. Lower batch_size, or use more chips."
        )
    return fitting


def _candidates(experiment: Experiment, hardware: Hardware) -> Iterator[tuple[float | int, Experiment]]:
    """Yield the seconds per step of every mesh, number of micro-batches and remat, with its experiment."""
    for sizes in factorisations(hardware.chips):
        for microbatches in MICROBATCHES:
            for remat in ("none", "dots", "full"):
                try:
                    model = dataclasses.replace(experiment.model, remat=remat)
                    changed = dataclasses.replace(experiment, model=model, mesh=Mesh(*sizes), microbatches=microbatches)
                    check_divisible(changed, abstract_mesh(changed.mesh, hardware.chips))
                except ConfigError:
                    continue  # the mesh does not divide a size
                yield roofline.step_times(changed, hardware, changed.mesh, *row_lengths(changed)).step, changed


def show_search(experiment: Experiment, hardware: Hardware) -> None:
    shown = Table(title=f"The fastest on {hardware.name} that fit, {experiment.batch_size:,} rows a step", box=None)
    for name in COLUMNS:
        shown.add_column(name, justify="right")
    for each in search(experiment, hardware):
        shown.add_row(*_row(each))
    console.print(shown)


COLUMNS = (*AXES, "micro", "remat", "GiB", "s a step", "MFU", "limit")


def _row(each: Estimate) -> tuple[str, ...]:
    experiment = each.experiment
    sizes = map(str, (*dataclasses.astuple(experiment.mesh), experiment.microbatches))
    numbers = f"{each.memory / 2**30:.1f}", f"{each.times.step:.3g}", f"{each.mfu:.1%}", each.times.limit
    return (*sizes, experiment.model.remat, *numbers)


# --- Several ----------------------------------------------------------------------------------------------------------


class Plan(NamedTuple):
    """The fastest estimate that fits for one experiment on one kind of hardware; `best` is None if nothing fits."""

    name: str
    hardware: Hardware
    best: Estimate | None


def plans(
    experiments: Mapping[str, Experiment], hardware: Sequence[Hardware], rows_a_chip: int | None = None
) -> Iterator[Plan]:
    """Plan each experiment on each hardware, with its own batch_size or `rows_a_chip` rows per chip."""
    for (name, experiment), each in itertools.product(experiments.items(), hardware):
        rows = experiment.batch_size if rows_a_chip is None else rows_a_chip * each.chips
        scaled = dataclasses.replace(experiment, batch_size=rows, microbatches=1)
        try:
            yield Plan(name, each, search(scaled, each)[0])
        except ConfigError:
            yield Plan(name, each, None)


def compare(
    experiments: Mapping[str, Experiment], hardware: Sequence[Hardware], rows_a_chip: int | None, picture: Path | None
) -> None:
    """Print a Markdown table of plans, each row as soon as it is known, and plot it if `picture` is given."""
    require(rows_a_chip is None or rows_a_chip > 0, f"--rows_a_chip is {rows_a_chip}: it must be above 0.")
    columns = ("experiment", "hardware", "rows a step", *COLUMNS, "tokens/s a chip", "days")
    print(f"| {' | '.join(columns)} |\n|{' --- |' * len(columns)}")
    lines: dict[str, list[tuple[int, float | int]]] = {name: [] for name in experiments}
    for name, each, best in plans(experiments, hardware, rows_a_chip):
        cells = ["", "does not fit"] + [""] * (len(COLUMNS) + 1)
        if best is not None:
            planned, seconds = best.experiment, best.times.step
            tokens = planned.batch_size * sum(row_lengths(planned)) / seconds / each.chips
            cells = [f"{planned.batch_size:,}", *_row(best), amount(tokens), f"{planned.steps * seconds / 86_400:.2f}"]
            lines[name].append((each.chips, tokens))
        print(f"| {name} | {each.name} | {' | '.join(cells)} |", flush=True)
    if picture is not None:
        plot_scaling(picture, lines)
