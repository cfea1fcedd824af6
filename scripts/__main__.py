"""The command `kintsugi NAME ...`, which equals `python -m scripts.NAME ...`."""

import ast
import runpy
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from research.config.base import closest

COMMANDS = (
    "train", "sweep", "evaluate", "generate", "score", "inspect", "report", "data", "prepare", "plan", "convert",
    "harness", "push", "average", "significance", "scaling", "rates", "coordinates", "train_tokenizer", "trim",
    "add_tokens",
)  # fmt: skip


def main() -> int:
    name, *arguments = sys.argv[1:] or ["--help"]
    if name in ("--help", "-h"):
        print(overview())
        return 0
    if name == "--version":
        print("kintsugi", installed_version())
        return 0
    if name not in COMMANDS:
        like = closest(name, COMMANDS)
        remedy = "kintsugi --help lists the commands." if like is None else f"did you mean {like}?"
        print(f"error: {name} is not a command of kintsugi; {remedy}", file=sys.stderr)
        return 2
    sys.argv[1:] = arguments
    runpy.run_module(f"scripts.{name}", run_name="__main__", alter_sys=True)
    return 0


def overview() -> str:
    lines = [f"  {name:<16} {summary(name)}" for name in COMMANDS]
    usage = "usage: kintsugi COMMAND ...      kintsugi COMMAND --help explains a command"
    return "\n".join([usage, "", "Encoder-decoder language models in JAX, from a corpus to a report.", "", *lines])


def summary(name: str) -> str:
    """Read the first line of a script's docstring, without its example and without importing the script."""
    module = ast.parse(Path(__file__).with_name(f"{name}.py").read_text(encoding="utf-8"))
    return (ast.get_docstring(module) or "").partition(": kintsugi ")[0]


def installed_version() -> str:
    try:
        return version("kintsugi")
    except PackageNotFoundError:
        return "is not installed: this is a checkout"


if __name__ == "__main__":
    sys.exit(main())
