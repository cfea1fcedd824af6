"""Tars of text: samples in the order of the tar, and one sentence for each tar that is damaged or unsafe."""

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import compressed
import numpy as np
import pytest

from research import TextToText, WebDataset, WebDatasetExamples
from research.config import ConfigError
from research.data.corpora.documents import open_documents
from research.data.tasks.task import TaskExamples, open_task

MEMBERS = [
    ("b/1.txt", "zwei\nlines\n"),
    ("b/1.jpg", "\xff"),
    ("a.txt", "\ufefferst 😀"),
    ("a.json", '{"m": {"t": "x"}}'),
]


def write(path: Path, members: Any) -> str:
    """Write a tar of names with their texts, or of whole members."""
    with tarfile.open(path, "w") as tar:
        for name, text in members:
            member = name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(name)
            content = text if isinstance(text, bytes) else text.encode()
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return str(path)


def member(name: str, kind: bytes) -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type, made.linkname = kind, "/etc/passwd"
    return made


def opened(path: str, **fields: Any) -> list[str]:
    documents = open_documents(WebDataset(path, path, **fields), "train")
    return documents.read(np.arange(len(documents)))


@pytest.fixture(autouse=True)
def in_own_cache(own_cache: Path) -> None:
    pass


def test_documents_in_the_order_of_the_tar_compressed_too(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tar", MEMBERS)
    assert opened(path) == ["zwei\nlines", "erst 😀"]
    for suffix, pack in compressed.PACK.items():
        packed = tmp_path / f"a.tar.{suffix}"
        packed.write_bytes(pack(Path(path).read_bytes()))
        assert opened(str(packed)) == ["zwei\nlines", "erst 😀"]
    write(tmp_path / "b.tar", [(member("folder", tarfile.DIRTYPE), ""), ("./folder/c.txt", "drei")])
    assert opened(f"{tmp_path}/*.tar") == ["zwei\nlines", "erst 😀", "drei"]


def test_fields_of_json_and_several_members(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tar", [("1.json", json.dumps({"t": "title", "l": ["a"]})), ("1.txt", "text")])
    assert opened(path, text="json/t") == ["title"]
    assert opened(path, text=("json/t", "txt"), join=": ") == ["title: text"]
    with pytest.raises(ConfigError, match=r"a\.tar, 1\.json has no key \"x\": its keys are 't', 'l'\."):
        opened(path, text="json/x")
    with pytest.raises(ConfigError, match=r'the column "json/l" holds lists'):
        opened(path, text="json/l")


def test_samples_that_lack_a_member(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "a.tar", MEMBERS)
    with pytest.raises(ConfigError, match=r'a\.tar has no member b/1\.json: give it empty="skip" to leave such'):
        opened(path, text="json/m/t")
    assert opened(path, text="json/m/t", empty="skip") == ["x"]
    assert f"1 of 2 documents of {path} have no text: they are left out." in capsys.readouterr().err


def test_a_tar_of_many_members_is_not_held_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.tar", [(f"{number}.txt", f"text {number}") for number in range(300)])
    held, original = [], tarfile.TarFile.next

    def following(tar: tarfile.TarFile) -> tarfile.TarInfo | None:
        held.append(len(tar.members))
        return original(tar)

    monkeypatch.setattr(tarfile.TarFile, "next", following)
    assert opened(path) == [f"text {number}" for number in range(300)]
    assert max(held) <= 1


def test_examples(tmp_path: Path) -> None:
    members = [("1.src", "one\n"), ("1.tgt", "eins"), ("2.tgt", "zwei"), ("3.src", "three"), ("3.tgt", "drei")]
    path = write(tmp_path / "a.tar", members)
    task = TextToText(examples=WebDatasetExamples(path, path, empty="skip"), source="src", target="tgt")
    examples = open_task(task, "train", None)
    assert isinstance(examples, TaskExamples)
    found = [(each.source, each.target) for each in examples.read(np.arange(len(examples)))]
    assert found == [("one", "eins"), ("three", "drei")]
    with pytest.raises(ConfigError, match=r'a\.tar, sample 2 has an empty source \("src"\)'):
        open_task(TextToText(examples=WebDatasetExamples(path, path), source="src", target="tgt"), "train", None)


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([("../a.txt", "x")], r"a\.tar has a member outside of its own directory, \.\./a\.txt\."),
        ([("/etc/a.txt", "x")], r"has a member outside of its own directory, /etc/a\.txt"),
        ([(member("a.txt", tarfile.SYMTYPE), "")], r"has a member that is no plain file, a\.txt: links and devices"),
        ([(member("a.txt", tarfile.LNKTYPE), "")], r"no plain file"),
        ([(member("a.txt", tarfile.CHRTYPE), "")], r"no plain file"),
        ([(member("a.txt", tarfile.FIFOTYPE), "")], r"no plain file"),
        ([("a.txt", b"\xff")], r"a\.tar, a\.txt is not UTF-8 text"),
        ([("a.txt", "x"), ("a.txt", "y")], r"has two members a\.txt one after the other"),
        ([("a.jpg", "x")], r"has no member a\.txt"),
        ([("a.txt", " ")], r"None of the 1 documents of .* has a text"),
    ],
)
def test_members_that_are_not_read(tmp_path: Path, members: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        opened(write(tmp_path / "a.tar", members))


@pytest.mark.parametrize("text", ["no", '{"t": 1}', '{"t": ["a", null]}', '"t"', '{"t": "\\ud800"}', "[" * 10_000])
def test_json_that_is_not_read(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match=r"a\.tar, a\.json(:| is not JSON| has no key)"):
        opened(write(tmp_path / "a.tar", [("a.json", text)]), text="json/t")


def test_tars_that_are_damaged(tmp_path: Path, own_cache: Path) -> None:
    whole = Path(write(tmp_path / "whole.tar", [(f"{number}.txt", f"text {number}" * 90) for number in range(9)]))
    content = whole.read_bytes()
    end = len(content.rstrip(b"\0"))
    for size in (0, 100, 512, 700, 1024, 1536, end, end + 400, end + 900):
        (tmp_path / "a.tar").write_bytes(content[:size])
        with pytest.raises(ConfigError, match=r"^\S+/a\.tar (is not a complete tar|is damaged)"):
            opened(f"{tmp_path}/a.tar")
    header = content.index(b"3.txt")
    (tmp_path / "a.tar").write_bytes(content[:header] + b"\xff" * 9 + content[header + 9 :])
    with pytest.raises(ConfigError, match=r"a\.tar is damaged, or has another tar behind its end"):
        opened(f"{tmp_path}/a.tar")
    (tmp_path / "a.tar").write_bytes(content + content)
    with pytest.raises(ConfigError, match=r"another tar behind its end"):
        opened(f"{tmp_path}/a.tar")
    (tmp_path / "a.tar").write_text("some text")
    with pytest.raises(ConfigError, match=r"is not a complete tar"):
        opened(f"{tmp_path}/a.tar")
    assert not list(own_cache.glob("tars/*/text"))
