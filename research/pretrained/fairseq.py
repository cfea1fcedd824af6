"""Weights of BART and mBART from fairseq's .pt files, read without running their code.

A file is a pickle of {"args" or "cfg": the model's configuration, "model": tensors, ...} and other entries, including
objects of fairseq's own classes. It is unpickled by torch's restricted unpickler (weights_only), which calls only
functions known to be harmless, with argparse.Namespace allowed in addition. Any other class becomes a subclass of
StubObject, which accepts any arguments and does nothing; names that torch blocks altogether raise an error.

The rows of the embedding follow fairseq's dictionary (<s> 0, <pad> 1, </s> 2, <unk> 3 ...), padding included.
"""

import argparse
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Literal

import numpy as np

from research.config import ConfigError, LayerNorm, Learned, Model, Normal, Tied, require
from research.model.transformer import Params
from research.pretrained.files import check_tensors, import_torch, load_torch
from research.pretrained.huggingface import bart
from research.pretrained.table import Alias, TensorRows, fill_params, layer_count

# --- The file ---------------------------------------------------------------------------------------------------------


class StubObject:
    """A stand-in for an object of the class named `class_name`, which is not loaded."""

    class_name = ""

    def __new__(cls, *arguments: Any, **named: Any) -> "StubObject":
        return object.__new__(cls)

    def __init__(self, *arguments: Any, **named: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


MOST_CLASSES = 64  # classes of one file that may be replaced by stubs


def load(path: Path) -> dict[str, Any]:
    """Load the file's dictionary.

    Raises:
        ConfigError: torch is not installed, or the file is missing, damaged or needs something that is blocked.
    """
    torch = import_torch(path)
    require(path.is_file(), f"{path} is missing.")
    stubs: dict[str, type[StubObject]] = {}
    while True:
        allowed: list[Any] = [argparse.Namespace, *((stub, name) for name, stub in stubs.items())]
        try:
            with torch.serialization.safe_globals(allowed):
                content = load_torch(torch, path)
            break
        except UnpicklingError as error:
            match = re.search(r"GLOBAL (\S+)", str(error))
            if match is None:
                raise ConfigError(f"{path} is not a complete PyTorch file, or contains more than data.") from error
            name = match[1]
            # torch did not accept the stub if it asks for the same name again.
            refused = "blocked" in str(error) or name in stubs or len(stubs) == MOST_CLASSES
            require(not refused, f"{path} needs {name}, which is not loaded for safety.")
            stubs[name] = type("StubObject", (StubObject,), {"class_name": name})
        except (OSError, ConfigError):
            raise
        except Exception as error:  # an invalid pickle can raise anything
            raise ConfigError(f"{path} is not a complete PyTorch file.") from error
    require(isinstance(content, dict), f"{path} is not a dictionary: it is not a fairseq checkpoint.")
    return content


FUSED = re.compile(r"(.+\.)in_proj_(weight|bias)")  # query, key and value in one matrix, before fairseq 0.8


class FairseqTensors(Mapping[str, np.ndarray]):
    """The tensors of a file's "model" by name; fused query, key and value tensors appear as three."""

    def __init__(self, content: Mapping[str, Any], path: Path) -> None:
        model = content.get("model")
        require(
            isinstance(model, dict), f"{path} has no tensors by name under 'model': it is not a fairseq checkpoint."
        )
        check_tensors(model, path)
        self.path = path
        self.model: dict[str, Any] = {}
        for name, tensor in content["model"].items():
            fused = FUSED.fullmatch(name)
            if fused is None:
                self.model[name] = tensor
                continue
            rows = len(tensor) if tensor.ndim else 1
            require(rows % 3 == 0, f"{path}: {name} has {rows} rows, not a multiple of three.")
            prefix, kind = fused.groups()
            for part, third in zip("qkv", tensor.chunk(3), strict=True):
                self.model[f"{prefix}{part}_proj.{kind}"] = third

    def __getitem__(self, name: str) -> np.ndarray:
        tensor = self.model[name].detach()
        # NumPy has no bfloat16. Other types are passed on: the table checks them.
        try:
            return (tensor.float() if tensor.is_floating_point() else tensor).numpy()
        except (TypeError, RuntimeError) as error:
            raise ConfigError(f"{self.path}: {name} cannot be read as an array: {error}.") from error

    def __contains__(self, name: object) -> bool:
        return name in self.model

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self.model))

    def __len__(self) -> int:
        return len(self.model)


# --- The configuration ------------------------------------------------------------------------------------------------

# activation_fn -> activation
ACTIVATIONS: dict[str, Literal["relu", "gelu", "gelu_tanh", "silu"]] = {
    "relu": "relu",
    "gelu": "gelu",
    "gelu_accurate": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "swish": "silu",
}

# Values allowed for arguments, if present.
ALLOWED: dict[str, tuple[Any, ...]] = {
    "adaptive_input": (False, None),
    "adaptive_softmax_cutoff": (None,),
    "cross_self_attention": (False,),
    "decoder_learned_pos": (True,),
    "decoder_layers_to_keep": (None,),
    "encoder_learned_pos": (True,),
    "encoder_layers_to_keep": (None,),
    "no_cross_attention": (False,),
    "no_decoder_final_norm": (False,),
    "no_token_positional_embeddings": (False,),
    "share_all_embeddings": (True,),
}

EMBEDDING, POSITIONS = "encoder.embed_tokens.weight", "encoder.embed_positions.weight"
LAYERS = r"\.layers\.(\d{1,9})\."
OFFSET = 2  # positions start at the id of <pad>, 1, plus one


def read_config(path: Path) -> Model:
    """Read the model's configuration: sizes from the shapes of the tensors, everything else from the arguments.

    Raises:
        ConfigError: the file is missing or damaged, or its arguments cannot be read without fairseq, are not supported
            by this model, or contradict the sizes of the tensors.
    """
    content = load(path)
    arguments, tensors = read_arguments(content, path), FairseqTensors(content, path)
    for name, allowed in ALLOWED.items():
        value, choices = arguments.get(name, allowed[0]), " or ".join(map(repr, allowed))
        require(value in allowed, f"{path}: {name} is {value!r}; only {choices} can be read.")
    vocab_size, width = shape(tensors, EMBEDDING, path)
    heads, activation = arguments.get("encoder_attention_heads"), arguments.get("activation_fn")
    whole = isinstance(heads, int) and heads > 0 and width % heads == 0
    require(whole, f"{path}: encoder_attention_heads is {heads!r}: it must be given and divide the width, {width}.")
    assert isinstance(heads, int)
    known = isinstance(activation, str) and activation in ACTIVATIONS
    require(known, f"{path}: activation_fn is {activation!r}, not one of {', '.join(ACTIVATIONS)}.")
    model = Model(
        vocab_size=vocab_size,
        width=width,
        heads=heads,
        head_width=width // heads,
        feed_forward=shape(tensors, "encoder.layers.0.fc1.weight", path)[0],
        encoder_layers=layer_count(tensors, LAYERS, "encoder", path),
        decoder_layers=layer_count(tensors, LAYERS, "decoder", path),
        activation=ACTIVATIONS[str(activation)],
        gated=False,
        biases=True,
        norm=LayerNorm(1e-5),
        norm_first="encoder.layer_norm.weight" in tensors,
        positions=Learned(shape(tensors, POSITIONS, path)[0] - OFFSET, OFFSET),
        scaled_scores=True,
        scaled_embedding=not arguments.get("no_scale_embedding", False),
        embedding_norm="encoder.layernorm_embedding.weight" in tensors,
        head=Tied(scaled=False),
        pad_token=1,
        initial=Normal(0.02),
        dropout=rate(arguments, "dropout", path),
        attention_dropout=rate(arguments, "attention_dropout", path),
        activation_dropout=rate(arguments, "activation_dropout", path),
        shared_dropout=False,
    )
    refuse_disagreement(model, arguments, path)
    return model


def read_arguments(content: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Return the model's arguments: those of the command, or since fairseq 0.10 the part "model" of a nested config."""
    import torch  # installed, since the file has been loaded

    arguments = content.get("args") if content.get("cfg") is None else content["cfg"]
    if isinstance(arguments, dict):
        arguments = arguments.get("model")
    if isinstance(arguments, StubObject):
        raise ConfigError(
            f"{path}: its configuration is of class {arguments.class_name}, which needs its own code to be read: save"
            " it again as a plain dictionary (OmegaConf.to_container)."
        )
    if isinstance(arguments, argparse.Namespace):
        arguments = vars(arguments)
    if not isinstance(arguments, dict):
        raise ConfigError(f"{path} has neither 'args' nor 'cfg' with 'model': it is not a fairseq checkpoint.")
    # Comparing a tensor with a value gives another tensor, not a boolean.
    wrong = [str(name) for name, value in arguments.items() if isinstance(value, torch.Tensor)]
    require(not wrong, f"{path}: {', '.join(wrong)} is a tensor, which is not allowed for an argument.")
    return arguments


def refuse_disagreement(model: Model, arguments: Mapping[str, Any], path: Path) -> None:
    """Raise ConfigError if the arguments contradict the tensors, or the encoder's arguments the decoder's."""
    assert isinstance(model.positions, Learned)
    expected: dict[str, Any] = {
        "max_source_positions": model.positions.length,
        "max_target_positions": model.positions.length,
        "layernorm_embedding": model.embedding_norm,
        "encoder_layers": model.encoder_layers,
        "decoder_layers": model.decoder_layers,
        "decoder_input_dim": model.width,
        "decoder_output_dim": model.width,
    }
    for stack in ("encoder", "decoder"):
        expected[f"{stack}_embed_dim"] = model.width
        expected[f"{stack}_ffn_embed_dim"] = model.feed_forward
        expected[f"{stack}_attention_heads"] = model.heads
        expected[f"{stack}_normalize_before"] = model.norm_first
    wrong = [
        f"{name} is {arguments[name]!r}, not {value!r}"
        for name, value in expected.items()
        if arguments.get(name, value) != value
    ]
    require(not wrong, f"{path} does not agree with its tensors, or its decoder with its encoder: {'; '.join(wrong)}.")


def rate(arguments: Mapping[str, Any], name: str, path: Path) -> float:
    value = arguments.get(name, 0.0)
    require(isinstance(value, int | float) and 0 <= value < 1, f"{path}: {name} is {value!r}: it must be in [0, 1).")
    return float(value)


def shape(tensors: FairseqTensors, name: str, path: Path) -> tuple[int, int]:
    require(name in tensors.model, f"{path} has no {name}: it is not a BART or mBART of fairseq.")
    sizes = tuple(tensors.model[name].shape)
    require(len(sizes) == 2, f"{path}: {name} has shape {sizes}, not two axes.")
    return sizes[0], sizes[1]


# --- The parameters ---------------------------------------------------------------------------------------------------


def table(model: Model, tensors: Mapping[str, np.ndarray], unused: Sequence[str], path: Path) -> TensorRows:
    """Return Hugging Face's rows, which have fairseq's names, and rows for the tensors left `unused`."""
    rows = [*bart.table(model, tensors), Alias("decoder.output_projection.weight", EMBEDDING)]
    for prefix in unused:
        names = [name for name in tensors if name.startswith(f"{prefix}.")]
        require(bool(names), f"unused: {path} has no {prefix}.")
        rows += [Alias(name, None) for name in names]
    return rows


def read_params(
    path: Path, model: Model, shardings: Any = None, fresh: Sequence[str] = (), unused: Sequence[str] = ()
) -> Params:
    """Read the parameters of `model` from a fairseq file; see `fill_params`.

    `unused` lists prefixes of tensors that the model does not have, such as "classification_heads.mnli".

    Raises:
        ConfigError: the file is missing or damaged, or the tensors are not exactly those of the model.
    """
    tensors = FairseqTensors(load(path), path)
    return fill_params(tensors, table(model, tensors, unused, path), model, str(path), shardings, fresh)
