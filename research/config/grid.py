"""Variants of an experiment: dicts of dotted overrides, put together.

    def sweep():
        return product(grid({"optimizer.schedule.peak": (1e-3, 3e-3)}), seeds(3))

A sweep is a list, so what is conditional is Python: [variant for variant in grid(...) if ...]. Values are the
config's own objects, or text as on the command line.
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
    """In the place of a number of steps: so many that the whole training costs what that of get_config() does.

    Tokens are those of the encoder's and the decoder's rows.
    """

    cost: Literal["flops", "tokens"] = "flops"


@dataclass(frozen=True)
class Published:
    """A paper's numbers for variants of a sweep; a row stands for the variants that set what it sets.

    A value is None where the paper has none.
    """

    source: str  # the paper, and which of its tables
    scores: tuple[str, ...]  # the columns
    rows: tuple[tuple[Overrides, tuple[float | None, ...]], ...]
    lower_is_better: tuple[str, ...] = ()  # of the columns

    def __post_init__(self) -> None:
        for variant, values in self.rows:
            count, there = len(values), len(self.scores)
            require(count == there, f"Published numbers of {variant} are {count}: {self.source} has {there} columns.")
        unknown = sorted(set(self.lower_is_better) - set(self.scores))
        require(not unknown, f"lower_is_better names {', '.join(unknown)}, which is no column of {self.source}.")


def grid(choices: Mapping[str, Iterable[Any]]) -> list[Overrides]:
    """Every combination of the fields' values, the last field changing fastest."""
    values = [list(of_one) for of_one in choices.values()]
    return [dict(zip(choices, combination, strict=True)) for combination in itertools.product(*values)]


def together(choices: Mapping[str, Sequence[Any]]) -> list[Overrides]:
    """The fields' first values, their second ones, and so on. Raises ConfigError where they are not as many."""
    counts = {name: len(values) for name, values in choices.items()}
    require(len(set(counts.values())) <= 1, f"together takes as many values of each field: there are {counts}.")
    return [dict(zip(choices, combination, strict=True)) for combination in zip(*choices.values(), strict=True)]


def chain(*sweeps: Iterable[Overrides]) -> list[Overrides]:
    """One sweep after the other."""
    return list(itertools.chain(*sweeps))


def product(*sweeps: Iterable[Overrides]) -> list[Overrides]:
    """Each variant of one sweep with each of the others. Raises ConfigError where two of them set one field."""
    found = []
    for parts in itertools.product(*map(list, sweeps)):
        names = [name for part in parts for name in part]
        twice = sorted({name for name in names if names.count(name) > 1})
        require(not twice, f"product: {', '.join(twice)} is set by several of the sweeps.")
        found.append({name: value for part in parts for name, value in part.items()})
    return found


def seeds(count: int) -> list[Overrides]:
    """Seeds 0 to count - 1."""
    return grid({"seed": range(count)})


def widths(model: Model, sizes: Iterable[int]) -> list[Overrides]:
    """The model at other widths, with as many more heads of the same width and as much more of the feed-forward.

    Raises ConfigError where that gives no whole numbers.
    """
    found = []
    for size in sizes:
        scaled = {"width": size, "heads": model.heads * size, "feed_forward": model.feed_forward * size}
        for name in ("heads", "feed_forward"):
            whole = size > 0 and scaled[name] % model.width == 0
            said = f"{size} is no width to scale a model of width {model.width} to: model.{name} would be"
            require(whole, f"{said} {scaled[name] / model.width:g}.")
            scaled[name] //= model.width
        found.append({f"model.{name}": value for name, value in scaled.items()})
    return found


def equal(variants: Iterable[Overrides], cost: Literal["flops", "tokens"] = "flops") -> list[Overrides]:
    """The variants, each with as many steps as make its training cost what that of get_config() does."""
    return product(variants, [{"steps": Equal(cost)}])
