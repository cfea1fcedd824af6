"""The examples in the docstrings of base classes, executed as they are written."""

import inspect
import re
from typing import Any

# What a reader of the pages imports anyway.
HEADER = """
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any as TextRecord
import jax.numpy as jnp
from flax import nnx
from research import *
from research.config.examples import Names
from research.model.attention import SelfAttention
from research.model.transformer import EncoderDecoder, EncoderLayer

def normalised(x):
    return x / jnp.linalg.norm(x, axis=-1, keepdims=True)
"""


def example(base: type, number: int = 0) -> dict[str, Any]:
    """Execute the definitions of one indented block of a docstring; return their names."""
    blocks = re.findall(r"(?:^    .*\n|^\n)+", inspect.cleandoc(base.__doc__ or "") + "\n", re.MULTILINE)
    block = inspect.cleandoc([block for block in blocks if "class " in block][number])
    definitions = re.split(r"^(?:def get_config|get_config:|Report\()", block, flags=re.MULTILINE)[0]
    names: dict[str, Any] = {"__name__": "experiment"}
    exec(HEADER, names)
    exec(compile(definitions, f"<{base.__name__}>", "exec"), names)
    return names
