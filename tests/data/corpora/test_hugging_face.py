"""Data sets that `datasets` opens: the rows of JSON lines, known by their version, and one sentence for bad input."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest

from research import HFDataset, HFDatasetExamples, JSONLines, TextToText
from research.config import ConfigError
from research.data.corpora import hugging_face
from research.data.corpora.documents import Documents, open_documents
from research.data.tasks.task import TaskExamples, open_task

LANGUAGES = ("de", "en")
ROWS = [
    {"text": f"document {number}", "title": f"title {number}", "meta": {"language": LANGUAGES[number % 2]}, "n": number}
    for number in range(20)
]


@pytest.fixture(autouse=True)
def own_folders(own_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets.disable_progress_bars()
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "datasets_cache"))


@pytest.fixture
def local(tmp_path: Path) -> str:
    """A directory with three files of training rows, and one of validation."""
    (tmp_path / "local").mkdir()
    for number, rows in enumerate((ROWS[:7], ROWS[7:9], ROWS[9:14])):
        write(tmp_path / "local" / f"train-{number:05}-of-00003.parquet", rows)
    write(tmp_path / "local" / "validation.parquet", ROWS[14:])
    return str(tmp_path / "local")


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    datasets.Dataset.from_list(rows).to_parquet(path)


def texts(documents: Documents) -> list[str]:
    return documents.read(np.arange(len(documents)))


def opened(name: str, part: Any = "train", **fields: Any) -> list[str]:
    return texts(open_documents(HFDataset(name, **fields), part))


@pytest.mark.parametrize("streaming", [True, False])
def test_the_documents_are_those_of_json_lines(local: str, tmp_path: Path, streaming: bool) -> None:
    assert opened(local, streaming=streaming) == [row["text"] for row in ROWS[:14]]
    assert opened(local, "held_out", streaming=streaming) == [row["text"] for row in ROWS[14:]]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": f"number {n}"}) + "\n" for n in range(600)))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "train.jsonl").write_bytes((tmp_path / "a.jsonl").read_bytes())
    for split in ("train", "held_out"):  # by the same hash
        expected = texts(open_documents(JSONLines(f"{tmp_path}/a.jsonl"), split))
        assert opened(f"{tmp_path}/other", split, held_out=None, streaming=streaming) == expected


def test_columns_filters_and_slices(local: str) -> None:
    assert opened(local, text="meta/language", where="n > 2")[:3] == ["en", "de", "en"]
    assert opened(local, text=("title", "text"), join=": ", where="meta/language == 'en'")[0] == "title 1: document 1"
    assert opened(local, split="validation[:50%]", streaming=False) == ["document 14", "document 15", "document 16"]
    assert len(opened(local, split="train+validation", held_out=None)) in (19, 20)


# --- Copies -----------------------------------------------------------------------------------------------------------


def test_rows_are_read_from_their_copies_alone(local: str, monkeypatch: pytest.MonkeyPatch) -> None:
    first = open_documents(HFDataset(local), "train")
    monkeypatch.setattr(hugging_face, "row_lines", lambda *_: pytest.fail("read again"))
    again = open_documents(HFDataset(local), "train")
    assert (texts(again), again.identity) == (texts(first), first.identity)


def test_changed_data_are_noticed_and_the_rest_is_not_copied_again(local: str) -> None:
    first = open_documents(HFDataset(local), "train")
    write(Path(local) / "train-00001-of-00003.parquet", [{**row, "text": row["text"][::-1]} for row in ROWS[7:9]])
    changed = open_documents(HFDataset(local), "train")
    assert texts(changed)[7:9] == ["7 tnemucod", "8 tnemucod"]
    assert changed.identity != first.identity
    write(Path(local) / "train-00001-of-00003.parquet", ROWS[7:9])  # at another time
    assert open_documents(HFDataset(local), "train").identity == first.identity


def test_a_copy_that_was_interrupted_resumes_at_its_shard(local: str, monkeypatch: pytest.MonkeyPatch) -> None:
    original, read = hugging_face.row_lines, []

    def killed(table: Any, part: Any, name: str) -> Any:
        read.append(name)
        for content in original(table, part, name):
            if len(read) == 2:
                yield content[:10]
                raise KeyboardInterrupt
            yield content

    monkeypatch.setattr(hugging_face, "row_lines", killed)
    with pytest.raises(KeyboardInterrupt):
        opened(local)
    assert opened(local) == [row["text"] for row in ROWS[:14]]
    assert read == [f"{local} (train), shard {number} of 3" for number in (1, 2, 2, 3)]


def test_messages_name_the_shard_and_its_row(local: str) -> None:
    write(Path(local) / "train-00001-of-00003.parquet", [ROWS[7], {**ROWS[8], "text": None}])
    with pytest.raises(ConfigError, match=r'local \(train\), shard 2 of 3, row 2 has no text in its column "text"'):
        opened(local)
    assert len(opened(local, empty="skip")) == 13


# --- Examples ---------------------------------------------------------------------------------------------------------


def test_examples_with_references_and_names_of_classes(tmp_path: Path) -> None:
    features = datasets.Features(
        source=datasets.Value("string"),
        refs=datasets.List(datasets.Value("string")),
        label=datasets.ClassLabel(names=["bad", "good"]),
    )
    rows = [
        {"source": "one", "refs": ["eins", "ein"], "label": 0},
        {"source": "two", "refs": ["zwei"], "label": 1},
        {"source": None, "refs": ["drei"], "label": -1},
    ]
    (tmp_path / "pairs").mkdir()
    for name in ("train", "test"):
        datasets.Dataset.from_list(rows, features).to_parquet(tmp_path / "pairs" / f"{name}.parquet")
    own = HFDatasetExamples(f"{tmp_path}/pairs", held_out="test", empty="skip")
    for streaming in (True, False):
        task = TextToText(examples=replace(own, streaming=streaming), source="source", target="refs")
        for split in ("train", "held_out", "test"):
            examples = open_task(task, split, None)
            assert isinstance(examples, TaskExamples)
            found = [(each.source, each.references) for each in examples.read(np.arange(len(examples)))]
            assert found == [("one", ("eins", "ein")), ("two", ("zwei",))]
    task = TextToText(examples=replace(own, where="label == 'good'"), source="source", target="label")
    examples = open_task(task, "train", None)
    assert isinstance(examples, TaskExamples)
    assert [(each.source, each.target) for each in examples.read(np.arange(len(examples)))] == [("two", "good")]
    with pytest.raises(ConfigError, match=r"pairs \(test\), row 3 has an empty source"):
        open_task(replace(task, examples=replace(own, empty="refuse")), "held_out", None)
    with pytest.raises(ConfigError, match=r'has no column "x": its columns are'):
        open_task(replace(task, target="x"), "train", None)


# --- Bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"text": "body"}, r"""has no column "body": its columns are 'text', 'title', 'meta', 'n'\."""),
        ({"text": "n"}, r'the column "n" is int64, not a string'),
        ({"where": "m == 1"}, r'has no column "m"'),
        ({"where": "n =="}, r"where='n ==' is no filter"),
        ({"config": "xx"}, r"BuilderConfig 'xx' not found\. Available: \['default'\]\)\.$"),
        ({"split": "dev"}, r'local has no split "dev": it has train, validation; with held_out=None'),
        ({"split": "train[:10%]"}, r"a slice of a split needs streaming=False"),
        ({"split": "train[:x%]", "streaming": False}, r"`datasets` cannot read .*\(train\[:x%\]\)"),
    ],
)
def test_selections_that_do_not_fit(local: str, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        opened(local, **fields)


def test_directories_that_are_missing_or_damaged(local: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"`datasets` cannot read .*/nowhere \(train\) \(Couldn't find any data file"):
        opened(f"{tmp_path}/nowhere")
    path = Path(local) / "train-00002-of-00003.parquet"
    path.write_bytes(path.read_bytes()[:-20])
    for streaming in (True, False):
        with pytest.raises(ConfigError, match=r"`datasets` cannot read .*local \(train\)"):
            opened(local, streaming=streaming)
    (Path(local) / "README.md").write_text(TWO_CONFIGS)
    with pytest.raises(ConfigError, match=r"Please pick one among the available configs: \['one', 'two'\]"):
        opened(local)
    assert len(opened(local, config="two", held_out=None)) in (5, 6)
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ConfigError, match=r"local \(train\) needs datasets: pip install 'kintsugi\[data\]'"):
        opened(local)


TWO_CONFIGS = """---
configs:
- config_name: one
  data_files: train-*.parquet
- config_name: two
  data_files: validation.parquet
---
"""
