"""Rounds of engines that take turns: answers, medians with their spread, ratios within a round; and the machine."""

import os
import platform
import statistics
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any


def receive(pipe: Connection, engine: str) -> Any:
    try:
        return pipe.recv()
    except EOFError:
        raise RuntimeError(f"The process of the engine {engine} has ended; its error is printed above.") from None


def spread(values: list[float]) -> list[float]:
    return [statistics.median(values), min(values), max(values)]


def ratios(left: list[float], right: list[float]) -> list[float]:
    return [one / other for one, other in zip(left, right, strict=True)]


def cell(values: list[float] | None, digits: int) -> str:
    if values is None:
        return ""
    median, lowest, highest = (f"{value:,.{digits}f}" for value in values)
    return f"{median}  [{lowest} - {highest}]"


def hardware() -> dict[str, Any]:
    return {
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "cores allowed": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "system": platform.platform(),
    }


def cpu_model() -> str:
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
