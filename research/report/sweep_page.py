"""The report page of a sweep, or of any set of runs."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from research.config import TEACHER_FORCED, parse_json, require
from research.config.metric import lower_is_better
from research.report import page, run_page
from research.report.chart import LivingCurve, living
from research.report.comparison import (
    NOT_COMPARABLE,
    Group,
    Leaf,
    compared,
    is_comparable,
    judged,
    runs_table,
    scores_table,
    short_fields,
)
from research.report.plot import (
    MOST_NAMED,
    MOST_POINTS,
    SMOOTHED,
    Number,
    Points,
    Series,
    curves,
    dots,
    smoothed,
    thinned,
)
from research.report.published import published_table
from research.report.record import RunRecord, is_number
from research.report.table import Table
from research.storage.console import amount_of
from research.storage.progress import Progress

NOTHING = "{} has no started run: there is nothing to report yet."
MOST_DRAWN = 20_000  # points of a picture
AXES: tuple[tuple[str, Callable[[RunRecord], int]], ...] = (
    ("steps", lambda record: 1),
    ("tokens", lambda record: record.tokens_per_step),
    ("FLOPs", lambda record: record.flops_per_step),
)


def runs_of(sweep: Path) -> tuple[list[Path], list[str], list[dict[str, Any]]]:
    """Return a sweep's started run directories, the names of the other variants, and the published tables.

    The rows of the tables refer to run directories.
    """
    path = sweep / "sweep.json"
    content = parse_json(path.read_bytes(), str(path))
    names = list(content.get("variants", {}))
    started = [name for name in names if (sweep / name / "config.json").is_file()]

    def paths(variants: Sequence[str]) -> list[str]:
        return [str(sweep / name) for name in variants]

    published = [
        table
        | {"rows": [row | {"variants": paths(row["variants"])} for row in table["rows"]]}
        | {"columns": {name: paths(variants) for name, variants in table.get("columns", {}).items()}}
        for table in content.get("published", [])
    ]
    return [sweep / name for name in started], [name for name in names if name not in started], published


def write(
    path: Path, title: str, runs: Sequence[Path], waiting: Sequence[str] = (), published: Sequence[dict[str, Any]] = ()
) -> Path:
    """Write PATH.html, .md, .csv and .tex, and outdated pages of single runs. Raises ConfigError without runs."""
    require(len(runs) > 0, NOTHING.format(path.parent))
    groups = compared(runs)
    stale = [record for group in groups for record in group.records if not run_page.is_fresh(record)]
    with Progress("Pages of runs", len(stale), "runs") as progress:
        for record in stale:
            run_page.write(record)
            progress.advance()
    tables = _tables(groups, published, path.parent)
    return page.write(path, title, body(groups, tables, waiting), tables)


def current(sweep: Path) -> str:
    """Return the content of a sweep's page, and write nothing. Raises ConfigError without runs."""
    runs, waiting, published = runs_of(sweep)
    require(len(runs) > 0, NOTHING.format(sweep))
    groups = compared(runs)
    return body(groups, _tables(groups, published, sweep), waiting)


def _tables(groups: Sequence[Group], published: Sequence[dict[str, Any]], beside: Path) -> list[Table]:
    tables = [scores_table(groups), *(published_table(table, groups) for table in published)]
    return [*(table for table in tables if table.rows), runs_table(groups, beside)]


def body(groups: Sequence[Group], tables: Sequence[Table], waiting: Sequence[str]) -> str:
    count, done = sum(len(group.records) for group in groups), sum(len(group.done) for group in groups)
    summary = f"{amount_of(count, 'run')} of {amount_of(len(groups), 'setting')}, {done} done"
    if waiting:
        summary += f"; {len(waiting)} more not started: {', '.join(waiting[:5])}{' and so on' * (len(waiting) > 5)}"
    unlike_targets = not is_comparable(groups, TEACHER_FORCED[0])
    return "".join(
        (
            page.paragraph(summary, "state"),
            page.section("Scores", tables[0], page.charts(*score_charts(groups))),
            page.section("What was swept", page.charts(*dimension_charts(groups))),
            page.section(
                "Curves",
                *[page.paragraph(NOT_COMPARABLE, "note")] * unlike_targets,
                page.charts(*curve_charts(groups)),
            ),
            page.section("Published", *tables[1:-1]),
            page.section("Every run", tables[-1]),
        )
    )


# --- Scores -----------------------------------------------------------------------------------------------------------


def score_charts(groups: Sequence[Group]) -> list[str]:
    """Plot each score by variant, from the best to the worst."""
    figures = []
    for score in judged(groups):
        known = [(group.label, values) for group in groups if (values := group.values(score))]
        if len(known) < 2 or not is_comparable(groups, score):
            continue
        known.sort(key=lambda item: statistics.mean(item[1]), reverse=not lower_is_better(score))
        direction = "lower is better" if lower_is_better(score) else "higher is better"
        name = score.replace("_", " ")
        drawn = dots(*zip(*known, strict=True), title=f"{name}, {direction}", x_label=name)
        listed = "; ".join(f"{label} {statistics.mean(values):.4g}" for label, values in known)
        figures.append(page.chart(drawn, f"{name} by variant: {listed}.", "One dot per seed, a bar at their mean."))
    return figures


def dimension_charts(groups: Sequence[Group]) -> list[str]:
    """Plot the scores against each swept number, with one line per setting of the other fields."""
    figures = []
    for name in swept_numbers(groups):
        for score in (one for one in judged(groups) if is_comparable(groups, one)):
            series = [line for line in _lines(groups, name, score) if len(line.x) > 1]
            if not series:
                continue
            values = [x for line in series for x in line.x]
            wide = min(values) > 0 and max(values) / min(values) >= 20
            short, score_name = name.split(".")[-1].replace("_", " "), score.replace("_", " ")
            title, log = f"{score_name} against {short}", (wide, False)
            svg = curves(series, title=title, x_label=name, y_label=score_name, logarithmic=log, joined=False)
            best = "; ".join(f"{line.label}: best at {_best(line, score):g}" for line in series)
            lines = [LivingCurve(one.label, list(zip(one.x, one.y, strict=True)), spread=one.spread) for one in series]
            data = living(lines, title=title, x_label=name, y_label=score_name, logarithmic=log)
            alternative, caption = f"{title}. {best}.", "Mean and standard deviation over seeds."
            figures.append(page.living(page.picture(svg, alternative), data, title, alternative, caption))
    return figures


def swept_numbers(groups: Sequence[Group]) -> list[str]:
    """Return the swept numeric fields that are independent.

    Left out are fields determined by an earlier one, as heads are by the width, and steps determined by all others.
    """
    names = list({name: None for group in groups for name in group.fields})
    independent: list[str] = []
    for name in names:
        numeric = any(is_number(group.fields.get(name)) for group in groups)
        rest = [other for other in names if other != name]
        derived = name == "steps" and _follows(groups, name, rest)
        if numeric and not derived and not any(_follows(groups, name, [other]) for other in independent):
            independent.append(name)
    return independent


def _follows(groups: Sequence[Group], name: str, others: Sequence[str]) -> bool:
    """Return True if the other fields determine this one: groups with equal values of them have equal values of it."""
    seen: dict[tuple[Leaf, ...], set[Leaf]] = {}
    for group in groups:
        seen.setdefault(tuple(group.fields.get(other) for other in others), set()).add(group.fields.get(name))
    return all(len(values) == 1 for values in seen.values())


def _lines(groups: Sequence[Group], name: str, score: str) -> list[Series]:
    by_rest: dict[str, list[tuple[float, list[float]]]] = {}
    separating = list({other: None for group in groups for other in group.fields if other != name})
    for other in reversed(separating):  # drop numbers that are determined by the remaining fields
        kept = [field for field in separating if field != other]
        if any(is_number(group.fields.get(other)) for group in groups) and _follows(groups, other, [name, *kept]):
            separating = kept
    for group in groups:
        value, scores = group.fields.get(name), group.values(score)
        if isinstance(value, int | float) and is_number(value) and scores:
            rest = [f"{other.split('.')[-1]}={leaf}" for other, leaf in group.fields.items() if other in separating]
            by_rest.setdefault(", ".join(rest), []).append((float(value), scores))
    lines = []
    for label, points in by_rest.items():
        ordered = sorted(points)
        means = [statistics.mean(scores) for _, scores in ordered]
        spreads = [statistics.stdev(scores) if len(scores) > 1 else 0.0 for _, scores in ordered]
        lines.append(Series(label or "mean", [value for value, _ in ordered], means, spreads))
    return lines


def _best(line: Series, score: str) -> Number:
    choose = min if lower_is_better(score) else max
    return choose(zip(line.y, line.x, strict=True))[1]


# --- Curves -----------------------------------------------------------------------------------------------------------


def curve_charts(groups: Sequence[Group]) -> list[str]:
    """Plot each curve; print and readers without scripts see pictures of it against steps, tokens and FLOPs."""
    names = [("nll", "training nll"), (TEACHER_FORCED[0], "held-out loss")]
    names += [(score, score.replace("_", " ")) for score in judged(groups) if score != TEACHER_FORCED[0]]
    charts = []
    for name, label in names:
        means = {group.label: mean_curve([one.curve(name) for one in group.done or group.records]) for group in groups}
        panels = [(axis, _overlaid(groups, means, name, label, axis, scale)) for axis, scale in AXES]
        if panels[0][1]:
            data = living(_curves(groups, means, name), title=label, y_label=label, settled=True)
            pictures = page.switch(f"axis-{name}", f"{label} against", panels)
            caption = "The y axis covers the last nine tenths of the curves."
            charts.append(
                page.living(pictures, data, label, f"{label} of {amount_of(len(means), 'variant')}.", caption)
            )
    return charts


def _curves(groups: Sequence[Group], means: Mapping[str, Points], name: str) -> list[LivingCurve]:
    """Return the mean of each group and, where any has several seeds, every run."""
    short, smooth = short_fields(groups), name == "nll"  # evaluations are few
    curves_of, several = [], any(len(group.records) > 1 for group in groups)
    for group in groups:
        fields = {short[field]: str(leaf) for field, leaf in group.fields.items()}
        runs = group.done or group.records
        costs = (group.records[0].tokens_per_step, group.records[0].flops_per_step)
        common = LivingCurve("", (), group.label, smooth, fields, costs)
        of_all = f"{group.label}, mean of {amount_of(len(runs), 'seed')}" if len(runs) > 1 else group.label
        clock = mean_curve([run.clock() for run in runs])
        mean = common._replace(name=of_all, points=means[group.label], clock=clock, each=False if several else None)
        curves_of.append(mean)
        for run in group.records if several else ():
            seeded = fields | {"seed": str(run.config.seed)}
            points, clock = run.curve(name), run.clock()
            curves_of.append(common._replace(name=run.name, points=points, fields=seeded, clock=clock, each=True))
    return curves_of


def _overlaid(
    groups: Sequence[Group],
    means: Mapping[str, Points],
    name: str,
    label: str,
    axis: str,
    scale: Callable[[RunRecord], int],
) -> str:
    series, windows = [], set()
    most = max(50, min(MOST_POINTS, MOST_DRAWN // len(groups)))
    for group in groups:
        share = SMOOTHED if name == "nll" else 0.0  # evaluations are few
        points, window = smoothed(means[group.label], share)
        if points:
            windows.add(window)
            factor = scale(group.records[0])
            shown = thinned(points, most)
            series.append(Series(group.label, [step * factor for step, _ in shown], [value for _, value in shown]))
    if not series:
        return ""
    window = max(windows)
    caption = "Mean over seeds" + (f", running mean over {window} lines of metrics." if window > 1 else ".")
    drawn = curves(series, title=f"{label} against {axis}", x_label=axis, y_label=label, settled=True)
    ends = "; ".join(f"{one.label} ends at {one.y[-1]:.4g}" for one in series[:MOST_NAMED])
    if len(series) > MOST_NAMED:
        caption, ends = f"{caption} {len(series)} curves, without a legend.", f"{ends}; and so on"
    return page.picture(drawn, f"{label} against {axis}: {ends}.", caption)


def mean_curve(curves_of_seeds: Sequence[Points]) -> Points:
    """Average curves, ignoring empty ones, at the steps that all of them have."""
    started = [dict(points) for points in curves_of_seeds if points]
    if not started:
        return []
    shared = set(started[0]).intersection(*started[1:])
    return [(step, statistics.mean(points[step] for points in started)) for step in sorted(shared)]
