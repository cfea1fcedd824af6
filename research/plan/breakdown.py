"""Figures of a compiled step as JSON, as tables, and beside those of another one."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from research.config import require
from research.plan import time_model
from research.plan.compiled import Compiled
from research.plan.parts import part_of, to_json
from research.plan.traffic import Kernel
from research.storage.console import byte_amount, console

FORMAT = 1  # of the JSON
WIDTH = 140  # characters
Figures = dict[str, Any]


def figures(compiled: Compiled, heaviest: int = 30) -> Figures:
    """Collect the figures of a compiled step, of one chip, with its heaviest kernels."""
    total, memory = compiled.total, compiled.memory
    return {
        "format": FORMAT,
        "hardware": compiled.hardware.name,
        "compile_seconds": compiled.seconds,
        "memory": {**memory._asdict(), "default_share": compiled.share, "fits": memory.total <= compiled.share},
        "traffic": total.bytes,
        "hidden_traffic": compiled.hidden_bytes,
        "kernels": total.kernels,
        "cycles": total.cycles,
        "flops": compiled.flops,
        "modelled": {"seconds": total.seconds, "mfu": compiled.modelled_mfu},
        "parts": [to_json(part, cost) for part, cost in compiled.parts.items()],
        "exchanged": [{"kind": kind, "axes": axes, "bytes": size} for (kind, axes), size in compiled.exchanged.items()],
        "heaviest": [_kernel(compiled, kernel) for kernel in compiled.heaviest(heaviest)],
    }


def _kernel(compiled: Compiled, kernel: Kernel) -> Figures:
    """Return the figures of one execution of a kernel."""
    return {
        "name": kernel.name,
        "kind": kernel.kind,
        "part": str(part_of(kernel)),
        "op_name": kernel.op_name,
        "results": kernel.results,
        "times": kernel.times,
        "bytes": kernel.bytes,
        "seconds": time_model.seconds(kernel, compiled.hardware),
    }


def read(path: Path) -> Figures:
    """Read the figures that --json wrote.

    Raises:
        ConfigError: there is no such file, or it is not of a compiled step.
    """
    require(path.is_file(), f"--compare {path}: there is no such file; kintsugi plan ... --compile --json writes one.")
    try:
        found = json.loads(path.read_text())
    except ValueError:
        found = None
    require(
        isinstance(found, dict) and found.get("format") == FORMAT and "parts" in found,
        f"--compare {path} is not a file that kintsugi plan ... --compile --json wrote.",
    )
    return found


# --- Tables -----------------------------------------------------------------------------------------------------------


def show(found: Figures, heaviest: int = 0) -> None:
    """Print the table of parts, and that of the heaviest kernels."""
    on_tpu = found["cycles"] > 0
    dtypes = sorted({dtype for part in found["parts"] for dtype in part["flops"]})
    columns = ("GB", "kernels", "M cycles" if on_tpu else "ms, modelled", *(f"TFLOP {dtype}" for dtype in dtypes))
    table = _table("A compiled step by part, on one chip", ("part", "direction", *columns))
    for part in [*found["parts"], _total(found)]:
        time = part["cycles"] / 1e6 if on_tpu else part["seconds"] * 1e3
        products = (part["flops"].get(dtype, 0) for dtype in dtypes)
        numbers = f"{_traffic(part) / 1e9:,.2f}", f"{part['kernels']:,}", f"{time:,.2f}"
        table.add_row(
            _name(part), part["direction"], *numbers, *(f"{each / 1e12:.2f}" if each else "" for each in products)
        )
    _print(table)
    if heaviest:
        show_kernels(found["heaviest"][:heaviest])


def show_kernels(kernels: Iterable[Figures]) -> None:
    """Print the kernels that take the most time, with their executions a step."""
    table = _table("The heaviest kernels", ("part", "GB a step", "ms, modelled", "times", "results", "operation"))
    for each in kernels:
        numbers = f"{each['times'] * each['bytes'] / 1e9:,.2f}", f"{each['times'] * each['seconds'] * 1e3:,.2f}"
        operation = each["op_name"].rpartition("/")[2] or each["name"]
        table.add_row(each["part"], *numbers, str(each["times"]), each["results"][:60], operation)
    _print(table)


def compare(before: Figures, after: Figures) -> None:
    """Print the totals of two compiled steps, and the parts that differ."""
    table = _table(
        f"Before ({before['hardware']}) and after ({after['hardware']})",
        ("", "direction", "GB", "kernels", "ms, modelled"),
    )
    parts = [{(_name(part), part["direction"]): part for part in found["parts"]} for found in (before, after)]
    none = {"read": 0, "written": 0, "kernels": 0, "seconds": 0.0}
    for key in dict.fromkeys([*parts[0], *parts[1]]):
        pair = [each.get(key, none) for each in parts]
        if any(pair[0][name] != pair[1][name] for name in none):
            table.add_row(*key, *_changes(pair))
    table.add_row("all", "", *_changes([_total(found) for found in (before, after)]))
    _print(table)
    rows = {
        "temporaries": [byte_amount(found["memory"]["temporaries"]) for found in (before, after)],
        "modelled MFU": [f"{found['modelled']['mfu']:.1%}" for found in (before, after)],
    }
    for name, (old, new) in rows.items():
        console.print(f"  {name:<14}{old} to {new}", markup=False)


def _changes(pair: list[Figures]) -> list[str]:
    traffic = [f"{_traffic(each) / 1e9:,.1f}" for each in pair]
    kernels = [f"{each['kernels']:,}" for each in pair]
    time = [f"{each['seconds'] * 1e3:,.1f}" for each in pair]
    return [" to ".join(dict.fromkeys(both)) for both in (traffic, kernels, time)]


def _total(found: Figures) -> Figures:
    flops: dict[str, int] = {}
    for part in found["parts"]:
        for dtype, count in part["flops"].items():
            flops[dtype] = flops.get(dtype, 0) + count
    sums = {
        name: sum(part[name] for part in found["parts"]) for name in ("kernels", "read", "written", "seconds", "cycles")
    }
    return {"stack": "", "name": "all", "direction": "", **sums, "flops": flops}


def _traffic(part: Figures) -> int:
    return part["read"] + part["written"]


def _name(part: Figures) -> str:
    return f"{part['stack']} {part['name']}".strip()


def _table(title: str, columns: Iterable[str]) -> Table:
    table = Table(title=title, box=None)
    for name in columns:
        left = name in ("part", "direction", "", "results", "operation")
        table.add_column(name, justify="left" if left else "right", no_wrap=True)
    return table


def _print(table: Table) -> None:
    """Print a table whole, in narrow terminals and files too."""
    Console(highlight=False, width=max(console.width, WIDTH)).print(table)
