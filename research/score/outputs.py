"""A system's outputs and their references, read from files of lines or of JSON objects."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from research.config import ConfigError, require
from research.storage.lines import BadBytes, json_objects, read_text_lines

ReferenceTexts = list[tuple[str, ...]]  # one or more references for each example


class Predictions(NamedTuple):
    """A system's predictions for the examples of a task, with their sources and references."""

    sources: list[str]
    predictions: list[str]
    references: ReferenceTexts


class SystemOutputs(NamedTuple):
    """A system's predictions, with their references if these are known."""

    predictions: list[str]
    references: ReferenceTexts | None
    more: list[dict[str, str]] | None = None  # what the task gives with each example beside the references


def read_predictions(name: str, bad_bytes: BadBytes = "refuse") -> SystemOutputs:
    """Read predictions, and their references if the file has them.

    Each object of a .jsonl has "prediction" or, as scripts.generate writes it, "outputs", and optionally "references".
    """
    if not name.endswith(".jsonl"):
        return SystemOutputs(_lines(name, bad_bytes), None)
    rows = _objects(name, bad_bytes)
    tasks = dict.fromkeys(str(row["task"]) for _, row in rows if "task" in row)
    require(
        len(tasks) < 2,
        f"{name} has the outputs of several tasks, {', '.join(tasks)}: give a file with those of one task.",
    )
    predictions = [_prediction(row, where) for where, row in rows]
    lacking = [where for where, row in rows if "references" not in row]
    if len(lacking) == len(rows):
        return SystemOutputs(predictions, None)
    require(not lacking, f'{"".join(lacking[:1])} has no "references", but other lines have them.')
    references = [_texts(row["references"], where, "references") for where, row in rows]
    return SystemOutputs(predictions, references, [_more(row, where) for where, row in rows])


def read_tasks(name: str) -> dict[str, Predictions]:
    """Read a predictions.jsonl, as scripts.evaluate writes it: predictions by the name of the task.

    Raises:
        ConfigError: the file does not exist, or a line lacks its task, source, prediction or references.
    """
    tasks: dict[str, Predictions] = {}
    for where, row in _objects(name):
        complete = isinstance(row.get("task"), str) and isinstance(row.get("source"), str)
        require(complete, f'{where} has no "task" and "source", which scripts.evaluate writes.')
        predictions = tasks.setdefault(row["task"], Predictions([], [], []))
        predictions.sources.append(row["source"])
        predictions.predictions.append(_prediction(row, where))
        predictions.references.append(_texts(row.get("references"), where, "references"))
    require(len(tasks) > 0, f"{name} is empty: there is no prediction to compare.")
    return tasks


def read_references(
    names: Sequence[str], count: int, predictions: str, bad_bytes: BadBytes = "refuse"
) -> ReferenceTexts:
    """Read references for `count` predictions from files with one line for each.

    The objects of a .jsonl have "references", "target" or "text".

    Raises:
        ConfigError: a file has a different number of lines.
    """
    columns = [_references(name, bad_bytes) for name in names]
    for name, column in zip(names, columns, strict=True):
        lines = len(column)
        require(lines == count, f"{predictions} has {count} predictions and {name} {lines} lines: give one for each.")
    return [tuple(text for texts in row for text in texts) for row in zip(*columns, strict=True)]


def _references(name: str, bad_bytes: BadBytes) -> ReferenceTexts:
    if not name.endswith(".jsonl"):
        return [(line,) for line in _lines(name, bad_bytes)]
    references = []
    for where, row in _objects(name, bad_bytes):
        keys = [key for key in ("references", "target", "text") if key in row]
        require(len(keys) > 0, f'{where} has no "references", "target" or "text".')
        references.append(_texts(row[keys[0]], where, keys[0]))
    return references


def _prediction(row: dict[str, Any], where: str) -> str:
    try:
        prediction = row["prediction"] if "prediction" in row else row["outputs"][0]["text"]
    except (KeyError, IndexError, TypeError):
        prediction = None
    if not isinstance(prediction, str):
        raise ConfigError(f'{where} has no text under "prediction", nor in the first of its "outputs".')
    return prediction


def _more(row: dict[str, Any], where: str) -> dict[str, str]:
    more = row.get("more", {})
    texts = isinstance(more, dict) and all(isinstance(text, str) for text in more.values())
    require(texts, f'{where} needs texts by name under "more", as scripts.evaluate writes them.')
    return dict(more)


def _texts(value: Any, where: str, key: str) -> tuple[str, ...]:
    texts = (value,) if isinstance(value, str) else value
    fits = isinstance(texts, list | tuple) and len(texts) > 0 and all(isinstance(text, str) for text in texts)
    require(fits, f'{where} needs a text, or a list of one or more texts, under "{key}".')
    return tuple(texts)


def _lines(name: str, bad_bytes: BadBytes) -> list[str]:
    return [line.content for line in read_text_lines(name, bad_bytes)]


def _objects(name: str, bad_bytes: BadBytes = "refuse") -> list[tuple[str, dict[str, Any]]]:
    """Return every JSON object of a file with its name in errors."""
    return [(where, row) for _, where, row in json_objects(name, read_text_lines(name, bad_bytes))]
