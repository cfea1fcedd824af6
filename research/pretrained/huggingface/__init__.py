"""Weights in and out of Hugging Face directories: config.json, and safetensors whole or in shards.

A file a family holds what is its own: how config.json tells of the model, and the table of its tensors.
"""

from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from research.config import Model, require
from research.model.transformer import Params
from research.pretrained.files import Tensors, read_json
from research.pretrained.huggingface import t5
from research.pretrained.table import Table, fill_params

FAMILIES = {name: family for family in (t5,) for name in family.FAMILIES}


def read_config(directory: Path) -> Model:
    """The model a Hugging Face directory holds.

    Raises:
        ConfigError: a file is missing or damaged, or config.json describes a model that is not of these families.
    """
    path = directory / "config.json"
    config = read_json(path)
    return family_of(config, path).read_model(config, Tensors(directory), path)


def family_of(config: dict[str, Any], path: Path) -> ModuleType:
    name = config.get("model_type")
    known = isinstance(name, str) and name in FAMILIES
    require(known, f"{path}: model_type is {name!r}, not one of {', '.join(FAMILIES)}.")
    return FAMILIES[str(name)]


def table(model: Model, tensors: Any = ()) -> Table:
    """The rows for this structure and the names that a file has, of which each must match exactly one."""
    return t5.table(model, tensors)


def read_params(directory: Path, model: Model, shardings: Any = None, fresh: Sequence[str] = ()) -> Params:
    """The parameters of `model` from a Hugging Face directory; see `fill_params`.

    Raises:
        ConfigError: a file is missing or damaged, or the tensors are not exactly those of the model.
    """
    tensors = Tensors(directory)
    return fill_params(tensors, table(model, tensors), model, str(directory), shardings, fresh)
