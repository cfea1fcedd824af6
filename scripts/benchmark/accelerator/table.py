"""The results as a table: plain text for a terminal, Markdown for a page."""

from importlib import import_module
from typing import Any

from scripts.benchmark.accelerator.phase import Phase, TableRows

Record = dict[str, Any]
Results = list[tuple[Phase, Record]]


def text(results: Results) -> str:
    lines = []
    for phase, record in results:
        lines += ["", f"{phase.name} ({state(record)}): {command(phase, record)}"]
        lines += [f"  {name:<46} {value}" for name, value in rows(phase, record)]
    return "\n".join([*provenance(results), *lines, "", *verdict(results)])


def markdown(results: Results) -> str:
    lines = []
    for phase, record in results:
        found = [f"| {_cell(name)} | {_cell(value)} |" for name, value in rows(phase, record)]
        lines += ["", f"`{command(phase, record)}` ({state(record)})"]
        lines += ["", "| figure | value |", "| --- | --- |", *found] if found else []
    return "\n".join([*provenance(results), *lines, "", *verdict(results)])


def verdict(results: Results) -> list[str]:
    return problems(results) or ["Every phase is done, and nothing is wrong."]


def _cell(value: str) -> str:
    return value.replace("|", "\\|")


def rows(phase: Phase, record: Record) -> TableRows:
    """Format the figures of a phase, by its own module; none if it has none."""
    if not record.get("figures"):
        return []
    try:
        return import_module(phase.module).rows(record["figures"])
    except KeyError as missing:  # it was stopped before it had this figure
        return [("figures", f"incomplete: {missing} is missing; results.json has the others")]


def state(record: Record) -> str:
    seconds = f"{record['seconds']:.0f} s" if "seconds" in record else ""
    if record.get("finished"):
        wrong = record["figures"].get("wrong")
        return f"done in {seconds}" + (f", {len(wrong)} figures are wrong" if wrong else "")
    return record.get("error", f"interrupted after {seconds}")


def command(phase: Phase, record: Record) -> str:
    """Return the command that repeats a phase."""
    return f"scripts/benchmark/accelerator.sh --only {phase.name} --again{' --smoke' * record.get('smoke', False)}"


def provenance(results: Results) -> list[str]:
    """List the hardware, versions and commit of the phases; those that differ have lines of their own."""
    phases: dict[str, list[str]] = {}
    for phase, record in results:
        about = record.get("about")
        if about:
            versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
            line = (
                f"{about['devices']} x {about['device']}, {about['cores']} cores of {about['processor']}; {versions};"
            )
            phases.setdefault(f"{line} commit {about['commit']}", []).append(phase.name)
    tiny = any(record.get("smoke") for _, record in results)
    note = ["--smoke: tiny sizes in place of those that are named; no speed here means anything."] * tiny
    if len(phases) == 1:
        return [*note, *phases]
    return note + [f"{', '.join(names)}: {line}" for line, names in phases.items()]


def problems(results: Results) -> list[str]:
    """List a sentence for each phase that is not done, and for each figure that is wrong."""
    found = [f"{phase.name}: {state(record)}" for phase, record in results if not record.get("finished")]
    return found + [f"{phase.name}: {each}" for phase, record in results for each in record["figures"].get("wrong", ())]
