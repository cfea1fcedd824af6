"""Weights in Marian's own format, read and written: an .npz that contains the options, with vocab.yml beside it.

Names and layouts follow src/models/transformer.h: a matrix is [input, output], a vector [1, n]. Pre-norm models are
read as current Marian computes them, with keys and values normalised too; older versions normalised only the query.
"""

import lzma
import os
import tokenize
import zipfile
import zlib
from collections.abc import Container, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from research.config import ConfigError, Generation, Model, require
from research.model.transformer import Params
from research.pretrained.marian import options
from research.pretrained.table import (
    AS_IS,
    HEADS_FIRST,
    HEADS_LAST,
    ONE_ROW,
    TRANSPOSED,
    Row,
    TensorRows,
    Transform,
    check_shapes,
    fill_params,
    foreign_tensors,
)
from research.storage.cache import check_inflation

OPTIONS = "special:model.yml"  # YAML as int8, ending with a 0


# Exceptions that a damaged file can raise: RuntimeError if it is encrypted or has an unknown compression; SyntaxError
# and TokenError since NumPy parses an array's header as Python.
DAMAGE = (
    *(ValueError, OSError, EOFError, RuntimeError, MemoryError, SyntaxError),
    *(tokenize.TokenError, zipfile.BadZipFile, zlib.error, lzma.LZMAError),
)


class Arrays(Mapping[str, np.ndarray]):
    """The weights of an .npz by name, read one at a time. Only `read` returns the options as well."""

    def __init__(self, path: Path) -> None:
        require(path.is_file(), f"{path} is missing.")
        self.path = path
        try:
            self.file = np.load(path, allow_pickle=False)
        except DAMAGE as error:
            raise ConfigError(f"{path} is not a complete .npz file: {error}.") from error
        require(isinstance(self.file, np.lib.npyio.NpzFile), f"{path} is a single array, not an .npz file.")
        # Arrays of a file may overlap, so only the sum of their sizes bounds what it expands to.
        check_inflation(path, path.stat().st_size, sum(part.file_size for part in self.file.zip.infolist()))

    def read(self, name: str) -> np.ndarray:
        require(name in self.file, f"{self.path} has no {name}: it is not a Marian model.")
        try:
            array = self.file[name]
        except DAMAGE as error:
            raise ConfigError(f"{self.path}: {name} is damaged: {error}.") from error
        require(isinstance(array, np.ndarray), f"{self.path}: {name} is not an array.")
        return array

    def __getitem__(self, name: str) -> np.ndarray:
        return self.read(name)

    def __contains__(self, name: object) -> bool:
        return name in self.file and name != OPTIONS

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(set(self.file) - {OPTIONS}))

    def __len__(self) -> int:
        return len(set(self.file) - {OPTIONS})


def read_config(path: Path) -> Model:
    """Read the model's configuration from a Marian file, which stores no dropout and no maximum length.

    Raises:
        ConfigError: the file is missing or damaged, or an option has no counterpart in this model.
    """
    return options.model_of(options.parse(Arrays(path).read(OPTIONS).tobytes(), path), path)


def read_generation(path: Path) -> Generation:
    """Return Marian's generation settings: start from a zero embedding, end at </s> (0), and never write <unk> (1)."""
    return Generation(start_token=read_config(path).vocab_size, eos_token=0, pad_token=0, banned=(1,))


# --- The table --------------------------------------------------------------------------------------------------------

QKV = {"q": "query", "k": "key", "v": "value"}
AFFINE = {"scale": "scale", "bias": "bias"}
# [1, h * k] <-> [h, k]
HEADS_ROW = Transform(
    lambda array, model: array.reshape(model.heads, model.head_width), lambda array, model: array.reshape(1, -1)
)
UNTRANSPOSED = "decoder_ff_logit_out_W"  # [d, v]: an untied head in older files


def table(model: Model, names: Container[str] = ()) -> TensorRows:
    """Return the rows for a model and the names in a file; every name must match exactly one row."""
    before = "_pre" if model.norm_first else ""
    rows = []
    for foreign, path in (
        ("{stack}_l{layer}_self", "{stack}/layers/self_attention"),
        ("decoder_l{layer}_context", "decoder/layers/cross_attention"),
    ):
        rows += [
            Row(foreign + "_W{part}", path + "/{part}/weight", HEADS_LAST, QKV, first=1),
            Row(foreign + "_b{part}", path + "/{part}/bias", HEADS_ROW, QKV, first=1),
            Row(foreign + "_Wo", path + "/output/weight", HEADS_FIRST, first=1),
            Row(foreign + "_bo", path + "/output/bias", ONE_ROW, first=1),
            Row(foreign + "_Wo_ln_{part}" + before, path + "_norm/{part}", ONE_ROW, AFFINE, first=1),
        ]
    layer, inner = "{stack}_l{layer}_ffn_", {"1": "up", "2": "down"}
    rows += [
        Row(layer + "W{part}", "{stack}/layers/feed_forward/{part}/weight", AS_IS, inner, first=1),
        Row(layer + "b{part}", "{stack}/layers/feed_forward/{part}/bias", ONE_ROW, inner, first=1),
        Row(layer + "ffn_ln_{part}" + before, "{stack}/layers/feed_forward_norm/{part}", ONE_ROW, AFFINE, first=1),
        Row("{stack}_emb_ln_{part}_pre", "{stack}/embedding_norm/{part}", ONE_ROW, AFFINE),
        Row("{stack}_top_ln_{part}", "{stack}/norm/{part}", ONE_ROW, AFFINE),
        Row("decoder_ff_logit_out_b", "logits_bias", ONE_ROW),
    ]
    if model.source_vocab_size is None:
        rows.append(Row("Wemb", "embedding"))
    else:
        rows += [Row("encoder_Wemb", "source_embedding"), Row("decoder_Wemb", "embedding")]
    rows.append(Row(UNTRANSPOSED, "head") if UNTRANSPOSED in names else Row(UNTRANSPOSED + "t", "head", TRANSPOSED))
    return rows


# --- Reading and writing ----------------------------------------------------------------------------------------------


def read_params(path: Path, model: Model, shardings: Any = None, fresh: Sequence[str] = ()) -> Params:
    """Read the parameters of `model` from a Marian file; see `fill_params`.

    Raises:
        ConfigError: the file is missing or damaged, or the arrays are not exactly those of the model.
    """
    arrays = Arrays(path)
    return fill_params(arrays, table(model, arrays), model, str(path), shardings, fresh)


def write(path: Path, model: Model, params: Params) -> None:
    """Write a file that Marian and its converters can read; it appears only when it is complete.

    Raises:
        ConfigError: Marian has no such model (the message lists every difference), or `params` do not fit `model`.
    """
    options.refuse_differences(model, path)
    check_shapes(params, model)
    arrays: dict[str, Any] = dict(foreign_tensors(params, table(model), model))
    arrays[OPTIONS] = np.frombuffer(options.dump(options.options_of(model)), np.int8)
    partial = path.with_name(f".{path.name}.partial.{os.getpid()}")
    try:
        with partial.open("wb") as file:
            np.savez(file, **arrays)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
