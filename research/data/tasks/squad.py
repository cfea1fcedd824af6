"""SQuAD's JSON format (arXiv:1606.05250), which XQuAD and many others share, as one record per question."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from research.config import ConfigError
from research.config.base import digest
from research.data.corpora.text_files import plain_file
from research.storage import cache
from research.storage.copies import origin_of

FORMAT = 1  # increment when the same file would give other lines
NAMES = ("question", "context", "answers/text", "title", "id")


class Question(NamedTuple):
    article: int  # from 0: questions of different articles have no text in common
    id: str
    title: str
    context: str
    question: str
    answers: dict[str, list[str]]  # "text": one or more, as several people answered


def questions(path: Path) -> list[Question]:
    """Read all questions of a file. Raises ConfigError if it is not in SQuAD's format."""
    try:
        return [question for number, article in enumerate(_articles(path)) for question in _questions(number, article)]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(
            f"{path} is not JSON as SQuAD 1.1 publishes it ({type(error).__name__}: {reason}): data, paragraphs,"
            " context, qas, id, question, answers and text are its keys."
        ) from None


def _articles(path: Path) -> Any:
    return json.loads(path.read_bytes())["data"]


def _questions(number: int, article: Any) -> Iterator[Question]:
    title = article.get("title", "")
    for paragraph in article["paragraphs"]:
        for question in paragraph["qas"]:
            texts = [answer["text"] for answer in question["answers"]]
            yield Question(number, question["id"], title, paragraph["context"], question["question"], {"text": texts})


def as_lines(path: Path, content: str) -> Path:
    """Write the questions as JSON lines into the cache; `content` is the digest of the file's bytes."""
    key = digest([FORMAT, content])
    folder = cache.entry(
        "squad", key, lambda folder: _write(origin_of(path), plain_file(path, content), folder), lambda name: True
    )
    return folder / "text"


def _write(name: str, plain: Path, folder: Path) -> None:
    try:
        records = questions(plain)
    except ConfigError as error:
        raise ConfigError(str(error).replace(str(plain), name)) from None
    with (folder / "text").open("w") as file:
        file.writelines(json.dumps(question._asdict()) + "\n" for question in records)
