"""The fields of config.json: their types, and what the tensors tell where it is silent."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from research.config import require


class Facts(NamedTuple):
    """What config.json leaves to the tensors."""

    head: bool  # one has the name of a head
    logits_bias: bool
    zero_pad: bool  # the padding's embedding is zero


def check_types(
    config: Mapping[str, Any], types: Mapping[str, tuple[type, ...]], whole: Iterable[str], path: Path
) -> None:
    """Raises ConfigError where a field that is there has another type, or one of `whole` is not there as a number."""
    for name, allowed in types.items():
        value = config.get(name)
        fits = isinstance(value, allowed) and not (isinstance(value, bool) and bool not in allowed)
        said = " or ".join(type.__name__ for type in allowed)
        require(fits or name not in config, f"{path}: {name} is {value!r}, which is not {said}.")
    wrong = [name for name in whole if not isinstance(config.get(name), int) or isinstance(config[name], bool)]
    require(not wrong, f"{path}: {', '.join(wrong)} must be there, as whole numbers.")
