"""A system's outputs and their references, from files of lines or of JSON objects."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from research.config import ConfigError, parse_json, require

ReferenceTexts = list[tuple[str, ...]]  # one or more for each example


class Written(NamedTuple):
    """What a system wrote for every example of a task."""

    sources: list[str]
    predictions: list[str]
    references: ReferenceTexts


def read_predictions(name: str) -> tuple[list[str], ReferenceTexts | None]:
    """The outputs, and the references where the same file has them.

    A .jsonl holds "prediction" or, as scripts.generate writes it, "outputs"; and perhaps "references".
    """
    if not name.endswith(".jsonl"):
        return _lines(name), None
    rows = _objects(name)
    tasks = dict.fromkeys(str(row["task"]) for row in rows if "task" in row)
    require(len(tasks) < 2, f"{name} has the outputs of several tasks, {', '.join(tasks)}: give those of one alone.")
    predictions = [_prediction(row, f"{name}, line {number}") for number, row in enumerate(rows, 1)]
    lacking = [number for number, row in enumerate(rows, 1) if "references" not in row]
    if len(lacking) == len(rows):
        return predictions, None
    require(not lacking, f'{name}, line {lacking[0] if lacking else 0} has no "references", which other lines have.')
    return predictions, [_texts(row["references"], f"{name}, line {n}", "references") for n, row in enumerate(rows, 1)]


def read_tasks(name: str) -> dict[str, Written]:
    """The tasks of a predictions.jsonl, as scripts.evaluate writes it, by their names.

    Raises:
        ConfigError: there is no such file; or a line lacks its task, source, prediction or references.
    """
    tasks: dict[str, Written] = {}
    for number, row in enumerate(_objects(name), 1):
        where = f"{name}, line {number}"
        said = isinstance(row.get("task"), str) and isinstance(row.get("source"), str)
        require(said, f'{where} has no "task" and "source", which scripts.evaluate writes.')
        written = tasks.setdefault(row["task"], Written([], [], []))
        written.sources.append(row["source"])
        written.predictions.append(_prediction(row, where))
        written.references.append(_texts(row.get("references"), where, "references"))
    require(len(tasks) > 0, f"{name} is empty: there is no prediction to compare.")
    return tasks


def read_references(names: Sequence[str], count: int, predictions: str) -> ReferenceTexts:
    """Those of `count` predictions, from files of a line each, or .jsonl with "references", "target" or "text".

    Raises:
        ConfigError: a file has another number of lines.
    """
    columns = [_references(name) for name in names]
    for name, column in zip(names, columns, strict=True):
        lines = len(column)
        require(lines == count, f"{predictions} has {count} predictions and {name} {lines} lines: give one for each.")
    return [tuple(text for texts in row for text in texts) for row in zip(*columns, strict=True)]


def _references(name: str) -> ReferenceTexts:
    if not name.endswith(".jsonl"):
        return [(line,) for line in _lines(name)]
    found = []
    for number, row in enumerate(_objects(name), 1):
        keys = [key for key in ("references", "target", "text") if key in row]
        require(len(keys) > 0, f'{name}, line {number} has no "references", "target" or "text".')
        found.append(_texts(row[keys[0]], f"{name}, line {number}", keys[0]))
    return found


def _prediction(row: dict[str, Any], where: str) -> str:
    try:
        found = row["prediction"] if "prediction" in row else row["outputs"][0]["text"]
    except (KeyError, IndexError, TypeError):
        found = None
    if not isinstance(found, str):
        raise ConfigError(f'{where} has no text as "prediction", nor as the first of its "outputs".')
    return found


def _texts(value: Any, where: str, key: str) -> tuple[str, ...]:
    texts = (value,) if isinstance(value, str) else value
    fits = isinstance(texts, list | tuple) and len(texts) > 0 and all(isinstance(text, str) for text in texts)
    require(fits, f'{where} has no text under "{key}", and no list of one or more.')
    return tuple(texts)


def _lines(name: str) -> list[str]:
    require(Path(name).is_file(), f"{name}: there is no such file.")
    with open(name, encoding="utf-8", errors="replace", newline="\n") as file:  # as sacreBLEU: "\r" ends no line
        return [line.rstrip("\r\n") for line in file]


def _objects(name: str) -> list[dict[str, Any]]:
    rows = []
    for number, line in enumerate(_lines(name), 1):
        rows.append(parse_json(line, f"{name}, line {number}"))
        require(isinstance(rows[-1], dict), f"{name}, line {number} is no JSON object.")
    return rows
