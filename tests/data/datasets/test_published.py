"""Data sets made of published files: multi30k, dialogsum and xquad, from tiny files in the published form."""

import gzip
import hashlib
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import tensorflow_datasets as tfds

from research.config import ConfigError
from research.data.corpora import corpus
from research.data.datasets import multi30k, xquad


def texts(builder: Any, split: str, *names: str) -> set[tuple[Any, ...]]:
    def value(example: Any, name: str) -> Any:
        found = example[name]
        return found.decode() if isinstance(found, bytes) else tuple(text.decode() for text in found)

    return {tuple(value(example, name) for name in names) for example in builder.as_data_source(split)}


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


@pytest.fixture
def captions(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Texts by published names, whose digests stand in for the published ones."""
    contents = {
        name: "".join(f"{name} ü {line}\n" for line in range({"train": 5, "val": 2}.get(name.split(".")[0], 3)))
        for name in multi30k.DIGESTS
    }
    monkeypatch.setattr(multi30k, "DIGESTS", {name: digest(text) for name, text in contents.items()})
    return contents


def write(folder: Path, contents: Mapping[str, str]) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in contents.items():
        (folder / f"{name}.gz").write_bytes(gzip.compress(text.encode()))
    return str(folder)


class Downloads:
    """What the network would give; TFDS's names for what it keeps say nothing."""

    def __init__(self, contents: Mapping[str, str], folder: Path) -> None:
        self.contents, self.folder, self.asked = contents, folder, 0

    def __call__(self, manager: Any, urls: Mapping[str, str]) -> dict[str, Path]:
        self.asked += 1
        paths = {}
        for number, (name, url) in enumerate(urls.items()):
            assert url.endswith(name)
            paths[name] = self.folder / f"download{number}"
            text = self.contents[name.removesuffix(".gz")].encode()
            paths[name].write_bytes(gzip.compress(text) if name.endswith(".gz") else text)
        return paths


# --- Multi30k ---------------------------------------------------------------------------------------------------------


def test_multi30k(own_cache: Path, tmp_path: Path, captions: dict[str, str]) -> None:
    write(tmp_path / "multi30k", captions)
    builder = corpus.open_builder("multi30k", str(tmp_path / "multi30k"))
    assert texts(builder, "validation", "en", "de") == {(f"val.en ü {line}", f"val.de ü {line}") for line in range(2)}
    assert {split.name: split.num_examples for split in builder.info.splits.values()} == {
        "train": 5, "validation": 2, "test": 3,
    }  # fmt: skip
    (tmp_path / "multi30k" / "train.en.gz").unlink()
    (tmp_path / "multi30k" / "train.en").write_text(captions["train.en"])
    above = corpus.open_builder("multi30k", str(tmp_path))
    assert above.fingerprint == builder.fingerprint
    assert corpus.open_builder("multi30k").fingerprint == builder.fingerprint  # no file is needed any more
    assert texts(above, "test", "fr", "cs") == {
        (f"test_2016_flickr.fr ü {line}", f"test_2016_flickr.cs ü {line}") for line in range(3)
    }
    assert "tensorflow" not in sys.modules


def test_a_file_that_was_not_published(own_cache: Path, tmp_path: Path, captions: dict[str, str]) -> None:
    folder = write(tmp_path / "a", captions | {"val.de": "other\nlines\n"})
    with pytest.raises(ConfigError, match=r"val\.de\.gz is not the val\.de\.gz that multi30k published: the SHA-256"):
        corpus.open_builder("multi30k", folder)
    (tmp_path / "a" / "val.de.gz").unlink()
    with pytest.raises(ConfigError, match=r"/a lacks val\.de\.gz of multi30k"):
        corpus.open_builder("multi30k", folder)
    with pytest.raises(ConfigError, match="there is no such directory"):
        corpus.open_builder("multi30k", str(tmp_path / "no" / "where"))


def test_downloads_are_checked(
    own_cache: Path, tmp_path: Path, captions: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    downloads = Downloads(captions | {"val.fr": "tampered"}, tmp_path)
    monkeypatch.setattr(tfds.download.DownloadManager, "download", lambda manager, urls: downloads(manager, urls))
    with pytest.raises(ConfigError, match=r"is not the val\.fr\.gz that multi30k published"):
        corpus.open_builder("multi30k")
    assert not any(own_cache.glob("multi30k/*/*"))
    downloads.contents = captions
    builder = corpus.open_builder("multi30k")
    assert ("train.en ü 4",) in texts(builder, "train", "en")
    assert corpus.open_builder("multi30k", str(tmp_path)).fingerprint == builder.fingerprint
    assert downloads.asked == 2


def test_no_network(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(manager: Any, urls: Any) -> None:
        raise ConnectionError("no route")

    monkeypatch.setattr(tfds.download.DownloadManager, "download", fail)
    with pytest.raises(ConfigError, match=r"xquad/en could not be downloaded .* --config\.data\.manual_dir=PATH"):
        corpus.open_builder("xquad/en")


# --- DialogSum --------------------------------------------------------------------------------------------------------


def dialogue(name: str, **fields: str) -> str:
    return json.dumps({"fname": name, "dialogue": f"#Person1#: {name}\n#Person2#: Yes.", **fields, "topic": "t"}) + "\n"


def test_dialogsum(own_cache: Path, tmp_path: Path) -> None:
    (tmp_path / "dialogsum.dev.jsonl").write_text(dialogue("dev_0", summary="one"))
    test = dialogue("test_0", summary1="a", topic1="x", summary2="b", summary3="c")
    write(tmp_path, {"dialogsum.test.jsonl": test})
    builder = corpus.open_builder("dialogsum", str(tmp_path))
    assert set(builder.info.splits) == {"validation", "test"}
    assert texts(builder, "validation", "dialogue", "summary") == {("#Person1#: dev_0\n#Person2#: Yes.", ("one",))}
    assert texts(builder, "test", "summary") == {(("a", "b", "c"),)}

    (tmp_path / "dialogsum.train.jsonl").write_text(
        dialogue("train_0", summary="one") + dialogue("train_1", summary="two")
    )
    whole = corpus.open_builder("dialogsum", str(tmp_path))
    assert len(texts(whole, "train", "dialogue")) == 2
    assert whole.fingerprint != builder.fingerprint


def test_bad_dialogsum(own_cache: Path, tmp_path: Path) -> None:
    for directory in (None, str(tmp_path)):
        with pytest.raises(ConfigError, match=r"no file of DialogSum in data\.manual_dir.*dialogsum\.train\.jsonl"):
            corpus.open_builder("dialogsum", directory)
    (tmp_path / "dialogsum.dev.jsonl").write_text(dialogue("dev_0", summary="one") + '{"fname": 3}\n')
    with pytest.raises(ConfigError, match=r"Line 2 of a file of DialogSum is malformed \(KeyError: 'dialogue'\)"):
        corpus.open_builder("dialogsum", str(tmp_path))


# --- XQuAD ------------------------------------------------------------------------------------------------------------


def articles(language: str, count: int) -> str:
    def paragraph(number: int, place: int) -> dict[str, Any]:
        name = f"{number}.{place}"
        answers = [{"text": f"{language} {name}", "answer_start": 0}]
        return {"context": f"{language} {name} context", "qas": [{"id": name, "question": "?", "answers": answers}]}

    return json.dumps({"data": [
        {"title": f"T{number}", "paragraphs": [paragraph(number, place) for place in range(5)]}
        for number in range(count)
    ]})  # fmt: skip


def test_xquad(own_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    contents = {f"xquad.{language}.json": articles(language, 24) for language in ("en", "ro")}
    digests = {name.split(".")[1]: digest(text) for name, text in contents.items()}
    monkeypatch.setattr(xquad, "DIGESTS", digests)
    folder = write(tmp_path, contents)
    splits = {}
    for language in ("en", "ro"):
        builder = corpus.open_builder(f"xquad/{language}", folder)
        splits[language] = {split: texts(builder, split, "id", "title") for split in ("train", "validation", "test")}
    assert splits["en"] == splits["ro"]
    assert {name: len(members) for name, members in splits["en"].items()} == {
        "train": 100,
        "validation": 10,
        "test": 10,
    }
    titles = [{title for _, title in members} for members in splits["en"].values()]
    assert sum(map(len, titles)) == len(set.union(*titles)) == 24
    builder = corpus.open_builder("xquad/ro", folder)
    whole = builder.as_data_source("train+validation+test")
    assert len(whole) == 120
    assert whole[0]["answers"]["text"][0].decode().startswith("ro ")
    with pytest.raises(ConfigError, match="no TFDS data set xquad/xx: its languages are en, ro"):
        corpus.open_builder("xquad/xx")
    with pytest.raises(ConfigError, match="no TFDS data set xquad: python_docs"):
        corpus.open_builder("xquad")
