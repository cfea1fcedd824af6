"""Runs in a bucket, in front of a server that answers as Google Cloud Storage does."""

import contextlib
import http.server
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import fsspec.config
import numpy as np
import pytest
from etils import epath
from local_server import LocalServer
from real_runs import (
    ROOT,
    STEPS,
    assert_close_to_whole,
    assert_same_arrays,
    free_port,
    start,
    two_hosts,
    until,
)
from tiny_run import experiment

from research import Checkpoint, JSONLines, Profile
from research.config import ConfigError
from research.config.load import open_experiment
from research.data.corpora.documents import open_documents
from research.parallel.rules import flatten
from research.pretrained import find
from research.pretrained.average import average
from research.storage import bucket
from research.storage.bucket import any_path
from research.storage.checkpoint import Checkpoints
from research.storage.manifest import steps_on_disk, verify
from research.train.loop import train
from scripts import generate

pytestmark = pytest.mark.slow

FILES = {"config.json", "diff.json", "RESULT.json", "history.jsonl", "metrics.jsonl", "loss.png"}


@pytest.fixture(scope="module")
def emulator():
    """A server with one bucket, named bucket."""
    port = free_port()
    emulator = subprocess.Popen([sys.executable, str(ROOT / "tests" / "helpers" / "object_store.py"), str(port)])
    while True:
        assert emulator.poll() is None
        with contextlib.suppress(OSError), socket.create_connection(("localhost", port)):
            break
        time.sleep(0.05)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STORAGE_EMULATOR_HOST", f"http://localhost:{port}")
        patch.setenv("TENSORSTORE_GCS_HTTP_URL", f"http://localhost:{port}")
        patch.setenv("GOOGLE_AUTH_TOKEN_FOR_TESTING", "any")
        patch.setenv("GOOGLE_CLOUD_PROJECT", "any")
        patch.setenv("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")  # it would ask another server of the bucket's kind
        patch.setattr(bucket, "SETTLE", 0.05)
        patch.setattr(bucket, "LEASE", 2.0)
        yield emulator
    emulator.kill()
    emulator.wait()


@pytest.fixture(scope="module")
def storage(emulator):
    """Its file system."""
    return bucket._storage()


@contextlib.contextmanager
def silent(emulator: subprocess.Popen):
    """Let the server answer nothing, as behind a network that loses everything."""
    emulator.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        emulator.send_signal(signal.SIGCONT)


@pytest.fixture(scope="module")
def runs(storage, tmp_path_factory: pytest.TempPathFactory):
    """The same run, in a directory and in the bucket."""
    folder = tmp_path_factory.mktemp("bucket")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KINTSUGI_CACHE", str(folder / "cache"))
        made = experiment(folder)
        for directory in (folder / "tiny", any_path("gs://bucket/runs/tiny")):
            assert train(made, directory, file=open_experiment(ROOT / "experiments" / "quickstart.py")) == 0
        yield folder, made


def copied(storage, name: str) -> epath.Path:
    storage.copy("gs://bucket/runs/tiny", f"gs://bucket/runs/{name}", recursive=True)
    return epath.Path(f"gs://bucket/runs/{name}")


def test_a_run_in_a_bucket_is_the_run_in_a_directory(runs) -> None:
    folder, _ = runs
    here, there = folder / "tiny", epath.Path("gs://bucket/runs/tiny")
    assert {path.name for path in there.iterdir()} > FILES
    assert json.loads((there / "RESULT.json").read_text())["status"] == "done"
    assert not (there / "RUN.lock").exists()
    assert losses(there) == losses(here)
    assert steps_on_disk(there / "checkpoints") == [2, 1]
    assert_same_arrays(there / "checkpoints" / "2", here / "checkpoints" / "2")


def test_text_in_a_bucket_is_read_through_its_copy(storage, own_cache: Path) -> None:
    for name in ("2", "10"):
        storage.pipe_file(f"bucket/texts/{name}.jsonl", json.dumps({"text": f"text {name}"}).encode() + b"\n")

    def opened() -> list[str]:
        documents = open_documents(JSONLines("gs://bucket/texts/*.jsonl", "gs://bucket/texts/2.jsonl"), "train")
        return documents.read(np.arange(len(documents)))

    assert opened() == ["text 10", "text 2"]
    storage.pipe_file("bucket/texts/2.jsonl", json.dumps({"text": "text 3"}).encode() + b"\n")  # of the same size
    assert opened() == ["text 10", "text 3"]
    assert {path.read_text() for path in own_cache.glob("remote/*/origin")} == {
        "gs://bucket/texts/10.jsonl", "gs://bucket/texts/2.jsonl",
    }  # fmt: skip
    with pytest.raises(ConfigError, match=r"^There is no file gs://bucket/texts/4\.jsonl\.$"):
        open_documents(JSONLines("gs://bucket/texts/4.jsonl"), "train")


def losses(directory) -> list[tuple[int, float]]:
    lines = map(json.loads, (directory / "metrics.jsonl").read_text().splitlines())
    return [(line["step"], line["loss"]) for line in lines if "loss" in line]


def test_it_goes_on_where_it_was_from_the_bucket_alone(runs, storage, capsys) -> None:
    folder, made = runs
    longer = type(made)(**{**vars(made), "steps": 4})
    there = copied(storage, "longer")
    for directory in (shutil.copytree(folder / "tiny", folder / "longer"), there):
        assert train(longer, directory) == 0
        assert "Resuming from the checkpoint of step 2." in capsys.readouterr().out
    assert [step for step, _ in losses(there)] == [1, 2, 3, 4]
    assert losses(there) == losses(folder / "longer")
    assert_same_arrays(there / "checkpoints" / "4", folder / "longer" / "checkpoints" / "4")
    assert train(longer, there) == 0
    assert "gs://bucket/runs/longer is complete at step 4." in capsys.readouterr().out


def test_another_experiment_is_refused_by_its_address(runs) -> None:
    _, made = runs
    other = type(made)(**{**vars(made), "seed": 7})
    with pytest.raises(ConfigError, match=r"^gs://bucket/runs/tiny holds another experiment: seed was 0 and is now 7"):
        train(other, any_path("gs://bucket/runs/tiny"))


def test_what_is_no_run_is_not_touched(runs, storage) -> None:
    _, made = runs
    storage.pipe_file("gs://bucket/others/data.csv", b"1,2")
    with pytest.raises(ConfigError, match="gs://bucket/others is not empty and holds no run"):
        train(made, any_path("gs://bucket/others"))
    assert storage.find("gs://bucket/others") == ["bucket/others/data.csv"]


def test_its_weights_are_read_wherever_a_runs_are(runs, storage, capsys) -> None:
    folder, made = runs
    there, here = any_path("gs://bucket/runs/tiny"), folder / "tiny"
    assert flatten(find.find(there / "checkpoints" / "best").params()).keys()
    expected = flatten(find.find(here).params())
    for path, leaf in flatten(find.find(there).params()).items():
        np.testing.assert_array_equal(leaf, expected[path])
    assert average(there, folder / "mean", 2) == [2, 1]
    assert train(type(made)(**{**vars(made), "init": "gs://bucket/runs/tiny", "steps": 1}), folder / "tuned") == 0
    outputs = []
    for model in (str(here), "gs://bucket/runs/tiny"):
        capsys.readouterr()
        assert generate.main([model, "some words", "--generation.max_length=4"]) == 0
        outputs.append(capsys.readouterr().out)
    assert outputs[0] == outputs[1]


@pytest.mark.parametrize("damage", ["changed", "missing", "not in its manifest"])
def test_what_is_damaged_is_set_aside_and_the_one_before_taken(runs, storage, damage: str, capsys) -> None:
    there = copied(storage, f"damaged_{damage[:3]}")
    files = [path for path in storage.find(str(there / "checkpoints" / "2")) if "/d/" in path]
    content = bytearray(storage.cat_file(files[0]))
    match damage:
        case "changed":
            content[len(content) // 2] ^= 1
            storage.pipe_file(files[0], bytes(content))
        case "missing":
            storage.rm_file(files[0])
        case _:
            storage.pipe_file(files[0] + "x", bytes(content))
    assert damage in verify(there / "checkpoints" / "2")
    opened = Checkpoints(there / "checkpoints", Checkpoint())
    assert opened.newest == 1
    assert opened.set_aside == [there / "set_aside" / "2"]
    assert f"It was moved to {there}/set_aside/2; the one before it is used." in capsys.readouterr().out
    opened.close()


def test_what_was_not_committed_is_no_checkpoint(runs, storage) -> None:
    there = copied(storage, "uncommitted")
    storage.rm_file(str(there / "checkpoints" / "2" / "commit_success.txt"))
    assert steps_on_disk(there / "checkpoints") == [1]
    opened = Checkpoints(there / "checkpoints", Checkpoint())
    assert (opened.newest, opened.set_aside) == (1, [])
    assert not (there / "checkpoints" / "2").exists()
    opened.close()


def test_a_run_that_is_carried_over_verifies(runs, storage) -> None:
    """From a bucket to a disk and the other way."""
    folder, _ = runs
    storage.get("gs://bucket/runs/tiny", str(folder / "down"), recursive=True)
    storage.put(str(folder / "tiny"), "gs://bucket/runs/up", recursive=True)
    for directory in (folder / "down", any_path("gs://bucket/runs/up")):
        assert verify(directory / "checkpoints" / "2") == ""
    (file,) = [path for path in (folder / "down" / "checkpoints" / "2").rglob("d/*") if path.is_file()][:1]
    content = file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert "was changed" in verify(folder / "down" / "checkpoints" / "2")


def test_one_process_at_a_time(storage, monkeypatch, tmp_path, capsys) -> None:
    monkeypatch.setenv("KINTSUGI_CACHE", str(tmp_path))
    there = any_path("gs://bucket/runs/locked")
    holder = re.escape(f"gs://bucket/runs/locked is in use by process {os.getpid()} on ")
    with bucket.mirrored(there), pytest.raises(ConfigError, match=holder), bucket.mirrored(there):
        pass
    assert not (there / "RUN.lock").exists()


def test_the_lock_of_a_dead_process_is_taken_over(storage, monkeypatch, tmp_path, capsys) -> None:
    monkeypatch.setenv("KINTSUGI_CACHE", str(tmp_path))
    there = any_path("gs://bucket/runs/dead")
    dead = bucket.Mirror(there)
    dead.take()
    began = time.monotonic()
    with bucket.mirrored(there):
        assert time.monotonic() - began > bucket.LEASE
        assert "is locked by process" in capsys.readouterr().out
    assert not (there / "RUN.lock").exists()


def test_who_was_taken_over_publishes_nothing_more(storage, monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("KINTSUGI_CACHE", str(tmp_path))
    there = any_path("gs://bucket/runs/taken")
    mirror = bucket.Mirror(there)
    mirror.take()
    mirror.fetch()
    bucket.Mirror(there)._write_lock()
    mirror.keep()  # it returns only when it is not ours any more
    (mirror.local / "metrics.jsonl").write_text("{}")
    with pytest.raises(ConfigError, match="gs://bucket/runs/taken was taken over by process"):
        mirror.publish()
    mirror.release()
    assert not (there / "metrics.jsonl").exists()
    assert (there / "RUN.lock").exists()


def test_a_run_elsewhere_than_in_a_known_bucket_is_refused(runs, monkeypatch) -> None:
    _, made = runs
    with pytest.raises(ConfigError, match=r"^s3://bucket/a: only addresses gs://BUCKET/NAME are supported; mount"):
        train(made, any_path("s3://bucket/a"))
    with pytest.raises(ConfigError, match=r"^gs://nowhere/a cannot be reached .* that this machine has credentials"):
        train(made, any_path("gs://nowhere/a"))
    monkeypatch.setattr(bucket.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"which needs gcsfs: pip install 'kintsugi\[gcs\]'"):
        train(made, any_path("gs://bucket/a"))


class Refusing(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        content = b'{"error": {"code": 401, "message": "Anonymous caller does not have storage.objects.list access."}}'
        self.send_response(401)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *arguments) -> None:
        pass


def test_without_credentials_one_sentence_says_what_to_do(runs, monkeypatch) -> None:
    import gcsfs

    _, made = runs
    server = LocalServer(("localhost", 0), Refusing)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    refused = gcsfs.GCSFileSystem(
        endpoint_url=f"http://localhost:{server.server_port}", token="anon", skip_instance_cache=True
    )
    monkeypatch.setattr(bucket, "_storage", lambda: refused)
    with pytest.raises(ConfigError) as said:
        train(made, any_path("gs://bucket/a"))
    server.shutdown()
    assert str(said.value).startswith("gs://bucket/a cannot be reached (")
    assert "Anonymous caller does not have storage.objects.list access" in str(said.value)
    assert "gcloud auth application-default login" in str(said.value)


@pytest.mark.parametrize("missing", bucket.EMULATOR)
def test_an_emulator_needs_all_its_variables(monkeypatch, missing: str) -> None:
    for name in bucket.EMULATOR:
        monkeypatch.setenv(name, "http://localhost:1/")
    monkeypatch.delenv(missing)
    with pytest.raises(ConfigError, match=r"^gs://bucket/a is in a bucket: for an emulator set all of STORAGE_EM.*"):
        bucket.check_reachable(any_path("gs://bucket/a"))


def test_messages_name_the_bucket_and_no_copy_is_left(runs, storage, monkeypatch, tmp_path, capfd) -> None:
    _, made = runs
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    there = copied(storage, "named")
    longer = type(made)(**{**vars(made), "steps": 3, "profile": Profile(1, 1)})
    assert train(longer, there) == 0
    printed = "".join(capfd.readouterr())
    for written in ("loss.png", "report.html", "checkpoints/3", "profile"):
        assert f" {there}/{written}" in printed
        assert (there / written).exists()
    assert str(tmp_path) not in printed
    assert list(tmp_path.glob("kintsugi-*")) == []


def test_a_copy_that_cannot_be_uploaded_is_kept_and_named(storage, emulator, monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setitem(fsspec.config.conf["gcs"], "requests_timeout", 1.0)
    there = any_path("gs://bucket/runs/kept")
    with contextlib.ExitStack() as held:
        uploaded = held.enter_context(contextlib.ExitStack())
        mirror = uploaded.enter_context(bucket.mirrored(there))
        (mirror.local / "metrics.jsonl").write_text("{}")
        held.enter_context(silent(emulator))
        with pytest.raises(ConfigError) as said:
            uploaded.close()
    assert str(said.value).startswith(f"{there} cannot be reached (FSTimeoutError): check the address")
    assert str(said.value).endswith(f"What was not uploaded is in {mirror.local}.")
    assert (mirror.local / "metrics.jsonl").exists()


def test_a_save_that_cannot_reach_its_bucket_ends_with_one_sentence(storage, emulator, folder: Path) -> None:
    address = "gs://bucket/runs/cut"
    limit = "--config.guard.hang_seconds=10"
    process = start(folder, "cut_there", "--run_dir", address, limit, faults={"SLOW": "0.3"})
    until(process, lambda: newest_there(address) >= 4)
    with silent(emulator):
        assert process.wait(timeout=100) == 43
    printed = (folder / "cut_there.log").read_text()
    said = (
        rf"\nThe save of step \d+ to {address}/checkpoints did not finish in 10 s: check the network and the storage, "
    )
    assert len(re.findall(said, printed)) == 1, printed
    assert "Stacks of all threads" not in printed
    assert "Traceback" not in printed


def test_killed_it_goes_on_from_the_bucket(storage, folder: Path) -> None:
    address = "gs://bucket/runs/killed"
    process = start(folder, "killed_there", "--run_dir", address, faults={"LEASE": "2"})
    until(process, lambda: newest_there(address) >= 8)
    process.kill()
    process.wait()
    again = start(folder, "killed_there", "--run_dir", address, faults={"LEASE": "2"})
    assert again.wait(timeout=200) == 0, (folder / "killed_there.log").read_text()
    assert_same_arrays(any_path(address) / "checkpoints" / str(STEPS), folder / "whole" / "checkpoints" / str(STEPS))
    assert losses(any_path(address)) == losses(folder / "whole")


def newest_there(address: str) -> int:
    time.sleep(0.2)
    return max(steps_on_disk(any_path(address) / "checkpoints"), default=0)


@pytest.mark.nightly
def test_two_hosts_write_one_run_in_a_bucket(storage, folder: Path) -> None:
    address = "gs://bucket/runs/hosts"
    hosts = [
        start(folder, "hosts_there", "--run_dir", address, "--config.mesh.fsdp=2", env=env) for env in two_hosts(folder)
    ]
    assert [host.wait(timeout=300) for host in hosts] == [0, 0], (folder / "hosts_there.log").read_text()
    bucket._storage().get(address, str(folder / "hosts_there"), recursive=True)
    assert_close_to_whole(folder, "hosts_there")
