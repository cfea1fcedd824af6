"""Directory names of variants, made from the fields in which they differ."""

import re
from collections.abc import Mapping, Sequence

from research.config.base import digest

LONGEST_NAME = 100  # characters of a directory name


def directory_names(changes: Sequence[Mapping[str, str]]) -> list[str]:
    """Name a directory for each variant, by the fields that differ; "" for a single variant."""
    names = short_names(changes)
    return [directory_name(names, change) for change in short_values(changes)]


def short_names(changes: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """Map the dotted name of each field that differs to its shortest unambiguous ending."""
    fields = {name: None for change in changes for name in change}
    differ = [name for name in fields if len({change.get(name) for change in changes}) > 1]
    shortest = {}
    for name in differ:
        parts = name.split(".")
        ends = [".".join(parts[start:]) for start in range(len(parts) - 1, -1, -1)]
        taken = [other for other in fields if other != name]
        shortest[name] = next(
            (end for end in ends if not any(f".{other}".endswith(f".{end}") for other in taken)), name
        )
    return shortest


def short_values(changes: Sequence[Mapping[str, str]]) -> list[dict[str, str]]:
    """Shorten values that are constructors to the class name, for fields where the names are distinct."""
    values: dict[str, set[str]] = {}
    for change in changes:
        for name, text in change.items():
            values.setdefault(name, set()).add(text)
    distinct = {name for name, texts in values.items() if len({text.partition("(")[0] for text in texts}) == len(texts)}
    return [
        {name: text.partition("(")[0] if name in distinct else text for name, text in change.items()}
        for change in changes
    ]


def directory_name(names: Mapping[str, str], change: Mapping[str, str]) -> str:
    """Name a directory by the values of a variant; `names` maps fields to their short names."""
    values = [f"{short}={change[name]}" for name, short in names.items() if name in change]
    plain = ",".join(re.sub(r"[^A-Za-z0-9_.+=-]+", "-", one).strip("-") for one in values)
    if not plain and names:
        return "base"
    return plain if len(plain) <= LONGEST_NAME else f"{plain[: LONGEST_NAME - 9]}-{digest(values)[:8]}"
