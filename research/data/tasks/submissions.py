"""Files of predictions as the servers of GLUE and SuperGLUE want them, from outputs for test sets without labels.

The formats are those that t5 0.9.4 (t5/scripts/prepare_glue_submission.py) and jiant 1 (its evaluate.py) write: for
GLUE TSV of "index" and "prediction", for SuperGLUE JSON lines of "idx" and "label". An output that is no label is
written as the first label of its task, and counted. Similarities are cut to 0 to 5, and one that is no number is 0.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from research.config import ConfigError, Examples
from research.config.base import digest
from research.config.examples import Names, Records, Split, TextRecord
from research.data.tasks import glue, super_glue
from research.data.tasks.classification import LABEL, UNLABELLED
from research.data.tasks.records import open_records
from research.data.tasks.super_glue import BOOLEAN
from research.score.labels import NOT_A_NUMBER, as_number
from research.score.referents import names_referent

ANSWERS, CANDIDATES = "answers", "entities"  # of ReCoRD: unknown answers are stood for by their candidates
LARGEST = 5.0  # similarity


@dataclass(frozen=True)
class Unlabelled(Examples):
    """Examples whose labels are not read, since a test set may have none: each is -1, and ReCoRD's any candidate."""

    examples: Examples

    @property
    def label(self) -> str:
        return self.examples.label

    def open(self, split: Split, names: Names, manual_dir: str | None) -> Records:
        return UnlabelledRecords(self.examples, split, names, manual_dir)


class UnlabelledRecords:
    """The records of a split without their labels."""

    def __init__(self, examples: Examples, split: Split, names: Names, manual_dir: str | None) -> None:
        kept = tuple(name for name in names.target if name not in (LABEL, ANSWERS))
        self._names = names
        self._records = open_records(examples, split, Names(names.source, kept or names.source), manual_dir)
        self.name = self._records.name
        self.identity = digest(["unlabelled", self._records.identity])

    def __len__(self) -> int:
        return len(self._records)

    def read(self, indices: Sequence[int]) -> list[TextRecord]:
        return [{name: _text(record, name) for name in self._names.all} for record in self._records.read(indices)]


def _text(record: TextRecord, name: str) -> tuple[str, ...]:
    if name == LABEL:
        return (UNLABELLED,)
    return record[CANDIDATES if name == ANSWERS else name]


def read_ids(
    examples: Examples, split: Split, names: tuple[str, ...], count: int, manual_dir: str | None
) -> list[dict[str, int]]:
    """Read the ids of the first `count` examples. Raises ConfigError if an example has none, or one is no number."""
    try:
        records = open_records(examples, split, Names(names, names), manual_dir).read(range(count))
        return [{name: int(record[name][0]) for name in names} for record in records]
    except (ConfigError, ValueError) as error:
        raise ConfigError(f'A submission needs the ids of its examples, whole numbers as "idx": {error}') from None


# --- Files ------------------------------------------------------------------------------------------------------------


class UnlabelledOutputs(NamedTuple):
    """The outputs of a model for the examples of a test set; `references` are WSC's candidates."""

    ids: Sequence[Mapping[str, int]]
    texts: Sequence[str]
    references: Sequence[str]


class ServerFile(NamedTuple):
    """A file of a submission. `write` returns its lines and how many outputs were no label."""

    name: str
    ids: tuple[str, ...]
    write: Callable[[UnlabelledOutputs], tuple[list[str], int]]


def _labels(name: str, written: Mapping[str, Any]) -> ServerFile:
    """Return the file of a task whose labels have other texts at the server: `written` has these by T5's."""

    def write(outputs: UnlabelledOutputs) -> tuple[list[str], int]:
        first = next(iter(written.values()))
        values = [written.get(text, first) for text in outputs.texts]
        return _lines(name, outputs.ids, values), sum(text not in written for text in outputs.texts)

    return ServerFile(name, ("idx",), write)


def _numbered(name: str, labels: Iterable[str]) -> ServerFile:
    return _labels(name, {label: number for number, label in enumerate(labels)})


def _named(name: str, labels: Iterable[str]) -> ServerFile:
    return _labels(name, {label: label for label in labels})


def _similarities(outputs: UnlabelledOutputs) -> tuple[list[str], int]:
    values = [as_number(text) for text in outputs.texts]
    cut = [f"{min(max(value, 0.0), LARGEST):.3f}" for value in values]
    return _lines("STS-B.tsv", outputs.ids, cut), values.count(NOT_A_NUMBER)


def _referents(outputs: UnlabelledOutputs) -> tuple[list[str], int]:
    """Write whether each output names its candidate, by the rule of T5's score of WSC; an empty one does not."""
    named = [names_referent(*pair) for pair in zip(outputs.texts, outputs.references, strict=True)]
    return _lines("WSC.jsonl", outputs.ids, [BOOLEAN[one == "1"] for one in named]), named.count(UNLABELLED)


def _answers(outputs: UnlabelledOutputs) -> tuple[list[str], int]:
    """Write the answers to ReCoRD's queries; no text is refused there."""
    ids = [{"idx": one["idx/query"]} for one in outputs.ids]
    return _lines("ReCoRD.jsonl", ids, outputs.texts), 0


def _answers_by_paragraph(outputs: UnlabelledOutputs) -> tuple[list[str], int]:
    """Write MultiRC's labels below their questions, and these below their paragraphs."""
    paragraphs: dict[int, dict[int, list[dict[str, int]]]] = {}
    for one, text in zip(outputs.ids, outputs.texts, strict=True):
        questions = paragraphs.setdefault(one["idx/paragraph"], {})
        answers = questions.setdefault(one["idx/question"], [])
        answers.append({"idx": one["idx/answer"], "label": int(text == BOOLEAN[1])})
    lines = [
        {"idx": number, "passage": {"questions": [{"idx": each, "answers": found} for each, found in below.items()]}}
        for number, below in paragraphs.items()
    ]
    return list(map(json.dumps, lines)), sum(text not in BOOLEAN for text in outputs.texts)


def _lines(name: str, ids: Iterable[Mapping[str, int]], values: Iterable[Any]) -> list[str]:
    pairs = ((one["idx"], value) for one, value in zip(ids, values, strict=True))
    return list(_tsv(pairs) if name.endswith(".tsv") else _json(pairs))


def _tsv(pairs: Iterable[tuple[int, Any]]) -> Iterator[str]:
    yield "index\tprediction"
    yield from (f"{number}\t{value}" for number, value in pairs)


def _json(pairs: Iterable[tuple[int, Any]]) -> Iterator[str]:
    yield from (json.dumps({"idx": number, "label": value}, ensure_ascii=False) for number, value in pairs)


LOWER_CASE = {label: label.lower() for label in BOOLEAN}
MULTIRC_IDS = ("idx/paragraph", "idx/question", "idx/answer")

# By the names of the tasks in suites.
SERVER_FILES = {
    "glue_cola": _numbered("CoLA.tsv", glue.ACCEPTABLE),
    "glue_sst2": _numbered("SST-2.tsv", glue.SENTIMENT),
    "glue_mrpc": _numbered("MRPC.tsv", glue.EQUIVALENT),
    "glue_stsb": ServerFile("STS-B.tsv", ("idx",), _similarities),
    "glue_qqp": _numbered("QQP.tsv", glue.DUPLICATE),
    "glue_mnli_matched": _named("MNLI-m.tsv", glue.THREE_WAY),
    "glue_mnli_mismatched": _named("MNLI-mm.tsv", glue.THREE_WAY),
    "glue_qnli": _named("QNLI.tsv", glue.TWO_WAY),
    "glue_rte": _named("RTE.tsv", glue.TWO_WAY),
    "glue_wnli": _numbered("WNLI.tsv", glue.WINOGRAD),
    "glue_ax": _named("AX.tsv", glue.THREE_WAY),
    "super_glue_boolq": _labels("BoolQ.jsonl", LOWER_CASE),
    "super_glue_cb": _named("CB.jsonl", super_glue.COMMITMENT),
    "super_glue_copa": _numbered("COPA.jsonl", super_glue.CHOICES),
    "super_glue_multirc": ServerFile("MultiRC.jsonl", MULTIRC_IDS, _answers_by_paragraph),
    "super_glue_record": ServerFile("ReCoRD.jsonl", ("idx/query",), _answers),
    "super_glue_rte": _named("RTE.jsonl", glue.TWO_WAY),
    "super_glue_wic": _labels("WiC.jsonl", LOWER_CASE),
    "super_glue_wsc": ServerFile("WSC.jsonl", ("idx",), _referents),
    "super_glue_axb": _named("AX-b.jsonl", glue.TWO_WAY),
    "super_glue_axg": _named("AX-g.jsonl", glue.TWO_WAY),
}
