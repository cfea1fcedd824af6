"""Runs beside one another: what differs between them, seeds taken together, and their scores with the spread."""

import dataclasses
import json
import os
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from research.config import FORCED, Experiment, override
from research.config.names import short_names
from research.model import flops
from research.model.transformer import abstract_params
from research.pretrained.find import run_of
from research.report.record import RunRecord, read_all
from research.report.table import Cell, Table
from research.storage import run_directory
from research.storage.console import amount

# What decides no number; and seeds, which are taken together.
APART = (
    *(name for name in run_directory.CHANGEABLE if name not in ("steps", "evaluation")),
    "evaluation.samples",
    "seed",
)
# What decides which tokens are targets: losses a token of unlike targets say nothing beside one another.
TARGETS = ("data.objective", "data.denoisers", "data.tokenizer", "data.corpora", "data.tasks")
UNLIKE = "The targets are not the same, so that losses and accuracies a token cannot be compared with one another."
MOST_COLUMNS = 4  # of fields that differ; where there are more, they are one column

Leaf = str | int | float | bool | None
Fields = dict[str, Leaf]  # by dotted name; a dataclass is the name of its class, and its fields


class Group(NamedTuple):
    """Runs that differ in their seed alone."""

    label: str
    fields: Fields  # what differs from other groups; under "init." what differs of the runs that they began from
    records: list[RunRecord]

    @property
    def done(self) -> list[RunRecord]:
        return [record for record in self.records if record.status == "done"]

    def values(self, score: str) -> list[float]:
        """Of the runs that are done."""
        return [found[score] for found in (record.scores() for record in self.done) if score in found]


def compared(directories: Sequence[Path]) -> list[Group]:
    """The runs in groups, in the order of the directories.

    Raises:
        ConfigError: a directory holds no run, or is given twice.
    """
    records = read_all(directories)
    seen = [identity(record.config, record.directory) for record in records]
    names = differing(seen)
    found: dict[str, tuple[Fields, list[RunRecord]]] = {}
    for record, fields in zip(records, seen, strict=True):
        kept = {name: fields[name] for name in names if name in fields}
        found.setdefault(json.dumps(kept), (kept, []))[1].append(record)
    short = short_names([{name: str(value) for name, value in fields.items()} for fields, _ in found.values()])
    return [
        Group(", ".join(f"{short[name]}={value}" for name, value in fields.items()) or runs[0].name, fields, runs)
        for fields, runs in found.values()
    ]


def identity(config: Experiment, directory: Path) -> Fields:
    """What decides a run's numbers, but for its seed, and what decided those of the run that it began from."""
    fields = {name: leaf for name, leaf in leaves(config, "") if not _within(name, APART)}
    origin = None if config.init is None else _origin(config.init, directory)
    if origin is None:
        return fields
    before = identity(run_directory.read_config(origin), origin)
    kept = {name: leaf for name, leaf in fields.items() if name not in ("init", "data.tokenizer.path")}
    began = Path(str(config.init))
    at = began.name if began.parent.name == "checkpoints" else "newest"
    of_origin = {f"init.{name}": leaf for name, leaf in before.items() if name}
    return kept | {"init": "a run", "init.checkpoint": at} | of_origin


def _origin(init: str, directory: Path) -> Path | None:
    """The run directory that was begun from: as it was named, or beside this one."""
    named = Path(init)
    for path in (named, directory.parent.parent / named.parent.name / named.name):
        if (found := run_of(path)) is not None:
            return Path(str(found))
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
    """The names under which runs differ whose classes above are the same: what one class alone has is no difference."""
    found: dict[tuple[str, ...], dict[str, set[Leaf]]] = {}
    for fields in seen:
        for name, leaf in fields.items():
            above = tuple(str(fields.get(outer)) for outer in _outer(name))
            found.setdefault((name, *above), {}).setdefault(name, set()).add(leaf)
    many = {name for by_name in found.values() for name, values in by_name.items() if len(values) > 1}
    return [name for name in {name: None for fields in seen for name in fields} if name in many]


def _outer(name: str) -> list[str]:
    parts = name.split(".")
    return ["", *(".".join(parts[:count]) for count in range(1, len(parts)))]


def _within(name: str, fields: Sequence[str]) -> bool:
    return any(name == field or name.startswith(f"{field}.") for field in fields)


# --- Tables -----------------------------------------------------------------------------------------------------------


def score_names(groups: Sequence[Group]) -> list[str]:
    return list({name: None for group in groups for record in group.records for name in record.scores()})


def lower_is_better(score: str) -> bool:
    return score.endswith("loss")


def is_comparable(groups: Sequence[Group], score: str) -> bool:
    """Whether it means the same in all groups, as a loss a token does not where the targets differ."""
    of_tokens = score in FORCED or score.endswith("loss")
    names = {name for group in groups for name in group.fields if not name.endswith(".train")}  # as what is held out
    return not of_tokens or not any(name == "data" or _within(name, TARGETS) for name in names)


def scores_table(groups: Sequence[Group]) -> Table:
    """A row a group: what differs, how many seeds are done, the mean and the spread of every score."""
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
    note = "Mean ± standard deviation over the seeds that are done; no spread of one alone. Tokens are those of rows."
    if not all(is_comparable(groups, name) for name in names):
        note += f" {UNLIKE}"
    return Table("Scores", header, rows, note)


class Columns(NamedTuple):
    names: list[str]
    values_by_group: list[list[Cell]]


def field_columns(groups: Sequence[Group]) -> Columns:
    names = list({name: None for group in groups for name in group.fields})
    if not names or len(names) > MOST_COLUMNS:
        return Columns(["variant"], [[Cell(group.label)] for group in groups])
    short = short_names([{name: str(leaf) for name, leaf in group.fields.items()} for group in groups])
    shown = [[Cell(str(group.fields.get(name, "-"))) for name in names] for group in groups]
    return Columns([short[name].replace("_", " ") for name in names], shown)


def costs(group: Group) -> list[Cell]:
    """Parameters, and FLOPs and tokens up to the step that was reached."""
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
    """Every run, with how far it is and a link to its page."""
    names, rows = score_names(groups), []
    broken = any(record.reason for group in groups for record in group.records)
    for group in groups:
        for record in group.records:
            found = record.scores()
            link = os.path.relpath(record.directory / "report.html", beside)
            cells = [Cell(record.name, link=link), Cell(str(record.config.seed)), Cell(record.status)]
            cells.append(Cell(f"{record.step:,} of {record.config.steps:,}"))
            cells += [score_cell([found[name]], False) if name in found else Cell("-") for name in names]
            rows.append([*cells, Cell(record.reason)] if broken else cells)
    header = ["run", "seed", "state", "step", *(name.replace("_", " ") for name in names)]
    return Table("Every run", [*header, "why it is not done"] if broken else header, rows)
