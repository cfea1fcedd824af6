"""Training steps: seconds a step, MFU by the exact FLOPs, peak memory and compile time."""

import statistics
from pathlib import Path

from research.config import override
from scripts.benchmark import train
from scripts.benchmark.accelerator.phase import Figures, Keep, TableRows


def measure(arguments: list[str], keep: Keep, folder: Path) -> Figures:
    options, rest = train.parser().parse_known_args(arguments)
    options.hlo = folder / options.hlo if options.hlo else None
    return train.benchmark(train.experiment_of(options, override.from_arguments(rest)), options)


def rows(figures: Figures) -> TableRows:
    packed = f", {figures['packed']} examples packed into each" if figures["packed"] else ""
    shape = f"{figures['batch_size']} rows of {figures['input_length']}/{figures['target_length']}{packed}"
    share, product = figures["mfu_by_data_sheet"], figures["mfu_by_matrix_product"]
    room = figures["memory"]
    return [
        ("step", f"{spread(figures['step_seconds'], 1e3)} ms, {figures['preset']}, {shape}"),
        ("sequences a second", spread(figures["sequences_per_second"])),
        ("MFU of the data sheet", "unknown for this device" if share is None else f"{spread(share, 100)} %"),
        ("MFU of a large product", f"{spread(product, 100)} % of {spread(figures['ceiling_flops'], 1e-12)} TFLOP/s"),
        ("memory", ", ".join(f"{name} {gibibytes(room[f'{name}_bytes'])}" for name in ("peak", "temporary"))),
        ("compile", f"{figures['compile_seconds']:.1f} s"),
        ("attention", figures["attention"]),
    ]


def spread(values: list[float], scale: float = 1.0) -> str:
    """Format the median, the lowest and the highest of some values."""
    low, middle, high = (scale * value for value in (min(values), statistics.median(values), max(values)))
    return f"{middle:,.4g} [{low:,.4g} - {high:,.4g}]"


def gibibytes(size: int | None) -> str:
    return "not reported" if size is None else f"{size / 2**30:,.2f} GiB"
