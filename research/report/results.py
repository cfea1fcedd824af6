"""Runs as tables of pandas, for notebooks: a row for each run with its fields and scores, and their curves."""

import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from research.config import ConfigError, require
from research.model import flops
from research.model.transformer import abstract_params
from research.report.comparison import compared
from research.report.record import RunRecord, is_number, read_all
from research.report.sweep_page import runs_of
from research.storage.console import amount_of


def results(*directories: str | os.PathLike[str]) -> Any:
    """Return a pandas table with a row for each run of the sweeps and runs in these directories.

    Columns: `run` (its name), `variant` (its differing fields in words, without the seed), `seed`, a column for each
    field that differs, by its dotted name, and for each score (`RunRecord.scores`), then `state`, `reason`, `step`
    (the last), `steps` (planned), `parameters`, `tokens` (of encoder and decoder up to the last step, with padding),
    `flops`, `seconds` (of steps) and `directory`. What a run does not have is missing.

    Raises:
        ConfigError: pandas is not installed, or a directory holds neither a run nor a sweep with a run.
    """
    pandas, runs = _pandas(), _runs(directories)
    groups = compared(runs)
    names = _names([record for group in groups for record in group.records])
    fields = list({name: None for group in groups for name in group.fields})
    rows = []
    for group in groups:
        parameters = flops.parameter_count(abstract_params(group.records[0].config.model))
        for record in group.records:
            known: dict[str, Any] = {"run": names[record.directory], "variant": group.label, "seed": record.config.seed}
            known |= {name: group.fields.get(name) for name in fields} | record.scores()
            known |= {"state": record.status, "reason": record.reason, "step": record.step}
            known |= {"steps": record.config.steps, "parameters": parameters, **_costs(record, record.step)}
            rows.append(known | {"seconds": record.seconds, "directory": str(record.directory)})
    table = pandas.DataFrame(rows)
    after = list(rows[0])[list(rows[0]).index("state") :]  # scores that only later runs have were added behind these
    return table[[*(name for name in table.columns if name not in after), *after]]


def curves(*directories: str | os.PathLike[str], names: Sequence[str] | None = None) -> Any:
    """Return a pandas table with a row for each number that the runs in these directories have recorded.

    Columns: `run`, as in `results`; `step`; `tokens` and `flops` up to that step; `name`, such as "nll" or
    "held_out_loss"; and `value`. More than 4,000 lines of training are averaged to fewer. `names` chooses some.

    Raises:
        ConfigError: as by `results`, or no run has recorded one of the names.
    """
    pandas, records = _pandas(), read_all(_runs(directories))
    labels = _names(records)
    rows = [
        (labels[record.directory], line["step"], *_costs(record, line["step"]).values(), name, float(value))
        for record in records
        for line in record.lines
        for name, value in line.items()
        if name not in ("step", "steps") and is_number(value)
    ]
    known = {name for *_, name, _ in rows}
    unknown = sorted(set(names or ()) - known)
    require(not unknown, f"No run has recorded {' or '.join(unknown)}: there are {', '.join(sorted(known))}.")
    chosen = [row for row in rows if names is None or row[-2] in names]
    return pandas.DataFrame(chosen, columns=["run", "step", "tokens", "flops", "name", "value"])


def _costs(record: RunRecord, step: int) -> dict[str, int]:
    return {"tokens": step * record.tokens_per_step, "flops": step * record.flops_per_step}


def _names(records: Sequence[RunRecord]) -> dict[Path, str]:
    """Name runs by their directories, and by the whole paths where two directories have the same name."""
    names = [record.name for record in records]
    return {
        record.directory: name if names.count(name) == 1 else str(record.directory)
        for record, name in zip(records, names, strict=True)
    }


def _runs(directories: Sequence[str | os.PathLike[str]]) -> list[Path]:
    """Find the started runs of sweeps, and the runs among the directories; warn of variants that have not started."""
    require(len(directories) > 0, 'Give the directory of a sweep or of a run, such as "sweeps/NAME".')
    runs: list[Path] = []
    for directory in map(Path, directories):
        if not (directory / "sweep.json").is_file():
            runs.append(directory)
            continue
        started, waiting, _ = runs_of(directory)
        require(len(started) > 0, f"{directory} has no started run: there is nothing to read yet.")
        if waiting:
            left_out = f"{directory}: {amount_of(len(waiting), 'variant')} not started, so without a row here."
            warnings.warn(left_out, stacklevel=3)
        runs += started
    return runs


def _pandas() -> Any:
    try:
        import pandas
    except ModuleNotFoundError:
        raise ConfigError("Tables of results need pandas: pip install 'kintsugi[notebook]'.") from None
    return pandas
