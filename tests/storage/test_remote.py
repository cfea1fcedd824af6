"""Files at addresses are copied once for each version; a copy is whole, resumes after a kill, and is read offline."""

import functools
import gzip
import json
import sys
import threading
import time
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from local_server import LocalServer

from research import JSONLines, Parquet, TextToText, TSVExamples
from research.config import ConfigError, Corpus
from research.data.corpora.documents import open_documents
from research.data.tasks.task import TaskExamples, open_task
from research.storage import remote

TEXTS = [f"document {number}" for number in range(30)]


class Handler(SimpleHTTPRequestHandler):
    """Serves a folder; `asked` lists each file that is sent with its first byte; `limits` cut the next ones short."""

    asked: list[tuple[str, int]]
    ranges = True
    limits: list[int]

    def do_GET(self) -> None:
        path = Path(self.translate_path(self.path))
        if not path.is_file():
            return super().do_GET()
        content, span = path.read_bytes(), self.headers.get("Range", "")
        start = int(span.removeprefix("bytes=").partition("-")[0]) if span and self.ranges else 0
        self.asked.append((path.name, start))
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.send_header("Last-Modified", self.date_time_string(path.stat().st_mtime))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        limit = self.limits.pop() if self.limits else None
        self.wfile.write(content[start:][:limit])
        time.sleep(0.2 if limit else 0)  # what has arrived before the connection breaks can be read
        self.close_connection = True

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server(own_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    (tmp_path / "served").mkdir()
    handler = type("FolderHandler", (Handler,), {"asked": [], "limits": []})
    running = LocalServer(("127.0.0.1", 0), functools.partial(handler, directory=str(tmp_path / "served")))
    threading.Thread(target=running.serve_forever, daemon=True).start()
    monkeypatch.setattr(remote, "WAIT", 0.0)
    handler.at, handler.files = f"http://127.0.0.1:{running.server_port}", tmp_path / "served"
    yield handler
    running.shutdown()
    running.server_close()


def lines(texts: list[str]) -> bytes:
    return "".join(json.dumps({"text": text}) + "\n" for text in texts).encode()


def texts(corpus: Corpus) -> list[str]:
    documents = open_documents(corpus, "train")
    return documents.read(np.arange(len(documents)))


def opened(address: str) -> list[str]:
    return texts(JSONLines(address, address))


def test_a_file_is_copied_once_for_each_version(server: Any) -> None:
    path = server.files / "a.jsonl.gz"
    path.write_bytes(gzip.compress(lines(TEXTS), mtime=0))
    local = open_documents(JSONLines(str(path), str(path)), "train")
    assert opened(f"{server.at}/a.jsonl.gz") == opened(f"{server.at}/a.jsonl.gz") == TEXTS
    assert server.asked == [("a.jsonl.gz", 0)]
    there = open_documents(JSONLines(f"{server.at}/a.jsonl.gz", "x"), "train")
    assert there.identity == local.identity  # by content
    path.write_bytes(gzip.compress(lines(TEXTS[::-1]), mtime=0))
    assert opened(f"{server.at}/a.jsonl.gz") == TEXTS[::-1]


def test_patterns_and_other_formats(server: Any, tmp_path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    for number in (10, 9):
        (server.files / f"part-{number}.jsonl").write_bytes(lines([f"part {number}"]))
    assert opened(f"{server.at}/part-*.jsonl") == ["part 10", "part 9"]
    parquet.write_table(pa.table({"text": TEXTS}), server.files / "a.parquet")
    assert texts(Parquet(f"{server.at}/a.parquet", f"{server.at}/a.parquet")) == TEXTS
    (server.files / "a.tsv").write_text("one\teins\ntwo\tzwei\n")
    examples = open_task(TextToText(examples=TSVExamples(f"{server.at}/a.tsv", "x")), "train", None)
    assert isinstance(examples, TaskExamples)
    assert [each.target for each in examples.read(np.arange(2))] == ["eins", "zwei"]
    with pytest.raises(ConfigError, match=rf"^No file matches the pattern {server.at}/x-\*"):
        opened(f"{server.at}/x-*.jsonl")


def test_messages_name_the_address(server: Any) -> None:
    (server.files / "a.jsonl").write_bytes(lines(TEXTS[:3]) + b"no JSON\n")
    with pytest.raises(ConfigError, match=rf"^{server.at}/a\.jsonl, line 4 is not JSON"):
        opened(f"{server.at}/a.jsonl")
    (server.files / "a.jsonl.gz").write_bytes(gzip.compress(lines(TEXTS))[:-9])
    with pytest.raises(ConfigError, match=rf"^{server.at}/a\.jsonl\.gz is not a complete gzip file"):
        opened(f"{server.at}/a.jsonl.gz")
    with pytest.raises(ConfigError, match=rf"^There is no file {server.at}/b\.jsonl\."):
        opened(f"{server.at}/b.jsonl")


@pytest.mark.parametrize("ranges", [True, False])
def test_a_copy_resumes_after_a_kill_and_after_a_broken_connection(
    server: Any, monkeypatch: pytest.MonkeyPatch, own_cache: Path, ranges: bool
) -> None:
    server.ranges = ranges
    path, address = server.files / "a.jsonl", f"{server.at}/a.jsonl"
    path.write_bytes(lines(TEXTS))
    monkeypatch.setattr(remote, "PIECE_BYTES", 100)
    original = remote.Progress.advance

    def killed(progress: Any, count: int = 1) -> None:
        if progress.what.startswith("Copying") and progress.done >= 500:
            raise KeyboardInterrupt
        original(progress, count)

    monkeypatch.setattr(remote.Progress, "advance", killed)
    with pytest.raises(KeyboardInterrupt):
        opened(address)
    assert not list(own_cache.glob("remote/*/copy*"))
    (part,) = own_cache.glob("remote/*.download")
    start = part.stat().st_size
    assert path.read_bytes().startswith(part.read_bytes())
    assert start >= 500
    monkeypatch.setattr(remote.Progress, "advance", original)
    assert opened(address) == TEXTS
    assert server.asked[1] == ("a.jsonl", start if ranges else 0)
    assert not list(own_cache.glob("remote/*.download"))
    # A connection that breaks, and one that always breaks.
    path.write_bytes(lines(TEXTS[1:]))
    server.limits, server.asked[:] = [300], []
    assert opened(address) == TEXTS[1:]
    assert server.asked[:2] == [("a.jsonl", 0), ("a.jsonl", 300 if ranges else 0)]
    path.write_bytes(lines(TEXTS[2:]))
    server.limits = [300] * 9
    with pytest.raises(ConfigError, match=r"cannot be reached"):
        opened(address)


def test_a_file_that_changes_while_it_is_copied(server: Any, monkeypatch: pytest.MonkeyPatch, own_cache: Path) -> None:
    path = server.files / "a.jsonl"
    path.write_bytes(lines(TEXTS))
    original = remote._download

    def changing(*arguments: Any) -> Any:
        hash = original(*arguments)
        path.write_bytes(lines(TEXTS) * 2)
        return hash

    monkeypatch.setattr(remote, "_download", changing)
    monkeypatch.setattr(Handler, "date_time_string", lambda handler, time=None: f"at {path.stat().st_mtime_ns}")
    with pytest.raises(ConfigError, match=rf"{server.at}/a\.jsonl changed while it was copied .*: start again"):
        opened(f"{server.at}/a.jsonl")
    monkeypatch.setattr(remote, "_download", original)
    assert opened(f"{server.at}/a.jsonl") == TEXTS * 2
    assert len(list(own_cache.glob("remote/*/copy*"))) == 1


def test_a_server_that_cannot_be_reached(
    server: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (server.files / "a.jsonl").write_bytes(lines(TEXTS))
    assert opened(f"{server.at}/a.jsonl") == TEXTS

    def refuse(*_: Any) -> None:
        raise remote.UnreachableError("unreachable")

    monkeypatch.setattr(remote, "list_files", refuse)
    assert opened(f"{server.at}/a.jsonl") == TEXTS
    assert f"note: {server.at}/a.jsonl cannot be reached: its copy in the cache is read." in capsys.readouterr().err
    monkeypatch.undo()
    refused = r"^http://127\.0\.0\.1:9/a cannot be reached \(.*Cannot connect.*\), and the cache has no copy"
    with pytest.raises(ConfigError, match=refused):
        opened("http://127.0.0.1:9/a")


def test_other_file_systems_and_drivers_that_are_missing(
    own_cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    system = fsspec.filesystem("memory")
    for folder, name in (("a", "2"), ("b", "1")):
        system.pipe(f"/texts/{folder}/{name}.jsonl", lines([f"{folder}{name}"]))
    assert opened("memory://texts/**/*.jsonl") == ["a2", "b1"]
    assert "memory:///texts/a/2.jsonl tells no version of it" in capsys.readouterr().err
    with pytest.raises(ConfigError, match=r"memory://texts is a directory: name a file, or a pattern such as"):
        opened("memory://texts")
    with pytest.raises(ConfigError, match=r"ftpx://a is no address that fsspec knows \(Protocol not known: ftpx"):
        opened("ftpx://a")
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(ConfigError, match=r"^s3://bucket/a needs the driver of s3://: pip install s3fs\.$"):
        opened("s3://bucket/a")
