"""Models of the hub by name, from a small hub on this machine: what is fetched, and each error as one sentence."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from fake_hub import COMMIT, TOKEN, point_to, served
from huggingface_hub import constants

from research import Bytes, Model
from research.config import ConfigError, Generation
from research.data.tokenizer import open_tokenizer
from research.decode.loaded_model import load
from research.model.transformer import initial_params
from research.pretrained import find, hub
from research.pretrained.huggingface import write_directory
from research.storage.bucket import any_path

NAME = "tester/tiny"
ADDRESS = f"hf://{NAME}"
EXTRA = ("pytorch_model.bin", "flax_model.msgpack", "README.md", "model.fp16.safetensors")  # beside the model


@pytest.fixture
def hub_server(tmp_path, monkeypatch):
    """A hub with one model."""
    tokenizer = open_tokenizer(Bytes(sentinels=3))
    model = Model(tokenizer.size, 16, 2, 8, 24, 1, 1, compute="float32")
    params = initial_params(model, jax.random.key(0))
    (tmp_path / "hub" / "tester").mkdir(parents=True)
    write_directory(tmp_path / "hub" / NAME, model, params, tokenizer, Generation(max_length=8))
    for name in EXTRA:
        (tmp_path / "hub" / NAME / name).write_bytes(b"x")
    with served(tmp_path / "hub", tmp_path / "cache", monkeypatch) as handler:
        yield handler


def model_folder(hub_server) -> Path:
    return hub_server.folder / NAME


def message(address: str = ADDRESS) -> str:
    with pytest.raises(ConfigError) as caught:
        find.find(any_path(address))
    return str(caught.value)


def test_a_model_by_name_is_the_model(hub_server):
    opened, local = load(ADDRESS), load(model_folder(hub_server))
    assert opened.config == local.config
    assert jax.tree.all(jax.tree.map(np.array_equal, opened.params, local.params))
    assert opened.generate(["a b"]) == local.generate(["a b"])


def test_only_what_a_model_needs_is_fetched_once(hub_server):
    asked = hub_server.requests
    for revision in ("", "@main", f"@{COMMIT}"):
        find.find(any_path(ADDRESS + revision))
    assert asked
    assert not {f"{NAME}/{name}" for name in EXTRA} & {*asked}
    assert asked.count(f"{NAME}/model.safetensors") <= 2  # the size, and the content


def test_the_cache_serves_without_a_network(hub_server, monkeypatch):
    find.find(any_path(ADDRESS))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    hub.download.cache_clear()
    assert find.find(any_path(ADDRESS)).format == "Hugging Face"
    absent = message("hf://tester/other")
    assert "hf://tester/other: it is not in the cache, and the hub cannot be reached or is switched off." in absent


def test_no_hub_at_the_address(hub_server, monkeypatch):
    point_to("http://127.0.0.1:9", monkeypatch)
    assert "it is not in the cache, and the hub cannot be reached" in message()


def test_pickles_are_read_only_where_the_address_names_them(hub_server):
    (model_folder(hub_server) / "model.safetensors").unlink()
    assert "only PyTorch's" in message()
    assert f"write {ADDRESS}/pytorch_model.bin" in message()
    assert hub.download(f"{ADDRESS}/pytorch_model.bin").joinpath("pytorch_model.bin").read_bytes() == b"x"


def test_what_a_model_without_weights_has_is_named(hub_server):
    for path in model_folder(hub_server).glob("*model*"):
        path.unlink()
    assert "has no weights in the safetensors format; it has README.md, config.json" in message()


@pytest.mark.parametrize(
    ("address", "part"),
    [
        ("hf://tester/absent", "hf://tester/absent does not exist, or is private: check the name, or log in by"),
        (f"{ADDRESS}@v2", f"{ADDRESS}@v2: the hub has the model, but not this revision."),
        ("hf://tiny", "hf://tiny is no model of the hub: write hf://ORGANISATION/NAME"),
        (f"{ADDRESS}/other.bin", "is no model of the hub"),
    ],
)
def test_names_that_are_no_model(hub_server, address, part):
    assert part in message(address)


def test_private_and_gated_models(hub_server, monkeypatch):
    private = model_folder(hub_server) / ".private"
    private.touch()
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    assert "does not exist, or is private: check the name, or log in by" in message()
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert find.find(any_path(ADDRESS)).format == "Hugging Face"
    private.rename(private.with_name(".gated"))
    shutil.rmtree(constants.HF_HUB_CACHE)
    hub.download.cache_clear()
    assert "is gated: accept its terms on its page, and log in by" in message()


def test_a_process_asks_the_hub_once(hub_server):
    find.find(any_path(ADDRESS))
    before = len(hub_server.calls)
    find.find(any_path(ADDRESS))
    assert len(hub_server.calls) == before > 0


@pytest.mark.slow  # a process that reads the variables of huggingface_hub
def test_the_command_line_takes_a_name(hub_server, tmp_path):
    variables = {"HF_ENDPOINT": constants.ENDPOINT, "HF_HOME": str(tmp_path / "home"), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-m", "scripts.generate", ADDRESS, "a b"]
    run = subprocess.run(command, env=os.environ | variables, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stdout.rstrip("\n") == load(model_folder(hub_server)).generate(["a b"])[0]
