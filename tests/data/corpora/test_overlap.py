"""A file that is trained on and held out is refused by name, or counted, wherever it is named."""

import gzip
import json
from pathlib import Path

import pytest

from research import (
    Bytes,
    Denoising,
    Examples,
    JSONExamples,
    JSONLines,
    NamesBySplit,
    ParallelText,
    PlainText,
    SQuADFile,
    Supervised,
    TextToText,
    Translation,
    TSVExamples,
)
from research.config import ConfigError, Corpus, Task
from research.data import pipeline
from research.data.corpora.documents import open_documents
from research.data.corpora.overlap import check_disjoint
from research.storage import cache

TEXTS = {
    name: "".join(f"Some words of {name}, {number}, and many others too.\n\n" for number in range(300))
    for name in "abc"
}

QUESTION = {"question": "Which one?", "answers": [{"text": "it", "answer_start": 0}]}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, text in TEXTS.items():
        Path(f"{name}.txt").write_text(text)
        Path(f"{name}.jsonl").write_text(
            "".join(json.dumps({"text": line, "to": line}) + "\n" for line in text.split("\n\n")[:-1])
        )
    lines = zip(*(TEXTS[name].split("\n\n")[:-1] for name in "abc"), strict=True)
    Path("a.tsv").write_text("".join("\t".join(line) + "\n" for line in lines))
    paragraphs = [{"context": f"Context {number}.", "qas": [QUESTION | {"id": str(number)}]} for number in range(300)]
    Path("squad.json").write_text(json.dumps({"data": [{"title": "Title", "paragraphs": paragraphs}]}))
    Path("copy.txt.gz").write_bytes(gzip.compress(TEXTS["a"].encode()))


@pytest.mark.parametrize(
    ("corpora", "named"),
    [
        ((PlainText("a.txt", "a.txt"),), r"a\.txt"),
        ((PlainText("?.txt", "b.txt"),), r"b\.txt"),
        ((PlainText("a.txt", "copy.txt.gz"),), r"copy\.txt\.gz, as a\.txt"),
        ((JSONLines("a.jsonl", "b.jsonl"), JSONLines("b.jsonl", "c.jsonl")), r"b\.jsonl"),
        ((PlainText("a.txt"), PlainText("b.txt", "a.txt")), r"a\.txt"),
        ((PlainText("a.txt", "b.txt"), PlainText("c.txt")), ""),
        ((JSONLines("a.jsonl"), JSONLines("a.jsonl", text="text")), ""),
        ((JSONLines("a.jsonl"), JSONLines("a.jsonl", text="to")), r"a\.jsonl"),
    ],
)
def test_corpora(corpora: tuple[Corpus, ...], named: str, capsys: pytest.CaptureFixture[str]) -> None:
    data = Denoising(corpora, Bytes(), input_length=32)
    check(data, named, capsys)


PARALLEL = TextToText(examples=ParallelText("{name}.one", "{name}.two"), source="x", target="y")


def records(train: str, held_out: str | None) -> Task:
    return TextToText(examples=JSONExamples(train, held_out), source="text", target="to")


def translation(examples: Examples, source: str, target: str) -> Task:
    return Translation(examples=examples, source=source, target=target)


COLUMNS, LINES = TSVExamples("a.tsv", columns=("en", "de", "fr")), ParallelText("{name}.txt", empty="skip")
QUESTIONS = SQuADFile("squad.json")
RENAMED = TextToText(
    examples=NamesBySplit(JSONExamples("a.jsonl", "a.jsonl"), "to", train=("to",), held_out=("to",)),
    source="text",
    target="to",
)


@pytest.mark.parametrize(
    ("tasks", "named"),
    [
        ((records("a.jsonl", "a.jsonl"),), r"a\.jsonl"),
        ((records("?.jsonl", "b.jsonl"),), r"b\.jsonl"),
        ((records("a.jsonl", "b.jsonl"), records("b.jsonl", "c.jsonl")), r"b\.jsonl"),
        ((RENAMED,), r"a\.jsonl"),
        ((PARALLEL,), r"x\.two, as x\.one"),
        ((records("a.jsonl", "b.jsonl"), records("c.jsonl", None)), ""),
        ((translation(COLUMNS, "en", "de"), translation(COLUMNS, "de", "en")), r"a\.tsv"),
        ((translation(COLUMNS, "en", "de"), translation(COLUMNS, "en", "fr")), ""),
        ((translation(LINES, "a", "b"), translation(LINES, "b", "a")), r"a\.txt"),
        ((translation(LINES, "a", "b"), translation(LINES, "a", "c")), ""),
        (tuple(TextToText(examples=QUESTIONS, source=side, target="title") for side in ("context", "question")), ""),
    ],
)
def test_tasks(tasks: tuple[Task, ...], named: str, capsys: pytest.CaptureFixture[str]) -> None:
    for name, line in (("x.one", "same"), ("x.two", "same"), ("y.one", "one"), ("y.two", "other")):
        Path(name).write_text(f"{line}\n" * 3)
    data = Supervised(tasks, Bytes(), input_length=64, target_length=64)
    check(data, named, capsys)


def check(data: Denoising | Supervised, named: str, capsys: pytest.CaptureFixture[str]) -> None:
    message = f"Held-out data are trained on too, in [12] files, such as {named}"
    if not named:
        pipeline.prepare(data, 0, 1)
        assert "trained on too" not in capsys.readouterr().err
        return
    with pytest.raises(ConfigError, match=f"{message}: hold out others, or allow it by") as refused:
        pipeline.prepare(data, 0, 1)
    pipeline.prepare(type(data)(**{**vars(data), "shared_files": "count"}), 0, 1)
    assert str(refused.value).split(": hold out")[0] in capsys.readouterr().err


def test_copies_of_gzip_files_are_hashed_only_if_they_have_no_digest_and_one_size(
    own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, text in (("d", TEXTS["b"]), ("e", TEXTS["c"][:-8])):
        Path(f"{name}.txt.gz").write_bytes(gzip.compress(text.encode()))
    corpora = [PlainText(f"{train}.txt.gz", f"{held}.txt.gz") for train, held in (("copy", "d"), ("copy", "e"))]
    hashed: list[Path] = []
    original = cache.file_digest
    monkeypatch.setattr(cache, "file_digest", lambda path: hashed.append(path) or original(path))

    def copies(corpus: Corpus) -> int:
        hashed.clear()
        check_disjoint([open_documents(corpus, "train")], [open_documents(corpus, "held_out")], "refuse")
        return sum(path.is_relative_to(own_cache) for path in hashed)

    assert [*map(copies, corpora)] == [0, 0]
    for entry in (own_cache / "decompressed").glob("*/CONTENTS.json"):  # earlier versions kept no digest
        entry.with_name("sha256").unlink()
        entry.write_text(json.dumps({"text": json.loads(entry.read_text())["text"]}))
    assert [*map(copies, reversed(corpora))] == [0, 2]
