"""Supervised tasks as examples by index: what is read, what is to be written, and what that is scored against."""

import string
from collections.abc import Callable
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int64

from research.config import Task, Translation, require
from research.config.base import digest
from research.config.task import names_in
from research.data.tasks.examples import Records, Split, Texts, Wanted, open_records

FORMAT = 1  # raised when the same records would give other examples


class Example(NamedTuple):
    source: str  # the prefix included
    target: str  # what is learned
    references: tuple[str, ...]  # what an output is scored against, the target first


@runtime_checkable
class TaskExamples(Protocol):
    """One split of a task. Equal identities mean equal examples in equal order."""

    name: str
    identity: str

    def __len__(self) -> int: ...

    def read(self, indices: Int64[np.ndarray, " n"]) -> list[Example]: ...


def open_task(task: Task, split: Split, manual_dir: str | None = None) -> TaskExamples:
    """The examples of a task, found, checked and, where need be, built from the files in `manual_dir`.

    Raises:
        ConfigError: they are missing, empty, or have not what the task names.
    """
    wanted = Wanted(names_in(task.source), names_in(task.target))
    return RecordsAsExamples(task, open_records(task.examples, split, wanted, manual_dir))


class RecordsAsExamples:
    def __init__(self, task: Task, records: Records) -> None:
        self.name = records.name
        self._records, self._task = records, task
        self._source_form, self._target_form = _forms(task)
        form = task.text if isinstance(task, Translation) else "raw"
        self.identity = digest([FORMAT, records.identity, task.source, task.target, task.prefix, form])

    def __len__(self) -> int:
        return len(self._records)

    def read(self, indices: Int64[np.ndarray, " n"]) -> list[Example]:
        return [self._example(record) for record in self._records.read(indices)]

    def _example(self, record: Texts) -> Example:
        source = self._task.prefix + self._source_form(fill(self._task.source, record)[0])
        references = tuple(map(self._target_form, fill(self._task.target, record)))
        return Example(source, references[0], references)


def fill(text: str, record: Texts) -> tuple[str, ...]:
    """All texts under a name or, for a template, the one that it gives with the first text under each of its names."""
    if text in record:
        return record[text]
    parts = string.Formatter().parse(text)
    return ("".join(literal + (record[name][0] if name else "") for literal, name, _, _ in parts),)


# --- Multi30k's form of text ------------------------------------------------------------------------------------------


def _forms(task: Task) -> tuple[Callable[[str], str], Callable[[str], str]]:
    """What is made of the text of each side."""
    match task:
        case Translation(text="lower_tokenized"):
            return lower_tokenized(task.source), lower_tokenized(task.target)
    return str, str


def lower_tokenized(language: str) -> Callable[[str], str]:
    """Multi30k's own preparation (its scripts/task1-tokenize.sh): Moses' lowercase, normalize-punctuation, tokenizer.

    Apostrophes, quotes and the like come out escaped (&apos;), as they stand in its published files.
    """
    import sacremoses
    from sacremoses.corpus import NonbreakingPrefixes

    known = sorted(set(NonbreakingPrefixes().available_langs.values()))
    require(
        language in known,
        f'text="lower_tokenized" takes the names of the source and the target as their languages, and {language!r} is'
        f" none that Moses knows: {', '.join(known)}.",
    )
    normalizer, tokenizer = sacremoses.MosesPunctNormalizer(lang=language), sacremoses.MosesTokenizer(lang=language)
    return lambda text: tokenizer.tokenize(normalizer.normalize(text.lower()), return_str=True)
