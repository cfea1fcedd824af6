"""The page of one run: launch summary, curves, events, samples, scores and commands to repeat it."""

import datetime
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from research.config import TEACHER_FORCED, override
from research.report import page
from research.report.chart import LivingCurve, living
from research.report.plot import Number, Points, Series, curves, smoothed, thinned
from research.report.record import RunRecord, is_number, shown_files
from research.report.samples import samples
from research.report.table import Cell, Table
from research.storage.console import amount_of, clock


def write(record: RunRecord) -> Path:
    """Write report.html, .md, .csv and .tex into the run directory."""
    tables = _shown(scores_table(record), summary_table(record), changes_table(record), events_table(record))
    return page.write(record.directory / "report", title(record), body(record), tables)


def title(record: RunRecord) -> str:
    return f"Run {record.name}"


def is_fresh(record: RunRecord) -> bool:
    """Return True if the run has ended and its page is newer than all files that it shows."""
    written = record.directory / "report.html"
    ended = record.status not in ("running", "interrupted") and written.is_file()
    return ended and all(of.st_mtime < written.stat().st_mtime for of in shown_files(record.directory).values())


def body(record: RunRecord) -> str:
    return "".join(
        (
            page.paragraph(state(record), "state"),
            page.section("Scores", *_shown(scores_table(record))),
            page.section("Curves", page.charts(*loss_charts(record))),
            page.section("Launch", *_shown(summary_table(record), changes_table(record)), _config(record)),
            page.section("Speed and health", page.charts(*health_charts(record))),
            page.section("Events", *_shown(events_table(record))),
            page.section("What it writes", *samples(record)),
            page.section("To repeat it", repeat(record)),
        )
    )


def state(record: RunRecord) -> str:
    progress = f"{record.status}, step {record.step:,} of {record.config.steps:,}, {clock(record.seconds)} of steps"
    return f"{progress}: {record.reason}" if record.reason else progress


# --- Curves -----------------------------------------------------------------------------------------------------------


def loss_charts(record: RunRecord) -> list[str]:
    entropy = record.result.get("unigram_entropy")
    known = f"The best possible loss of a model without context is {entropy:.3f}." if is_number(entropy) else ""
    scores = [name for name in record.config.scores if name not in TEACHER_FORCED]
    return [
        _chart(
            record, _both(record, "nll", "held_out_loss"), "Negative log-likelihood", "nats per target token", known
        ),
        _chart(
            record,
            _both(record, "accuracy", "held_out_accuracy"),
            "Accuracy of the next token",
            "share of target tokens",
        ),
        *(_chart(record, [LivingCurve(name, record.curve(name))], name, "score, 0 to 100") for name in scores),
    ]


def health_charts(record: RunRecord) -> list[str]:
    waits = {line["step"]: line["step_seconds"] for line in record.lines if is_number(line.get("step_seconds"))}
    wait = [(step, seconds / waits[step]) for step, seconds in record.curve("data_wait_seconds") if waits.get(step)]
    rate = LivingCurve("tokens per second", record.curve("tokens_per_second"), smooth=True)
    norm = LivingCurve("gradient norm", record.curve("gradient_norm"), smooth=True)
    parameters = LivingCurve("parameters", record.curve("parameter_norm"))
    learning_rate = LivingCurve("learning rate", record.curve("learning_rate"))
    return [
        _chart(record, [rate], "Throughput", "tokens per second, with padding"),
        _chart(record, [LivingCurve("MFU", record.curve("mfu"))], "Model FLOPs utilisation", "share of the peak"),
        _chart(record, [LivingCurve("waiting", wait)], "Waiting for data", "share of a step's time"),
        _chart(record, [norm], "Gradient norm, before clipping", "global norm", log_y=True),
        _chart(record, [parameters], "Norm of the parameters", "global norm"),
        _chart(record, [learning_rate], "Learning rate", "learning rate"),
    ]


def _both(record: RunRecord, training: str, held_out: str) -> list[LivingCurve]:
    return [
        LivingCurve("training", record.curve(training), smooth=True),
        LivingCurve("held out", record.curve(held_out)),
    ]


def _chart(
    record: RunRecord,
    curves_of: Sequence[LivingCurve],
    title: str,
    y_label: str,
    caption: str = "",
    log_y: bool = False,
) -> str:
    """Make a figure of the curves that have points, with a picture of them against the step."""
    known = [curve for curve in curves_of if curve.points]
    if not known:
        return ""
    series, smoothing = list[Series](), ""
    for curve in known:
        drawn, note = _series(curve)
        series, smoothing = series + drawn, smoothing or note
    log_y = log_y and all(value > 0 for one in series for value in one.y)
    svg = curves(series, title=title, x_label="step", y_label=y_label, logarithmic=(False, log_y))
    ends = "; ".join(f"{one.label} ends at {one.y[-1]:.4g}" for one in series if not one.pale)
    alternative = f"{title} against the step: {ends}."
    costs, clock_of = (record.tokens_per_step, record.flops_per_step), record.clock()
    placed = [curve._replace(scales=costs, clock=clock_of) for curve in known]
    data = living(placed, title=title, y_label=y_label, logarithmic=(False, log_y))
    return page.living(page.picture(svg, alternative, smoothing), data, title, alternative, caption)


def _series(curve: LivingCurve) -> tuple[list[Series], str]:
    """Return what a picture shows of a curve, and a caption.

    A curve that may be smoothed is a pale line with its smoothed line, and the caption describes the smoothing.
    """
    smooth, window = smoothed(curve.points) if curve.smooth else (curve.points, 1)
    named = Series(curve.name, *_columns(thinned(smooth)))
    if window == 1:
        return [named], ""
    steps = round(window * (curve.points[-1][0] - curve.points[0][0]) / max(1, len(curve.points) - 1))
    caption = (
        f"{curve.name.capitalize()}: running mean over {window} lines of metrics, {steps:,} steps; the pale line is not"
        " smoothed."
    )
    return [Series(curve.name, *_columns(thinned(curve.points)), pale=True), named], caption


def _columns(points: Points) -> tuple[list[Number], list[Number]]:
    return [x for x, _ in points], [y for _, y in points]


# --- Tables -----------------------------------------------------------------------------------------------------------


def scores_table(record: RunRecord) -> Table:
    line = record.best_line([line for line in record.lines if is_number(line.get(TEACHER_FORCED[0]))])
    note = (
        f"Scores from training are of step {line['step']:,}, the best by {record.config.evaluation.best}."
        if line
        else ""
    )
    rows = [
        [Cell(name.replace("_", " ")), Cell(number(value), raw=repr(value))] for name, value in record.scores().items()
    ]
    return Table("Scores", ("score", "value"), rows, note)


def summary_table(record: RunRecord) -> Table:
    return Table("Launch", ("", "value"), [[Cell(name), Cell(text)] for name, text in record.launch.items()])


def changes_table(record: RunRecord) -> Table:
    rows = [[Cell(name), Cell(before), Cell(after)] for name, (before, after) in record.changes.items()]
    return Table("What differs from the experiment's file", ("field", "in the file", "in this run"), rows)


def events_table(record: RunRecord) -> Table:
    """Make the table of starts, saves, spikes, skipped updates and ends; consecutive saves share a row."""
    rows: list[list[Cell]] = []
    saves: list[int] = []

    def flush() -> None:
        if saves:
            text = f"{len(saves)} checkpoints, to step {saves[-1]:,}" if len(saves) > 1 else "checkpoint"
            rows.append([Cell(f"{saves[0]:,}"), Cell(""), Cell(text)])
            saves.clear()

    for event in record.events:
        if event.get("event") == "checkpoint" and isinstance(event.get("step"), int):
            saves.append(event["step"])
            continue
        flush()
        rows.append(
            [Cell(f"{event.get('step', '')}"), Cell(_time(event.get("time"))), Cell(str(event.get("event", "")))]
        )
    flush()
    return Table("Events", ("step", "time (UTC)", "event"), rows)


def _time(text: Any) -> str:
    try:
        return datetime.datetime.fromisoformat(str(text)).astimezone(datetime.UTC).strftime("%Y-%m-%d %H:%M:%S")
    except ValueError:
        return ""


def number(value: Number) -> str:
    return f"{value:.2f}" if abs(value) >= 10 else f"{value:.4f}"


def _shown(*tables: Table) -> list[Table]:
    return [table for table in tables if table.rows]


def _config(record: RunRecord) -> str:
    return page.folded("The whole config", page.preformatted(override.to_json(record.config)))


# --- Commands ---------------------------------------------------------------------------------------------------------


def repeat(record: RunRecord) -> str:
    if not record.starts:
        return ""
    last = record.starts[-1]
    packages = " ".join(f"{name}=={version}" for name, version in last.get("packages", {}).items())
    commit, differs, _ = str(last.get("commit", "unknown")).partition("+changes")
    installed = commit.startswith("kintsugi ")  # a version: the run did not start from a repository
    lines = (
        f"pip install {commit.replace(' ', '==')}" if installed else f"git checkout {commit}",
        str(last.get("command", "")),
    )
    starts = amount_of(len(record.starts), "start")
    changed = " The source differed from that commit." if differs else ""
    environment = f"Python {last.get('python', '?')} with {packages}, on {last.get('host', '?')}; {starts}."
    return page.preformatted("\n".join(lines)) + page.paragraph(environment + changed, "note")
