"""Tables that say which foreign tensor is which parameter, read both ways; what does not fit once is an error.

A foreign name is written as a template, "encoder.block.{layer}.layer.0.SelfAttention.{part}.weight": {stack} stands for
encoder or decoder, {layer} for a number, and {part} for the keys of the row's `parts`.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.sharding import NamedSharding

from research.config import Model, require
from research.model.transformer import Params, abstract_params
from research.pretrained.shards import Filling

STACKS = ("encoder", "decoder")


class Transform(NamedTuple):
    """How a foreign array becomes ours, and the way back."""

    read: Callable[[np.ndarray, Model], np.ndarray]
    write: Callable[[np.ndarray, Model], np.ndarray]


AS_IS = Transform(lambda array, model: array, lambda array, model: array)
TRANSPOSED = Transform(lambda array, model: array.T, lambda array, model: array.T)
# [h * k, d] <-> [d, h, k]: the matrices of query, key and value.
HEADS_OUT = Transform(
    lambda array, model: array.reshape(model.heads, model.head_width, array.shape[-1]).transpose(2, 0, 1),
    lambda array, model: array.transpose(1, 2, 0).reshape(-1, array.shape[0]),
)
# [d, h * k] <-> [h, k, d]: the matrix that attention ends in.
HEADS_IN = Transform(
    lambda array, model: array.reshape(array.shape[0], model.heads, model.head_width).transpose(1, 2, 0),
    lambda array, model: array.reshape(-1, array.shape[-1]).T,
)
# The same two where matrices stand as they multiply, in T5X and Marian: [d, h * k] <-> [d, h, k] ...
HEADS_LAST = Transform(
    lambda array, model: array.reshape(array.shape[0], model.heads, model.head_width),
    lambda array, model: array.reshape(array.shape[0], -1),
)
# ... and [h * k, d] <-> [h, k, d].
HEADS_FIRST = Transform(
    lambda array, model: array.reshape(model.heads, model.head_width, array.shape[-1]),
    lambda array, model: array.reshape(-1, array.shape[-1]),
)
# [h * k] <-> [h, k]: the biases of query, key and value.
HEADS_BIAS = Transform(
    lambda array, model: array.reshape(model.heads, model.head_width), lambda array, model: array.reshape(-1)
)
# [1, v] <-> [v]
ONE_ROW = Transform(
    lambda array, model: array.reshape(-1) if len(array) == 1 else array, lambda array, model: array[None]
)


class Row(NamedTuple):
    """A tensor named `foreign` is the parameter at `path`, or one layer of it where the name has a {layer}.

    `parts` translates {part} between the two names; `first` is the number of the first layer. A row whose parameter
    the model does not have is passed over in writing.
    """

    foreign: str
    path: str
    transform: Transform = AS_IS
    parts: Mapping[str, str] = {}
    first: int = 0


class Alias(NamedTuple):
    """A tensor that fills nothing: it must equal the tensor named `original`, or with None is never used.

    The copy is `written` too, or left out.
    """

    foreign: str
    original: str | None
    written: bool = False


class FixedTensor(NamedTuple):
    """A tensor that fills nothing: it must have the shape, and hold what `value` gives to within `tolerance`."""

    foreign: str
    shape: tuple[int, ...]
    value: Callable[[], np.ndarray]
    written: bool = False
    tolerance: float = 0.0


TensorRows = Sequence[Row | Alias | FixedTensor]
LayerPath = tuple[str, int | None]  # a parameter's path and the layer of it; None for the whole


class LayerTensor(NamedTuple):
    name: str
    row: Row
    layer: int | None


# --- Reading ----------------------------------------------------------------------------------------------------------


def fill_params(
    tensors: Mapping[str, np.ndarray],
    rows: TensorRows,
    model: Model,
    source: str,
    shardings: Any = None,
    fresh: Sequence[str] = (),
) -> Params:
    """Tensors by their foreign names as float32 parameters; `source` is what an error calls them.

    They are NumPy's arrays, or with `shardings` (of every parameter, nested alike) JAX's: a tensor is read at a time,
    and only the shards of this process are kept. Parameters whose whole path matches one of the expressions `fresh` are
    left out, and the tensors that would fill them are not read.

    Raises:
        ConfigError: a tensor is not matched by exactly one row, a parameter not filled exactly once, a shape or a type
            does not fit, or a copy differs from its original; all that is wrong is said. Or nothing matches a `fresh`.
    """
    layers = model.encoder_layers + model.decoder_layers
    require(layers <= len(tensors), f"{source} holds {len(tensors)} tensors, too few for {layers} layers.")
    shapes = {path: leaf.shape for path, leaf in flatten_dict(abstract_params(model), sep="/").items()}
    left_out = fresh_paths(shapes, fresh)
    sources, errors = _sources(tensors, rows, shapes)
    placements = flatten_dict(shardings, sep="/") if shardings is not None else dict.fromkeys(shapes)
    params = {}
    for path in sorted(shapes.keys() - left_out):
        places = _places(path, shapes[path])
        errors += [f"nothing fills {_spell(place)}" for place in places if place not in sources]
        filled = {sources[place].name: sources[place] for place in places if place in sources}
        params[path], wrong = _fill(tensors, filled.values(), path, shapes[path], placements[path], model)
        errors += wrong
    require(not errors, f"{source} does not hold the weights of this model: {'; '.join(errors)}.")
    return unflatten_dict(params, sep="/")


def layer_count(names: Iterable[str], layer: str, stack: str, path: Path) -> int:
    """Layers of a stack, by names that begin with it and the expression `layer`, whose group is the number from 0.

    Raises:
        ConfigError: there are none in the file at `path`.
    """
    numbers = {int(match[1]) for name in names if (match := re.match(stack + layer, name))}
    require(bool(numbers), f"{path} has no layers of the {stack}.")
    return max(numbers) + 1


def fresh_paths(paths: Iterable[str], fresh: Sequence[str]) -> set[str]:
    """The paths that wholly match one of the expressions. Raises ConfigError where one matches none."""
    paths = sorted(paths)
    found: set[str] = set()
    for expression in fresh:
        matches = {path for path in paths if re.fullmatch(expression, path)}
        require(bool(matches), f"init_fresh: {expression!r} matches no parameter; there are {', '.join(paths)}.")
        found |= matches
    return found


def _sources(
    tensors: Mapping[str, np.ndarray], rows: TensorRows, shapes: Mapping[str, tuple[int, ...]]
) -> tuple[dict[LayerPath, LayerTensor], list[str]]:
    """The tensor that fills each place, and what is wrong with the tensors' names and copies."""
    sources: dict[LayerPath, LayerTensor] = {}
    errors = []
    for name in tensors:
        matches = [(row, match) for row in rows if (match := _pattern(row).fullmatch(name))]
        match matches:
            case [(Row() as row, match)]:
                path, layer = _destination(row, match)
                own = _places(path, shapes[path]) if path in shapes else []
                for place in own if layer is None and own else [(path, layer)]:
                    if place not in own:
                        errors.append(f"{name} is for {_spell(place)}, which the model does not have")
                    elif place in sources:
                        errors.append(f"{name} is for {_spell(place)}, which was filled already")
                    else:
                        sources[place] = LayerTensor(name, row, layer)
            case [(row, _)]:
                errors += _check(tensors, name, row)
            case _:
                errors.append(f"{name} is known to {len(matches)} rows of the table, not to one")
    return sources, errors


def _check(tensors: Mapping[str, np.ndarray], name: str, row: Row | Alias | FixedTensor) -> list[str]:
    """What is wrong with a tensor that fills nothing."""
    match row:
        case Alias(original=str(original)):
            if original not in tensors or not np.array_equal(tensors[name], tensors[original]):
                return [f"{name} differs from {original}, of which the configuration makes it a copy"]
        case FixedTensor(shape=shape, value=value, tolerance=tolerance):
            found = tensors[name]
            if found.shape != shape or not np.allclose(np.float32(found), value(), rtol=0, atol=tolerance):
                return [f"{name} does not hold what the configuration makes it hold"]
    return []


def _pattern(row: Row | Alias | FixedTensor) -> re.Pattern[str]:
    return _compiled(row.foreign, tuple(row.parts) if isinstance(row, Row) else ())


@cache
def _compiled(foreign: str, parts: tuple[str, ...]) -> re.Pattern[str]:
    """The expression of a template; what stands between its braces becomes a group of that name."""
    groups = {
        "stack": f"(?P<stack>{'|'.join(STACKS)})",
        "layer": "(?P<layer>[0-9]{1,9})",
        "part": f"(?P<part>{'|'.join(map(re.escape, parts))})",
    }
    pieces = re.split(r"\{(stack|layer|part)\}", foreign)  # literal, group, literal, ...
    return re.compile("".join(groups[piece] if odd % 2 else re.escape(piece) for odd, piece in enumerate(pieces)))


def _destination(row: Row, match: re.Match[str]) -> LayerPath:
    groups = match.groupdict()
    path = row.path.format(stack=groups.get("stack"), part=row.parts.get(groups.get("part", "")))
    return path, int(groups["layer"]) - row.first if "layer" in groups else None


def _places(path: str, shape: tuple[int, ...]) -> list[LayerPath]:
    return [(path, layer) for layer in (range(shape[0]) if shape and "/layers/" in path else (None,))]


def _fill(
    tensors: Mapping[str, np.ndarray],
    sources: Iterable[LayerTensor],
    path: str,
    shape: tuple[int, ...],
    sharding: NamedSharding | None,
    model: Model,
) -> tuple[np.ndarray | jax.Array | None, list[str]]:
    """A parameter from its sources, or what is wrong with them."""
    filling, errors = None, []
    for name, row, layer in sources:
        tensor, expected = tensors[name], shape if layer is None else shape[1:]
        if not jnp.issubdtype(tensor.dtype, jnp.floating):
            errors.append(f"{name} is of type {tensor.dtype}, not floating")
            continue
        try:
            converted = row.transform.read(tensor, model)
        except (ValueError, IndexError):  # it cannot even be reshaped
            converted = None
        if converted is not None and converted.shape == expected:
            filling = filling or Filling(shape, sharding)  # no room is made for what no tensor has the shape of
            filling.fill(converted, layer)
        else:
            place = _spell((path, layer))
            errors.append(f"{name} has shape {tensor.shape}, which does not fit {place} of shape {expected}")
    return (None if errors or filling is None else filling.done()), errors


def _spell(place: LayerPath) -> str:
    path, layer = place
    return path if layer is None else f"{path} of layer {layer}"


# --- Writing ----------------------------------------------------------------------------------------------------------


def check_shapes(params: Params, model: Model) -> None:
    """Raises ConfigError where the parameters are not those of the model."""
    fit = jax.tree.map(np.shape, params) == jax.tree.map(lambda leaf: leaf.shape, abstract_params(model))
    require(fit, "The parameters' names and shapes are not those of the model's configuration.")


def foreign_tensors(params: Params, rows: TensorRows, model: Model) -> Iterator[tuple[str, np.ndarray]]:
    """Every tensor that the table makes of the parameters, with its foreign name, one at a time and in float32."""
    flat = flatten_dict(params, sep="/")
    copies = [row for row in rows if isinstance(row, Alias) and row.written]
    for path, (row, names) in _routes(rows, flat).items():
        for layer in range(len(flat[path])) if "{layer}" in row.foreign else (None,):
            ours = flat[path] if layer is None else flat[path][layer]
            array = np.ascontiguousarray(row.transform.write(np.asarray(ours, np.float32), model))
            name = row.foreign.format(layer=(layer or 0) + row.first, **names)
            for written in (name, *(copy.foreign for copy in copies if copy.original == name)):
                yield written, array
    for constant in rows:
        if isinstance(constant, FixedTensor) and constant.written:
            yield constant.foreign, constant.value()


def _routes(rows: TensorRows, flat: Mapping[str, Any]) -> dict[str, tuple[Row, dict[str, str]]]:
    """For every parameter the row that writes it, with what stands for {stack} and {part} in the foreign name."""
    routes: dict[str, list[tuple[Row, dict[str, str]]]] = {path: [] for path in flat}
    for row in rows:
        if not isinstance(row, Row):
            continue
        for stack in STACKS if "{stack}" in row.foreign else ("",):
            for part, own in row.parts.items() or (("", ""),):
                path = row.path.format(stack=stack, part=own)
                if path in routes:
                    routes[path].append((row, {"stack": stack, "part": part}))
    wrong = [f"{path} is known to {len(found)} rows" for path, found in routes.items() if len(found) != 1]
    require(not wrong, f"A parameter must be known to exactly one row of the table: {'; '.join(wrong)}.")
    return {path: found[0] for path, found in routes.items()}
