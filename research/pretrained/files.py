"""The files of a Hugging Face directory, opened with care: JSON, and weights whole or in shards; and written whole."""

import json
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

from research.config import ConfigError, require

SAFETENSORS, PICKLE = "model.safetensors", "pytorch_model.bin"
INDEX = ".index.json"


class Tensors(Mapping[str, np.ndarray]):
    """The tensors of a directory by name, read one at a time; from safetensors where there are both."""

    def __init__(self, directory: Path) -> None:
        """Opens every file.

        Raises:
            ConfigError: there is no such file, one is damaged, or the index and the files do not agree.
        """
        self.files: dict[str, Any] = {}  # the open file that holds each tensor
        for path, expected in shards(directory).items():
            require(path.is_file(), f"{path} is missing.")
            file = Pickle(path) if path.suffix == ".bin" else open_safetensors(path)
            names = set(file.keys())
            require(expected is None or names == expected, f"{path} does not hold the tensors that its index says.")
            self.files |= dict.fromkeys(names, file)

    def __getitem__(self, name: str) -> np.ndarray:
        return self.files[name].get_tensor(name)

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


def import_torch(path: Path) -> Any:
    """PyTorch, which nothing but its own files needs; ConfigError where it is not installed."""
    try:
        import torch
    except ImportError as error:
        raise ConfigError(f"{path} is a file of PyTorch: pip install torch to read it.") from error
    return torch


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
            found = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
        except OSError:
            raise
        except Exception as error:  # what is no pickle can fail anywhere in the reading of it
            wanted = re.search(r"GLOBAL (\S+)", str(error)) if isinstance(error, UnpicklingError) else None
            what = (
                f"wants to load {wanted[1]}, but only tensors are read" if wanted else "is not a whole file of PyTorch"
            )
            raise ConfigError(f"{path} {what}.") from error
        tensors = isinstance(found, dict) and all(isinstance(tensor, torch.Tensor) for tensor in found.values())
        require(tensors, f"{path} does not hold tensors by name alone.")
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
    return Path(name).name == name and name not in ("", "..") and "\\" not in name


def read_json(path: Path) -> dict[str, Any]:
    require(path.is_file(), f"{path} is missing.")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"{path} is not JSON: {error}.") from error
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


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


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
