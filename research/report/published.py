"""A paper's numbers beside the measured ones."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from scipy.stats import kendalltau

from research.config.metric import lower_is_better
from research.config.names import short_names
from research.report.comparison import (
    NOT_COMPARABLE,
    Group,
    field_columns,
    is_comparable,
    judged,
)
from research.report.plot import Number
from research.report.record import RunRecord
from research.report.table import Cell, Table


def published_table(published: Mapping[str, Any], groups: Sequence[Group]) -> Table:
    """Make a table of the paper's rows beside the means of the matching groups, with the agreement of their orders."""
    if published.get("columns"):
        return columns_table(published, groups)
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


def columns_table(published: Mapping[str, Any], groups: Sequence[Group]) -> Table:
    """Make a table of the paper's rows with each column beside its own measurement, and the agreement of their orders.

    The runs of a row are measured by `RunRecord.result_of_tasks`; those of a column are its variants.
    """
    names = [str(name) for name in published["scores"]]
    of = {str(record.directory): (group, record) for group in groups for record in group.records}
    rows = [row for row in published["rows"] if any(name in of for name in row["variants"])]
    labels = _labels([[of[name][0] for name in row["variants"] if name in of] for row in rows])
    columns: dict[str, list[Number | None]] = {
        name: [_mean([of[run][1] for run in row["variants"] if run in of and run in variants]) for row in rows]
        for name, variants in published["columns"].items()
        if name in names
    }
    header, shown, taus = ["setting"], [[Cell(label)] for label in labels], []
    for number, name in enumerate(names):
        theirs = [[row["values"][number]] for row in rows]
        if name in columns:
            header.append(f"{name}, here")
            taus.append(agreement([name], [False], False, columns[name], theirs))
        header.append(name)
        for cells, mine, (paper,) in zip(shown, columns.get(name, [None] * len(rows)), theirs, strict=True):
            cells += [_value(mine), _value(paper)] if name in columns else [_value(paper)]
    return Table(str(published["source"]), tuple(header), shown, " ".join(tau for tau in taus if tau))


def _mean(records: Sequence[RunRecord]) -> Number | None:
    found = [record.result_of_tasks() for record in records if record.status == "done"]
    known = [value for value in found if value is not None]
    return statistics.mean(known) if known else None


def _labels(rows: Sequence[Sequence[Group]]) -> list[str]:
    """Name each row by the fields that its groups share and that differ between rows."""
    shared = [
        {name: str(value) for name, value in row[0].fields.items() if all(one.fields.get(name) == value for one in row)}
        for row in rows
    ]
    short = short_names(shared)
    return [", ".join(f"{short[name]}={value}" for name, value in row.items() if name in short) for row in shared]


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
