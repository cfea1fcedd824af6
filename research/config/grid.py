"""Variants of an experiment, as lists of dicts of dotted overrides, and functions that combine them.

    def sweep():
        return product(grid({"optimizer.schedule.peak": (1e-3, 3e-3)}), seeds(3))

A sweep is a list, so conditions are plain Python: [variant for variant in grid(...) if ...]. Values are config
objects, or text as on the command line.
"""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from research.config.base import require
from research.config.model import Model

Overrides = dict[str, Any]


@dataclass(frozen=True)
class Equal:
    """A value of `steps`: as many as make the training cost equal to that of get_config(), in FLOPs or tokens.

    Tokens count the encoder's and the decoder's rows.
    """

    cost: Literal["flops", "tokens"] = "flops"


@dataclass(frozen=True)
class Published:
    """A paper's numbers for variants of a sweep. A row matches the variants that have its overrides.

    A value is None if the paper does not report it.
    """

    source: str  # the paper and its table
    scores: tuple[str, ...]  # names of the columns
    rows: tuple[tuple[Overrides, tuple[float | None, ...]], ...]
    lower_is_better: tuple[str, ...] = ()  # subset of the columns

    def __post_init__(self) -> None:
        for variant, values in self.rows:
            count, columns = len(values), len(self.scores)
            message = f"Published numbers of {variant} are {count}: {self.source} has {columns} columns."
            require(count == columns, message)
        unknown = sorted(set(self.lower_is_better) - set(self.scores))
        require(not unknown, f"lower_is_better names {', '.join(unknown)}, which is not a column of {self.source}.")


def grid(choices: Mapping[str, Iterable[Any]]) -> list[Overrides]:
    """Return every combination of the fields' values; the last field changes fastest."""
    values = [list(options) for options in choices.values()]
    return [dict(zip(choices, combination, strict=True)) for combination in itertools.product(*values)]


def together(choices: Mapping[str, Sequence[Any]]) -> list[Overrides]:
    """Zip the fields' values: all first values, all second values, ... Raise ConfigError if their counts differ."""
    counts = {name: len(values) for name, values in choices.items()}
    require(len(set(counts.values())) <= 1, f"together needs equally many values of each field: there are {counts}.")
    return [dict(zip(choices, combination, strict=True)) for combination in zip(*choices.values(), strict=True)]


def chain(*sweeps: Iterable[Overrides]) -> list[Overrides]:
    """Concatenate sweeps."""
    return list(itertools.chain(*sweeps))


def product(*sweeps: Iterable[Overrides]) -> list[Overrides]:
    """Combine each variant of a sweep with each of the others. Raise ConfigError if two sweeps set the same field."""
    variants = []
    for parts in itertools.product(*map(list, sweeps)):
        names = [name for part in parts for name in part]
        twice = sorted({name for name in names if names.count(name) > 1})
        require(not twice, f"product: {', '.join(twice)} is set by several of the sweeps.")
        variants.append({name: value for part in parts for name, value in part.items()})
    return variants


def seeds(count: int) -> list[Overrides]:
    """Return variants with the seeds 0 to count - 1."""
    return grid({"seed": range(count)})


def widths(model: Model, sizes: Iterable[int]) -> list[Overrides]:
    """Return variants of other widths, with heads and feed-forward in proportion and the same head width.

    Raise ConfigError if that gives a fraction.
    """
    variants = []
    for size in sizes:
        scaled = {"width": size, "heads": model.heads * size, "feed_forward": model.feed_forward * size}
        for name in ("heads", "feed_forward"):
            whole = size > 0 and scaled[name] % model.width == 0
            message = f"A model of width {model.width} cannot be scaled to width {size}: model.{name} would be"
            require(whole, f"{message} {scaled[name] / model.width:g}.")
            scaled[name] //= model.width
        variants.append({f"model.{name}": value for name, value in scaled.items()})
    return variants


def equal(variants: Iterable[Overrides], cost: Literal["flops", "tokens"] = "flops") -> list[Overrides]:
    """Set the steps of each variant so that its training cost equals that of get_config()."""
    return product(variants, [{"steps": Equal(cost)}])
