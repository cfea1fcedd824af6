"""Code shared by the families: type checks of config.json, facts derived from the tensors, and the row of the head."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from research.config import Model, Tied, UntiedHead, require
from research.pretrained.table import TRANSPOSED, Alias, Row

LARGEST_INTEGER = 2**63  # JSON may hold larger ones, which fit neither floats nor NumPy's integers


class Facts(NamedTuple):
    """Properties of a model that only its tensors show."""

    head: bool  # there is a tensor for the head
    logits_bias: bool
    zero_pad: bool  # the embedding of padding is zero


def head_row(model: Model, embedding: str) -> Row | Alias:
    """Return the row of the head: a separate tensor, or a copy of the tensor named `embedding`."""
    match model.head:
        case UntiedHead():
            return Row("lm_head.weight", "head", TRANSPOSED)
        case Tied():
            return Alias("lm_head.weight", embedding)


def check_types(
    config: Mapping[str, Any], types: Mapping[str, tuple[type, ...]], whole: Iterable[str], path: Path
) -> None:
    """Raise ConfigError if a field has a wrong type, or if one of `whole` is missing or not an integer."""
    for name, allowed in types.items():
        value = config.get(name)
        fits = isinstance(value, allowed) and not (isinstance(value, bool) and bool not in allowed)
        fits = fits and not (isinstance(value, int) and abs(value) > LARGEST_INTEGER)
        expected = " or ".join(type.__name__ for type in allowed)
        require(fits or name not in config, f"{path}: {name} is {value!r}, which is not {expected}.")
    wrong = [name for name in whole if not isinstance(config.get(name), int) or isinstance(config[name], bool)]
    require(not wrong, f"{path}: {', '.join(wrong)} must be given, as integers.")
