"""Training steps of PyTorch's models on the same device, in turns with ours."""

from pathlib import Path

from scripts.benchmark import peers
from scripts.benchmark.accelerator.phase import Figures, Keep, Rows


def measure(arguments: list[str], keep: Keep, folder: Path) -> Figures:
    options, rest = peers.parser().parse_known_args(arguments)
    return peers.benchmark(options, rest, keep)


def rows(figures: Figures) -> Rows:
    return peers.rows(figures)
