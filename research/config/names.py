"""Names of variants: the fields in which they differ, shortened, as names of directories."""

import re
from collections.abc import Mapping, Sequence

from research.config.base import digest

LONGEST_NAME = 100  # of a directory


def directory_names(changes: Sequence[Mapping[str, str]]) -> list[str]:
    """What differs between the changes, as names of directories; "" where it is one change alone."""
    names = short_names(changes)
    return [directory_name(names, change) for change in short_values(changes)]


def short_names(changes: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """Of the fields that differ, by their dotted names, the shortest ends of those that tell them apart."""
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
    """The same, but of a field's constructors only the names, where these tell its values apart."""
    values: dict[str, set[str]] = {}
    for change in changes:
        for name, text in change.items():
            values.setdefault(name, set()).add(text)
    apart = {name for name, texts in values.items() if len({text.partition("(")[0] for text in texts}) == len(texts)}
    return [
        {name: text.partition("(")[0] if name in apart else text for name, text in change.items()} for change in changes
    ]


def directory_name(names: Mapping[str, str], change: Mapping[str, str]) -> str:
    said = [f"{short}={change[name]}" for name, short in names.items() if name in change]
    plain = ",".join(re.sub(r"[^A-Za-z0-9_.+=-]+", "-", one).strip("-") for one in said)
    if not plain and names:
        return "base"
    return plain if len(plain) <= LONGEST_NAME else f"{plain[: LONGEST_NAME - 9]}-{digest(said)[:8]}"
