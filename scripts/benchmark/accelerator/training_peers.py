"""Training steps of PyTorch's models on the same device, in turns with ours."""

from pathlib import Path

from scripts.benchmark import peers
from scripts.benchmark.accelerator.phase import Figures, Keep, TableRows


def measure(arguments: list[str], keep: Keep, folder: Path) -> Figures:
    options, rest = peers.parser().parse_known_args(arguments)
    found = peers.benchmark(options, rest, keep)
    return found | {"wrong": [f"{name} failed: {reason}" for name, reason in found["failed"].items()]}


def rows(figures: Figures) -> TableRows:
    return peers.rows(figures)
