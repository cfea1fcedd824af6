"""Experiment files: what their get_config(), sweep(), search() and published() return."""

import types
from pathlib import Path
from typing import Any

from research.config import Experiment, Published, Search, require
from research.config.override import as_text


def load_experiment(file: str | Path) -> Experiment:
    """What `get_config()` of the Python file returns. The file is code: load only what you trust.

    Raises ConfigError when there is no such file, or no `get_config` that returns an Experiment.
    """
    module = _module(file)
    require(hasattr(module, "get_config"), f"{file} has no get_config() that returns an Experiment.")
    config = module.get_config()
    require(isinstance(config, Experiment), f"get_config() of {file} returned {type(config).__name__}, no Experiment.")
    return config


def load_sweep(file: str | Path, optional: bool = False) -> list[dict[str, str]]:
    """What `sweep()` of the Python file gives, as overrides on the command line would say it.

    Raises ConfigError when there is none, unless `optional` says that get_config() alone will do, or when it gives
    something else than dicts by dotted names.
    """
    module = _module(file)
    if optional and not hasattr(module, "sweep"):
        return [{}]
    other = "; with --trials N its search() is run" if hasattr(module, "search") else ""
    said = f"{file} has no sweep() that gives dicts of overrides, and so is no sweep{other}."
    require(hasattr(module, "sweep"), said)
    found = list(module.sweep())
    named = all(isinstance(one, dict) and all(isinstance(name, str) for name in one) for one in found)
    require(named, f"sweep() of {file} gives {found[:1]}...: it must give dicts, such as {{'seed': 1}}.")
    require(len(found) > 0, f"sweep() of {file} gives no variant.")
    return [{name: value if isinstance(value, str) else as_text(value) for name, value in one.items()} for one in found]


def load_published(file: str | Path) -> list[Published]:
    """What `published()` of the Python file gives: a paper's numbers for variants of its sweep; [] without it."""
    module = _module(file)
    found = list(module.published()) if hasattr(module, "published") else []
    require(all(isinstance(one, Published) for one in found), f"published() of {file} must give a list of Published.")
    return found


def load_search(file: str | Path) -> Search:
    """What `search()` of the Python file returns. Raises ConfigError when there is none, or it gives something else."""
    module = _module(file)
    require(hasattr(module, "search"), f"{file} has no search() that returns a Search, and so there are no trials.")
    found = module.search()
    require(isinstance(found, Search), f"search() of {file} returned {type(found).__name__}, no Search.")
    return found


def _module(file: str | Path) -> Any:
    path = Path(file)
    require(path.suffix == ".py" and path.is_file(), f"{file} is no experiment: give the path of a Python file.")
    module = types.ModuleType(path.stem)
    module.__file__ = str(path)
    exec(compile(path.read_text(), str(path), "exec"), module.__dict__)
    return module
