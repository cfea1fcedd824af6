"""SQuAD's JSON (arXiv:1606.05250), of which XQuAD and many others have the form, as one record a question."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from research.config import ConfigError
from research.config.base import digest
from research.data.corpora.text_files import plain_file
from research.storage import cache

FORMAT = 1  # raised when the same file would give other lines
NAMES = ("question", "context", "answers/text", "title", "id")


class Question(NamedTuple):
    article: int  # from 0: questions of different articles have no text in common
    id: str
    title: str
    context: str
    question: str
    answers: dict[str, list[str]]  # "text": one or more, as several people answered


def questions(path: Path) -> list[Question]:
    """Raises ConfigError where the file is not in SQuAD's form."""
    try:
        return [question for number, article in enumerate(_articles(path)) for question in _questions(number, article)]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        said = " ".join(str(error).split())
        raise ConfigError(
            f"{path} is not JSON as SQuAD 1.1 publishes it ({type(error).__name__}: {said}): data, paragraphs, context,"
            " qas, id, question, answers and text are its keys."
        ) from None


def _articles(path: Path) -> Any:
    return json.loads(path.read_bytes())["data"]


def _questions(number: int, article: Any) -> Iterator[Question]:
    title = article.get("title", "")
    for paragraph in article["paragraphs"]:
        for asked in paragraph["qas"]:
            texts = [answer["text"] for answer in asked["answers"]]
            yield Question(number, asked["id"], title, paragraph["context"], asked["question"], {"text": texts})


def as_lines(path: Path, content: str) -> Path:
    """The questions as JSON lines in the cache; `content` is the digest of the file's bytes."""
    key = digest([FORMAT, content])
    return cache.entry("squad", key, lambda folder: _write(path, plain_file(path, content), folder)) / "text"


def _write(path: Path, plain: Path, folder: Path) -> None:
    try:
        found = questions(plain)
    except ConfigError as error:
        raise ConfigError(str(error).replace(str(plain), str(path))) from None
    with (folder / "text").open("w") as file:
        file.writelines(json.dumps(question._asdict()) + "\n" for question in found)
