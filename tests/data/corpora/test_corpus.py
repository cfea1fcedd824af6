"""Documents from files and TFDS: what is read, what is held out, and one clear sentence for each bad input."""

import gzip
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import compressed
import numpy as np
import pytest
import tensorflow_datasets as tfds

from research import TFDS, Bytes, Denoising, JSONLines, PlainText
from research.config import ConfigError
from research.data.corpora import text_files
from research.data.corpora.denoising import recipes
from research.data.corpora.documents import Documents, open_documents
from research.data.corpora.tokens import Recipe
from research.data.tokenizer import open_tokenizer


def texts(documents: Documents) -> list[str]:
    assert documents.read(np.arange(len(documents))) == [documents[index] for index in range(len(documents))]
    return [documents[index] for index in range(len(documents))]


def write_json(path: Path, rows: list[str], key: str = "text") -> str:
    path.write_text("".join(json.dumps({"id": 1, key: row}) + "\n" for row in rows))
    return str(path)


def plain(path: Path, content: bytes, **fields: str) -> PlainText:
    path.write_bytes(content)
    return PlainText(train=str(path), held_out=str(path), **fields)


# --- What is read -----------------------------------------------------------------------------------------------------


def test_json_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = ["first", "zwei\nlines", "", "  ", "drei 😀", "<>&\\"]
    path = write_json(tmp_path / "a.jsonl", rows, "body")
    Path(path).write_bytes(Path(path).read_bytes().replace(b"\n", b"\r\n\n").rstrip())
    documents = open_documents(JSONLines(path, held_out=path, text="body"), "train")
    assert texts(documents) == ["first", "zwei\nlines", "drei 😀", "<>&\\"]
    assert f"2 of 6 documents of {path} have no text: they are left out." in capsys.readouterr().err


def test_keys_within_keys(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"doc": {"text": "one"}, "a.b": "two"}\n')
    for key, text in (("doc/text", "one"), ("doc.text", "one"), ("a.b", "two")):
        assert texts(open_documents(JSONLines(str(path), str(path), text=key), "train")) == [text]
    with pytest.raises(ConfigError, match=r'line 1 has no key "doc\.title": its keys are \'text\'\.'):
        open_documents(JSONLines(str(path), str(path), text="doc.title"), "train")


def test_whitespace_after_an_object(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "one"}\xa0\n{"text": "two"}\u2028\x0b\r\n')
    documents = open_documents(JSONLines(str(tmp_path / "a.jsonl"), str(tmp_path / "a.jsonl")), "train")
    assert texts(documents) == ["one", "two"]


def test_plain_text_blocks(tmp_path: Path) -> None:
    content = "\ufeffone\nstill one\n\n \t\r\n\ntwo é\r\nstill two\r\n\r\nthree".encode()
    assert texts(open_documents(plain(tmp_path / "a.txt", content), "train")) == [
        "one\nstill one",
        "two é\r\nstill two",
        "three",
    ]


def test_plain_text_files(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("\n\none\n\nstill one\n\n")
    (tmp_path / "b.txt").write_text("two")
    (tmp_path / "c.txt").write_text("\n \n")
    pattern = str(tmp_path / "*.txt")
    documents = open_documents(PlainText(pattern, held_out=pattern, document="file"), "train")
    assert texts(documents) == ["one\n\nstill one", "two"]


def test_documents_of_several_files_come_in_the_order_that_is_asked_for(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        texts = [f"{name}{number}" for number in range(20)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    documents = open_documents(JSONLines(f"{tmp_path}/*.jsonl", f"{tmp_path}/a.jsonl"), "train")
    order = np.random.default_rng(0).integers(0, 60, 200)
    assert documents.read(order) == [f"{'abc'[index // 20]}{index % 20}" for index in order]
    assert documents.read(order[:0]) == []


def test_globs_are_sorted_and_may_descend(tmp_path: Path) -> None:
    for name in ("b", "a", "deep/c"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write_json(tmp_path / f"{name}.jsonl", [name])
    pattern = str(tmp_path / "**" / "*.jsonl")
    assert texts(open_documents(JSONLines(pattern, held_out=pattern), "train")) == ["a", "b", "deep/c"]


@pytest.mark.parametrize("suffix", compressed.PACK)
def test_compressed_and_plain_are_the_same(tmp_path: Path, suffix: str) -> None:
    pack = compressed.PACK[suffix]
    path = Path(write_json(tmp_path / "a.jsonl", ["one", "two"]))
    packed = tmp_path / f"a.jsonl.{suffix}"
    packed.write_bytes(pack(path.read_bytes()) + pack(b"") + pack(b'{"text": "three"}'))  # parts, as tools append them
    assert texts(open_documents(JSONLines(str(packed), held_out=str(packed)), "train")) == ["one", "two", "three"]


@pytest.mark.parametrize("suffix", compressed.PACK)
@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.GZ", "copy"])
def test_a_compressed_file_is_known_by_its_first_bytes_under_any_name(tmp_path: Path, name: str, suffix: str) -> None:
    content = json.dumps({"text": "one"}) + "\n"
    for path in (tmp_path / f"first.jsonl.{suffix}", tmp_path / name):
        path.write_bytes(compressed.PACK[suffix](content.encode()))
        assert texts(open_documents(JSONLines(str(path), str(path)), "train")) == ["one"]


def test_frames_that_zstd_skips(tmp_path: Path) -> None:
    path = tmp_path / "copy"
    path.write_bytes(b"P*M\x18\2\0\0\0ab" + compressed.PACK["zst"](b"one"))
    assert texts(open_documents(PlainText(str(path), str(path)), "train")) == ["one"]


def test_without_its_library_a_file_names_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "backports.zstd", None)
    with pytest.raises(ConfigError, match=r"a\.zst needs backports\.zstd: pip install 'kintsugi\[data\]'"):
        open_documents(plain(tmp_path / "a.zst", compressed.PACK["zst"](b"one")), "train")


@pytest.mark.parametrize("suffix", compressed.PACK)
def test_bytes_that_were_read_as_text_are_no_compressed_file_under_its_suffix(tmp_path: Path, suffix: str) -> None:
    for name in ("a.txt", f"b.txt.{suffix}"):
        corpus = plain(tmp_path / name, b"the same text\n")
        if name == "a.txt":
            assert texts(open_documents(corpus, "train")) == ["the same text"]
    with pytest.raises(ConfigError, match=rf"b\.txt\.{suffix} is not a complete {compressed.NAMES[suffix]} file"):
        open_documents(corpus, "train")


def test_documents_are_held_out_by_their_hash(tmp_path: Path) -> None:
    rows = [f"document number {number}" for number in range(5000)]
    corpus = JSONLines(write_json(tmp_path / "a.jsonl", rows))
    train, held_out = (texts(open_documents(corpus, split)) for split in ("train", "held_out"))
    assert sorted(train + held_out) == sorted(rows)
    assert 25 < len(held_out) < 85
    # The same document falls on the same side wherever it stands.
    backwards = JSONLines(write_json(tmp_path / "b.jsonl", rows[::-1]))
    assert sorted(texts(open_documents(backwards, "held_out"))) == sorted(held_out)


def test_held_out_files_leave_the_train_files_whole(tmp_path: Path) -> None:
    rows = [f"document number {number}" for number in range(500)]
    corpus = JSONLines(write_json(tmp_path / "a.jsonl", rows), held_out=write_json(tmp_path / "b.jsonl", ["other"]))
    assert texts(open_documents(corpus, "train")) == rows
    assert texts(open_documents(corpus, "held_out")) == ["other"]


# --- Identity ---------------------------------------------------------------------------------------------------------


def test_identity_follows_content_not_place(tmp_path: Path) -> None:
    rows = ["one", "two"]
    first = write_json(tmp_path / "a.jsonl", rows)
    second = write_json(tmp_path / "b.jsonl", rows)
    identity = open_documents(JSONLines(first, held_out=first), "train").identity
    assert open_documents(JSONLines(second, held_out=second), "train").identity == identity

    status = os.stat(second)
    Path(second).write_text(Path(second).read_text().replace("two", "six"))
    os.utime(second, ns=(status.st_atime_ns, status.st_mtime_ns))  # the same size and time of change
    changed = open_documents(JSONLines(second, held_out=second), "train")
    assert changed.identity != identity
    assert texts(changed) == ["one", "six"]


def test_identity_follows_the_fields_that_decide_documents(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text('{"text": "one", "other": "two", "block": "three"}\n')
    name = str(path)
    corpora = [
        JSONLines(name, held_out=name),
        JSONLines(name, held_out=name, text="other"),
        JSONLines(name, held_out=name, text="block"),
        PlainText(name, held_out=name),
        PlainText(name, held_out=name, document="file"),
    ]
    assert len({open_documents(corpus, "train").identity for corpus in corpora}) == 5


def test_files_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_json(tmp_path / "a.jsonl", ["only once"])
    corpus = JSONLines(path, held_out=path)
    open_documents(corpus, "train")
    monkeypatch.setattr(text_files, "text_lines", lambda *_: pytest.fail("read again"))
    monkeypatch.setattr(text_files.cache, "file_digest", lambda *_: pytest.fail("hashed again"))
    assert texts(open_documents(corpus, "train")) == ["only once"]


# --- Bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"text": "a"', r"a\.jsonl, line 2 is not JSON \(.* at column 13\)"),
        ("nonsense", "line 2 is not JSON"),
        ("[" * 100_000, "line 2 cannot be read as JSON"),
        ('{"text": ' + "1" * 5000 + "}", "line 2 cannot be read as JSON"),
        ('["text"]', "line 2 is not a JSON object but list"),
        ('{"body": "a", "id": 1}', """line 2 has no key "text": its keys are 'body', 'id'"""),
        ("{}", "its keys are none"),
        ('{"text": 3}', 'line 2: the value of "text" is int, not a string'),
        ('{"text": null}', "is NoneType, not a string"),
        ('{"text": "\\ud800"}', "half of a surrogate pair"),
    ],
)
def test_bad_json_lines(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(f'{{"text": "good"}}\n{line}\n{{"text": "good"}}\n')
    with pytest.raises(ConfigError, match=message):
        open_documents(JSONLines(str(path)), "train")


def test_several_texts_of_a_line_are_joined_and_missing_ones_left_out_by_choice(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(tmp_path / "a.jsonl")
    rows = [
        {"title": "A", "meta": {"text": "a"}},
        {"title": None, "meta": {"text": "b"}},
        {"title": "", "meta": {"text": ""}},
    ]
    Path(path).write_text("".join(json.dumps(row) + "\n" for row in rows))
    corpus = JSONLines(path, path, text=("title", "meta.text"), join=": ", empty="skip")
    assert open_documents(corpus, "train")[0] == "A: a"
    assert len(open_documents(corpus, "train")) == 2  # the last is the joint alone
    assert "1 of 3 documents of " in capsys.readouterr().err
    needed = r'line 2: the value of "title" is NoneType, not a string: give the corpus empty="skip" to leave such'
    with pytest.raises(ConfigError, match=needed):
        open_documents(replace(corpus, empty="refuse"), "train")


def test_what_json_lines_were_before_is_what_they_are_known_by(tmp_path: Path) -> None:
    assert JSONLines("a", text="b").rule == JSONLines("a", text=("b",), join=" ").rule == "b"
    others = [
        JSONLines("a", text="b", empty="skip"),
        JSONLines("a", text="b", where="n > 1"),
        JSONLines("a", text=("b", "c")),
    ]
    assert len({"b", *(corpus.rule for corpus in others)}) == 4


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("m == 1", """line 1 has no key "m": its keys are 'text', 'n'"""),
        ("n == 'a'", r"""line 1: where="n == 'a'" does not fit its values \(1 cannot be compared with 'a'\)"""),
        ("text", r"line 1: where='text' does not fit its values \('x' is neither true nor false\)"),
        ("1", r"where='1' does not fit its values \(1 is neither true nor false\)"),
        ("not text", r"where='not text' does not fit its values \('x' is neither"),
        ("n =", r"is no filter \(invalid syntax"),
        ("n > 1", "is empty"),
    ],
)
def test_bad_filters_of_lines(tmp_path: Path, where: str, message: str) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "x", "n": 1}\n')
    with pytest.raises(ConfigError, match=message):
        open_documents(JSONLines(f"{tmp_path}/a.jsonl", where=where), "train")


def test_a_directory_is_its_files(tmp_path: Path) -> None:
    for name in ("b.txt", "a.txt.gz", ".hidden", "_SUCCESS"):
        content = name.encode()
        (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    (tmp_path / "folder.txt").mkdir()
    corpus = PlainText(str(tmp_path), str(tmp_path))
    assert [open_documents(corpus, "train")[number] for number in range(2)] == ["a.txt.gz", "b.txt"]
    (tmp_path / "c.md").write_text("c")
    with pytest.raises(
        ConfigError, match=rf"holds files of several kinds \(\.md, \.txt\): .* such as {tmp_path}/\*\.txt\.$"
    ):
        open_documents(corpus, "train")


def test_text_that_is_not_utf8(tmp_path: Path) -> None:
    content = b"abc\n\nd\xe9f\n"
    with pytest.raises(ConfigError, match=r"a\.txt is not UTF-8 text: byte 0xe9 at offset 6 \(line 3\)"):
        open_documents(plain(tmp_path / "a.txt", content), "train")
    packed = gzip.compress(b"\xef\xbb\xbf" + content)
    with pytest.raises(ConfigError, match=r"a\.txt\.gz is not UTF-8 text: byte 0xe9 at offset 9 \(line 3\)"):
        open_documents(plain(tmp_path / "a.txt.gz", packed), "train")


def test_missing_files(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for name, message in (("a.txt", "There is no file"), ("*.txt", "No file matches"), ("empty", "is a directory")):
        with pytest.raises(ConfigError, match=message):
            open_documents(PlainText(str(tmp_path / name)), "train")


@pytest.mark.parametrize("content", [b"", b"\n \n\n"])
def test_empty_corpora(tmp_path: Path, content: bytes) -> None:
    for corpus in (plain(tmp_path / "a", content), plain(tmp_path / "a", content, document="file")):
        with pytest.raises(ConfigError, match="is empty"):
            open_documents(corpus, "train")
    with pytest.raises(ConfigError, match="is empty"):
        open_documents(JSONLines(str(tmp_path / "a")), "train")


def test_nothing_to_hold_out(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("one document")
    with pytest.raises(ConfigError, match=r"None of the 1 documents .* held_out"):
        open_documents(PlainText(str(path)), "held_out")


@pytest.mark.parametrize("suffix", compressed.PACK)
@pytest.mark.parametrize("cut", [slice(0, 20), slice(0, -3), slice(3, None)])
def test_damaged_compressed_files(tmp_path: Path, suffix: str, cut: slice) -> None:
    packed = compressed.PACK[suffix](b"some text " * 100)
    with pytest.raises(ConfigError, match=rf"a\.{suffix} is not a complete {compressed.NAMES[suffix]} file"):
        open_documents(plain(tmp_path / f"a.{suffix}", packed[cut]), "train")
    assert not list(tmp_path.rglob("decompressed/*/text"))


# --- TFDS -------------------------------------------------------------------------------------------------------------


class KintsugiExample(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("1.0.0")

    def _info(self) -> tfds.core.DatasetInfo:
        features = {"document": tfds.features.Text(), "number": tfds.features.Scalar(dtype=np.int64)}
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        return {"train": self._generate_examples(5), "test": self._generate_examples(3)}

    def _generate_examples(self, count: int) -> Iterator[tuple[int, dict[str, Any]]]:
        if os.environ.get("BREAK_THE_BUILD"):
            yield 0, {"document": "the same key twice", "number": 0}
        for number in range(count):
            yield number, {"document": f"dokument é {number}", "number": number}


@pytest.fixture
def tfds_example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    return tmp_path / "tfds"


def test_any_tfds_name(tfds_example: Path, capsys: pytest.CaptureFixture[str]) -> None:
    corpus = TFDS("kintsugi_example", held_out="test", text="document")
    train = open_documents(corpus, "train")
    assert sorted(texts(train)) == [f"dokument é {number}" for number in range(5)]
    held_out = open_documents(corpus, "held_out")
    assert len(held_out) == 3
    assert held_out.identity != train.identity
    assert len(open_documents(TFDS("kintsugi_example", train="train[:2]", text="document"), "train")) == 2
    for split, shared in (("train[2:4]", 1), ("train[3:]", 0)):
        corpus = TFDS("kintsugi_example", train="train[:3]", held_out=split, text="document")
        data = Denoising((corpus,), Bytes(), input_length=32, shared_files="count")
        assert shared == (recipes(data) is not None and "trained on too, in 1 files" in capsys.readouterr().err)
    assert list(tfds_example.rglob("*.array_record*"))


@pytest.mark.parametrize(
    ("corpus", "message"),
    [
        (TFDS("kintsugi_example"), 'has no text feature "text": it has document'),
        (TFDS("kintsugi_example", text="number"), "has no text feature"),
        (
            TFDS("kintsugi_example", train="training", text="document"),
            r"has no examples in training: it has train \(5\), test \(3\)",
        ),
        (TFDS("kintsugi_example", train="train[:0]", text="document"), "has no examples in"),
        (TFDS("kintsugi_example:9.9.9"), "does not accept the name kintsugi_example:9.9.9"),
        (TFDS("kintsugi_example/none"), "does not accept the name kintsugi_example/none"),
        (TFDS("no_such_data_set"), "There is no TFDS data set no_such_data_set.*list_builders"),
    ],
)
def test_bad_tfds_corpora(tfds_example: Path, corpus: TFDS, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        open_documents(corpus, "train")


@pytest.fixture
def damaged(tfds_example: Path) -> Path:
    """The records of a built data set, with a flipped bit in the text of number 3."""
    open_documents(TFDS("kintsugi_example", text="document"), "train")
    (path,) = tfds_example.rglob("*-train.array_record*")
    content = bytearray(path.read_bytes())
    content[content.index("dokument é 3".encode()) + 4] ^= 1
    path.write_bytes(content)
    return path


def test_a_damaged_record_is_named_with_its_file(damaged: Path) -> None:
    documents = open_documents(TFDS("kintsugi_example", text="document"), "train")
    named = rf"Example \d of kintsugi_example \(train\) cannot be read: {re.escape(str(damaged))} is damaged or missing"
    with pytest.raises(ConfigError, match=rf"{named} \(Corrupted .*\)\. Rebuild .* or for a corpus set damaged='skip'"):
        documents.read(np.arange(5))
    bad = [index for index in range(5) if not readable(documents, index)]
    assert len(bad) == 1
    (part,) = (open_documents(TFDS("kintsugi_example", train=f"train[{bad[0]}:]", text="document"), "train"),)
    with pytest.raises(ConfigError, match=r"Example 0 of kintsugi_example"):
        part.read(np.arange(len(part)))


def readable(documents: Documents, index: int) -> bool:
    try:
        return bool(documents[index])
    except ConfigError:
        return False


def test_or_left_out_by_choice_and_counted(damaged: Path, capsys: pytest.CaptureFixture) -> None:
    refusing = open_documents(TFDS("kintsugi_example", text="document"), "train")
    documents = open_documents(TFDS("kintsugi_example", text="document", damaged="skip"), "train")
    assert sorted(documents.read(np.arange(5))) == [f"dokument é {number}" for number in (0, 1, 2, 4)]
    assert "Skipped a document (1 so far): Example " in capsys.readouterr().err
    assert documents.identity != refusing.identity  # what was cached of it is not taken for the whole
    stream = Recipe(documents, open_tokenizer(Bytes())).stream()
    assert len(stream.tokens) == 4 * len("dokument é 3".encode())


def test_a_shard_that_is_missing_is_named(damaged: Path) -> None:
    damaged.unlink()
    with pytest.raises(ConfigError, match=rf"{re.escape(str(damaged))} is damaged or missing \(open\(\) failed"):
        open_documents(TFDS("kintsugi_example", text="document"), "train").read(np.arange(5))


def test_why_a_tfds_build_failed_is_reported(tfds_example: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BREAK_THE_BUILD", "1")
    with pytest.raises(ConfigError, match=r"could not build kintsugi_example .*DuplicatedKeysError"):
        open_documents(TFDS("kintsugi_example", text="document"), "train")


def test_names_known_to_tfds_are_found_without_tensorflow(tmp_path: Path) -> None:
    code = (
        "import sys; from research.data.corpora.corpus import _find_builder;"
        "print(_find_builder('c4/en').info.full_name, 'tensorflow' in sys.modules)"
    )
    environment = {**os.environ, "TFDS_DATA_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120)
    assert done.stdout.split() == ["c4/en/3.1.0", "False"], done.stderr[-2000:]
