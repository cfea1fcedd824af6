"""The files of a Hugging Face directory, opened with care: JSON, and safetensors whole or in shards."""

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from research.config import ConfigError, require

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"


class Tensors(Mapping[str, np.ndarray]):
    """The tensors of a directory by name, read one at a time."""

    def __init__(self, directory: Path) -> None:
        """Opens every file.

        Raises:
            ConfigError: there is no such file, one is damaged, or the index and the files do not agree.
        """
        self.files: dict[str, Any] = {}  # the open file that holds each tensor
        for path, expected in shards(directory).items():
            require(path.is_file(), f"{path} is missing.")
            try:
                file = safe_open(path, framework="numpy")
            except SafetensorError as error:
                raise ConfigError(f"{path} is not a whole safetensors file: {error}.") from error
            names = set(file.keys())
            require(expected is None or names == expected, f"{path} does not hold the tensors that {INDEX} says.")
            self.files |= dict.fromkeys(names, file)

    def __getitem__(self, name: str) -> np.ndarray:
        return self.files[name].get_tensor(name)

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self.files))

    def __len__(self) -> int:
        return len(self.files)


def shards(directory: Path) -> dict[Path, set[str] | None]:
    """The weight files and the tensors that the index says are in each; None where there is no index."""
    if (directory / WEIGHTS).is_file():
        return {directory / WEIGHTS: None}
    path = directory / INDEX
    require(path.is_file(), f"{directory} has neither {WEIGHTS} nor {INDEX}; pickled weights are not read.")
    weight_map = read_json(path).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ConfigError(f"{path} has no weight_map.")
    found: dict[Path, set[str] | None] = {}
    for name, file in weight_map.items():
        # Only a bare name: an index from elsewhere must not make us open what lies outside its directory.
        plain = isinstance(file, str) and Path(file).name == file and file not in ("", "..") and "\\" not in file
        require(plain, f"{path}: {name} is in {file!r}, which is not the plain name of a file beside it.")
        expected = found.setdefault(directory / file, set())
        assert expected is not None
        expected.add(name)
    return found


def read_json(path: Path) -> dict[str, Any]:
    require(path.is_file(), f"{path} is missing.")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"{path} is not JSON: {error}.") from error
    require(isinstance(content, dict), f"{path} is not a JSON object.")
    return content


def check_types(
    config: Mapping[str, Any], types: Mapping[str, tuple[type, ...]], whole: Iterable[str], path: Path
) -> None:
    """Raises ConfigError where a field that is there has another type, or one of `whole` is not there as a number."""
    for name, allowed in types.items():
        value = config.get(name)
        fits = isinstance(value, allowed) and not (isinstance(value, bool) and bool not in allowed)
        said = " or ".join(type.__name__ for type in allowed)
        require(fits or name not in config, f"{path}: {name} is {value!r}, which is not {said}.")
    wrong = [name for name in whole if not isinstance(config.get(name), int) or isinstance(config[name], bool)]
    require(not wrong, f"{path}: {', '.join(wrong)} must be there, as whole numbers.")
