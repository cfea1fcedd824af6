"""PyTorch's own files: their tensors read, and nothing else of what they hold."""

import json
import pickle
import sys

import jax
import numpy as np
import pytest
from parity import GOLDENS
from safetensors.numpy import load_file

from research.config import ConfigError
from research.pretrained.files import Tensors
from research.pretrained.huggingface import read_config, read_params

torch = pytest.importorskip("torch")


@pytest.fixture
def pickled(tmp_path):
    """A directory with the configuration of a golden, and its tensors as PyTorch's."""
    (tmp_path / "config.json").write_bytes((GOLDENS / "bart" / "config.json").read_bytes())
    tensors = load_file(GOLDENS / "bart" / "model.safetensors")
    return tmp_path, {name: torch.from_numpy(tensor) for name, tensor in tensors.items()}


def read(directory):
    return read_params(directory, read_config(directory))


def same(first, second) -> bool:
    return jax.tree.all(jax.tree.map(np.array_equal, first, second))


@pytest.mark.parametrize("zipped", [True, False])
def test_pickled_tensors(pickled, zipped):
    directory, tensors = pickled
    torch.save(tensors, directory / "pytorch_model.bin", _use_new_zipfile_serialization=zipped)
    assert same(read(directory), read(GOLDENS / "bart"))


def test_shards_of_pickled_tensors(pickled):
    directory, tensors = pickled
    weight_map = {name: f"pytorch_model-{number % 2}.bin" for number, name in enumerate(tensors)}
    for file in set(weight_map.values()):
        torch.save({name: tensors[name] for name in tensors if weight_map[name] == file}, directory / file)
    (directory / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))
    assert same(read(directory), read(GOLDENS / "bart"))
    weight_map["model.shared.weight"] = "model.safetensors"
    (directory / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(ConfigError, match=r"'model.safetensors', which does not end in .bin"):
        read(directory)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision(pickled, dtype):
    directory, tensors = pickled
    halved = {name: tensor.to(getattr(torch, dtype)) for name, tensor in tensors.items()}
    torch.save(halved, directory / "pytorch_model.bin")
    params = read(directory)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {np.dtype(np.float32)}
    np.testing.assert_array_equal(params["embedding"], halved["model.shared.weight"].float().numpy())


def test_safetensors_are_preferred(pickled):
    directory, _ = pickled
    (directory / "pytorch_model.bin").write_bytes(b"not read")
    (directory / "model.safetensors").write_bytes((GOLDENS / "bart" / "model.safetensors").read_bytes())
    assert same(read(directory), read(GOLDENS / "bart"))


class Wanting:
    """An object whose pickle would write a file when loaded."""

    def __init__(self, path) -> None:
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize("zipped", [True, False])
def test_code_is_refused_by_name_and_not_run(pickled, zipped):
    directory, tensors = pickled
    path = directory / "pytorch_model.bin"
    torch.save({**tensors, "x": Wanting(directory / "run")}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(ConfigError, match=r"pytorch_model.bin needs (io|_io).open, but only tensors are read"):
        Tensors(directory)
    assert not (directory / "run").exists()


def test_files_refused(pickled, monkeypatch):
    directory, tensors = pickled
    path = directory / "pytorch_model.bin"
    torch.save({**tensors, "step": 3}, path)
    with pytest.raises(ConfigError, match=r"does not hold only tensors by name"):
        Tensors(directory)
    torch.save(tensors, path)
    whole = path.read_bytes()
    for damaged in (whole[:-1000], b"", b"hello", pickle.dumps({"a": 1})[:-1]):
        path.write_bytes(damaged)
        with pytest.raises(ConfigError, match=r"pytorch_model.bin is not a complete PyTorch file"):
            Tensors(directory)
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ConfigError, match="pip install torch"):
        Tensors(directory)
