"""Weights of BART and mBART from fairseq's .pt files, of which no code is run.

A file is a pickle of {"args" or "cfg": how the model was made, "model": tensors, ...} and of much else, objects of
fairseq's own classes among it. It is unpickled by torch's own interpreter for tensors (weights_only), which calls
nothing that it does not know to be harmless, and here in addition argparse.Namespace. Whatever else the file asks for
becomes an instance of Inert, which takes any arguments and does nothing; what torch blocks altogether is refused.

The rows of the embedding are those of the file's dictionary (<s> 0, <pad> 1, </s> 2, <unk> 3 ...), padding included.
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


class Inert:
    """What stands for an object of a class that is not loaded, named `wanted`."""

    wanted = ""

    def __new__(cls, *arguments: Any, **named: Any) -> "Inert":
        return object.__new__(cls)

    def __init__(self, *arguments: Any, **named: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


MOST_CLASSES = 64  # that a file may name and not get


def load(path: Path) -> dict[str, Any]:
    """The file's dictionary.

    Raises:
        ConfigError: torch is not installed, or the file is missing, damaged or wants what cannot be left out.
    """
    torch = import_torch(path)
    require(path.is_file(), f"{path} is missing.")
    stands_for: dict[str, type[Inert]] = {}
    while True:
        allowed: list[Any] = [argparse.Namespace, *((inert, name) for name, inert in stands_for.items())]
        try:
            with torch.serialization.safe_globals(allowed):
                content = load_torch(torch, path)
            break
        except UnpicklingError as error:
            wanted = re.search(r"GLOBAL (\S+)", str(error))
            if wanted is None:
                raise ConfigError(f"{path} is not a whole file of PyTorch, or holds more than data.") from error
            name = wanted[1]
            # A name that is there already, or is no module's, is one that torch would not have replaced.
            refused = "blocked" in str(error) or name in stands_for or len(stands_for) == MOST_CLASSES
            require(not refused, f"{path} wants to load {name}, which is not done.")
            stands_for[name] = type("Inert", (Inert,), {"wanted": name})
        except (OSError, ConfigError):
            raise
        except Exception as error:  # what is no pickle can fail anywhere in the reading of it
            raise ConfigError(f"{path} is not a whole file of PyTorch.") from error
    require(isinstance(content, dict), f"{path} is not a dictionary, and so is not fairseq's.")
    return content


FUSED = re.compile(r"(.+\.)in_proj_(weight|bias)")  # of query, key and value in one, as before fairseq 0.8


class FairseqTensors(Mapping[str, np.ndarray]):
    """The tensors of a file's "model" by name, those that are three in one by three names."""

    def __init__(self, content: Mapping[str, Any], path: Path) -> None:
        model = content.get("model")
        require(isinstance(model, dict), f"{path} has no tensors by name under 'model', and so is not fairseq's.")
        check_tensors(model, path)
        self.path = path
        self.model: dict[str, Any] = {}
        for name, tensor in content["model"].items():
            fused = FUSED.fullmatch(name)
            if fused is None:
                self.model[name] = tensor
                continue
            rows = len(tensor) if tensor.ndim else 1
            require(rows % 3 == 0, f"{path}: {name} has {rows} rows, which are not three in one.")
            prefix, kind = fused.groups()
            for part, third in zip("qkv", tensor.chunk(3), strict=True):
                self.model[f"{prefix}{part}_proj.{kind}"] = third

    def __getitem__(self, name: str) -> np.ndarray:
        tensor = self.model[name].detach()
        # NumPy has no bfloat16; the type of what is not floating is for the table to refuse.
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

# What arguments may be, where they are there.
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
OFFSET = 2  # positions are counted from the number of <pad>, 1, and one more


def read_config(path: Path) -> Model:
    """The model in a fairseq file: sizes by its tensors' shapes, all else by its arguments.

    Raises:
        ConfigError: the file is missing or damaged, its arguments cannot be read without fairseq, say what this model
            has not, or say another size than the tensors.
    """
    content = load(path)
    arguments, tensors = read_arguments(content, path), FairseqTensors(content, path)
    for name, allowed in ALLOWED.items():
        value, said = arguments.get(name, allowed[0]), " or ".join(map(repr, allowed))
        require(value in allowed, f"{path}: {name} is {value!r}; only {said} can be read.")
    vocab_size, width = shape(tensors, EMBEDDING, path)
    heads, activation = arguments.get("encoder_attention_heads"), arguments.get("activation_fn")
    whole = isinstance(heads, int) and heads > 0 and width % heads == 0
    require(whole, f"{path}: encoder_attention_heads is {heads!r}: it must be there, and divide the width, {width}.")
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
        initial=Normal(0.02),
        dropout=rate(arguments, "dropout", path),
        attention_dropout=rate(arguments, "attention_dropout", path),
        activation_dropout=rate(arguments, "activation_dropout", path),
        shared_dropout=False,
    )
    refuse_disagreement(model, arguments, path)
    return model


def read_arguments(content: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """How the model was made: the command's arguments, or since fairseq 0.10 the part "model" of a nested config."""
    import torch  # there, since the file is loaded

    found = content.get("args") if content.get("cfg") is None else content["cfg"]
    if isinstance(found, dict):
        found = found.get("model")
    if isinstance(found, Inert):
        raise ConfigError(
            f"{path}: its configuration is of class {found.wanted}, which only its own code could read; save it again "
            "as a plain dictionary (OmegaConf.to_container)."
        )
    if isinstance(found, argparse.Namespace):
        found = vars(found)
    if not isinstance(found, dict):
        raise ConfigError(f"{path} has neither 'args' nor 'cfg' with 'model', and so is not fairseq's.")
    # Their comparison with a value is no truth but another tensor.
    wrong = [str(name) for name, value in found.items() if isinstance(value, torch.Tensor)]
    require(not wrong, f"{path}: {', '.join(wrong)} is a tensor, which no argument is.")
    return found


def refuse_disagreement(model: Model, arguments: Mapping[str, Any], path: Path) -> None:
    """Raises ConfigError where arguments say another model than the tensors, or another encoder than decoder."""
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
        f"{name} is {arguments[name]!r} and not {value!r}"
        for name, value in expected.items()
        if arguments.get(name, value) != value
    ]
    require(not wrong, f"{path} does not agree with its tensors, or its decoder with its encoder: {'; '.join(wrong)}.")


def rate(arguments: Mapping[str, Any], name: str, path: Path) -> float:
    value = arguments.get(name, 0.0)
    require(isinstance(value, int | float) and 0 <= value < 1, f"{path}: {name} is {value!r}: it must lie in [0, 1).")
    return float(value)


def shape(tensors: FairseqTensors, name: str, path: Path) -> tuple[int, int]:
    require(name in tensors.model, f"{path} has no {name}, and so is not fairseq's BART or mBART.")
    sizes = tuple(tensors.model[name].shape)
    require(len(sizes) == 2, f"{path}: {name} has shape {sizes}, not two axes.")
    return sizes[0], sizes[1]


# --- The parameters ---------------------------------------------------------------------------------------------------


def table(model: Model, tensors: Mapping[str, np.ndarray], unused: Sequence[str], path: Path) -> TensorRows:
    """Hugging Face's rows, who kept fairseq's names, and those of what is left unused."""
    rows = [*bart.table(model, tensors), Alias("decoder.output_projection.weight", EMBEDDING)]
    for prefix in unused:
        names = [name for name in tensors if name.startswith(f"{prefix}.")]
        require(bool(names), f"unused: {path} has no {prefix}.")
        rows += [Alias(name, None) for name in names]
    return rows


def read_params(
    path: Path, model: Model, shardings: Any = None, fresh: Sequence[str] = (), unused: Sequence[str] = ()
) -> Params:
    """The parameters of `model` from a fairseq file; see `fill_params`.

    `unused` names what the file has and the model has not: "classification_heads.mnli".

    Raises:
        ConfigError: the file is missing or damaged, or the tensors are not exactly those of the model.
    """
    tensors = FairseqTensors(load(path), path)
    return fill_params(tensors, table(model, tensors, unused, path), model, str(path), shardings, fresh)
