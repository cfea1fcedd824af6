"""A phase of scripts.benchmark.accelerator that measures nothing: its arguments say how it ends."""

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any


def measure(arguments: list[str], keep: Any, folder: Path) -> dict[str, Any]:
    way, *others = arguments
    with (folder / "ran").open("a") as file:
        file.write(way + "\n")
    keep({"so far": 1})
    match way:
        case "fail":
            raise ValueError("the first line says why\nthe second does not")
        case "hang":
            child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
            (folder / "child").write_text(str(child.pid))
            time.sleep(600)
        case "die":
            os._exit(0)
        case "wrong":
            return {"whole": 1, "wrong": ["The gradient of the bias is zero."]}
    return {"whole": 2, "given": others}


def rows(figures: dict[str, Any]) -> list[tuple[str, str]]:
    return [(name, str(value)) for name, value in figures.items()]
