"""What the families share: the types of config.json, what the tensors tell where it is silent, and the head."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from research.config import Model, Tied, UntiedHead, require
from research.pretrained.table import TRANSPOSED, Alias, Row

LARGEST_INTEGER = 2**63  # larger ones, which JSON may hold, are no floats nor NumPy's


class Facts(NamedTuple):
    """What config.json leaves to the tensors."""

    head: bool  # one has the name of a head
    logits_bias: bool
    zero_pad: bool  # the padding's embedding is zero


def head_row(model: Model, embedding: str) -> Row | Alias:
    """The head's tensor: one of its own, or a copy of the tensor named `embedding`."""
    match model.head:
        case UntiedHead():
            return Row("lm_head.weight", "head", TRANSPOSED)
        case Tied():
            return Alias("lm_head.weight", embedding)


def check_types(
    config: Mapping[str, Any], types: Mapping[str, tuple[type, ...]], whole: Iterable[str], path: Path
) -> None:
    """Raises ConfigError where a field that is there has another type, or one of `whole` is not there as a number."""
    for name, allowed in types.items():
        value = config.get(name)
        fits = isinstance(value, allowed) and not (isinstance(value, bool) and bool not in allowed)
        fits = fits and not (isinstance(value, int) and abs(value) > LARGEST_INTEGER)
        said = " or ".join(type.__name__ for type in allowed)
        require(fits or name not in config, f"{path}: {name} is {value!r}, which is not {said}.")
    wrong = [name for name in whole if not isinstance(config.get(name), int) or isinstance(config[name], bool)]
    require(not wrong, f"{path}: {', '.join(wrong)} must be there, as whole numbers.")
