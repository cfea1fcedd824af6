"""Parts of users: loading a file that defines them, and the examples in the docstrings of the base classes."""

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
    """Write HEADER and the text into own.py of a folder, and import it."""
    path = folder / "own.py"
    path.write_text(HEADER + text)
    # Python takes the bytecode of a file of the same second and size for this one's.
    Path(importlib.util.cache_from_source(str(path))).unlink(missing_ok=True)
    specification = importlib.util.spec_from_file_location("own", path)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules["own"] = module
    specification.loader.exec_module(module)
    return module


def docstring_example(base: type) -> str:
    """Return the source of the example class in the docstring of a base class."""
    lines = (inspect.getdoc(base) or "").splitlines()
    first = next(number for number, line in enumerate(lines) if line.startswith("    @dataclass"))
    last = next((n for n in range(first, len(lines)) if lines[n] and not lines[n].startswith(" ")), len(lines))
    return textwrap.dedent("\n".join(lines[first:last])) + "\n"
