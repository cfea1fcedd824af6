"""Comparison of runs: the fields that differ, seeds grouped together, and scores with their standard deviation."""

import dataclasses
import json
import os
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from research.config import TEACHER_FORCED, Experiment, override
from research.config.metric import lower_is_better
from research.config.names import short_names
from research.model import flops
from research.model.transformer import abstract_params
from research.pretrained.run_files import run_of
from research.report.record import RunRecord, read_all
from research.report.table import Cell, Table
from research.storage import run_directory
from research.storage.console import amount, amount_of

# Fields that do not affect results, and the seed: runs that differ only in these form one group.
IGNORED_FIELDS = (
    *(name for name in run_directory.CHANGEABLE if name not in ("steps", "evaluation", "data.tasks.*.metrics")),
    "evaluation.samples",
    "seed",
)
# Fields that determine the target tokens: per-token losses of different targets are not comparable.
TARGETS = (
    *("data.objective", "data.denoisers", "data.tokenizer", "data.corpora", "data.tasks"),
    *("data.unlabelled.objective", "data.unlabelled.corpora"),
)
# Fields that locate the run that a run starts from, in whose place its own fields are compared.
WHERE = (
    *("init", "model.path", "model.tokenizer.path", "model.tokenizer.vocabulary.path"),
    *("data.tokenizer.path", "data.tokenizer.vocabulary.path", "data.tokenizer.vocabulary.vocabulary.path"),
)
NOT_COMPARABLE = "The targets differ between variants, so their per-token losses and accuracies are not comparable."
MOST_COLUMNS = 4  # for differing fields; if more fields differ, they share one column

Leaf = str | int | float | bool | None
Fields = dict[str, Leaf]  # by dotted name; a dataclass gives the name of its class, and its fields


class Group(NamedTuple):
    """Runs that differ only in their seed."""

    label: str
    fields: Fields  # those that differ between groups; "init." prefixes fields of the runs they start from
    records: list[RunRecord]

    @property
    def done(self) -> list[RunRecord]:
        return [record for record in self.records if record.status == "done"]

    def values(self, score: str) -> list[float]:
        """Return a score of every run that is done and has it."""
        return [scores[score] for scores in (record.scores() for record in self.done) if score in scores]


def compared(directories: Sequence[Path]) -> list[Group]:
    """Read the runs and group them, in the order of the directories.

    Raises:
        ConfigError: a directory holds no run, or is given twice.
    """
    records = read_all(directories)
    seen = [identity(record.config, record.directory) for record in records]
    names = differing(seen)
    grouped: dict[str, tuple[Fields, list[RunRecord]]] = {}
    for record, fields in zip(records, seen, strict=True):
        kept = {name: fields[name] for name in names if name in fields}
        grouped.setdefault(json.dumps(kept), (kept, []))[1].append(record)
    short = short_names([{name: str(value) for name, value in fields.items()} for fields, _ in grouped.values()])
    return [
        Group(", ".join(f"{short[name]}={value}" for name, value in fields.items()) or _common_name(runs), fields, runs)
        for fields, runs in grouped.values()
    ]


def _common_name(runs: Sequence[RunRecord]) -> str:
    """Return what the names of the only group's runs have in common; the parts of a variant's name have commas."""
    parts = [run.name.split(",") for run in runs]
    return ",".join(part for part in parts[0] if all(part in other for other in parts)) or amount_of(len(runs), "run")


def identity(config: Experiment, directory: Path) -> Fields:
    """Return the fields that affect a run's results, except the seed, and those of the run that it started from."""
    fields = {name: leaf for name, leaf in leaves(config, "") if not _within(name, IGNORED_FIELDS)}
    origin = None if config.weights is None else _origin(config.weights, directory)
    if origin is None:
        return fields
    before = identity(run_directory.read_recorded(origin)[0], origin)
    kept = {name: leaf for name, leaf in fields.items() if name not in WHERE}
    source = Path(str(config.weights))
    checkpoint = source.name if source.parent.name == "checkpoints" else "newest"
    of_origin = {f"init.{name}": leaf for name, leaf in before.items() if name}
    kept["model"] = type(config.model.plain).__name__
    return kept | {"init": "a run", "init.checkpoint": checkpoint} | of_origin


def _origin(init: str, directory: Path) -> Path | None:
    """Find the run directory that this run started from: at the path of `init`, or in a sweep beside this one."""
    named = Path(init)
    for path in (named, directory.parent.parent / named.parent.name / named.name):
        if (run := run_of(path)) is not None:
            return Path(str(run))
    return None


def leaves(value: Any, path: str) -> Iterator[tuple[str, Leaf]]:
    if dataclasses.is_dataclass(value):
        yield path, type(value).__name__
        for field in dataclasses.fields(value):
            yield from leaves(getattr(value, field.name), f"{path}.{field.name}".lstrip("."))
    elif isinstance(value, tuple) and any(map(dataclasses.is_dataclass, value)):
        yield path, len(value)
        for number, item in enumerate(value):
            yield from leaves(item, f"{path}.{number}")
    elif isinstance(value, tuple):
        yield path, override.as_text(value)
    else:
        yield path, value


def differing(seen: Sequence[Fields]) -> list[str]:
    """Return the names of fields with different values in runs whose enclosing classes are equal.

    A field that only one of two classes has is not a difference; the class itself is.
    """
    seen_values: dict[tuple[str, ...], dict[str, set[Leaf]]] = {}
    for fields in seen:
        for name, leaf in fields.items():
            above = tuple(str(fields.get(outer)) for outer in _outer(name))
            seen_values.setdefault((name, *above), {}).setdefault(name, set()).add(leaf)
    many = {name for by_name in seen_values.values() for name, values in by_name.items() if len(values) > 1}
    return [name for name in {name: None for fields in seen for name in fields} if name in many]


def _outer(name: str) -> list[str]:
    parts = name.split(".")
    return ["", *(".".join(parts[:count]) for count in range(1, len(parts)))]


def _within(name: str, fields: Sequence[str]) -> bool:
    return any(name == field or name.startswith(f"{field}.") for field in fields)


# --- Tables -----------------------------------------------------------------------------------------------------------


def score_names(groups: Sequence[Group]) -> list[str]:
    return list({name: None for group in groups for record in group.records for name in record.scores()})


def judged(groups: Sequence[Group]) -> list[str]:
    """Return the scores to plot: the metrics for the best checkpoint, and the held-out loss."""
    best = [group.records[0].config.evaluation.best for group in groups]
    return list(dict.fromkeys([*best, TEACHER_FORCED[0]]))


def is_comparable(groups: Sequence[Group], score: str) -> bool:
    """Return True if a score is comparable between all groups; per-token scores of different targets are not."""
    of_tokens = score in TEACHER_FORCED or score.endswith("loss")
    names = {name for group in groups for name in group.fields if not name.endswith(".train")}  # held-out data is equal
    return not of_tokens or not any(name in ("data", "data.unlabelled") or _within(name, TARGETS) for name in names)


def scores_table(groups: Sequence[Group]) -> Table:
    """Make a table with a row per group: differing fields, finished seeds, costs, mean and deviation of each score."""
    names = score_names(groups)
    columns = field_columns(groups)
    rows = [
        [*fields, Cell(f"{len(group.done)} of {len(group.records)}"), *costs(group)]
        for fields, group in zip(columns.values_by_group, groups, strict=True)
    ]
    for name in names:
        means = [statistics.mean(values) if (values := group.values(name)) else None for group in groups]
        known = [mean for mean in means if mean is not None]
        judged = len(known) > 1 and is_comparable(groups, name)
        best = (min if lower_is_better(name) else max)(known) if judged else None
        for row, group, mean in zip(rows, groups, means, strict=True):
            row.append(score_cell(group.values(name), mean is not None and mean == best))
    header = (
        *columns.names,
        "done",
        "parameters",
        "FLOPs",
        "tokens",
        *(name.replace("_", " ") for name in names),
    )
    note = (
        "The runs of a row differ at most in their seed: mean ± standard deviation over finished seeds; a single seed"
        " has no deviation. Tokens include padding."
    )
    if not all(is_comparable(groups, name) for name in names):
        note += f" {NOT_COMPARABLE}"
    return Table("Scores", header, rows, note)


class Columns(NamedTuple):
    names: list[str]
    values_by_group: list[list[Cell]]


def field_columns(groups: Sequence[Group]) -> Columns:
    names = list({name: None for group in groups for name in group.fields})
    if not names or len(names) > MOST_COLUMNS:
        return Columns(["variant"], [[Cell(group.label)] for group in groups])
    short = short_fields(groups)
    shown = [[Cell(str(group.fields.get(name, "-"))) for name in names] for group in groups]
    return Columns([short[name].replace("_", " ") for name in names], shown)


def short_fields(groups: Sequence[Group]) -> dict[str, str]:
    """Map the dotted names of the fields that differ to short ones."""
    return short_names([{name: str(leaf) for name, leaf in group.fields.items()} for group in groups])


def costs(group: Group) -> list[Cell]:
    """Make the cells for parameters, and for FLOPs and tokens up to the last step."""
    record = group.records[0]
    step = max(one.step for one in group.records)
    parameters = flops.parameter_count(abstract_params(record.config.model))
    counts = (parameters, step * record.flops_per_step, step * record.tokens_per_step)
    return [Cell(amount(count), raw=str(count)) for count in counts]


def score_cell(values: Sequence[float | int], best: bool) -> Cell:
    if not values:
        return Cell("-", raw="")
    mean = statistics.mean(values)
    digits = 2 if abs(mean) >= 10 else 4
    spread = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return Cell(f"{mean:.{digits}f}{spread}", best, raw=repr(mean))


def runs_table(groups: Sequence[Group], beside: Path) -> Table:
    """Make a table of every run, with its progress and a link to its page."""
    names, rows = score_names(groups), []
    any_failed = any(record.reason for group in groups for record in group.records)
    for group in groups:
        for record in group.records:
            scores = record.scores()
            link = os.path.relpath(record.directory / "report.html", beside)
            cells = [Cell(record.name, link=link), Cell(str(record.config.seed)), Cell(record.status)]
            cells.append(Cell(f"{record.step:,} of {record.config.steps:,}"))
            cells += [score_cell([scores[name]], False) if name in scores else Cell("-") for name in names]
            rows.append([*cells, Cell(record.reason)] if any_failed else cells)
    header = ["run", "seed", "state", "step", *(name.replace("_", " ") for name in names)]
    return Table("Every run", [*header, "why it is not done"] if any_failed else header, rows)
