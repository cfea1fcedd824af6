"""Weights from a Hugging Face directory of the T5 family: config.json with model.safetensors, whole or in shards."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from research.config import Model, Relative, RMSNorm, Separate, Tied, require
from research.model.transformer import Params
from research.pretrained.files import Tensors, read_json
from research.pretrained.table import Alias, Row, fill_params

# --- config.json ------------------------------------------------------------------------------------------------------

# feed_forward_proj -> activation, gated. In this family "gated-gelu" is the tanh approximation.
PROJECTIONS: dict[str, tuple[Literal["relu", "gelu_tanh", "silu"], bool]] = {
    "relu": ("relu", False),
    "gelu_new": ("gelu_tanh", False),
    "silu": ("silu", False),
    "gated-relu": ("relu", True),
    "gated-gelu": ("gelu_tanh", True),
    "gated-gelu_new": ("gelu_tanh", True),
    "gated-silu": ("silu", True),
}


class Family(NamedTuple):
    """What a model_type implies, and what config.json means where it is silent."""

    per_layer: bool
    projection: str
    tied: bool


FAMILIES = {
    "t5": Family(per_layer=False, projection="relu", tied=True),  # ByT5 too
    "mt5": Family(per_layer=False, projection="gated-gelu", tied=False),
    "umt5": Family(per_layer=True, projection="gated-gelu", tied=False),
}

SIZES = {
    "vocab_size": "vocab_size",
    "width": "d_model",
    "heads": "num_heads",
    "head_width": "d_kv",
    "feed_forward": "d_ff",
    "encoder_layers": "num_layers",
}

DROPOUTS = ("dropout", "attention_dropout", "activation_dropout", "output_dropout")

TYPES: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("relative_attention_num_buckets", "relative_attention_max_distance"), (int,)),
    "num_decoder_layers": (int, type(None)),
    **dict.fromkeys(("model_type", "feed_forward_proj"), (str,)),
    **dict.fromkeys(("layer_norm_epsilon", "dropout_rate"), (int, float)),
    **dict.fromkeys(("tie_word_embeddings", "scale_decoder_outputs"), (bool,)),
}


def read_config(directory: Path) -> Model:
    """The model a Hugging Face directory holds.

    Raises:
        ConfigError: a file is missing or damaged, or config.json describes a model that is not of this family.
    """
    path = directory / "config.json"
    config = read_json(path)
    _check_types(config, path)
    family = FAMILIES.get(config.get("model_type", "none"))
    require(
        family is not None, f"{path}: model_type is {config.get('model_type')!r}, not one of {', '.join(FAMILIES)}."
    )
    assert family is not None
    wrong = [name for name in SIZES.values() if not isinstance(config.get(name), int)]
    require(not wrong, f"{path}: {', '.join(wrong)} must be there, as whole numbers.")
    projection = config.get("feed_forward_proj", family.projection)
    allowed = ", ".join(PROJECTIONS)
    require(projection in PROJECTIONS, f"{path}: feed_forward_proj is {projection!r}, not one of {allowed}.")
    activation, gated = PROJECTIONS[projection]
    decoder_layers = config.get("num_decoder_layers")
    return Model(
        **{field: config[name] for field, name in SIZES.items()},
        decoder_layers=config["num_layers"] if decoder_layers is None else decoder_layers,
        activation=activation,
        gated=gated,
        positions=Relative(
            buckets=config.get("relative_attention_num_buckets", 32),
            max_distance=config.get("relative_attention_max_distance", 128),
            per_layer=family.per_layer,
        ),
        head=head(config, family, Tensors(directory)),
        norm=RMSNorm(config.get("layer_norm_epsilon", 1e-6)),
        **dict.fromkeys(DROPOUTS, config.get("dropout_rate", 0.1)),
    )


def _check_types(config: dict[str, Any], path: Path) -> None:
    for name, types in TYPES.items():
        value = config.get(name)
        fits = isinstance(value, types) and not (isinstance(value, bool) and bool not in types)
        said = " or ".join(type.__name__ for type in types)
        require(fits or name not in config, f"{path}: {name} is {value!r}, which is not {said}.")


def head(config: dict[str, Any], family: Family, tensors: Tensors) -> Tied | Separate:
    """Whether the head is the embedding, and scaled.

    To transformers 4, tie_word_embeddings=false meant both that the head is separate and that its input is not scaled.
    transformers 5 writes true always and says the second in scale_decoder_outputs, so that for what it saved only the
    weights know whether the head is separate.
    """
    tied = config.get("tie_word_embeddings", family.tied)
    scaled = config.get("scale_decoder_outputs", tied)
    if not tied or (not scaled and "lm_head.weight" in tensors):
        return Separate()
    return Tied(scaled=scaled)


# --- The table --------------------------------------------------------------------------------------------------------


def as_is(tensor: np.ndarray, model: Model) -> np.ndarray:
    return tensor


def transposed(tensor: np.ndarray, model: Model) -> np.ndarray:
    return tensor.T


def to_heads(tensor: np.ndarray, model: Model) -> np.ndarray:
    """[h * k, d] -> [d, h, k]"""
    return tensor.reshape(model.heads, model.head_width, tensor.shape[-1]).transpose(2, 0, 1)


def from_heads(tensor: np.ndarray, model: Model) -> np.ndarray:
    """[d, h * k] -> [h, k, d]"""
    return tensor.reshape(tensor.shape[0], model.heads, model.head_width).transpose(1, 2, 0)


QKV = {"q": "query/weight", "k": "key/weight", "v": "value/weight"}
WI = {"wi_0": "gate/weight", "wi_1": "up/weight", "wi": "up/weight"}

SELF = r"(?P<stack>encoder|decoder)\.block\.(?P<layer>\d+)\.layer\.0\."
CROSS = r"(?P<stack>decoder)\.block\.(?P<layer>\d+)\.layer\.1\."
ENCODER_LAST = r"(?P<stack>encoder)\.block\.(?P<layer>\d+)\.layer\.1\."
DECODER_LAST = r"(?P<stack>decoder)\.block\.(?P<layer>\d+)\.layer\.2\."

ROWS = (
    Row(SELF + r"layer_norm\.weight", "{stack}/layers/self_attention_norm/scale", as_is),
    Row(SELF + r"SelfAttention\.(?P<part>[qkv])\.weight", "{stack}/layers/self_attention/{part}", to_heads, QKV),
    Row(SELF + r"SelfAttention\.o\.weight", "{stack}/layers/self_attention/output/weight", from_heads),
    Row(CROSS + r"layer_norm\.weight", "{stack}/layers/cross_attention_norm/scale", as_is),
    Row(
        CROSS + r"EncDecAttention\.(?P<part>[qkv])\.weight",
        "{stack}/layers/cross_attention/{part}",
        to_heads,
        QKV,
    ),
    Row(CROSS + r"EncDecAttention\.o\.weight", "{stack}/layers/cross_attention/output/weight", from_heads),
    *(
        row
        for last in (ENCODER_LAST, DECODER_LAST)
        for row in (
            Row(last + r"layer_norm\.weight", "{stack}/layers/feed_forward_norm/scale", as_is),
            Row(
                last + r"DenseReluDense\.(?P<part>wi|wi_0|wi_1)\.weight",
                "{stack}/layers/feed_forward/{part}",
                transposed,
                WI,
            ),
            Row(last + r"DenseReluDense\.wo\.weight", "{stack}/layers/feed_forward/down/weight", transposed),
        )
    ),
    Row(r"(?P<stack>encoder|decoder)\.final_layer_norm\.weight", "{stack}/norm/scale", as_is),
)

BIAS = r"SelfAttention\.relative_attention_bias\.weight"
SHARED_BIAS = r"(?P<stack>encoder|decoder)\.block\.0\.layer\.0\." + BIAS

# Names of the input embedding; a file may hold any of them. lm_head.weight is not one: where the head is separate, an
# embedding read from it would be silently wrong.
EMBEDDINGS = ("shared.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight")

# Early T5 checkpoints carry a table that their own code never read.
STRAY_BIAS = Alias(r"decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight", None)


def table(model: Model, names: Mapping[str, Any]) -> list[Row | Alias]:
    """The rows for this structure, of which each of `names` must match exactly one."""
    embedding, *others = [name for name in EMBEDDINGS if name in names] or EMBEDDINGS[:1]
    rows: list[Row | Alias] = [*ROWS, STRAY_BIAS, Row(re.escape(embedding), "embedding", as_is)]
    rows += [Alias(re.escape(name), embedding) for name in others]
    match model.positions:
        case Relative(per_layer=True):
            rows.append(Row(SELF + BIAS, "{stack}/layers/self_attention/relative_bias", as_is))
        case Relative():
            rows.append(Row(SHARED_BIAS, "{stack}/relative_bias", as_is))
    match model.head:
        case Separate():
            rows.append(Row(r"lm_head\.weight", "head", transposed))
        case Tied():
            rows.append(Alias(r"lm_head\.weight", embedding))
    return rows


def read_params(directory: Path, model: Model) -> Params:
    """The parameters of `model` from a Hugging Face directory, as float32 NumPy arrays.

    Raises:
        ConfigError: a file is missing or damaged, or the tensors are not exactly those of the model.
    """
    tensors = Tensors(directory)
    return fill_params(tensors, table(model, tensors), model, str(directory))
