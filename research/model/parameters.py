"""The table of parameters. Sharding, factored optimizers and muP are derived from its rows.

A row is (pattern, stored axes, axes read). The pattern must match a parameter's whole path, `encoder/norm/scale`, and
every path must match exactly one row. Axes have one letter each:

l  layers           h  heads                 v  vocabulary
d  model width      k  head width            n  positions, or buckets of relative position
                    f  feed-forward width

Any other letter, such as the rank r of an adapter, is an axis that is not sharded. The axes read are those that the
product with a matrix sums over. A row that reads none is not a matrix: a bias, a scale, or a table of biases. An
embedding has the row of a tied head, which reads the width.

Derived from it:
  - sharding: v is split over (tensor, fsdp) and padded to fit, h and f over tensor, the d of a hidden matrix over fsdp;
  - Adafactor and RMS scaling: statistics are per layer, along the axes read and along the others;
  - muP: the growth of a hidden matrix is the size of its axes read over their size in the base model.

A model that adds parameters lists their rows in `Model.parameters`.
"""

from collections.abc import Iterator, Mapping

from jax.sharding import PartitionSpec

from research.config import Model, require
from research.config.adapter import WEIGHT
from research.config.optimizer import Parameter
from research.model.parametrization import growth
from research.parallel.padding import VOCABULARY
from research.parallel.rules import Tree, flatten, map_by_path, match_once, unflatten

ParameterRow = tuple[str, str, str]
ParameterTable = tuple[ParameterRow, ...]

PARAMETERS: ParameterTable = (
    (r"(source_)?embedding", "vd", "d"),
    (r"head", "dv", "d"),
    (r"logits_bias", "v", ""),
    (r"(en|de)coder/position_embedding", "nd", "d"),
    (r"(en|de)coder/relative_bias", "nh", ""),
    (r"(en|de)coder/layers/self_attention/relative_bias", "lnh", ""),
    (r"(en|de)coder/layers/\w+_attention/(query|key|value)/weight", "ldhk", "d"),
    (r"(en|de)coder/layers/\w+_attention/(query|key|value)/bias", "lhk", ""),
    (r"(en|de)coder/layers/\w+_attention/output/weight", "lhkd", "hk"),
    (r"(en|de)coder/layers/\w+_attention/output/bias", "ld", ""),
    (r"(en|de)coder/layers/feed_forward/(gate|up)/weight", "ldf", "d"),
    (r"(en|de)coder/layers/feed_forward/(gate|up)/bias", "lf", ""),
    (r"(en|de)coder/layers/feed_forward/down/weight", "lfd", "f"),
    (r"(en|de)coder/layers/feed_forward/down/bias", "ld", ""),
    (r"(en|de)coder/layers/\w+_norm/(scale|bias)", "ld", ""),
    (r"(en|de)coder/(embedding_)?norm/(scale|bias)", "d", ""),
)

INT8, SCALE = "int8", "scale"  # of a weight that an adapter keeps in int8

# The mesh axes that split an axis of a parameter. The embedding and the head are split along the vocabulary alone: with
# the width split too, XLA's partitioner falls back to gathering the whole table.
SPLIT = {"v": VOCABULARY, "h": ("tensor",), "f": ("tensor",)}
SPLIT_IF_HIDDEN = {"d": ("fsdp",)}


def table_of(model: Model) -> ParameterTable:
    """Return the shipped rows, and those that the model and its adapter add."""
    rows = (*PARAMETERS, *model.parameters)
    if model.adapter is None:
        return rows
    integers = _quantized_rows(rows) if model.adapter.frozen == "int8" else ()
    return (*rows, *model.adapter.rows(rows), *integers)


def _quantized_rows(rows: ParameterTable) -> Iterator[ParameterRow]:
    """Yield the rows of weights in int8 and of their scales, whose size is 1 along the axes read."""
    for pattern, axes, reads in rows:
        if pattern.endswith(WEIGHT) and reads:
            yield f"{pattern}/{INT8}", axes, reads
            yield f"{pattern}/{SCALE}", "".join(str(reads.index(axis)) if axis in reads else axis for axis in axes), ""


def parameters(params: Tree, model: Model) -> dict[str, Parameter]:
    """Return the axes and muP's growth of each parameter, by path. Raise ConfigError if the table does not fit."""
    found = _matched(params, table_of(model))
    return {
        path: Parameter(axes, reads, growth(model, reads) if _is_hidden(axes, reads) else 1.0)
        for path, (axes, reads) in found.items()
    }


def param_specs(params: Tree, table: ParameterTable = PARAMETERS) -> Tree:
    """Return a PartitionSpec for each parameter."""
    return unflatten({path: spec(axes, reads) for path, (axes, reads) in _matched(params, table).items()})


def state_specs(state: Tree, params: Tree, table: ParameterTable = PARAMETERS) -> Tree:
    """Return a PartitionSpec for each leaf of an optimizer's state (any pytree), in the structure of the state.

    A leaf is split as a parameter if its path ends in the parameter's path and its axes have the parameter's sizes, or
    size 1 where they were averaged; axes of size 1 are not split. All other leaves (counters, statistics of other
    shapes) are replicated.
    """
    specs, shapes = flatten(param_specs(params, table)), {path: leaf.shape for path, leaf in flatten(params).items()}

    def of_leaf(path: str, shape: tuple[int, ...]) -> PartitionSpec:
        parts = path.split("/")
        names = ("/".join(parts[start:]) for start in range(len(parts)))
        name = next((name for name in names if name in shapes), None)  # the longest name
        if name is None or not _keeps_axes(shape, shapes[name]):
            return PartitionSpec()
        axes = zip(shape, shapes[name], specs[name], strict=True)
        return PartitionSpec(*(axis if size == whole else None for size, whole, axis in axes))

    return map_by_path(lambda path, leaf: of_leaf(path, leaf.shape), state)


def spec(axes: str, reads: str) -> PartitionSpec:
    """Return the PartitionSpec of a parameter. Each mesh axis splits the first axis of the parameter that allows it."""
    split = SPLIT | (SPLIT_IF_HIDDEN if _is_hidden(axes, reads) else {})
    used: set[str] = set()
    entries: list[str | tuple[str, ...] | None] = []
    for axis in axes:
        over = split.get(axis, ())
        over = () if used & set(over) else over
        used |= set(over)
        entries.append(over if len(over) > 1 else over[0] if over else None)
    return PartitionSpec(*entries)


def _is_hidden(axes: str, reads: str) -> bool:
    """Tell whether a parameter is a matrix whose two sides both grow with the model; tables and heads are not."""
    return bool(reads) and not set(axes) & set("vn")


def _keeps_axes(shape: tuple[int, ...], whole: tuple[int, ...]) -> bool:
    return len(shape) == len(whole) and all(size in (1, full) for size, full in zip(shape, whole, strict=True))


def _matched(params: Tree, table: ParameterTable) -> Mapping[str, tuple[str, str]]:
    """Match rows to parameters: stored axes and axes read, by path. Raise ConfigError for an invalid row."""
    for pattern, axes, reads in table:
        good = len(set(axes)) == len(axes) and set(reads) <= set(axes) - {"l"}
        require(
            good,
            f"The row {pattern!r} of the parameters' table has axes {axes!r} and reads {reads!r}: letters differ, and"
            " the axes read must be among the axes, without l.",
        )
    flat = flatten(params)
    found = match_once([(pattern, (axes, reads)) for pattern, axes, reads in table], flat)
    for path, leaf in flat.items():
        axes = found[path][0]
        require(
            len(axes) == len(leaf.shape),
            f"Parameter {path} has shape {tuple(leaf.shape)}, and its row of the parameters' table the axes {axes!r}:"
            " give one letter for each axis.",
        )
    return found
