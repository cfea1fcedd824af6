"""Weights from T5X checkpoints: a directory checkpoint_N that contains the msgpack file `checkpoint`.

The file is flax.serialization's, {"version": 3, "optimizer": {"state": ..., "target": ...}}. Small arrays of `target`
are stored in the file itself; for a large one the file names a zarr array in the same directory (t5x/checkpoints.py).
Of the specification of such an array only the name is used: no other location and no other driver is ever opened.
"""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import tensorstore
from flax.serialization import msgpack_restore
from flax.traverse_util import flatten_dict

from research.config import ConfigError, Model, Relative, Tied, UntiedHead, require
from research.model.transformer import Params
from research.pretrained.files import is_plain
from research.pretrained.table import (
    AS_IS,
    HEADS_FIRST,
    HEADS_LAST,
    TRANSPOSED,
    Row,
    TensorRows,
    fill_params,
    layer_count,
)
from research.storage.cache import check_inflation

# --- The files --------------------------------------------------------------------------------------------------------

FILE = "checkpoint"
VERSIONS = (2, 3)  # version 2 stores bfloat16 as uint16, which fails the type check

PLACEHOLDER = "PLACEHOLDER://"  # prefix with which Orbax names a zarr array; T5X stores its specification

# Scanned models store all layers in one array, along axis 1: encoder/layers or, in umT5, encoder/encoder.
STACKED = re.compile(r"(encoder|decoder)/(?:layers|\1)/(.+)")


class T5XCheckpoint(Mapping[str, np.ndarray]):
    """The arrays of a checkpoint, read one at a time, by names such as "encoder/layers_0/mlp/wo/kernel".

    The stacked arrays of a scanned model are split into one array for each layer.
    """

    def __init__(self, path: Path) -> None:
        """Open every array of the directory, or of the directory that contains the file at `path`.

        Raises:
            ConfigError: the file, or an array that it names, is missing or damaged.
        """
        self.path = path / FILE if path.is_dir() else path
        # A chunk of a stacked array, 64 MiB at most, is read once for all its layers.
        context = tensorstore.Context({"cache_pool": {"total_bytes_limit": 2**28}})
        self.sources: dict[str, tuple[Any, int | None]] = {}  # an array and the layer index in it
        for name, leaf in read_target(self.path).items():
            name = name.replace("/relative_posemb/", "/relpos_bias/")  # the name in scanned models
            array = open_array(self.path, name, leaf, context)
            require(0 not in array.shape, f"{self.path}: {name} has shape {array.shape}, without elements.")
            stacked = STACKED.fullmatch(name)
            if stacked is None:
                self.sources[name] = array, None
                continue
            require(len(array.shape) > 1, f"{self.path}: {name} has shape {array.shape}, without an axis of layers.")
            stack, rest = stacked.groups()
            self.sources |= {f"{stack}/layers_{layer}/{rest}": (array, layer) for layer in range(array.shape[1])}

    def __getitem__(self, name: str) -> np.ndarray:
        array, layer = self.sources[name]
        part = array if layer is None else array[:, layer]
        try:
            return np.asarray(part.read().result() if isinstance(part, tensorstore.TensorStore) else part)
        except ValueError as error:
            raise ConfigError(f"{self.path}: the array of {name} is incomplete: {error}.") from error

    def shape(self, name: str) -> tuple[int, ...]:
        require(name in self.sources, f"{self.path} has no {name}: it is not a T5 encoder-decoder's checkpoint.")
        array, layer = self.sources[name]
        return tuple(array.shape if layer is None else np.delete(array.shape, 1).tolist())

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self.sources))

    def __len__(self) -> int:
        return len(self.sources)


def read_target(path: Path) -> dict[str, Any]:
    """Read the leaves of `target` from a checkpoint's file, by their paths."""
    require(path.is_file(), f"{path} is missing.")
    try:
        content = msgpack_restore(path.read_bytes())
    except OSError:
        raise
    except Exception as error:  # invalid msgpack can raise anything
        raise ConfigError(f"{path} is not flax's msgpack: {error}.") from error
    match content:
        case {"optimizer": {"target": dict(target)}}:
            version = content.get("version", VERSIONS[-1])
            allowed = ", ".join(map(str, VERSIONS))
            require(version in VERSIONS, f"{path} has version {version!r}; only {allowed} can be read.")
            try:
                return flatten_dict(target, sep="/", is_leaf=lambda _, node: "kvstore" in node)
            except (TypeError, RecursionError) as error:
                raise ConfigError(
                    f"{path}: the names of its arrays are missing or nested too deeply: {error}."
                ) from error
    raise ConfigError(f"{path} has no optimizer/target: it is not a T5X checkpoint.")


def open_array(path: Path, name: str, leaf: Any, context: tensorstore.Context) -> Any:
    """Open the array stored under `name` in the file at `path`, as a NumPy or tensorstore array."""
    match leaf:
        case np.ndarray():
            return leaf
        case {"kvstore": {"path": str(folder)}} | {"kvstore": _, "path": str(folder)}:  # the latter form before 2022
            folder = folder.rstrip("/")
        case str() if leaf.startswith(PLACEHOLDER):
            folder = leaf.removeprefix(PLACEHOLDER)
        case _:
            raise ConfigError(f"{path}: {name} is neither an array nor the name of one.")
    # An untrusted checkpoint must not make us open files outside its directory.
    require(is_plain(folder), f"{path}: {name} is in {folder!r}, which is not the plain name of a directory beside it.")
    store = {"driver": "file", "path": str(path.parent / folder)}
    # By default a missing chunk is read as zeros.
    spec = {"driver": "zarr", "kvstore": store, "fill_missing_data_reads": False}
    try:
        array = tensorstore.open(spec, open=True, read=True, context=context).result()
    except ValueError as error:
        raise ConfigError(f"{path}: the zarr array {folder} of {name} cannot be opened: {error}.") from error
    # A chunk may be larger than the array; reads decompress a complete chunk.
    chunk = array.chunk_layout.read_chunk.shape or ()
    elements = math.prod(max(size, piece or 1) for size, piece in zip(array.shape, chunk, strict=True))
    stored = sum(file.stat().st_size for file in (path.parent / folder).rglob("*") if file.is_file())
    check_inflation(path.parent / folder, stored, elements * array.dtype.numpy_dtype.itemsize)
    return array


# --- The configuration ------------------------------------------------------------------------------------------------

EMBEDDING, HEAD = "token_embedder/embedding", "decoder/logits_dense/kernel"
LAYER = "encoder/layers_0/"
LAYERS = r"/layers_(\d{1,9})/"


def read_config(path: Path, **changes: Any) -> Model:
    """Derive the model's configuration from the shapes of a checkpoint's arrays; `changes` override fields.

    Fields that leave no array are assumed: ReLU, or with gating GELU (pass "silu" for UL2), a largest relative
    distance of 128, and no dropout.

    Raises:
        ConfigError: a file is missing or damaged, the arrays are not a T5's, or a change is not a field of Model.
    """
    allowed = [field.name for field in fields(Model)]
    unknown = sorted(set(changes) - set(allowed))
    require(not unknown, f"A model has no field {', '.join(unknown)}; it has {', '.join(allowed)}.")
    checkpoint = T5XCheckpoint(path)
    vocab_size, width = two(checkpoint, EMBEDDING)
    per_layer = f"{LAYER}relpos_bias/rel_embedding" in checkpoint.sources
    heads, buckets = two(checkpoint, f"{LAYER if per_layer else 'encoder/'}relpos_bias/rel_embedding")
    gated = f"{LAYER}mlp/wi_0/kernel" in checkpoint.sources
    model = Model(
        vocab_size=vocab_size,
        width=width,
        heads=heads,
        head_width=int(np.prod(checkpoint.shape(f"{LAYER}attention/query/kernel"))) // (width * heads),
        feed_forward=two(checkpoint, f"{LAYER}mlp/wo/kernel")[0],
        encoder_layers=layer_count(checkpoint, LAYERS, "encoder", checkpoint.path),
        decoder_layers=layer_count(checkpoint, LAYERS, "decoder", checkpoint.path),
        activation="gelu_tanh" if gated else "relu",
        gated=gated,
        positions=Relative(buckets=buckets, per_layer=per_layer),
        head=UntiedHead() if HEAD in checkpoint.sources else Tied(scaled=True),
    )
    return replace(model, **changes)


def two(checkpoint: T5XCheckpoint, name: str) -> tuple[int, int]:
    match checkpoint.shape(name):
        case (int(first), int(second)) if first > 0 and second > 0:
            return first, second
    raise ConfigError(f"{checkpoint.path}: {name} has shape {checkpoint.shape(name)}, not two axes.")


# --- The table --------------------------------------------------------------------------------------------------------

QKV = {name: name for name in ("query", "key", "value")}


def attention(foreign: str, norm: str, path: str) -> list[Row]:
    return [
        Row(norm, path + "_norm/scale"),
        Row(foreign + "/{part}/kernel", path + "/{part}/weight", HEADS_LAST, QKV),
        Row(foreign + "/out/kernel", path + "/output/weight", HEADS_FIRST),
    ]


def table(model: Model) -> TensorRows:
    """Return the rows for a model; every tensor name must match exactly one of them."""
    layer, inner = "{stack}/layers_{layer}/", {"wi_0": "gate", "wi_1": "up"} if model.gated else {"wi": "up"}
    rows = [
        Row(EMBEDDING, "embedding"),
        *attention(
            "encoder/layers_{layer}/attention",
            "encoder/layers_{layer}/pre_attention_layer_norm/scale",
            "encoder/layers/self_attention",
        ),
        *attention(
            "decoder/layers_{layer}/self_attention",
            "decoder/layers_{layer}/pre_self_attention_layer_norm/scale",
            "decoder/layers/self_attention",
        ),
        *attention(
            "decoder/layers_{layer}/encoder_decoder_attention",
            "decoder/layers_{layer}/pre_cross_attention_layer_norm/scale",
            "decoder/layers/cross_attention",
        ),
        Row(layer + "pre_mlp_layer_norm/scale", "{stack}/layers/feed_forward_norm/scale"),
        Row(layer + "mlp/{part}/kernel", "{stack}/layers/feed_forward/{part}/weight", AS_IS, inner),
        Row(layer + "mlp/wo/kernel", "{stack}/layers/feed_forward/down/weight"),
        Row("encoder/encoder_norm/scale", "encoder/norm/scale"),
        Row("decoder/decoder_norm/scale", "decoder/norm/scale"),
    ]
    match model.positions:
        case Relative(per_layer=True):
            path = "{stack}/layers/self_attention/relative_bias"
            rows.append(Row(layer + "relpos_bias/rel_embedding", path, TRANSPOSED))
        case _:
            rows.append(Row("{stack}/relpos_bias/rel_embedding", "{stack}/relative_bias", TRANSPOSED))
    match model.head:
        case UntiedHead():
            rows.append(Row(HEAD, "head"))
    return rows


def read_params(path: Path, model: Model, shardings: Any = None, fresh: Sequence[str] = ()) -> Params:
    """Read the parameters of `model` from a T5X checkpoint; see `fill_params`.

    Raises:
        ConfigError: a file is missing or damaged, or the arrays are not exactly those of the model.
    """
    return fill_params(T5XCheckpoint(path), table(model), model, str(path), shardings, fresh)
