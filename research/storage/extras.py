"""Libraries of the extra `data`, imported when a file needs them."""

import importlib
from pathlib import Path
from typing import Any

from research.config import ConfigError


def data_library(module: str, path: Path | str) -> Any:
    """Import a module that a file needs. Raises ConfigError with what to install if it is missing."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError:
        raise ConfigError(f"{path} needs {module}: pip install 'kintsugi[data]'.") from None
