"""Hugging Face directories with other rows of the vocabulary: weights tensor by tensor, and the ids in the settings."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from research.config import Model, require
from research.data.tokenizer import MarianTokenizer, Tokenizer
from research.pretrained import huggingface
from research.pretrained.files import Tensors, read_json, write_tensors
from research.pretrained.huggingface import CONFIG, GENERATION
from research.pretrained.run_files import run_of
from research.pretrained.tokenizer_files import CONFIG as TOKENIZER_CONFIG
from research.pretrained.tokenizer_files import read_tokenizer, write_tokenizer
from research.storage.files import write_json

# Tensors with a row for every id, without the prefix "model." of BART's family; the last has a column instead.
TENSORS = ("shared.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight")
BIAS = "final_logits_bias"

FILE_BYTES = 2 * 10**9

SIZES = ("vocab_size", "decoder_vocab_size")
SINGLE = (
    *("pad_token_id", "bos_token_id", "eos_token_id", "sep_token_id", "decoder_start_token_id"),
    *("forced_bos_token_id", "forced_eos_token_id"),
)
BANS = ("suppress_tokens", "begin_suppress_tokens", "bad_words_ids")

# Returns the new id of an old one, or None if it has none.
Renumber = Callable[[int], int | None]


def open_directory(directory: Path) -> tuple[Model, Tokenizer]:
    """Read the model and the tokenizer of a Hugging Face directory whose vocabulary is to change.

    Raises:
        ConfigError: it is a run, has no tokenizer, or its encoder and decoder have separate vocabularies.
    """
    check_directory(directory)
    model, tokenizer = huggingface.read_config(directory), read_tokenizer(directory)
    check_vocabulary(model, tokenizer)
    separate = f"{directory} has a vocabulary for the source and another for the target: only a shared one is changed."
    shared = not (isinstance(tokenizer, MarianTokenizer) and tokenizer.separate)
    require(model.source_vocab_size is None and shared, separate)
    return model, tokenizer


def check_directory(directory: Path) -> None:
    """Raise ConfigError unless it is a Hugging Face directory."""
    require(directory.exists(), f"{directory} does not exist: give a Hugging Face directory.")
    run = run_of(directory)
    require(run is None, f"{directory} is a run: write it as a directory first, by kintsugi convert {directory} NEW.")
    known = (directory / CONFIG).is_file() and "model_type" in read_json(directory / CONFIG)
    require(known, f"{directory} is not a Hugging Face directory: it needs {CONFIG} with model_type.")


def check_vocabulary(model: Model, tokenizer: Tokenizer) -> None:
    """Raise ConfigError if the tokenizer has ids without a row in the model's embeddings."""
    source = model.vocab_size if model.source_vocab_size is None else model.source_vocab_size
    for side, size, rows in (("source", tokenizer.size, source), ("target", tokenizer.target_size, model.vocab_size)):
        room = rows + (model.zero_token == rows)  # a zero token without a row is still an id of the vocabulary
        require(size <= room, f"The tokenizer has {size} {side} ids, but the model has rows for {room} only.")


def check_new(directory: Path) -> None:
    """Raise ConfigError unless a directory can be made at that path."""
    require(not directory.exists(), f"--out {directory} exists: nothing is overwritten, so name a new directory.")
    parent = directory.absolute().parent
    require(parent.is_dir(), f"--out {directory}: there is no directory {parent}.")


def write_directory(
    source: Path,
    target: Path,
    tokenizer: Tokenizer,
    change: Callable[[np.ndarray], np.ndarray],
    size: int,
    renumber: Renumber = lambda id: id,
) -> None:
    """Write the model at `source` with `size` rows into the directory `target`, which exists, with a new tokenizer.

    `change` turns a tensor with a row for every id into its successor. At most one file of tensors is in memory.

    Raises:
        ConfigError: an id of the settings has no new one.
    """
    settings = read_settings(source, renumber)
    rows = settings[CONFIG]["vocab_size"]
    write_tokenizer(tokenizer, target)
    settings[CONFIG] |= dict.fromkeys(SIZES & settings[CONFIG].keys(), size)
    settings[CONFIG]["tokenizer_class"] = read_json(target / TOKENIZER_CONFIG)["tokenizer_class"]
    write_tensors(target, ChangedRows(source, rows, change).items(), FILE_BYTES)
    for name, content in settings.items():
        write_json(target / name, content)


def read_settings(directory: Path, renumber: Renumber) -> dict[str, Any]:
    """Return the contents of config.json and, if there is one, generation_config.json with the new ids.

    Raises:
        ConfigError: an id has no new one.
    """
    paths = [directory / name for name in (CONFIG, GENERATION) if (directory / name).is_file()]
    return {path.name: renumbered(read_json(path), renumber, path) for path in paths}


class ChangedRows(Mapping[str, np.ndarray]):
    """The tensors of a directory, read one at a time; `change` is applied to each with a row for every id."""

    def __init__(self, directory: Path, rows: int, change: Callable[[np.ndarray], np.ndarray]) -> None:
        self.tensors, self.rows, self.change = Tensors(directory), rows, change

    def __getitem__(self, name: str) -> np.ndarray:
        array, bare = self.tensors[name], name.removeprefix("model.")
        if bare not in TENSORS and bare != BIAS:
            return array
        array = array.T if bare == BIAS else array
        fits = f"{self.tensors.directory}: {name} has {len(array)} rows, but {CONFIG} gives {self.rows}."
        require(len(array) == self.rows, fits)
        array = self.change(array)
        return np.ascontiguousarray(array.T if bare == BIAS else array)

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)


def renumbered(content: Any, renumber: Renumber, path: Path) -> Any:
    """Return the content of a file of settings with the new ids, also within its nested objects.

    A ban on a token without a new id is dropped. Raises ConfigError for any other such id.
    """
    if not isinstance(content, dict):
        return content
    return {name: _value(name, value, renumber, path) for name, value in content.items()}


def _value(name: str, value: Any, renumber: Renumber, path: Path) -> Any:
    if name in SINGLE and value is not None:
        ids = value if isinstance(value, list) else [value]
        new = [_id(name, id, renumber, path) for id in ids]
        return new if isinstance(value, list) else new[0]
    if name in BANS and isinstance(value, list):
        return _bans(value, renumber) or None
    return renumbered(value, renumber, path)


def _id(name: str, id: Any, renumber: Renumber, path: Path) -> int:
    new = renumber(id) if type(id) is int else None
    if new is None:
        require(False, f"{path}: {name} is {id!r}, which is not among the ids that would be kept.")
    assert new is not None
    return new


def _bans(banned: list[Any], renumber: Renumber) -> list[Any]:
    """Renumber tokens, or words of several; a word with a token that is gone cannot be written any more."""
    if not all(isinstance(word, list) for word in banned):
        return [new for id in banned if (new := renumber(id)) is not None]
    words = [[renumber(id) for id in word] for word in banned]
    return [word for word in words if None not in word]
