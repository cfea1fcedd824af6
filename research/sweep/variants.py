"""The variants of a sweep: each change applied to the experiment and named after the fields that differ."""

import dataclasses
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from research.config import (
    TRAINING_ONLY,
    ConfigError,
    Equal,
    Experiment,
    Model,
    ModelTokenizer,
    Pretrained,
    Published,
    override,
    parse_json,
    require,
)
from research.config.names import directory_names
from research.data.shapes import row_lengths
from research.model import flops
from research.parallel.hardware import Hardware
from research.parallel.mesh import abstract_mesh
from research.plan import estimate
from research.plan.memory import device_bytes
from research.pretrained.run_files import saved_vocabulary
from research.storage import run_directory
from research.storage.console import byte_amount
from research.train.preflight import check


class Variant(NamedTuple):
    """One variant: its name, its overrides of the experiment's file as text, and its whole config."""

    name: str
    overrides: dict[str, str]
    config: Experiment


class SourceRun(NamedTuple):
    """A trained run from which variants start: its name in its sweep, and the overrides that they take from it."""

    name: str
    overrides: dict[str, str]


def variants(base: Experiment, changes: Sequence[dict[str, str]], sources: Sequence[SourceRun] = ()) -> list[Variant]:
    """Apply every change to the base, once per source run if there are any, and name each variant after its changes.

    Raises ConfigError for a change that cannot be applied, for two changes that give the same config, and for variants
    that start from the same weights with different vocabularies.
    """
    named = [
        (",".join(filter(None, (run.name, name))) or "base", run.overrides | change)
        for run in sources or [SourceRun("", {})]
        for name, change in zip(directory_names(changes), changes, strict=True)
    ]
    sized = [(name, with_steps(base, change)) for name, change in named]
    found = [Variant(name, change, override.apply(base, change)) for name, change in sized]
    numbers: dict[Experiment, int] = {}
    for number, variant in enumerate(found):
        first = numbers.setdefault(variant.config, number)
        require(first == number, f"Variants {first + 1} and {number + 1} are identical: {variant.overrides}.")
    alike = [name for name, count in Counter(variant.name for variant in found).items() if count > 1]
    require(not alike, f"These variants differ, but have equal names: {', '.join(sorted(alike))}.")
    check_vocabularies(found)
    return found


def check_vocabularies(found: Sequence[Variant]) -> None:
    """Raise ConfigError for variants that start from the same weights with different vocabularies."""
    first: dict[str, Variant] = {}
    for variant in found:
        init = variant.config.weights
        if init is None:
            continue
        known = first.setdefault(init, variant)
        same = known.config.data.tokenizer == variant.config.data.tokenizer
        message = f"{known.name} and {variant.name} start from the same weights, {init}, with different vocabularies"
        require(same, f"{message}: leave data.tokenizer out of the sweep, or train each from random weights.")


def with_steps(base: Experiment, change: dict[str, str]) -> dict[str, str]:
    """Replace `steps=Equal(...)` in a change with the number of steps that makes it cost as much as the base."""
    text = change.get("steps", "")
    if not text.startswith("Equal("):
        return change
    cost = total_flops if override.parse(Equal, text, "steps").cost == "flops" else total_tokens
    once = override.apply(base, change | {"steps": "1"})
    return change | {"steps": str(max(1, round(cost(base) / cost(once))))}


def total_flops(config: Experiment) -> int:
    return config.steps * flops.flops_per_step(config, *row_lengths(config))


def total_tokens(config: Experiment) -> int:
    """Count the tokens of all encoder and decoder rows of a training, padding included."""
    return config.steps * config.batch_size * sum(row_lengths(config))


class Machine(NamedTuple):
    """The devices that a variant runs on."""

    name: str
    devices: int
    memory: float | int  # bytes per device
    seconds: Callable[[Experiment], float | int | None]  # lower bound of its training time; None if unknown


def remote_machine(hardware: Hardware) -> Machine:
    """Describe hardware that is not attached, with times estimated by the roofline."""

    def seconds(config: Experiment) -> float:
        return config.steps * estimate.estimate_run(config, hardware).times.step

    return Machine(hardware.name, hardware.chips, hardware.chip.memory, seconds)


def check_fits(found: Sequence[Variant], machine: Machine) -> None:
    """Raise ConfigError for a mesh that does not fit the devices, or a training state that exceeds their memory."""
    for variant in found:
        try:
            mesh = abstract_mesh(variant.config.mesh, machine.devices)
            check(variant.config, mesh)
        except ConfigError as error:
            raise ConfigError(f"{variant.name} can never run on {machine.name}: {error}") from error
        needed, available = device_bytes(variant.config, mesh), machine.memory
        reason = (
            f"parameters and optimizer state alone need {byte_amount(needed)} per device,"
            f" which has {byte_amount(available)}"
        )
        hint = "raise mesh.fsdp, or leave this variant out"
        require(needed <= available, f"{variant.name} can never fit {machine.name}: {reason}; {hint}.")


# --- Source runs ------------------------------------------------------------------------------------------------------


def source_runs(sweep: Path, base: Experiment) -> tuple[list[SourceRun], list[str]]:
    """Return the finished runs of a sweep, for the base to start from, and the names of the unfinished ones.

    Weights, architecture and vocabulary are those of the run, and so is the seed if the sweep has several. Raises
    ConfigError if the directory holds no sweep, or a sweep without a finished run.
    """
    path = sweep / "sweep.json"
    require(path.is_file(), f"{sweep} holds no sweep: it has no sweep.json.")
    configs = parse_json(path.read_bytes(), str(path))["variants"]
    done = [name for name, config in configs.items() if run_directory.is_done(sweep / name, config["steps"])]
    require(len(done) > 0, f"{sweep} has no finished variant: train its variants first.")
    seeds = {config["seed"] for config in configs.values()}
    runs = []
    for name in done:
        experiment = run_directory.read_last_config(sweep / name)
        vocabulary = saved_vocabulary(sweep / name, experiment.data.tokenizer)
        overrides = {"data.tokenizer": override.as_text(vocabulary)}
        if isinstance(base.data.tokenizer, ModelTokenizer):
            overrides = {}
        overrides |= started_from(str(sweep / name), experiment.model, base.model)
        runs.append(SourceRun(name, overrides | ({"seed": str(experiment.seed)} if len(seeds) > 1 else {})))
    return runs, [name for name in configs if name not in done]


def started_from(path: str, trained: Model, model: Model) -> dict[str, str]:
    """Return the overrides that give `model` the weights and the architecture of the run at `path`."""
    if not isinstance(model, Pretrained):
        return {"init": path} | architecture(trained, model)
    own = {name: getattr(model, name) for name in TRAINING_ONLY}
    generation = {} if model.generation is None else {"generation": model.generation}
    return {"model": override.as_text(Pretrained(path, **own, **generation))}


def architecture(trained: Model, model: Model) -> dict[str, str]:
    """Return the overrides that give `model` the architecture of `trained`, as far as the weights depend on it."""
    names = [field.name for field in dataclasses.fields(Model) if field.name not in TRAINING_ONLY]
    pairs = {name: (getattr(trained, name), getattr(model, name)) for name in names}
    return {f"model.{name}": override.as_text(new) for name, (new, old) in pairs.items() if new != old}


# --- A paper's numbers ------------------------------------------------------------------------------------------------


def matched(tables: Sequence[Published], found: Sequence[Variant]) -> list[dict[str, Any]]:
    """Return the tables as JSON data, each row with the names of the variants that it matches."""
    return [
        {
            "source": table.source,
            "scores": table.scores,
            "lower_is_better": table.lower_is_better,
            "rows": [{"variants": matching_variants(row, found), "values": values} for row, values in table.rows],
        }
        for table in tables
    ]


def inherited(sweep: Path, found: Sequence[Variant]) -> list[dict[str, Any]]:
    """Return the tables of the source sweep, each row with the names of the variants that start from its runs."""
    path = sweep / "sweep.json"
    tables = parse_json(path.read_bytes(), str(path)).get("published", [])

    def renamed(row: dict[str, Any]) -> dict[str, Any]:
        runs = {str(sweep / name) for name in row["variants"]}
        return row | {"variants": [variant.name for variant in found if variant.config.weights in runs]}

    return [table | {"rows": [renamed(row) for row in table["rows"]]} for table in tables]


def with_columns(
    tables: Sequence[dict[str, Any]], columns: Mapping[str, Mapping[str, Any]], found: Sequence[Variant]
) -> list[dict[str, Any]]:
    """Add to each table the names of the variants that measure each of its columns.

    Raises ConfigError if a column is in no table.
    """
    known = {name for table in tables for name in table["scores"]}
    unknown = sorted(set(columns) - known) if tables else []
    require(not unknown, f"columns() names {', '.join(unknown)}: the published tables have {', '.join(sorted(known))}.")
    measured = {name: matching_variants(changes, found) for name, changes in columns.items()}
    return [table | {"columns": measured} if measured else table for table in tables]


def matching_variants(row: Mapping[str, Any], found: Sequence[Variant]) -> list[str]:
    """Return the names of the variants that have all overrides of the row."""
    settings = {name: value if isinstance(value, str) else override.as_text(value) for name, value in row.items()}
    return [variant.name for variant in found if settings.items() <= variant.overrides.items()]
