"""Files of weights made to do harm: whoever reads one runs nothing of it, spends no memory on it, and names it."""

import argparse
import io
import json
import os
import pickle
import resource
import shutil
import struct
import subprocess
import sys
import zipfile
import zlib
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import test_t5x
from flax.serialization import msgpack_serialize
from native_marian import OWN, YAML, make, save
from parity import GOLDENS

from research.config import ConfigError
from research.pretrained import find
from research.pretrained.files import import_torch


@pytest.fixture(autouse=True)
def little_memory():
    """No more address space than 3 GiB beyond what is there, so that a bomb that goes off is an error."""
    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (now + 3 * 2**30, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


def refusal(path: Path) -> str:
    """The one sentence that refuses a model, which says the place of what is wrong."""
    with pytest.raises(ConfigError) as error:
        find.find(path).params()
    said = str(error.value)
    assert str(path) in said
    assert "\n" not in said
    return said


def hugging_face(directory: Path, variant: str = "t5", **changes: object) -> Path:
    """A golden, with another configuration."""
    shutil.copytree(GOLDENS / variant, directory)
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(config | changes))
    return directory


def without_weights(directory: Path, files: dict[str, bytes]) -> Path:
    (hugging_face(directory) / "model.safetensors").unlink()
    for name, content in files.items():
        (directory / name).write_bytes(content)
    return directory


# --- Pickles ----------------------------------------------------------------------------------------------------------


def text(content: str) -> bytes:
    return b"X" + struct.pack("<I", len(content)) + content.encode()


# Each makes a file, given its name, where it is run.
PICKLES = {
    "eval": lambda file: b"\x80\x02cbuiltins\neval\n" + text(f"open({file!r}, 'w')") + b"\x85R.",
    "eval of Python 2": lambda file: b"\x80\x02c__builtin__\neval\n" + text(f"open({file!r}, 'w')") + b"\x85R.",
    "INST": lambda file: f"(S'touch {file}'\nios\nsystem\n.".encode(),
    "OBJ": lambda file: b"(csubprocess\nPopen\n" + text(f"touch {file}") + b"K\xffNNNNNI01\nI01\no.",
    "STACK_GLOBAL": lambda file: b"\x80\x04\x8c\x08builtins\x8c\x04open\x93" + text(file) + text("w") + b"\x86R.",
    "attribute of a module": lambda file: b"\x80\x04\x8c\x05torch\x8c\x17serialization.os.system\x93"
    + text(f"touch {file}")
    + b"\x85R.",
    "within what is harmless": lambda file: b"\x80\x02}" + text("x") + b"cposix\nsystem\n" + text(f"touch {file}")
    + b"\x85Rs.",
}  # fmt: skip


@pytest.mark.parametrize("name", PICKLES)
def test_they_are_run_by_pickle(name, tmp_path):
    pytest.importorskip("torch")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subprocess, "Popen", lambda command, *_: os.system(command))
        pickle.loads(PICKLES[name](str(tmp_path / "marker")))
    assert (tmp_path / "marker").exists()


def legacy(content: bytes) -> bytes:
    """As PyTorch wrote before 1.6: three pickles before the one that counts."""
    return b"".join(pickle.dumps(part, protocol=2) for part in (0x1950A86A20F9469CFC6C, 1001, {})) + content


def zipped(content: bytes, compression: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, part in (("data.pkl", content), ("version", b"3\n"), ("byteorder", b"little")):
            archive.writestr(f"archive/{name}", part)
    return file.getvalue()


def npz(content: bytes) -> bytes:
    """The options are an array of objects."""
    file = io.BytesIO()
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|O", "fortran_order": False, "shape": (1,)})
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("special:model.yml.npy", header.getvalue() + content)
    return file.getvalue()


def zarr(directory: Path, name: str, content: bytes) -> Path:
    """A T5X checkpoint one of whose arrays has such a file in it."""
    test_t5x.write(directory, test_t5x.target("t5"))
    (directory / "target.token_embedder.embedding" / name).write_bytes(content)
    return directory


def named(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


PLACES = {
    "pytorch_model.bin": lambda root, content: without_weights(root / "model", {"pytorch_model.bin": content}),
    "model.safetensors": lambda root, content: without_weights(root / "model", {"model.safetensors": content}),
    "index": lambda root, content: without_weights(root / "model", {"model.safetensors.index.json": content}),
    "config.json": lambda root, content: without_weights(root / "model", {"config.json": content}),
    "model.pt": lambda root, content: named(root / "model.pt", content),
    "model.npz": lambda root, content: named(root / "model.npz", content),
    "T5X": lambda root, content: named(root / "checkpoint", content).parent,
    "zarr": lambda root, content: zarr(root / "model", ".zarray", content),
    "chunk": lambda root, content: zarr(root / "model", "0.0", content),
}
FORMS = {"bare": bytes, "legacy": legacy, "zip": zipped, "compressed": lambda content: zipped(content, 8), "npz": npz}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("form", FORMS)
def test_a_pickle_is_run_by_no_reader(place, form, tmp_path):
    if place in ("pytorch_model.bin", "model.pt"):
        pytest.importorskip("torch")
    for number, (name, make_pickle) in enumerate(PICKLES.items()):
        folder, marker = tmp_path / str(number), tmp_path / f"marker{number}"
        folder.mkdir()
        refusal(PLACES[place](folder, FORMS[form](make_pickle(str(marker)))))
        assert not marker.exists(), name


class Call:
    """What a pickle makes of it is a call."""

    def __init__(self, *reduced: object) -> None:
        self.reduced = reduced

    def __reduce__(self):
        return self.reduced


def calls(torch) -> dict[str, Call]:
    """Of what PyTorch lets a file call, with arguments that it was never written for."""
    rebuild, ones = torch._utils._rebuild_tensor_v2, torch.ones(2).storage()
    return {
        "a size of text": Call(torch.Size, ("x",)),
        "a namespace of numbers": Call(argparse.Namespace, (1,)),
        "a dictionary of a number": Call(OrderedDict, (1,)),
        "a terabyte": Call(bytearray, (10**12,)),
        "a tensor of nothing": Call(rebuild, (1, 2, 3)),
        "a tensor beyond its storage": Call(rebuild, (ones, 0, (10**6,), (1,), False, OrderedDict())),
        "a tensor before its storage": Call(rebuild, (ones, -8, (2,), (1,), False, OrderedDict())),
        "a tensor of strides below 0": Call(rebuild, (ones, 0, (2,), (-1,), False, OrderedDict())),
        "a tensor of terabytes": Call(torch.FloatTensor, (10**6, 10**6)),
    }


@pytest.mark.parametrize("is_legacy", [False, True])
def test_calls_with_bad_arguments_are_refused(is_legacy, tmp_path):
    torch = pytest.importorskip("torch")
    for number, call in enumerate(calls(torch).values()):
        directory, path = without_weights(tmp_path / str(number), {}), tmp_path / f"{number}.pt"
        for file, content in (
            (directory / "pytorch_model.bin", {"shared.weight": call}),
            (path, {"args": argparse.Namespace(), "model": {"x": call}}),
        ):
            torch.save(content, file, _use_new_zipfile_serialization=not is_legacy)
        refusal(directory)
        refusal(path)


def test_a_compressed_file_of_pytorch_is_refused(tmp_path):
    torch = pytest.importorskip("torch")
    torch.save({"shared.weight": torch.ones(1)}, tmp_path / "stored")
    with zipfile.ZipFile(tmp_path / "stored") as stored, zipfile.ZipFile(tmp_path / "packed", "w", 8) as packed:
        for name in stored.namelist():
            packed.writestr(name, stored.read(name))
    content = (tmp_path / "packed").read_bytes()
    assert "is compressed" in refusal(without_weights(tmp_path / "model", {"pytorch_model.bin": content}))
    assert "is compressed" in refusal(named(tmp_path / "model.pt", content))


def odd_tensors(torch) -> dict[object, object]:
    return {
        1: torch.ones(1),
        "sparse": torch.eye(3).to_sparse(),
        "of no memory": torch.ones(3, device="meta"),
        "of 8 bits": torch.ones(3).to(torch.float8_e4m3fn),
        "quantized": torch.quantize_per_tensor(torch.ones(3), 1.0, 0, torch.quint8),
        "nested": torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]),
        "negated": torch._neg_view(torch.ones(3)),
    }


def test_tensors_that_are_no_plain_arrays_are_refused(tmp_path):
    torch = pytest.importorskip("torch")
    for number, (name, tensor) in enumerate(odd_tensors(torch).items()):
        found = {"a": torch.ones(1), name: tensor}
        directory, path = without_weights(tmp_path / str(number), {}), tmp_path / f"{number}.pt"
        torch.save(found, directory / "pytorch_model.bin")
        torch.save({"args": argparse.Namespace(), "model": found}, path)
        refusal(directory)
        refusal(path)


def test_a_tensor_is_no_larger_than_what_is_stored_of_it(tmp_path):
    torch = pytest.importorskip("torch")
    found = {"encoder.embed_tokens.weight": torch.ones(1).expand(10**5, 10**5)}
    directory = without_weights(tmp_path / "model", {})
    torch.save(found, directory / "pytorch_model.bin")
    torch.save({"args": argparse.Namespace(), "model": found}, tmp_path / "model.pt")
    for path in (directory, tmp_path / "model.pt"):
        assert "has 10000000000 elements, more than are stored" in refusal(path)


def test_an_argument_that_is_a_tensor_is_refused(tmp_path):
    torch = pytest.importorskip("torch")
    arguments = argparse.Namespace(no_cross_attention=torch.ones(2))
    torch.save({"args": arguments, "model": {"x": torch.ones(1)}}, tmp_path / "model.pt")
    assert "no_cross_attention is a tensor" in refusal(tmp_path / "model.pt")


@pytest.mark.parametrize(
    ("version", "safe"), [("2.9.1", False), ("1.13.0+cpu", False), ("2.10.0", True), ("3.0", True)]
)
def test_a_pytorch_that_runs_code_is_not_used(version, safe, monkeypatch, tmp_path):
    torch = argparse.Namespace(__version__=version)
    monkeypatch.setitem(sys.modules, "torch", torch)
    if safe:
        assert import_torch(tmp_path) is torch
        return
    with pytest.raises(ConfigError, match=rf"can run code in torch {version[:6]}.*: install 2\.10 or later"):
        import_torch(tmp_path)


# --- safetensors ------------------------------------------------------------------------------------------------------


def tensor(shape: list, offsets: list[int], dtype: str = "F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def safetensors(header: object, data: bytes = bytes(16)) -> bytes:
    content = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(content)) + content + data


SAFETENSORS = {
    "a header of 2^63 bytes": struct.pack("<Q", 2**63) + b"{}",
    "a header beyond the file": struct.pack("<Q", 10**8 - 1) + b"{}",
    "nested without end": safetensors(b'{"a":' * 50_000),
    "overlapping": safetensors({"a": tensor([2], [0, 8]), "b": tensor([2], [4, 12])}, bytes(12)),
    "beyond the file": safetensors({"shared.weight": tensor([400], [0, 1600])}),
    "a product that overflows": safetensors({"shared.weight": tensor([2**32, 2**32], [0, 0])}, b""),
    "below 0": safetensors({"shared.weight": tensor([-4], [0, 16])}),
    "a size in quotes": safetensors({"shared.weight": tensor(["4"], [0, 16])}),
    "a list": safetensors([1]),
    "of objects": safetensors({"shared.weight": tensor([2], [0, 16], "O")}),
    "of 8 bits": safetensors({"a": tensor([], [0, 4]), "b": tensor([12], [4, 16], "F8_E4M3")}),
    "a layer of many digits": safetensors(
        {f"encoder.block.{'9' * 5000}.layer.0.layer_norm.weight": tensor([4], [0, 16])}
    ),
}


@pytest.mark.parametrize("name", SAFETENSORS)
def test_safetensors_refused(name, tmp_path):
    refusal(without_weights(tmp_path / "model", {"model.safetensors": SAFETENSORS[name]}))


# --- JSON -------------------------------------------------------------------------------------------------------------

DEEP = b'{"a":' * 100_000


@pytest.mark.parametrize(
    "content", [DEEP, b"[" * 100_000, b'{"d_model": ' + b"9" * 5000 + b"}", b"\xff\xfe", b"[1]", b"null", b'"t5"', b""]
)
@pytest.mark.parametrize("name", ["config.json", "model.safetensors.index.json"])
def test_json_refused(name, content, tmp_path):
    assert name in refusal(without_weights(tmp_path / "model", {name: content}))


@pytest.mark.parametrize(
    "file", ["x" * 300, "b\0", "\ud800", "../../etc/passwd", "/etc/passwd", "..\\x", "", ["a"], 3, None]
)
def test_an_index_names_files_beside_it(file, tmp_path):
    file = f"{file}.safetensors" if isinstance(file, str) and file else file
    index = json.dumps({"weight_map": {"shared.weight": file}}).encode()
    assert "not the plain name" in refusal(without_weights(tmp_path / "model", {"model.safetensors.index.json": index}))


SIZES = {
    "t5": ("vocab_size", "d_model", "num_heads", "d_kv", "d_ff", "num_layers", "num_decoder_layers"),
    "bart": ("vocab_size", "d_model", "encoder_layers", "max_position_embeddings"),
    "marian": ("vocab_size", "decoder_layers", "max_position_embeddings"),
}


@pytest.mark.parametrize(("variant", "name"), [(variant, name) for variant, names in SIZES.items() for name in names])
def test_sizes_that_the_weights_have_not_are_refused_before_room_is_made(variant, name, tmp_path):
    for size in (-1, 0, 2**23, 2**31, 2**63, 10**30, float("nan"), float("inf"), "8", [8], {}, True):
        refusal(hugging_face(tmp_path / repr(size)[:20], variant, **{name: size}))


@pytest.mark.parametrize(
    ("variant", "changes"),
    [
        ("t5", {"relative_attention_max_distance": 10**9}),
        ("t5", {"relative_attention_num_buckets": 2**40}),
        ("t5", {"layer_norm_epsilon": 10**400}),
        ("t5", {"dropout_rate": float("nan")}),
        ("bart", {"encoder_attention_heads": 0, "decoder_attention_heads": 0}),
    ],
)
def test_other_numbers_refused(variant, changes, tmp_path):
    refusal(hugging_face(tmp_path / "model", variant, **changes))


# --- .npz -------------------------------------------------------------------------------------------------------------


def deflated(size: int) -> bytes:
    """So many zero bytes, a thousandth as long."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    return b"".join(packer.compress(bytes(2**20)) for _ in range(size // 2**20)) + packer.flush()


def test_a_small_npz_does_not_become_a_large_one(tmp_path):
    path = save(tmp_path / "model.npz", make(OWN), YAML.format(**OWN))
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive, archive.open("bomb.npy", "w") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": (2**26,)})
        for _ in range(2**8):
            file.write(bytes(2**20))
    assert path.stat().st_size < 2**20
    assert "would become 268," in refusal(path)


def test_an_array_larger_than_its_file_is_refused(tmp_path):
    for number, shape in enumerate([(2**40,), (2**32, 2**32), (-1,), (2**62, 4)]):
        path = save(tmp_path / f"{number}.npz", make(OWN), YAML.format(**OWN))
        with zipfile.ZipFile(path, "a") as archive, archive.open("Wpos.npy", "w") as file:
            np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
        refusal(path)


@pytest.mark.parametrize("name", ["Wpos", "Wpos/../../../x.npy", "x/etc/Wpos.npy", "Wpos.npy/"])
def test_members_that_are_no_arrays_are_refused(name, tmp_path):
    path = save(tmp_path / "model.npz", make(OWN), YAML.format(**OWN))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(name, b"text")
    refusal(path)


def test_marians_sizes_and_yaml_are_only_text(tmp_path):
    for number, line in enumerate(
        (
            f"enc-depth: {10**8}",
            f"dim-emb: {10**30}",
            f"dec-depth: {'9' * 5000}",
            f"x: !!python/object/apply:os.system ['touch {tmp_path}/marker']",
            "x: " + "[" * 5_000,
            "? " * 2_000,
            "enc-depth: [&a0 [x], " + ", ".join(f"&a{n + 1} [{f'*a{n}, ' * 9}]" for n in range(12)) + "]",
        )
    ):
        name = line.split(":")[0]
        kept = [old for old in YAML.format(**OWN).splitlines() if not old.startswith(f"{name}:")]
        path = save(tmp_path / f"{number}.npz", make(OWN), "\n".join([*kept, line]) + "\n")
        if "python" in line:
            find.find(path)  # to whom a tag is nothing
        else:
            refusal(path)
    assert not (tmp_path / "marker").exists()


# --- T5X --------------------------------------------------------------------------------------------------------------


def chunked(**parts: object) -> dict[str, object]:
    """An array in flax's pieces."""
    return {"__msgpack_chunked_array__": True, **parts}


def nested(depth: int) -> object:
    found: object = np.ones(1, np.float32)
    for _ in range(depth):
        found = {"a": found}
    return found


@pytest.mark.parametrize(
    "target",
    [
        nested(900),
        {3: np.ones(1)},
        chunked(),
        chunked(shape={"0": 2**40}, chunks={"0": np.ones(1)}),
        chunked(shape={"0": -1}, chunks={}),
        {"encoder": {"layers": {"x": np.ones((0, 10**9, 1), np.float32)}}},
        {"x": {"kvstore": {"path": ["x"]}}},
    ],
)
def test_msgpack_refused(target, tmp_path):
    path = named(tmp_path / "checkpoint", msgpack_serialize({"version": 3, "optimizer": {"target": target}}))
    refusal(path.parent)


@pytest.mark.parametrize(
    "changes",
    [
        {"shape": [2**40, 24]},
        {"shape": [2**62, 2**62]},
        {"shape": [-1, 24]},
        {"shape": "x"},
        {"chunks": [2**31, 24]},
        {"chunks": [0, 0]},
        {"dtype": "|O"},
        {"compressor": {"id": "pickle"}},
        {"filters": [{"id": "pickle"}]},
    ],
)
def test_zarr_metadata_refused(changes, tmp_path):
    directory = zarr(tmp_path / "model", "x", b"")
    path = directory / "target.token_embedder.embedding" / ".zarray"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    refusal(directory)
