"""Users' own parts: files of them loaded as an experiment's file is, and the examples in docstrings of the bases."""

import importlib.util
import inspect
import sys
import textwrap
from pathlib import Path
from types import ModuleType

HEADER = """import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from research import *
from research.config import ConfigError

"""


def load_own(folder: Path, text: str) -> ModuleType:
    """Text as the file own.py of a folder, imported; its own lines begin after HEADER."""
    path = folder / "own.py"
    path.write_text(HEADER + text)
    specification = importlib.util.spec_from_file_location("own", path)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules["own"] = module
    specification.loader.exec_module(module)
    return module


def docstring_example(base: type) -> str:
    """The class in the docstring of a base."""
    lines = (inspect.getdoc(base) or "").splitlines()
    first = next(number for number, line in enumerate(lines) if line.startswith("    @dataclass"))
    last = next((n for n in range(first, len(lines)) if lines[n] and not lines[n].startswith(" ")), len(lines))
    return textwrap.dedent("\n".join(lines[first:last])) + "\n"
