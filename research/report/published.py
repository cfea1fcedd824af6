"""A paper's numbers beside the measured ones."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from scipy.stats import kendalltau

from research.report.comparison import (
    NOT_COMPARABLE,
    Group,
    field_columns,
    is_comparable,
    judged,
    lower_is_better,
)
from research.report.plot import Number
from research.report.table import Cell, Table


def published_table(published: Mapping[str, Any], groups: Sequence[Group]) -> Table:
    """Make a table of the paper's rows beside the means of the matching groups, with the agreement of their orders."""
    score, names = judged(groups)[0], [str(name) for name in published["scores"]]
    group_of = {str(record.directory): group for group in groups for record in group.records}
    rows = [
        (group, row["values"])
        for row in published["rows"]
        for group in groups
        if any(group_of.get(name) is group for name in row["variants"])
    ]
    means = [statistics.mean(values) if (values := group.values(score)) else None for group, _ in rows]
    columns = field_columns(groups)
    fields = {group.label: cells for group, cells in zip(groups, columns.values_by_group, strict=True)}
    shown = [
        [*fields[group.label], *map(_value, (mean, *theirs))] for (group, theirs), mean in zip(rows, means, strict=True)
    ]
    header = (*columns.names, f"{score.replace('_', ' ')}, here", *names)
    lower = [name in published.get("lower_is_better", ()) for name in names]
    note = NOT_COMPARABLE
    if is_comparable(groups, score):
        note = agreement(names, lower, lower_is_better(score), means, [theirs for _, theirs in rows])
    return Table(str(published["source"]), header, shown, note)


def _value(value: Number | None) -> Cell:
    return Cell("-", raw="") if value is None else Cell(f"{value:.4g}", raw=repr(value))


def agreement(
    names: Sequence[str],
    lower: Sequence[bool],
    ours_lower: bool,
    ours: Sequence[Number | None],
    theirs: Sequence[Sequence[Number | None]],
) -> str:
    """Report Kendall's tau between the order here and each published column: 1 equal, -1 reversed, 0 unrelated."""
    taus = []
    for column, (name, is_lower) in enumerate(zip(names, lower, strict=True)):
        sign = 1 if is_lower == ours_lower else -1
        pairs = [
            (sign * mine, paper)
            for mine, row in zip(ours, theirs, strict=True)
            if mine is not None and (paper := row[column]) is not None
        ]
        if len(pairs) > 2:
            taus.append(f"{name} {kendalltau(*zip(*pairs, strict=True)).statistic:.2f}")
    return f"Kendall's tau of the order here with each published column: {', '.join(taus)}." if taus else ""
