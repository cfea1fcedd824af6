"""The variants of a sweep: every change applied to the experiment, and named by what differs."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from research.config import (
    TRAINING_ONLY,
    ConfigError,
    Equal,
    Experiment,
    Model,
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
from research.pretrained import find
from research.storage import run_directory
from research.storage.console import byte_amount
from research.train.preflight import check


class Variant(NamedTuple):
    """What differs from the experiment's file, as text, and the whole config."""

    name: str
    overrides: dict[str, str]
    config: Experiment


class Begun(NamedTuple):
    """A trained run that variants begin from: its name in its sweep, and what they take of it."""

    name: str
    overrides: dict[str, str]


def variants(base: Experiment, changes: Sequence[dict[str, str]], begun: Sequence[Begun] = ()) -> list[Variant]:
    """The base under every change, from every run of `begun` where there are some, named by what differs.

    Raises ConfigError for a change that cannot be applied, for two that give the same config, and for a vocabulary that
    changes under weights that stay.
    """
    named = [
        (",".join(filter(None, (run.name, name))) or "base", run.overrides | change)
        for run in begun or [Begun("", {})]
        for name, change in zip(directory_names(changes), changes, strict=True)
    ]
    sized = [(name, with_steps(base, change)) for name, change in named]
    found = [Variant(name, change, override.apply(base, change)) for name, change in sized]
    configs = [variant.config for variant in found]
    for number, variant in enumerate(found):
        first = configs.index(variant.config)
        require(first == number, f"Variants {first + 1} and {number + 1} are one and the same: {variant.overrides}.")
    alike = {variant.name for variant in found if sum(variant.name == other.name for other in found) > 1}
    require(not alike, f"Variants differ, but their names do not: {', '.join(sorted(alike))}.")
    check_vocabularies(found)
    return found


def check_vocabularies(found: Sequence[Variant]) -> None:
    """Weights were trained with one vocabulary, so those who begin from the same ones cannot have another each."""
    first: dict[str, Variant] = {}
    for variant in found:
        init = variant.config.init
        if init is None:
            continue
        known = first.setdefault(init, variant)
        same = known.config.data.tokenizer == variant.config.data.tokenizer
        said = f"{known.name} and {variant.name} begin from the same weights, {init}, and have other vocabularies"
        require(same, f"{said}: leave data.tokenizer out of the sweep, or train each from random weights.")


def with_steps(base: Experiment, change: dict[str, str]) -> dict[str, str]:
    """The change with a number of steps, where it says that its training shall cost what the base's does."""
    text = change.get("steps", "")
    if not text.startswith("Equal("):
        return change
    cost = total_flops if override.parse(Equal, text, "steps").cost == "flops" else total_tokens
    once = override.apply(base, change | {"steps": "1"})
    return change | {"steps": str(max(1, round(cost(base) / cost(once))))}


def total_flops(config: Experiment) -> int:
    return config.steps * flops.flops_per_step(config, *row_lengths(config))


def total_tokens(config: Experiment) -> int:
    """Of the encoder's and the decoder's rows."""
    return config.steps * config.batch_size * sum(row_lengths(config))


class Place(NamedTuple):
    """What a variant runs on."""

    name: str
    devices: int
    memory: float | int  # bytes a device
    seconds: Callable[[Experiment], float | int | None]  # that its training takes at least; None where not known


def place_of(hardware: Hardware) -> Place:
    """Hardware that is not here, by the roofline."""

    def seconds(config: Experiment) -> float:
        return config.steps * estimate.foresee(config, hardware).times.step

    return Place(hardware.name, hardware.chips, hardware.chip.memory, seconds)


def check_fits(found: Sequence[Variant], place: Place) -> None:
    """Raises ConfigError for a mesh that the devices do not allow, and for a state alone larger than their memory."""
    for variant in found:
        try:
            mesh = abstract_mesh(variant.config.mesh, place.devices)
            check(variant.config, mesh)
        except ConfigError as error:
            raise ConfigError(f"{variant.name} can never run on {place.name}: {error}") from error
        needed, there = device_bytes(variant.config, mesh), place.memory
        said = f"its parameters and optimizer alone are {byte_amount(needed)} a device, which has {byte_amount(there)}"
        mend = "give it a mesh with more of fsdp, or leave it out"
        require(needed <= there, f"{variant.name} can never fit {place.name}: {said}; {mend}.")


# --- What trained runs give -------------------------------------------------------------------------------------------


def begun_from(sweep: Path, base: Experiment) -> tuple[list[Begun], list[str]]:
    """The runs of a sweep that are done, for the base to begin from, and the names of those that are not.

    Weights, architecture and vocabulary are the run's, and so is the seed where the sweep has several. Raises
    ConfigError where the directory holds no sweep, or one of which nothing is done.
    """
    path = sweep / "sweep.json"
    require(path.is_file(), f"{sweep} holds no sweep: there is no sweep.json in it.")
    configs = parse_json(path.read_bytes(), str(path))["variants"]
    done = [name for name, config in configs.items() if run_directory.is_done(sweep / name, config["steps"])]
    require(len(done) > 0, f"Of {sweep} no variant is done: train them first.")
    seeds = {config["seed"] for config in configs.values()}
    runs = []
    for name in done:
        experiment = run_directory.read_config(sweep / name)
        vocabulary = find.saved_vocabulary(sweep / name, experiment.data.tokenizer)
        overrides = {"init": str(sweep / name), "data.tokenizer": override.as_text(vocabulary)}
        overrides |= architecture(experiment.model, base.model)
        runs.append(Begun(name, overrides | ({"seed": str(experiment.seed)} if len(seeds) > 1 else {})))
    return runs, [name for name in configs if name not in done]


def architecture(trained: Model, model: Model) -> dict[str, str]:
    """What makes the model the trained one, as far as its weights depend on it."""
    names = [field.name for field in dataclasses.fields(Model) if field.name not in TRAINING_ONLY]
    pairs = {name: (getattr(trained, name), getattr(model, name)) for name in names}
    return {f"model.{name}": override.as_text(wanted) for name, (wanted, now) in pairs.items() if wanted != now}


# --- A paper's numbers ------------------------------------------------------------------------------------------------


def matched(tables: Sequence[Published], found: Sequence[Variant]) -> list[dict[str, Any]]:
    """The tables as JSON holds them, each row with the names of the variants that it stands for."""
    return [
        {
            "source": table.source,
            "scores": table.scores,
            "lower_is_better": table.lower_is_better,
            "rows": [{"variants": standing_for(row, found), "values": values} for row, values in table.rows],
        }
        for table in tables
    ]


def inherited(sweep: Path, found: Sequence[Variant]) -> list[dict[str, Any]]:
    """The tables of a sweep whose runs the variants begin from: a row stands for what began from its variants."""
    path = sweep / "sweep.json"
    tables = parse_json(path.read_bytes(), str(path)).get("published", [])

    def began(row: dict[str, Any]) -> dict[str, Any]:
        runs = {str(sweep / name) for name in row["variants"]}
        return row | {"variants": [variant.name for variant in found if variant.config.init in runs]}

    return [table | {"rows": [began(row) for row in table["rows"]]} for table in tables]


def standing_for(row: Mapping[str, Any], found: Sequence[Variant]) -> list[str]:
    """The variants whose overrides hold what the row sets."""
    wanted = {name: value if isinstance(value, str) else override.as_text(value) for name, value in row.items()}
    return [variant.name for variant in found if wanted.items() <= variant.overrides.items()]


# --- Names ------------------------------------------------------------------------------------------------------------
