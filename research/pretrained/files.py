"""The files of a Hugging Face directory, opened with care: JSON, and weights whole or in shards; and written whole."""

import os
import re
import shutil
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from research.config import ConfigError, parse_json, require
from research.storage.files import write_json

SAFETENSORS, PICKLE = "model.safetensors", "pytorch_model.bin"
INDEX = ".index.json"


class Tensors(Mapping[str, np.ndarray]):
    """The tensors of a directory by name, read one at a time; from safetensors where there are both."""

    def __init__(self, directory: Path) -> None:
        """Opens every file.

        Raises:
            ConfigError: there is no such file, one is damaged, or the index and the files do not agree.
        """
        self.directory = directory
        self.files: dict[str, Any] = {}  # the open file that holds each tensor
        for path, expected in shards(directory).items():
            require(path.is_file(), f"{path} is missing.")
            file = Pickle(path) if path.suffix == ".bin" else open_safetensors(path)
            names = set(file.keys())
            require(expected is None or names == expected, f"{path} does not hold the tensors that its index says.")
            self.files |= dict.fromkeys(names, file)

    def __getitem__(self, name: str) -> np.ndarray:
        try:
            return self.files[name].get_tensor(name)
        except (SafetensorError, AttributeError, TypeError, RuntimeError) as error:  # of a type that NumPy has not
            raise ConfigError(f"{self.directory}: {name} cannot be read as an array: {error}.") from error

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self.files))

    def __len__(self) -> int:
        return len(self.files)


def open_safetensors(path: Path) -> Any:
    try:
        # Read and not mapped, so that what has been read does not stay in memory.
        return safe_open(path, framework="numpy", backend="pread")
    except SafetensorError as error:
        raise ConfigError(f"{path} is not a whole safetensors file: {error}.") from error


# Before it a file could run code in spite of weights_only (CVE-2025-32434, CVE-2026-24747).
SAFE_TORCH = (2, 10)


def import_torch(path: Path) -> Any:
    """PyTorch, which nothing but its own files needs; ConfigError where it is not installed, or not safe."""
    try:
        import torch
    except ImportError as error:
        raise ConfigError(f"{path} is a file of PyTorch: pip install torch to read it.") from error
    version = torch.__version__
    safe = tuple(map(int, version.split(".")[:2])) >= SAFE_TORCH
    oldest = ".".join(map(str, SAFE_TORCH))
    require(safe, f"{path} is a file of PyTorch, which can run code in torch {version}: install {oldest} or later.")
    return torch


def load_torch(torch: Any, path: Path) -> Any:
    """What a file of PyTorch holds, of which no code is run; it is mapped, or read whole if of before PyTorch 1.6."""
    zipped = zipfile.is_zipfile(path)
    if zipped:
        with zipfile.ZipFile(path) as file:
            # PyTorch compresses nothing: what is compressed could be a small file that fills the memory.
            require(
                all(record.compress_type == zipfile.ZIP_STORED for record in file.infolist()), f"{path} is compressed."
            )
    return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)


def check_tensors(found: Any, path: Path) -> None:
    """Raises ConfigError unless they are tensors by name, with no more elements than the file has."""
    import torch  # there, since the file is loaded

    named = isinstance(found, dict) and all(
        isinstance(name, str) and isinstance(tensor, torch.Tensor) for name, tensor in found.items()
    )
    require(named, f"{path} does not hold tensors by name alone.")
    for name, tensor in found.items():
        dense = tensor.layout is torch.strided and tensor.device.type == "cpu" and not tensor.is_nested
        require(dense, f"{path}: {name} is not an array of numbers.")
        whole = tensor.nbytes <= tensor.untyped_storage().nbytes()
        require(whole, f"{path}: {name} has {tensor.numel()} elements, more than are stored.")


class Pickle:
    """A file of PyTorch, of which nothing but tensors is taken."""

    def __init__(self, path: Path) -> None:
        """Maps the file into memory, or reads it whole if it is of before PyTorch 1.6.

        Raises:
            ConfigError: torch is not installed, or the file is damaged or holds anything else.
        """
        torch = import_torch(path)
        self.narrow, self.bits = torch.bfloat16, torch.int16
        try:
            found = load_torch(torch, path)
        except (OSError, ConfigError):
            raise
        except Exception as error:  # what is no pickle can fail anywhere in the reading of it
            wanted = re.search(r"GLOBAL (\S+)", str(error)) if isinstance(error, UnpicklingError) else None
            what = (
                f"wants to load {wanted[1]}, but only tensors are read" if wanted else "is not a whole file of PyTorch"
            )
            raise ConfigError(f"{path} {what}.") from error
        check_tensors(found, path)
        self.tensors = found

    def keys(self) -> Iterable[str]:
        return self.tensors.keys()

    def get_tensor(self, name: str) -> np.ndarray:
        tensor = self.tensors[name].detach()
        if tensor.dtype == self.narrow:  # which NumPy knows through another package
            return tensor.contiguous().view(self.bits).numpy().view(ml_dtypes.bfloat16)
        return tensor.numpy()


def shards(directory: Path) -> dict[Path, set[str] | None]:
    """The weight files and the tensors that the index says are in each; None where there is no index."""
    for name in (SAFETENSORS, PICKLE):
        if (directory / name).is_file():
            return {directory / name: None}
        if (directory / (name + INDEX)).is_file():
            return indexed(directory / (name + INDEX), Path(name).suffix)
    raise ConfigError(f"{directory} has neither {SAFETENSORS} nor {PICKLE}, whole or in shards with an index.")


def indexed(path: Path, suffix: str) -> dict[Path, set[str] | None]:
    weight_map = read_json(path).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ConfigError(f"{path} has no weight_map.")
    found: dict[Path, set[str] | None] = {}
    for name, file in weight_map.items():
        # Only a bare name: an index from elsewhere must not make us open what lies outside its directory.
        plain = isinstance(file, str) and is_plain(file)
        require(plain, f"{path}: {name} is in {file!r}, which is not the plain name of a file beside it.")
        require(file.endswith(suffix), f"{path}: {name} is in {file!r}, which does not end in {suffix}.")
        expected = found.setdefault(path.parent / file, set())
        assert expected is not None
        expected.add(name)
    return found


def is_plain(name: str) -> bool:
    """Whether it names something beside the file that says it, and nothing elsewhere."""
    plain = Path(name).name == name and name not in ("", "..") and "\\" not in name
    return plain and name.isprintable() and len(name.encode()) < 256


def read_json(path: Path) -> dict[str, Any]:
    require(path.is_file(), f"{path} is missing.")
    content = parse_json(path.read_bytes(), str(path))
    require(isinstance(content, dict), f"{path} is not a JSON object.")
    return content


# --- Writing ----------------------------------------------------------------------------------------------------------


@contextmanager
def new_directory(directory: Path) -> Iterator[Path]:
    """A directory beside the one asked for, which takes its name when all has been written, and else is removed.

    Raises:
        ConfigError: there is something already.
    """
    free = not directory.exists() or (directory.is_dir() and not any(directory.iterdir()))
    require(free, f"{directory} must not exist, or be an empty directory.")
    directory = directory.resolve()
    partial = directory.with_name(f".{directory.name}.partial.{os.getpid()}")
    partial.mkdir(parents=True)
    try:
        yield partial
        partial.replace(directory)
    except BaseException:
        shutil.rmtree(partial)
        raise


def write_tensors(directory: Path, tensors: Iterable[tuple[str, np.ndarray]], most: int) -> None:
    """safetensors files of at most so many bytes (or one tensor), with an index where they are several."""
    groups: list[set[str]] = []
    held: dict[str, np.ndarray] = {}

    def flush() -> None:
        save_file(held, directory / f"{len(groups)}", metadata={"format": "pt"})
        groups.append(set(held))
        held.clear()

    total = 0
    for name, array in tensors:
        if held and array.nbytes + sum(other.nbytes for other in held.values()) > most:
            flush()
        held[name] = array
        total += array.nbytes
    flush()
    stem, suffix = SAFETENSORS.split(".")
    several = [f"{stem}-{number + 1:05d}-of-{len(groups):05d}.{suffix}" for number in range(len(groups))]
    files = several if len(groups) > 1 else [SAFETENSORS]
    for number, file in enumerate(files):
        (directory / f"{number}").rename(directory / file)
    if len(groups) > 1:
        weight_map = {name: file for file, names in zip(files, groups, strict=True) for name in sorted(names)}
        write_json(directory / (SAFETENSORS + INDEX), {"metadata": {"total_size": total}, "weight_map": weight_map})
