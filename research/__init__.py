"""Kintsugi: encoder-decoder language models in JAX, from a corpus to a report.

An experiment's file imports what it needs by name: `from research import Experiment, SpanCorruption`. The names are
listed in `__init__.pyi`. Each is loaded when it is first used, so reading an experiment does not wait for JAX.

Twelve rooms, from top to bottom; a module imports only from rooms above its own:

    config storage score data parallel model pretrained decode report train plan sweep
"""

import ast
from importlib import import_module
from pathlib import Path
from typing import Any


def _exports() -> dict[str, str]:
    """Read the exported names from the stub, each with the module that defines it."""
    stub = ast.parse(Path(__file__).with_suffix(".pyi").read_text())
    imports = (node for node in stub.body if isinstance(node, ast.ImportFrom))
    return {alias.name: f"{__name__}.{node.module}" for node in imports for alias in node.names}


_MODULES = _exports()
__all__ = list(_MODULES)


def __getattr__(name: str) -> Any:
    """Import an exported name at its first use."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES})
