"""T5, mT5, umT5, ByT5, Flan-T5 and UL2 in Hugging Face's format: config.json and the table of their tensors."""

from collections.abc import Container, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from research.config import DROPOUTS, Model, Relative, RMSNorm, Tied, UntiedHead, require
from research.pretrained.huggingface.fields import (
    ACTIVATIONS,
    FIXED,
    Activation,
    Facts,
    head_row,
    written_activation,
)
from research.pretrained.table import AS_IS, HEADS_IN, HEADS_OUT, TRANSPOSED, Alias, FixedTensor, Row

# --- config.json ------------------------------------------------------------------------------------------------------

# Values of feed_forward_proj; "gated-gelu" is the tanh approximation, though "gelu" is exact.
GATED = "gated-"
PROJECTIONS = (*ACTIVATIONS, *(GATED + name for name in ACTIVATIONS))


class T5Family(NamedTuple):
    """The properties that a model_type implies, and its defaults for config.json."""

    architecture: str
    per_layer: bool
    projection: str
    tied: bool
    scaled: bool = True  # whether a tied head's input is scaled; transformers 5 dropped this from mT5


FAMILIES = {
    "t5": T5Family("T5ForConditionalGeneration", per_layer=False, projection="relu", tied=True),  # ByT5 too
    "mt5": T5Family("MT5ForConditionalGeneration", per_layer=False, projection="gated-gelu", tied=False, scaled=False),
    "umt5": T5Family("UMT5ForConditionalGeneration", per_layer=True, projection="gated-gelu", tied=False),
}

SIZES = {
    "vocab_size": "vocab_size",
    "width": "d_model",
    "heads": "num_heads",
    "head_width": "d_kv",
    "feed_forward": "d_ff",
    "encoder_layers": "num_layers",
}
WHOLE = tuple(SIZES.values())

# Other names of fields, which take precedence as in transformers.
ALIASES = {"hidden_size": "d_model", "num_attention_heads": "num_heads", "num_hidden_layers": "num_layers"}
ALIASES |= {"head_dim": "d_kv"}

TYPES: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("relative_attention_num_buckets", "relative_attention_max_distance"), (int,)),
    "num_decoder_layers": (int, type(None)),
    **dict.fromkeys(("model_type", "feed_forward_proj", "dense_act_fn"), (str,)),
    **dict.fromkeys(("layer_norm_epsilon", "dropout_rate"), (int, float)),
    **dict.fromkeys(("tie_word_embeddings", "scale_decoder_outputs", "is_gated_act"), (bool,)),
}

# Defaults for config.json.
TOKENS: dict[str, dict[str, int | None]] = {
    name: {"pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0} for name in FAMILIES
}


def fixed(config: Mapping[str, Any]) -> dict[str, tuple[Any, ...]]:
    return FIXED


def read_facts(config: Mapping[str, Any], tensors: Mapping[str, np.ndarray], path: Path) -> Facts:
    return Facts(head="lm_head.weight" in tensors, logits_bias=False, zero_pad=False)


def read_model(config: Mapping[str, Any], facts: Facts, path: Path) -> Model:
    """Build the model that config.json, at `path`, describes; raise ConfigError if it is not supported."""
    family = FAMILIES[config["model_type"]]
    activation, gated = _projection(config, family, path)
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
        head=_head(config, family, facts),
        norm=RMSNorm(config.get("layer_norm_epsilon", 1e-6)),
        **dict.fromkeys(DROPOUTS, config.get("dropout_rate", 0.1)),
    )


def _projection(config: Mapping[str, Any], family: T5Family, path: Path) -> tuple[Activation, bool]:
    """Determine the activation and whether it is gated; dense_act_fn and is_gated_act precede feed_forward_proj."""
    projection, allowed = config.get("feed_forward_proj", family.projection), ", ".join(PROJECTIONS)
    require(projection in PROJECTIONS, f"{path}: feed_forward_proj is {projection!r}, not one of {allowed}.")
    implied = "gelu_new" if projection == GATED + "gelu" else projection.removeprefix(GATED)
    activation, allowed = config.get("dense_act_fn", implied), ", ".join(ACTIVATIONS)
    require(activation in ACTIVATIONS, f"{path}: dense_act_fn is {activation!r}, not one of {allowed}.")
    return ACTIVATIONS[activation], config.get("is_gated_act", projection.startswith(GATED))


def _head(config: Mapping[str, Any], family: T5Family, facts: Facts) -> Tied | UntiedHead:
    """Determine whether the head is tied to the embedding, and whether its input is scaled.

    In transformers 4, tie_word_embeddings=false means both that the head is separate and that its input is not scaled.
    transformers 5 always writes true and stores the scaling in scale_decoder_outputs, so for its files only the weights
    show whether the head is separate.
    """
    tied = config.get("tie_word_embeddings", family.tied)
    scaled = config.get("scale_decoder_outputs", tied and family.scaled)
    if not tied or (not scaled and facts.head):
        return UntiedHead()
    return Tied(scaled=scaled)


def write_config(model: Model) -> dict[str, Any]:
    """Return the fields of config.json that describe the model, for the family nearest to it."""
    activation = written_activation(model)
    plain = "gelu" if model.gated and activation == "gelu_new" else activation
    config: dict[str, Any] = {name: getattr(model, field) for field, name in SIZES.items()}
    match model.positions:
        case Relative(buckets, max_distance, per_layer):
            config |= {"relative_attention_num_buckets": buckets, "relative_attention_max_distance": max_distance}
            config |= {"model_type": "umt5" if per_layer else "t5"}
        case _:
            config["model_type"] = "t5"
    match model.norm:
        case RMSNorm(epsilon=epsilon):
            config["layer_norm_epsilon"] = epsilon
    match model.head:
        case Tied(scaled=scaled):
            config |= {"tie_word_embeddings": True, "scale_decoder_outputs": scaled}
        case UntiedHead():
            config["tie_word_embeddings"] = False
    return config | {
        "architectures": [FAMILIES[config["model_type"]].architecture],
        "num_decoder_layers": model.decoder_layers,
        "feed_forward_proj": GATED * model.gated + plain,
        "dense_act_fn": activation,
        "is_gated_act": model.gated,
        "dropout_rate": model.dropout,
    }


# --- The table --------------------------------------------------------------------------------------------------------

QKV = {"q": "query", "k": "key", "v": "value"}
SELF, CROSS = "{stack}.block.{layer}.layer.0.", "decoder.block.{layer}.layer.1."
LAST = {"encoder": "encoder.block.{layer}.layer.1.", "decoder": "decoder.block.{layer}.layer.2."}

# Names of the input embedding; a file may hold any of them. lm_head.weight is not included: with a separate head, an
# embedding read from it would be silently wrong.
EMBEDDINGS = ("shared.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight")

# An unused table in early T5 checkpoints.
STRAY_BIAS = Alias("decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight", None)

BIAS = "SelfAttention.relative_attention_bias.weight"

ROWS: tuple[Row | Alias, ...] = (
    Row(SELF + "layer_norm.weight", "{stack}/layers/self_attention_norm/scale"),
    Row(SELF + "SelfAttention.{part}.weight", "{stack}/layers/self_attention/{part}/weight", HEADS_OUT, QKV),
    Row(SELF + "SelfAttention.o.weight", "{stack}/layers/self_attention/output/weight", HEADS_IN),
    Row(CROSS + "layer_norm.weight", "decoder/layers/cross_attention_norm/scale"),
    Row(CROSS + "EncDecAttention.{part}.weight", "decoder/layers/cross_attention/{part}/weight", HEADS_OUT, QKV),
    Row(CROSS + "EncDecAttention.o.weight", "decoder/layers/cross_attention/output/weight", HEADS_IN),
    *(Row(last + "layer_norm.weight", stack + "/layers/feed_forward_norm/scale") for stack, last in LAST.items()),
    *(
        Row(last + "DenseReluDense.wo.weight", stack + "/layers/feed_forward/down/weight", TRANSPOSED)
        for stack, last in LAST.items()
    ),
    Row("{stack}.final_layer_norm.weight", "{stack}/norm/scale"),
    STRAY_BIAS,
)


def table(model: Model, names: Container[str] = ()) -> list[Row | Alias | FixedTensor]:
    """Return the rows for a model; each of `names` must match exactly one."""
    embedding, *others = [name for name in EMBEDDINGS if name in names] or EMBEDDINGS[:1]
    rows: list[Row | Alias | FixedTensor] = [*ROWS, Row(embedding, "embedding", AS_IS)]
    rows += [Alias(name, embedding) for name in others]
    inner = {"wi_0": "gate", "wi_1": "up"} if model.gated else {"wi": "up"}
    for stack, last in LAST.items():
        path = stack + "/layers/feed_forward/{part}/weight"
        rows.append(Row(last + "DenseReluDense.{part}.weight", path, TRANSPOSED, inner))
    match model.positions:
        case Relative(per_layer=True):
            rows.append(Row(SELF + BIAS, "{stack}/layers/self_attention/relative_bias"))
        case _:
            rows.append(Row("{stack}.block.0.layer.0." + BIAS, "{stack}/relative_bias"))
    rows.append(head_row(model, embedding))
    return rows
