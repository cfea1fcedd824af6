"""Decoding beside transformers: tokens a second of both, in turns, with forced lengths."""

from pathlib import Path

from rich.console import Console

from scripts.benchmark import decode
from scripts.benchmark.accelerator.phase import Figures, Keep, TableRows
from scripts.benchmark.rounds import cell


def measure(arguments: list[str], keep: Keep, folder: Path) -> Figures:
    return decode.benchmark(decode.parse(arguments), Console(width=130))


def rows(figures: Figures) -> TableRows:
    settings, lines = figures["settings"], list[tuple[str, str]]()
    lengths = f"{settings['input_length']} tokens in, {settings['output_length']} out, {settings['compute']}"
    for case in figures["cases"]:
        name = f"{case['model']}, {case['rows']} rows, {'greedy' if case['beams'] == 1 else case['beams']}"
        for engine, measures in case["summary"].items():
            ratio = measures.get("ours / theirs")
            text = f"{cell(measures['tokens/s'], 0)} tokens/s, {lengths}"
            lines.append((f"{name}: {engine}", text + (f"; ours / theirs {cell(ratio, 2)}" if ratio else "")))
    lines += [(f"{engine} is left out", reason) for engine, reason in figures["left out"].items()]
    return lines
