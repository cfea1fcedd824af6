"""The page of a sweep, or of any runs beside one another."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from scipy.stats import kendalltau

from research.config import FORCED, parse_json, require
from research.report import page, run_page
from research.report.comparison import (
    UNLIKE,
    Group,
    Leaf,
    compared,
    field_columns,
    is_comparable,
    lower_is_better,
    runs_table,
    scores_table,
)
from research.report.plot import SMOOTHED, Number, Points, Series, curves, dots, smoothed, thinned
from research.report.record import RunRecord, is_number
from research.report.table import Cell, Table
from research.storage.progress import Progress

AXES: tuple[tuple[str, Callable[[RunRecord], int]], ...] = (
    ("steps", lambda record: 1),
    ("tokens", lambda record: record.tokens_per_step),
    ("FLOPs", lambda record: record.flops_per_step),
)


def runs_of(sweep: Path) -> tuple[list[Path], list[str], list[dict[str, Any]]]:
    """The run directories of a sweep that have begun, the names of those that have not, and a paper's tables.

    The tables' rows name run directories.
    """
    path = sweep / "sweep.json"
    content = parse_json(path.read_bytes(), str(path))
    names = list(content.get("variants", {}))
    begun = [name for name in names if (sweep / name / "config.json").is_file()]
    published = [
        table | {"rows": [row | {"variants": [str(sweep / name) for name in row["variants"]]} for row in table["rows"]]}
        for table in content.get("published", [])
    ]
    return [sweep / name for name in begun], [name for name in names if name not in begun], published


def write(
    path: Path, title: str, runs: Sequence[Path], waiting: Sequence[str] = (), published: Sequence[dict[str, Any]] = ()
) -> Path:
    """Writes PATH.html, .md, .csv and .tex, and every run's own page. Raises ConfigError where there is no run yet."""
    require(len(runs) > 0, f"{path.parent} holds no run that has begun: there is nothing to report yet.")
    groups = compared(runs)
    stale = [record for group in groups for record in group.records if not run_page.is_fresh(record)]
    with Progress("Pages of runs", len(stale), "runs") as progress:
        for record in stale:
            run_page.write(record)
            progress.advance()
    tables = [scores_table(groups), *(published_table(table, groups) for table in published)]
    tables = [*(table for table in tables if table.rows), runs_table(groups, path.parent)]
    return page.write(path, title, body(groups, tables, waiting), tables)


def body(groups: Sequence[Group], tables: Sequence[Table], waiting: Sequence[str]) -> str:
    count, done = sum(len(group.records) for group in groups), sum(len(group.done) for group in groups)
    said = f"{len(groups)} variants, {count} runs, {done} of them done"
    if waiting:
        said += f"; {len(waiting)} not begun: {', '.join(waiting[:5])}{' and so on' * (len(waiting) > 5)}"
    unlike = not is_comparable(groups, FORCED[0])
    return "".join(
        (
            page.paragraph(said, "state"),
            page.section("Scores", tables[0], page.charts(*score_charts(groups))),
            page.section("What was swept", page.charts(*dimension_charts(groups))),
            page.section("Curves", *[page.paragraph(UNLIKE, "note")] * unlike, page.charts(*curve_switches(groups))),
            page.section("Published", *tables[1:-1]),
            page.section("Every run", tables[-1]),
        )
    )


# --- Scores -----------------------------------------------------------------------------------------------------------


def judged(groups: Sequence[Group]) -> list[str]:
    """The scores that are drawn: what evaluations are judged by, and the held-out loss."""
    best = [group.records[0].config.evaluation.best for group in groups]
    return list(dict.fromkeys([*best, FORCED[0]]))


def score_charts(groups: Sequence[Group]) -> list[str]:
    """The variants from the best to the worst."""
    found = []
    for score in judged(groups):
        known = [(group.label, values) for group in groups if (values := group.values(score))]
        if len(known) < 2 or not is_comparable(groups, score):
            continue
        known.sort(key=lambda item: statistics.mean(item[1]), reverse=not lower_is_better(score))
        direction = "lower is better" if lower_is_better(score) else "higher is better"
        name = score.replace("_", " ")
        drawn = dots(*zip(*known, strict=True), title=f"{name}, {direction}", x_label=name)
        said = "; ".join(f"{label} {statistics.mean(values):.4g}" for label, values in known)
        found.append(page.chart(drawn, f"{name} by variant: {said}.", "A dot a seed, a bar at their mean."))
    return found


def dimension_charts(groups: Sequence[Group]) -> list[str]:
    """For each number that was swept, the scores against it: a line for what else is alike."""
    found = []
    for name in swept_numbers(groups):
        for score in (one for one in judged(groups) if is_comparable(groups, one)):
            series = [line for line in _lines(groups, name, score) if len(line.x) > 1]
            if not series:
                continue
            values = [x for line in series for x in line.x]
            wide = min(values) > 0 and max(values) / min(values) >= 20
            short, said = name.split(".")[-1].replace("_", " "), score.replace("_", " ")
            drawn = curves(
                series, title=f"{said} against {short}", x_label=name, y_label=said, logarithmic=(wide, False),
                joined=False,
            )  # fmt: skip
            best = "; ".join(f"{line.label}: best at {_best(line, score):g}" for line in series)
            found.append(
                page.chart(drawn, f"{said} against {short}. {best}.", "Mean and standard deviation over seeds.")
            )
    return found


def swept_numbers(groups: Sequence[Group]) -> list[str]:
    """Not those that follow from one before them, as heads do from the width, nor steps that follow from the rest."""
    names = list({name: None for group in groups for name in group.fields})
    found: list[str] = []
    for name in names:
        numeric = any(is_number(group.fields.get(name)) for group in groups)
        rest = [other for other in names if other != name]
        derived = name == "steps" and _follows(groups, name, rest)
        if numeric and not derived and not any(_follows(groups, name, [other]) for other in found):
            found.append(name)
    return found


def _follows(groups: Sequence[Group], name: str, others: Sequence[str]) -> bool:
    """Whether groups that agree in the others agree in it."""
    seen: dict[tuple[Leaf, ...], set[Leaf]] = {}
    for group in groups:
        seen.setdefault(tuple(group.fields.get(other) for other in others), set()).add(group.fields.get(name))
    return all(len(values) == 1 for values in seen.values())


def _lines(groups: Sequence[Group], name: str, score: str) -> list[Series]:
    by_rest: dict[str, list[tuple[float, list[float]]]] = {}
    apart = list({other: None for group in groups for other in group.fields if other != name})
    for other in reversed(apart):  # of numbers, those that say nothing more
        kept = [it for it in apart if it != other]
        if any(is_number(group.fields.get(other)) for group in groups) and _follows(groups, other, [name, *kept]):
            apart = kept
    for group in groups:
        value, scores = group.fields.get(name), group.values(score)
        if isinstance(value, int | float) and is_number(value) and scores:
            said = [f"{other.split('.')[-1]}={leaf}" for other, leaf in group.fields.items() if other in apart]
            by_rest.setdefault(", ".join(said), []).append((float(value), scores))
    found = []
    for rest, points in by_rest.items():
        ordered = sorted(points)
        means = [statistics.mean(scores) for _, scores in ordered]
        spreads = [statistics.stdev(scores) if len(scores) > 1 else 0.0 for _, scores in ordered]
        found.append(Series(rest or "mean", [value for value, _ in ordered], means, spreads))
    return found


def _best(line: Series, score: str) -> Number:
    choose = min if lower_is_better(score) else max
    return choose(zip(line.y, line.x, strict=True))[1]


# --- Curves -----------------------------------------------------------------------------------------------------------


def curve_switches(groups: Sequence[Group]) -> list[str]:
    """Each curve against steps, tokens or FLOPs."""
    wanted = [("nll", "training loss"), (FORCED[0], "held-out loss")]
    wanted += [(score, score.replace("_", " ")) for score in judged(groups) if score != FORCED[0]]
    found = []
    for name, said in wanted:
        panels = [(axis, _overlaid(groups, name, said, axis, scale)) for axis, scale in AXES]
        if panels[0][1]:
            found.append(page.switch(f"axis-{name}", f"{said} against", panels))
    return found


def _overlaid(groups: Sequence[Group], name: str, said: str, axis: str, scale: Callable[[RunRecord], int]) -> str:
    series, windows = [], set()
    for group in groups:
        share = SMOOTHED if name == "nll" else 0.0  # evaluations are few
        points, window = smoothed(mean_curve([record.curve(name) for record in group.done or group.records]), share)
        if points:
            windows.add(window)
            factor = scale(group.records[0])
            shown = thinned(points)
            series.append(Series(group.label, [step * factor for step, _ in shown], [value for _, value in shown]))
    if not series:
        return ""
    window = max(windows)
    caption = "The mean over seeds" + (f"; the running mean over {window} lines of metrics." if window > 1 else ".")
    caption += " The scale is that of the last nine tenths."
    drawn = curves(series, title=f"{said} against {axis}", x_label=axis, y_label=said, settled=True)
    ends = "; ".join(f"{one.label} ends at {one.y[-1]:.4g}" for one in series)
    return page.chart(drawn, f"{said} against {axis}: {ends}.", caption)


def mean_curve(curves_of_seeds: Sequence[Points]) -> Points:
    """At the steps that all of the curves have that have begun."""
    begun = [dict(points) for points in curves_of_seeds if points]
    if not begun:
        return []
    shared = set(begun[0]).intersection(*begun[1:])
    return [(step, statistics.mean(points[step] for points in begun)) for step in sorted(shared)]


# --- A paper's numbers ------------------------------------------------------------------------------------------------


def published_table(published: Mapping[str, Any], groups: Sequence[Group]) -> Table:
    """The paper's rows beside the mean of what stands for each here, and how far the two orders agree."""
    score, names = judged(groups)[0], [str(name) for name in published["scores"]]
    standing = {str(record.directory): group for group in groups for record in group.records}
    rows = [
        (group, row["values"])
        for row in published["rows"]
        for group in groups
        if any(standing.get(name) is group for name in row["variants"])
    ]
    means = [statistics.mean(values) if (values := group.values(score)) else None for group, _ in rows]
    columns = field_columns(groups)
    fields = {group.label: cells for group, cells in zip(groups, columns.values_by_group, strict=True)}
    shown = [
        [*fields[group.label], *map(_value, (mean, *theirs))] for (group, theirs), mean in zip(rows, means, strict=True)
    ]
    header = (*columns.names, f"{score.replace('_', ' ')}, here", *names)
    lower = [name in published.get("lower_is_better", ()) for name in names]
    note = UNLIKE
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
    """Kendall's tau of the order here with that of each published column: 1 the same, -1 the reverse, 0 unrelated."""
    said = []
    for column, (name, is_lower) in enumerate(zip(names, lower, strict=True)):
        sign = 1 if is_lower == ours_lower else -1
        pairs = [
            (sign * mine, paper)
            for mine, row in zip(ours, theirs, strict=True)
            if mine is not None and (paper := row[column]) is not None
        ]
        if len(pairs) > 2:
            said.append(f"{name} {kendalltau(*zip(*pairs, strict=True)).statistic:.2f}")
    return f"Kendall's tau of the order here with each published column: {', '.join(said)}." if said else ""
