"""Files made to do harm: nothing of them is run, little memory is taken, and one sentence says what is wrong."""

import json
import os
import pickle
import shutil
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import msgpack
import numpy as np
import pytest

from research import override, run_directory, weights
from research.checkpoint import verify
from research.config import ConfigError, Experiment
from research.pretrained.tokenizer_files import read_tokenizer

GOLDENS = Path(__file__).resolve().parents[1] / "goldens"
DEEP = "[" * 200_000
FAR = 2**60


class Evil:
    """Pickled: a command that makes the file `ran`."""

    def __init__(self, ran: Path) -> None:
        self.ran = ran

    def __reduce__(self):
        return os.system, (f"touch {self.ran}",)


def refused(path: Path, said: str = "") -> None:
    """Whatever of the model at `path` is read first says so, in one sentence that names the file."""

    def read() -> None:
        found = weights.find(path)
        found.params()
        found.tokenizer()

    with pytest.raises(ConfigError, match=said or None) as error:
        read()
    assert str(path.name) in str(error.value)
    assert len(str(error.value)) < 600


def golden(tmp_path: Path, name: str) -> Path:
    return shutil.copytree(GOLDENS / name, tmp_path / name)


@pytest.fixture
def evil(tmp_path: Path):
    """A pickle of a command; afterwards it has not been run."""
    ran = tmp_path / "ran"
    yield pickle.dumps(Evil(ran))
    assert not ran.exists()


# --- Code -------------------------------------------------------------------------------------------------------------


def test_the_pickle_is_one_that_would_run(tmp_path):
    pickle.loads(pickle.dumps(Evil(tmp_path / "ran")))
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize("suffix", ["npz", "npy", "pt", "bin", "safetensors", "msgpack", "pkl", "ckpt"])
def test_a_pickle_is_not_run_under_any_suffix(tmp_path, evil, suffix):
    path = tmp_path / f"weights.{suffix}"
    path.write_bytes(evil)
    refused(path)


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("t5", "model.safetensors"),
        ("t5", "config.json"),
        ("bart", "model.safetensors"),
        ("t5", "model.safetensors.index.json"),
        ("t5", "pytorch_model.bin"),
        ("t5", "pytorch_model.bin.index.json"),
    ],
)
def test_nor_as_a_file_of_a_directory(tmp_path, evil, name, file):
    directory = golden(tmp_path, name)
    if file != "config.json":
        (directory / "model.safetensors").unlink()
    (directory / file).write_bytes(evil)
    refused(directory)


def test_nor_in_a_zip_of_arrays(tmp_path, evil):
    path = tmp_path / "weights.npz"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("special:model.yml.npy", evil)
    refused(path)
    header = b"\x93NUMPY\x01\x00" + struct.pack("<H", 118)
    header += f"{{'descr': '|O', 'fortran_order': False, 'shape': (1,), }}{' ' * 58}"[:117].encode() + b"\n"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("special:model.yml.npy", header + evil)
    refused(path)


@pytest.mark.parametrize("file", ["tokenizer.json", "spiece.model", "vocab.json", "tokenizer_config.json"])
def test_nor_as_a_tokenizer(tmp_path, evil, file):
    (tmp_path / file).write_bytes(evil)
    with pytest.raises(ConfigError):
        read_tokenizer(tmp_path)


def test_nor_in_a_run(tiny_run, tmp_path, evil):
    run = shutil.copytree(tiny_run, tmp_path / "run")
    original = (run / "config.json").read_bytes()
    (run / "config.json").write_bytes(evil)
    refused(run)
    (run / "config.json").write_bytes(original)
    for file in ("MANIFEST.json", "state/_METADATA", "state/manifest.ocdbt", "meta/metadata"):
        for checkpoint in (run / "checkpoints").iterdir():
            (checkpoint / file).write_bytes(evil)
        refused(run)


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('touch {ran}')",
        "Model.__init__.__globals__['os'].system('touch {ran}')",
        "[open('{ran}', 'w') for _ in (1,)]",
        "(lambda: open('{ran}', 'w'))()",
        "Model(open('{ran}', 'w'))",
        'f\'{{open("{ran}", "w")}}\'',
        "10 ** 10 ** 10",
        "'a' * 10 ** 12",
        "(" * 5000,
    ],
)
def test_an_override_is_data(tmp_path, text):
    config = experiment()
    with pytest.raises(ConfigError, match=r"model|steps"):
        override.apply(config, {"model": text.format(ran=tmp_path / "ran")})
    assert not (tmp_path / "ran").exists()


def experiment() -> Experiment:
    return override.load_experiment(str(GOLDENS.parents[1] / "experiments" / "quickstart.py"))


@pytest.mark.parametrize("name", ["os.system", "Path", "require", "ConfigError", "__import__", "Experiment.__class__"])
def test_a_config_names_only_what_is_a_config(tiny_run, tmp_path, name):
    run = shutil.copytree(tiny_run, tmp_path / "run")
    config = json.loads((run / "config.json").read_text())
    config["data"] = {"type": name, "0": f"touch {tmp_path / 'ran'}"}
    (run / "config.json").write_text(json.dumps(config))
    refused(run, "data")


# --- Other places -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", ["../model.safetensors", "/etc/passwd", "a/../../b.safetensors", "..\\b.safetensors"])
def test_an_index_leads_nowhere_else(tmp_path, file):
    directory = golden(tmp_path, "t5")
    (directory / "model.safetensors").rename(tmp_path / "model.safetensors")
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"shared.weight": file}}))
    refused(directory, "which is not the plain name of a file beside it")


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd", "state/../../outside"])
def test_a_manifest_leads_nowhere_else(tiny_run, tmp_path, name):
    from research import checkpoint

    directory = shutil.copytree(tiny_run / "checkpoints" / "2", tmp_path / "2")
    (tmp_path / "outside").write_text("x")
    listed = json.loads((directory / "MANIFEST.json").read_text())["files"]
    checkpoint._write_manifest(directory, listed | {name: checkpoint.digest(tmp_path / "outside")}, sealed=True)
    assert verify(directory) == f"{name} is missing"


# --- Sizes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [DEEP, '{"a":' * 200_000, "1" * 10_000, '{"model_type": NaN}', "\0", '"\\ud800"'])
def test_json_that_is_none_or_too_deep(tiny_run, tmp_path, content):
    directory = golden(tmp_path, "t5")
    (directory / "config.json").write_text(content)
    refused(directory)
    directory = golden(tmp_path, "bart")
    (directory / "model.safetensors").unlink()
    (directory / "model.safetensors.index.json").write_text(content)
    refused(directory)
    run = shutil.copytree(tiny_run, tmp_path / "run")
    (run / "RESULT.json").write_text(content)
    if content.endswith(("NaN}", '800"')):
        assert not run_directory.is_done(run)
    else:
        with pytest.raises(ConfigError, match=r"RESULT.json is damaged"):
            run_directory.is_done(run)
    for checkpoint in (run / "checkpoints").iterdir():
        (checkpoint / "MANIFEST.json").write_text(content)
        assert "MANIFEST.json cannot be read" in verify(checkpoint)
    (run / "config.json").write_text(content)
    refused(run)


@pytest.mark.parametrize(
    "changes",
    [
        {"num_layers": 10**9}, {"num_layers": -1}, {"num_layers": "8"}, {"num_layers": [2]}, {"num_layers": 1e300},
        {"d_model": 10**18}, {"d_model": 0}, {"vocab_size": 10**15}, {"vocab_size": -5}, {"d_ff": None},
        {"layer_norm_epsilon": float("nan")}, {"dropout_rate": float("inf")}, {"num_heads": 10**12},
        {"feed_forward_proj": {"a": 1}}, {"relative_attention_num_buckets": 10**12}, {"model_type": ["t5"]},
    ],
)  # fmt: skip
def test_sizes_that_no_model_has(tmp_path, changes):
    directory = golden(tmp_path, "t5")
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(config | changes))
    refused(directory)


def header(**tensors) -> bytes:
    text = json.dumps(tensors).encode()
    return struct.pack("<Q", len(text)) + text


@pytest.mark.parametrize(
    "content",
    [
        struct.pack("<Q", 2**63) + b"{}",
        struct.pack("<Q", 10**12) + b"{" * 100,
        header(a={"dtype": "F32", "shape": [FAR, FAR], "data_offsets": [0, 4]}) + b"1234",
        header(a={"dtype": "F32", "shape": [10**12], "data_offsets": [0, 4 * 10**12]}) + b"1234",
        header(a={"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}) + b"12345678",
        header(a={"dtype": "F32", "shape": [-1], "data_offsets": [0, -4]}) + b"1234",
        header(
            a={"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
            b={"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
        )
        + b"1234",
        struct.pack("<Q", len(DEEP)) + DEEP.encode(),
    ],
)
def test_headers_of_safetensors(tmp_path, content):
    directory = golden(tmp_path, "t5")
    (directory / "model.safetensors").write_bytes(content)
    refused(directory, "model.safetensors is not a whole safetensors file")


def test_an_archive_that_inflates(tmp_path):
    """1 MB of it is 1 GB of zeros, in an array of the right shape or of any."""
    path = tmp_path / "weights.npz"
    zipped = zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED)
    with zipped as file, file.open("special:model.yml.npy", "w", force_zip64=True) as array:
        np.lib.format.write_array_header_1_0(array, {"descr": "|i1", "fortran_order": False, "shape": (2**30,)})
        for _ in range(2**10):
            array.write(bytes(2**20))
    said = read_with_little_memory(path)
    assert "inflates" in said, said


def test_an_array_that_claims_more_than_there_is(tmp_path):
    path = tmp_path / "weights.npz"
    with zipfile.ZipFile(path, "w") as file, file.open("special:model.yml.npy", "w") as array:
        np.lib.format.write_array_header_1_0(array, {"descr": "|i1", "fortran_order": False, "shape": (2**40,)})
    said = read_with_little_memory(path)
    assert "special:model.yml" in said, said


def test_messages_that_claim_more_than_there_is(tmp_path):
    for content in (
        b"\xdd\xff\xff\xff\xff",  # a list of 2**32 - 1
        b"\xdf\xff\xff\xff\xff",  # as many pairs
        b"\xc6\xff\xff\xff\xff",  # bytes
        b"\x91" * 100_000,  # lists in lists
        msgpack.packb({"optimizer": {"target": msgpack.ExtType(1, msgpack.packb([[2**40], "float32", b""]))}}),
    ):
        (tmp_path / "checkpoint").write_bytes(content)
        said = read_with_little_memory(tmp_path)
        assert "checkpoint" in said, (content[:20], said)


READ = """
import resource, sys
resource.setrlimit(resource.RLIMIT_DATA, (2**30, 2**30))
from pathlib import Path
from research import weights
from research.config import ConfigError
try:
    weights.find(Path(sys.argv[1])).params()
except ConfigError as error:
    print(error)
"""


def read_with_little_memory(path: Path) -> str:
    """What a process of its own says, whose memory may grow by little more than what it takes without the file."""
    root = Path(__file__).resolve().parents[2]
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(root)}
    command = [sys.executable, "-c", READ, str(path)]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, cwd=root)
    assert ended.returncode == 0, ended.stderr[-2000:]
    return ended.stdout
