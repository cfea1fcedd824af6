"""A system's outputs and their references, read from files of lines or of JSON objects."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from research.config import ConfigError, parse_json, require

ReferenceTexts = list[tuple[str, ...]]  # one or more references for each example


class Predictions(NamedTuple):
    """A system's predictions for the examples of a task, with their sources and references."""

    sources: list[str]
    predictions: list[str]
    references: ReferenceTexts


def read_predictions(name: str) -> tuple[list[str], ReferenceTexts | None]:
    """Read predictions, and their references if the file has them.

    Each object of a .jsonl has "prediction" or, as scripts.generate writes it, "outputs", and optionally "references".
    """
    if not name.endswith(".jsonl"):
        return _lines(name), None
    rows = _objects(name)
    tasks = dict.fromkeys(str(row["task"]) for row in rows if "task" in row)
    require(
        len(tasks) < 2,
        f"{name} has the outputs of several tasks, {', '.join(tasks)}: give a file with those of one task.",
    )
    predictions = [_prediction(row, f"{name}, line {number}") for number, row in enumerate(rows, 1)]
    lacking = [number for number, row in enumerate(rows, 1) if "references" not in row]
    if len(lacking) == len(rows):
        return predictions, None
    require(not lacking, f'{name}, line {lacking[0] if lacking else 0} has no "references", but other lines have them.')
    return predictions, [_texts(row["references"], f"{name}, line {n}", "references") for n, row in enumerate(rows, 1)]


def read_tasks(name: str) -> dict[str, Predictions]:
    """Read a predictions.jsonl, as scripts.evaluate writes it: predictions by the name of the task.

    Raises:
        ConfigError: the file does not exist, or a line lacks its task, source, prediction or references.
    """
    tasks: dict[str, Predictions] = {}
    for number, row in enumerate(_objects(name), 1):
        where = f"{name}, line {number}"
        complete = isinstance(row.get("task"), str) and isinstance(row.get("source"), str)
        require(complete, f'{where} has no "task" and "source", which scripts.evaluate writes.')
        predictions = tasks.setdefault(row["task"], Predictions([], [], []))
        predictions.sources.append(row["source"])
        predictions.predictions.append(_prediction(row, where))
        predictions.references.append(_texts(row.get("references"), where, "references"))
    require(len(tasks) > 0, f"{name} is empty: there is no prediction to compare.")
    return tasks


def read_references(names: Sequence[str], count: int, predictions: str) -> ReferenceTexts:
    """Read references for `count` predictions from files with one line for each.

    The objects of a .jsonl have "references", "target" or "text".

    Raises:
        ConfigError: a file has a different number of lines.
    """
    columns = [_references(name) for name in names]
    for name, column in zip(names, columns, strict=True):
        lines = len(column)
        require(lines == count, f"{predictions} has {count} predictions and {name} {lines} lines: give one for each.")
    return [tuple(text for texts in row for text in texts) for row in zip(*columns, strict=True)]


def _references(name: str) -> ReferenceTexts:
    if not name.endswith(".jsonl"):
        return [(line,) for line in _lines(name)]
    references = []
    for number, row in enumerate(_objects(name), 1):
        keys = [key for key in ("references", "target", "text") if key in row]
        require(len(keys) > 0, f'{name}, line {number} has no "references", "target" or "text".')
        references.append(_texts(row[keys[0]], f"{name}, line {number}", keys[0]))
    return references


def _prediction(row: dict[str, Any], where: str) -> str:
    try:
        prediction = row["prediction"] if "prediction" in row else row["outputs"][0]["text"]
    except (KeyError, IndexError, TypeError):
        prediction = None
    if not isinstance(prediction, str):
        raise ConfigError(f'{where} has no text under "prediction", nor in the first of its "outputs".')
    return prediction


def _texts(value: Any, where: str, key: str) -> tuple[str, ...]:
    texts = (value,) if isinstance(value, str) else value
    fits = isinstance(texts, list | tuple) and len(texts) > 0 and all(isinstance(text, str) for text in texts)
    require(fits, f'{where} needs a text, or a list of one or more texts, under "{key}".')
    return tuple(texts)


def _lines(name: str) -> list[str]:
    require(Path(name).is_file(), f"{name}: there is no such file.")
    with open(
        name, encoding="utf-8", errors="replace", newline="\n"
    ) as file:  # as in sacreBLEU, "\r" does not end a line
        return [line.rstrip("\r\n") for line in file]


def _objects(name: str) -> list[dict[str, Any]]:
    rows = []
    for number, line in enumerate(_lines(name), 1):
        rows.append(parse_json(line, f"{name}, line {number}"))
        require(isinstance(rows[-1], dict), f"{name}, line {number} is not a JSON object.")
    return rows
