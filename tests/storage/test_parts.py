"""A large file of the cache is verified part by part, each before anybody gets a byte of it."""

import errno
import gzip
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from research import Bytes, JSONLines, SpanCorruption, TextToText, TSVExamples
from research.config import ConfigError, Denoiser
from research.data.corpora.denoising import DenoisingSource
from research.data.corpora.documents import DocumentsInMemory, open_documents
from research.data.corpora.tokens import Recipe
from research.data.tasks import pairs
from research.data.tasks.task import open_task
from research.data.tokenizer import open_tokenizer
from research.storage import cache
from research.storage.parts import Parts

CONTENT = bytes(range(200))


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch, own_cache: Path) -> None:
    """Files above 100 bytes are large, and parts have 64."""
    monkeypatch.setattr(cache, "VERIFIED_BYTES", 100)
    monkeypatch.setattr(cache, "PART_BYTES", 64)


def build(folder: Path) -> None:
    (folder / "large").write_bytes(CONTENT)
    (folder / "small").write_bytes(b"small")


def entry(by_parts: bool) -> Path:
    return cache.entry("kind", "key", build, lambda name: by_parts and name == "large")


def flip(path: Path, offset: int) -> None:
    content = bytearray(path.read_bytes())
    content[offset] ^= 1
    path.write_bytes(content)


def check(parts: Parts, start: int, stop: int) -> None:
    parts.check(np.array([start]), np.array([stop]))


def test_a_changed_part_is_found_when_it_is_read_and_the_entry_built_again(capsys: pytest.CaptureFixture[str]) -> None:
    large = entry(by_parts=True) / "large"
    flip(large, 150)
    assert entry(by_parts=True) == large.parent  # it is not hashed here
    parts = Parts(large, mapped=True)
    check(parts, 0, 128)
    check(parts, 199, 200)
    for _ in range(2):
        with pytest.raises(ConfigError, match=r"is damaged \(bytes 128 to 192 of large were changed\): the same"):
            check(parts, 100, 129)
        assert not large.exists()
    assert "it is moved to" in capsys.readouterr().err
    assert (entry(by_parts=True) / "large").read_bytes() == CONTENT


def test_a_part_is_hashed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = Parts(entry(by_parts=True) / "large")
    hashed: list[int] = []
    original = cache.content_digest
    monkeypatch.setattr(cache, "content_digest", lambda content: hashed.append(len(content)) or original(content))
    check(parts, 10, 70)
    assert hashed == [64, 64]
    parts.check_all()
    check(parts, 0, 200)
    assert hashed == [64, 64, 64, 8]


@pytest.mark.parametrize("offset", [3, 150])
def test_a_large_file_that_nobody_reads_by_parts_is_hashed_whole(offset: int) -> None:
    flip(entry(by_parts=False) / "large", offset)
    assert (entry(by_parts=False) / "large").read_bytes() == CONTENT


def age(folder: Path) -> None:
    """Make an entry like one of an earlier version, without hashes of parts."""
    (folder / "PARTS.json").unlink()
    contents = folder / "CONTENTS.json"
    listed = json.loads(contents.read_text())
    contents.write_text(json.dumps({name: listed[name] for name in ("large", "small")}))


def test_an_entry_of_an_earlier_version_is_verified_whole_and_gets_parts() -> None:
    large = entry(by_parts=True) / "large"
    age(large.parent)
    check(Parts(large), 0, 200)
    flip(large, 150)
    with pytest.raises(ConfigError, match="bytes 128 to 192"):
        check(Parts(large), 0, 200)
    large = entry(by_parts=True) / "large"
    age(large.parent)
    flip(large, 150)
    with pytest.raises(ConfigError, match=r"is damaged \(large was changed\): delete it"):
        Parts(large)


@pytest.mark.parametrize("read_only", [cache.FileLock, cache.write_json], ids=["lock", "entry"])
def test_an_entry_of_an_earlier_version_is_read_in_a_cache_that_cannot_be_written(
    monkeypatch: pytest.MonkeyPatch, read_only: Callable
) -> None:
    large = entry(by_parts=True) / "large"
    age(large.parent)
    calls: list[Path] = []
    original = cache._digests
    monkeypatch.setattr(cache, read_only.__name__, refused)
    monkeypatch.setattr(cache, "_digests", lambda path: calls.append(path) or original(path))
    Parts(large)
    assert large in calls
    calls.clear()
    parts = Parts(large)
    assert not calls
    check(parts, 0, 200)
    flip(large, 150)
    for _ in range(2):
        with pytest.raises(ConfigError, match=r"is damaged \(large was changed\)"):
            Parts(large)


def refused(*_: object) -> None:
    raise PermissionError(errno.EACCES, "Permission denied")


def test_who_waited_for_the_parts_of_an_entry_does_not_compute_them_again(monkeypatch: pytest.MonkeyPatch) -> None:
    large = entry(by_parts=True) / "large"
    parts = (large.parent / "PARTS.json").read_text()
    age(large.parent)

    @contextmanager
    def locked(path: Path) -> Iterator[None]:
        (path / "PARTS.json").write_text(parts)  # by another process, which had the lock
        yield

    monkeypatch.setattr(cache, "locked", locked)
    monkeypatch.setattr(cache, "_digests", lambda path: pytest.fail("hashed again"))
    check(Parts(large), 0, 200)


def test_every_reader_of_a_large_file_checks_its_parts(own_cache: Path, tmp_path: Path) -> None:
    tokenizer = open_tokenizer(Bytes())
    texts = [f"document {number} has some words" for number in range(40)]
    recipe = Recipe(DocumentsInMemory("a", texts), tokenizer)
    stream = recipe.stream()
    denoiser = Denoiser(SpanCorruption())
    source = DenoisingSource(recipe, stream, denoiser, 32, tokenizer, None)
    (tokens,) = own_cache.glob("tokens/*/tokens")
    flip(tokens, tokens.stat().st_size - 200)
    source(np.arange(2), np.random.default_rng(0))
    with pytest.raises(ConfigError, match="of tokens were changed"):
        source(np.arange(len(source)), np.random.default_rng(0))

    (tmp_path / "a.tsv").write_text("".join(f"{text}\t{number}\n" for number, text in enumerate(texts)))
    task = TextToText(examples=TSVExamples(f"{tmp_path}/a.tsv", f"{tmp_path}/a.tsv"))
    made = pairs.open_pairs(open_task(task, "train", None), tokenizer, (None, None))
    (sources,) = own_cache.glob("pairs/*/sources.npy")
    flip(sources, sources.stat().st_size - 1)
    lengths = made.sources.lengths
    first = np.arange(1)
    pairs.gather(made.sources, first, lengths[first], 1, pairs.spread(lengths[first]))
    with pytest.raises(ConfigError, match=r"of sources\.npy were changed"):
        pairs.gather(made.sources, np.arange(40), lengths, 1, pairs.spread(lengths))

    packed = tmp_path / "a.jsonl.gz"
    packed.write_bytes(gzip.compress("".join(json.dumps({"text": text}) + "\n" for text in texts).encode()))
    for _ in range(2):  # the first one has read and verified everything
        documents = open_documents(JSONLines(str(packed), str(packed)), "train")
    (plain,) = own_cache.glob("decompressed/*/text")
    flip(plain, plain.stat().st_size - 10)
    assert documents[0] == texts[0]
    with pytest.raises(ConfigError, match="of text were changed"):
        documents[39]


def test_an_entry_that_is_deleted_is_read_on_through_its_memory_map(
    own_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.tsv").write_text("".join(f"source {number}\ttarget {number}\n" for number in range(40)))
    task = TextToText(examples=TSVExamples(f"{tmp_path}/a.tsv", f"{tmp_path}/a.tsv"))
    examples, tokenizer = open_task(task, "train", None), open_tokenizer(Bytes())
    sides = [pairs.open_pairs(examples, tokenizer, (None, None)).sources]
    stream = Recipe(DocumentsInMemory("a", [f"document {number}" for number in range(40)]), tokenizer).stream()
    monkeypatch.setattr(cache, "VERIFIED_BYTES", 1 << 28)  # now none has parts
    sides.append(pairs.open_pairs(examples, tokenizer, (None, None)).sources)
    shutil.rmtree(own_cache)
    lengths = sides[0].lengths
    first, second = (pairs.gather(side, np.arange(40), lengths, 1, pairs.spread(lengths)) for side in sides)
    assert first.tolist() == second.tolist() == sides[0].tokens.tolist()
    stream.check(np.arange(len(stream.rows(8))), 8)


def test_files_that_are_not_mapped_are_open_only_while_they_are_verified(own_cache: Path, tmp_path: Path) -> None:
    for number in range(8):
        text = json.dumps({"text": f"{number} " * 60}) + "\n"
        (tmp_path / f"{number}.jsonl.gz").write_bytes(gzip.compress(text.encode()))
    before = len(os.listdir("/proc/self/fd"))
    opened = open_documents(JSONLines(f"{tmp_path}/*.gz", f"{tmp_path}/*.gz"), "train")
    assert [document[0] for document in opened.read(np.arange(8))] == [*"01234567"]
    assert len(os.listdir("/proc/self/fd")) == before
