"""Files of a Hugging Face directory: JSON, and weights in one file or in shards; untrusted input, atomic output."""

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
    """The tensors of a directory by name, read one at a time; safetensors files take precedence over pickles."""

    def __init__(self, directory: Path, name: str | None = None) -> None:
        """Open every weight file, or only the one of that name.

        Raises:
            ConfigError: a file is missing or damaged, or the index and the files do not agree.
        """
        self.directory = directory
        self.files: dict[str, Any] = {}  # the open file that holds each tensor
        for path, expected in (shards(directory) if name is None else {directory / name: None}).items():
            require(path.is_file(), f"{path} is missing.")
            file = Pickle(path) if path.suffix == ".bin" else open_safetensors(path)
            names = set(file.keys())
            require(expected is None or names == expected, f"{path} does not hold the tensors that its index lists.")
            self.files |= dict.fromkeys(names, file)

    def __getitem__(self, name: str) -> np.ndarray:
        try:
            return self.files[name].get_tensor(name)
        except (SafetensorError, AttributeError, TypeError, RuntimeError) as error:  # a type that NumPy lacks
            raise ConfigError(f"{self.directory}: {name} cannot be read as an array: {error}.") from error

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self.files))

    def __len__(self) -> int:
        return len(self.files)


def open_safetensors(path: Path) -> Any:
    try:
        # Read rather than memory-mapped, so that tensors already read do not stay in memory.
        return safe_open(path, framework="numpy", backend="pread")
    except SafetensorError as error:
        raise ConfigError(f"{path} is not a complete safetensors file: {error}.") from error


# In earlier versions a file could run code despite weights_only (CVE-2025-32434, CVE-2026-24747).
SAFE_TORCH = (2, 10)


def import_torch(path: Path) -> Any:
    """Import PyTorch, needed only for its own files; raise ConfigError if it is missing or an unsafe version."""
    try:
        import torch
    except ImportError as error:
        raise ConfigError(f"{path} is a PyTorch file: pip install torch to read it.") from error
    version = torch.__version__
    safe = tuple(map(int, version.split(".")[:2])) >= SAFE_TORCH
    oldest = ".".join(map(str, SAFE_TORCH))
    require(safe, f"{path} is a PyTorch file, which can run code in torch {version}: install {oldest} or later.")
    return torch


def load_torch(torch: Any, path: Path) -> Any:
    """Load a PyTorch file without running its code; memory-map it unless it is older than PyTorch 1.6."""
    zipped = zipfile.is_zipfile(path)
    if zipped:
        with zipfile.ZipFile(path) as file:
            # PyTorch never compresses; a compressed record could be a decompression bomb.
            require(
                all(record.compress_type == zipfile.ZIP_STORED for record in file.infolist()), f"{path} is compressed."
            )
    return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)


def check_tensors(content: Any, path: Path) -> None:
    """Raise ConfigError unless `content` maps names to tensors, none with more elements than the file stores."""
    import torch  # installed, since the file has been loaded

    named = isinstance(content, dict) and all(
        isinstance(name, str) and isinstance(tensor, torch.Tensor) for name, tensor in content.items()
    )
    require(named, f"{path} does not hold only tensors by name.")
    for name, tensor in content.items():
        dense = tensor.layout is torch.strided and tensor.device.type == "cpu" and not tensor.is_nested
        require(dense, f"{path}: {name} is not an array of numbers.")
        whole = tensor.nbytes <= tensor.untyped_storage().nbytes()
        require(whole, f"{path}: {name} has {tensor.numel()} elements, more than are stored.")


class Pickle:
    """A PyTorch file from which only tensors are read."""

    def __init__(self, path: Path) -> None:
        """Memory-map the file, or read all of it if it is older than PyTorch 1.6.

        Raises:
            ConfigError: torch is not installed, or the file is damaged or holds anything but tensors.
        """
        torch = import_torch(path)
        self.narrow, self.bits = torch.bfloat16, torch.int16
        try:
            content = load_torch(torch, path)
        except (OSError, ConfigError):
            raise
        except Exception as error:  # an invalid pickle can raise anything
            refused = re.search(r"GLOBAL (\S+)", str(error)) if isinstance(error, UnpicklingError) else None
            what = f"needs {refused[1]}, but only tensors are read" if refused else "is not a complete PyTorch file"
            raise ConfigError(f"{path} {what}.") from error
        check_tensors(content, path)
        self.tensors = content

    def keys(self) -> Iterable[str]:
        return self.tensors.keys()

    def get_tensor(self, name: str) -> np.ndarray:
        tensor = self.tensors[name].detach()
        if tensor.dtype == self.narrow:  # NumPy gets this type from ml_dtypes
            return tensor.contiguous().view(self.bits).numpy().view(ml_dtypes.bfloat16)
        return tensor.numpy()


def shards(directory: Path) -> dict[Path, set[str] | None]:
    """Return the weight files, each with the names that the index lists for it; None for a file without an index."""
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
    files: dict[Path, set[str] | None] = {}
    for name, file in weight_map.items():
        # Accept bare names only: an untrusted index must not make us open files outside its directory.
        plain = isinstance(file, str) and is_plain(file)
        require(plain, f"{path}: {name} is in {file!r}, which is not the plain name of a file beside it.")
        require(file.endswith(suffix), f"{path}: {name} is in {file!r}, which does not end in {suffix}.")
        expected = files.setdefault(path.parent / file, set())
        assert expected is not None
        expected.add(name)
    return files


def is_plain(name: str) -> bool:
    """Return True if `name` can only name an entry of the same directory, not a path that leads elsewhere."""
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
    """Yield a temporary directory that is renamed to `directory` on success and removed on failure.

    Raises:
        ConfigError: `directory` already exists and is not an empty directory.
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
    """Write safetensors files of at most `most` bytes (or one tensor) each, with an index if there are several."""
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
