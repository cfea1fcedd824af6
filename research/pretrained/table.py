"""Tables that say where foreign tensors go. What does not fit once is an error, and all errors come together."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from research.config import Model, require
from research.model.transformer import Params, abstract_params


class Row(NamedTuple):
    """A tensor whose whole name matches `pattern` fills the parameter at `path`, or one layer of it.

    The groups `stack` and `part`, this one translated by `parts`, fill the path's braces; `layer` is the index into the
    parameter's first axis.
    """

    pattern: str
    path: str
    transform: Callable[[np.ndarray, Model], np.ndarray]
    parts: Mapping[str, str] = {}


class Alias(NamedTuple):
    """A tensor that fills nothing: it must equal the tensor named `original`, or with None is never used."""

    pattern: str
    original: str | None


def fill_params(tensors: Mapping[str, np.ndarray], rows: Sequence[Row | Alias], model: Model, source: str) -> Params:
    """Tensors by their foreign names as float32 parameters; `source` is what an error calls them.

    Raises:
        ConfigError: a tensor is not matched by exactly one row, a parameter not filled exactly once, a shape or a type
            does not fit, or an alias differs from its original; all that is wrong is said.
    """
    filling = Filling(model)
    errors = []
    for name in tensors:
        matches = [(row, match) for row in rows if (match := re.fullmatch(row.pattern, name))]
        match matches:
            case [(Alias(original=None), _)]:
                pass
            case [(Alias(original=str(original)), _)]:
                if original not in tensors or not np.array_equal(tensors[name], tensors[original]):
                    errors.append(f"{name} differs from {original}, of which the configuration makes it a copy")
            case [(Row() as row, match)]:
                errors += filling.fill(name, row, match, tensors[name])
            case _:
                errors.append(f"{name} is known to {len(matches)} rows of the table, not to one")
    errors += [f"nothing fills {spell(place)}" for place in sorted(filling.missing)]
    require(not errors, f"{source} does not hold the weights of this model: {'; '.join(errors)}.")
    return unflatten_dict(filling.params, sep="/")


Place = tuple[str, int]  # a parameter's path and the layer of it, -1 where it has no layers


class Filling:
    """Parameters while they are being filled, and the places that nothing has filled yet."""

    def __init__(self, model: Model) -> None:
        self.model = model
        shapes = flatten_dict(abstract_params(model), sep="/")
        self.params = {path: np.empty(leaf.shape, np.float32) for path, leaf in shapes.items()}
        self.places: set[Place] = set()
        for path, array in self.params.items():
            self.places |= {(path, layer) for layer in (range(len(array)) if "/layers/" in path else (-1,))}
        self.missing = set(self.places)

    def fill(self, name: str, row: Row, match: re.Match[str], tensor: np.ndarray) -> list[str]:
        """Copies a tensor to its place, and says what is wrong where it cannot."""
        groups = match.groupdict()
        part = row.parts[groups["part"]] if "part" in groups else None
        path = row.path.format(stack=groups.get("stack"), part=part)
        place = (path, int(groups.get("layer", -1)))
        if place not in self.missing:
            filled = "was filled already" if place in self.places else "the model does not have"
            return [f"{name} is for {spell(place)}, which {filled}"]
        self.missing.remove(place)
        array = self.params[path]
        target = array if place[1] == -1 else array[place[1]]
        if not jnp.issubdtype(tensor.dtype, jnp.floating):
            return [f"{name} is of type {tensor.dtype}, not floating"]
        try:
            converted = row.transform(tensor, self.model)
        except (ValueError, IndexError):  # it cannot even be reshaped
            converted = None
        if converted is None or converted.shape != target.shape:
            return [f"{name} has shape {tensor.shape}, which does not fit {spell(place)} of shape {target.shape}"]
        target[...] = converted
        return []


def spell(place: Place) -> str:
    path, layer = place
    return path if layer == -1 else f"{path} of layer {layer}"
