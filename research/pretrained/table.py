"""Tables that map foreign tensors to parameters, for reading and for writing; each side must match exactly once.

A foreign name is a template, such as "encoder.block.{layer}.layer.0.SelfAttention.{part}.weight": {stack} is encoder or
decoder, {layer} a number, and {part} one of the keys of the row's `parts`.
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
from research.pretrained.shards import Converted, ShardBuffer

STACKS = ("encoder", "decoder")


class Transform(NamedTuple):
    """The conversion of a foreign array to ours, and its inverse."""

    read: Callable[[np.ndarray, Model], np.ndarray]
    write: Callable[[np.ndarray, Model], np.ndarray]


AS_IS = Transform(lambda array, model: array, lambda array, model: array)
TRANSPOSED = Transform(lambda array, model: array.T, lambda array, model: array.T)
# [h * k, d] <-> [d, h, k]: the matrices of query, key and value.
HEADS_OUT = Transform(
    lambda array, model: array.reshape(model.heads, model.head_width, array.shape[-1]).transpose(2, 0, 1),
    lambda array, model: array.transpose(1, 2, 0).reshape(-1, array.shape[0]),
)
# [d, h * k] <-> [h, k, d]: the output matrix of attention.
HEADS_IN = Transform(
    lambda array, model: array.reshape(array.shape[0], model.heads, model.head_width).transpose(1, 2, 0),
    lambda array, model: array.reshape(-1, array.shape[-1]).T,
)
# The same two for [input, output] matrices, in T5X and Marian: [d, h * k] <-> [d, h, k] ...
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
    """A mapping of the tensor named `foreign` to the parameter at `path`, or to one layer if the name has {layer}.

    `parts` translates {part} between the two names; `first` is the number of the first layer. Writing skips a row if
    the model does not have its parameter.
    """

    foreign: str
    path: str
    transform: Transform = AS_IS
    parts: Mapping[str, str] = {}
    first: int = 0


class Alias(NamedTuple):
    """A tensor that fills no parameter: it must equal the tensor named `original`, or with None is ignored.

    `written` decides whether writing adds the copy.
    """

    foreign: str
    original: str | None
    written: bool = False


class FixedTensor(NamedTuple):
    """A tensor that fills no parameter: it must have the shape, and equal `value()` to within `tolerance`."""

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
    """Convert tensors with foreign names to float32 parameters; error messages call them `source`.

    The result has NumPy arrays, or with `shardings` (a tree with one for every parameter) JAX arrays. Tensors are read
    one at a time, and only the shards of this process are kept. Parameters whose complete path matches one of the
    expressions in `fresh` are left out, and the tensors that would fill them are not read.

    Raises:
        ConfigError: a tensor does not match exactly one row, a parameter is not filled exactly once, a shape or a type
            does not fit, or a copy differs from its original; the message lists all of these. Also raised if an
            expression in `fresh` matches nothing.
    """
    layered = any("{layer}" in row.foreign for row in rows)
    layers = model.encoder_layers + model.decoder_layers if layered else 0
    require(layers <= len(tensors), f"{source} holds {len(tensors)} tensors, too few for {layers} layers.")
    shapes = {path: leaf.shape for path, leaf in flatten_dict(abstract_params(model), sep="/").items()}
    left_out = fresh_paths(shapes, fresh)
    sources, errors = _sources(tensors, rows, shapes)
    placements = flatten_dict(shardings, sep="/") if shardings is not None else dict.fromkeys(shapes)
    params = {}
    for path in sorted(shapes.keys() - left_out):
        layers_of_path = _layer_paths(path, shapes[path])
        errors += [f"nothing fills {_spell(layer)}" for layer in layers_of_path if layer not in sources]
        filled = {sources[layer].name: sources[layer] for layer in layers_of_path if layer in sources}
        params[path], wrong = _fill(tensors, filled.values(), path, shapes[path], placements[path], model)
        errors += wrong
    require(not errors, f"{source} does not hold the weights of this model: {'; '.join(errors)}.")
    return unflatten_dict(params, sep="/")


def layer_count(names: Iterable[str], layer: str, stack: str, path: Path) -> int:
    """Count the layers of a stack: names start with `stack` and the expression `layer`; its group is the layer's index.

    Raises:
        ConfigError: the file at `path` has no such layers.
    """
    numbers = {int(match[1]) for name in names if (match := re.match(stack + layer, name))}
    require(bool(numbers), f"{path} has no {stack} layers.")
    return max(numbers) + 1


def fresh_paths(paths: Iterable[str], fresh: Sequence[str]) -> set[str]:
    """Return the paths that fully match one of the expressions; raise ConfigError if an expression matches none."""
    paths = sorted(paths)
    matched: set[str] = set()
    for expression in fresh:
        matches = {path for path in paths if re.fullmatch(expression, path)}
        require(bool(matches), f"init_fresh: {expression!r} matches no parameter; there are {', '.join(paths)}.")
        matched |= matches
    return matched


def _sources(
    tensors: Mapping[str, np.ndarray], rows: TensorRows, shapes: Mapping[str, tuple[int, ...]]
) -> tuple[dict[LayerPath, LayerTensor], list[str]]:
    """Return the tensor that fills each parameter or layer, and errors about the tensors' names and copies."""
    sources: dict[LayerPath, LayerTensor] = {}
    errors = []
    for name in tensors:
        matches = [(row, match) for row in rows if (match := _pattern(row).fullmatch(name))]
        match matches:
            case [(Row() as row, match)]:
                path, layer = _destination(row, match)
                own = _layer_paths(path, shapes[path]) if path in shapes else []
                for target in own if layer is None and own else [(path, layer)]:
                    if target not in own:
                        errors.append(f"{name} is for {_spell(target)}, which the model does not have")
                    elif target in sources:
                        errors.append(f"{name} is for {_spell(target)}, which is already filled")
                    else:
                        sources[target] = LayerTensor(name, row, layer)
            case [(row, _)]:
                errors += _check(tensors, name, row)
            case _:
                errors.append(f"{name} matches {len(matches)} rows of the table instead of one")
    return sources, errors


def _check(tensors: Mapping[str, np.ndarray], name: str, row: Row | Alias | FixedTensor) -> list[str]:
    """Return the errors of a tensor that fills no parameter."""
    match row:
        case Alias(original=str(original)):
            if original not in tensors or not np.array_equal(tensors[name], tensors[original]):
                return [f"{name} differs from {original}, but the configuration makes it a copy"]
        case FixedTensor(shape=shape, value=value, tolerance=tolerance):
            array = tensors[name]
            if array.shape != shape or not np.allclose(np.float32(array), value(), rtol=0, atol=tolerance):
                return [f"{name} does not have the values that the configuration implies"]
    return []


def _pattern(row: Row | Alias | FixedTensor) -> re.Pattern[str]:
    return _compiled(row.foreign, tuple(row.parts) if isinstance(row, Row) else ())


@cache
def _compiled(foreign: str, parts: tuple[str, ...]) -> re.Pattern[str]:
    """Compile a template to a regular expression; each name in braces becomes a group with that name."""
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


def _layer_paths(path: str, shape: tuple[int, ...]) -> list[LayerPath]:
    return [(path, layer) for layer in (range(shape[0]) if shape and "/layers/" in path else (None,))]


def _fill(
    tensors: Mapping[str, np.ndarray],
    sources: Iterable[LayerTensor],
    path: str,
    shape: tuple[int, ...],
    sharding: NamedSharding | Converted | None,
    model: Model,
) -> tuple[Any, list[str]]:
    """Return a parameter filled from its sources, or the errors in them."""
    buffer, errors = None, []
    for name, row, layer in sources:
        tensor, expected = tensors[name], shape if layer is None else shape[1:]
        if not jnp.issubdtype(tensor.dtype, jnp.floating):
            errors.append(f"{name} is of type {tensor.dtype}, not floating")
            continue
        try:
            converted = row.transform.read(tensor, model)
        except (ValueError, IndexError):  # the array cannot even be reshaped
            converted = None
        if converted is not None and converted.shape == expected:
            buffer = buffer or ShardBuffer(shape, sharding)  # allocated only once a tensor fits
            buffer.fill(converted, layer)
        else:
            target = _spell((path, layer))
            errors.append(f"{name} has shape {tensor.shape}, which does not fit {target} of shape {expected}")
    return (None if errors or buffer is None else buffer.finish()), errors


def _spell(target: LayerPath) -> str:
    path, layer = target
    return path if layer is None else f"{path} of layer {layer}"


# --- Writing ----------------------------------------------------------------------------------------------------------


def check_shapes(params: Params, model: Model) -> None:
    """Raise ConfigError if the parameters' names or shapes are not those of the model."""
    fit = jax.tree.map(np.shape, params) == jax.tree.map(lambda leaf: leaf.shape, abstract_params(model))
    require(fit, "The parameters' names and shapes are not those of the model's configuration.")


def foreign_tensors(params: Params, rows: TensorRows, model: Model) -> Iterator[tuple[str, np.ndarray]]:
    """Yield every tensor that the table makes from the parameters, with its foreign name, in float32."""
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
    """Map each parameter to the row that writes it, with the values of {stack} and {part} in the foreign name."""
    routes: dict[str, list[tuple[Row, dict[str, str]]]] = {path: [] for path in flat}
    for row in rows:
        if not isinstance(row, Row):
            continue
        for stack in STACKS if "{stack}" in row.foreign else ("",):
            for part, own in row.parts.items() or (("", ""),):
                path = row.path.format(stack=stack, part=own)
                if path in routes:
                    routes[path].append((row, {"stack": stack, "part": part}))
    wrong = [f"{path} matches {len(matches)} rows" for path, matches in routes.items() if len(matches) != 1]
    require(not wrong, f"A parameter must match exactly one row of the table: {'; '.join(wrong)}.")
    return {path: matches[0] for path, matches in routes.items()}
