"""BART, mBART, M2M-100, NLLB and Marian in Hugging Face's format: their config.json and the table of their tensors."""

from collections.abc import Container, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from research.config import LayerNorm, Learned, Model, Normal, Sinusoidal, Tied, UntiedHead, require
from research.model.layer import sinusoids
from research.pretrained.huggingface.fields import ACTIVATIONS, FIXED, Facts, head_row, written_activation
from research.pretrained.table import HEADS_BIAS, HEADS_IN, HEADS_OUT, ONE_ROW, TRANSPOSED, Alias, FixedTensor, Row

# --- config.json ------------------------------------------------------------------------------------------------------


class BartFamily(NamedTuple):
    """The properties that a model_type implies."""

    architecture: str
    norm_first: bool
    embedding_norm: bool
    sinusoidal: bool
    zero_pad: bool  # the decoder starts from padding; its embedding is zero in native Marian
    biased: bool = True  # there is a tensor with a bias of the logits
    defaults: Mapping[str, Any] = {}  # for config.json, where they differ from BART's


FAMILIES = {
    "bart": BartFamily("BartForConditionalGeneration", False, True, False, False),
    "mbart": BartFamily("MBartForConditionalGeneration", True, True, False, False),
    "marian": BartFamily("MarianMTModel", False, False, True, True),
    "m2m_100": BartFamily(
        *("M2M100ForConditionalGeneration", True, False, True, False, False),
        {"activation_function": "relu", "attention_dropout": 0.1, "scale_embedding": True},
    ),
}

SIZES = {"width": "d_model", "encoder_layers": "encoder_layers", "decoder_layers": "decoder_layers"}
# Hugging Face has one for each stack, this model one for both.
EQUAL_SIZES = {"heads": "attention_heads", "feed_forward": "ffn_dim"}
WHOLE = (
    "vocab_size",
    *SIZES.values(),
    *(f"{stack}_{s}" for s in EQUAL_SIZES.values() for stack in ("encoder", "decoder")),
)

# Other names of fields, which take precedence as in transformers.
ALIASES = {"hidden_size": "d_model", "num_attention_heads": "encoder_attention_heads"}

DROPOUTS = {"dropout": 0.1, "attention_dropout": 0.0, "activation_dropout": 0.0}

TYPES: dict[str, tuple[type, ...]] = {
    "max_position_embeddings": (int,),
    **dict.fromkeys(("pad_token_id", "decoder_vocab_size"), (int, type(None))),
    **dict.fromkeys(("model_type", "activation_function"), (str,)),
    **dict.fromkeys((*DROPOUTS, "init_std", "encoder_layerdrop", "decoder_layerdrop"), (int, float)),
    **dict.fromkeys(("tie_word_embeddings", "scale_embedding", "share_encoder_decoder_embeddings"), (bool,)),
}

# Defaults for config.json; None has no default, and mBART's start token is that of the target language.
TOKENS: dict[str, dict[str, int | None]] = {
    "bart": {"pad_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 2, "forced_eos_token_id": 2},
    "mbart": {"pad_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": None, "forced_eos_token_id": 2},
    "m2m_100": {"pad_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 2, "forced_eos_token_id": None},
    "marian": {"pad_token_id": None, "eos_token_id": 0, "decoder_start_token_id": None, "forced_eos_token_id": 0},
}

# Unused rows at the start of the position table.
OFFSET = 2


def fixed(config: Mapping[str, Any]) -> dict[str, tuple[Any, ...]]:
    """Return the fields with their only values; some were options in the first versions of transformers."""
    family = FAMILIES[config["model_type"]]
    first, static = family.norm_first, family.sinusoidal
    old = {"normalize_before": first, "add_final_layer_norm": first, "normalize_embedding": family.embedding_norm}
    old |= {"static_position_embeddings": static}
    return FIXED | {name: (value,) for name, value in old.items()}


def read_facts(config: Mapping[str, Any], tensors: Mapping[str, np.ndarray], path: Path) -> Facts:
    """Derive facts from the tensors; raise ConfigError if they belong to a classifier."""
    others = [name for name in tensors if name.startswith(("classification_head.", "qa_outputs.", "score."))]
    classifier = f"{path.parent} holds {', '.join(others)}, a classification head; only language models can be read."
    require(not others, classifier)
    family, bias = FAMILIES[config["model_type"]], "final_logits_bias"
    biased = bias in tensors and (family.zero_pad or bool(np.any(tensors[bias])))
    pad = _pad_token(config)
    zero = False
    if family.zero_pad and pad is not None:
        names = [name for embedding in reversed(EMBEDDINGS) for name in (embedding, _bare(embedding))]
        embedding = next((tensors[name] for name in names if name in tensors), np.ones((0, 1)))
        zero = 0 <= pad < len(embedding) and not np.any(embedding[pad])
    return Facts("lm_head.weight" in tensors, biased, zero)


def _pad_token(config: Mapping[str, Any]) -> int | None:
    return config.get("pad_token_id", TOKENS[config["model_type"]]["pad_token_id"])


def read_model(config: Mapping[str, Any], facts: Facts, path: Path) -> Model:
    """Build the model that config.json, at `path`, describes; raise ConfigError if it is not supported."""
    family = FAMILIES[config["model_type"]]
    config = {**family.defaults, **config}
    equal = {}
    for field, name in EQUAL_SIZES.items():
        equal[field], other = config[f"encoder_{name}"], config[f"decoder_{name}"]
        unequal = f"{path}: encoder_{name} is {equal[field]} and decoder_{name} {other}: they must be equal."
        require(equal[field] == other, unequal)
    for name in ("encoder_layerdrop", "decoder_layerdrop") if family.biased else ():  # M2M-100 was pretrained with it
        require(not config.get(name), f"{path}: {name} is {config.get(name)}; only 0 is supported.")
    width, heads = config["d_model"], equal["heads"]
    require(heads > 0 and width % heads == 0, f"{path}: d_model is {width}, not a multiple of {heads} heads.")
    activation, allowed = config.get("activation_function", "gelu"), ", ".join(ACTIVATIONS)
    require(activation in ACTIVATIONS, f"{path}: activation_function is {activation!r}, not one of {allowed}.")
    length, size = config.get("max_position_embeddings", 1024), config["vocab_size"]
    shared = config.get("share_encoder_decoder_embeddings", True) or not family.zero_pad
    return Model(
        **{field: config[name] for field, name in SIZES.items()},
        **equal,
        head_width=width // heads,
        vocab_size=size if shared else (config.get("decoder_vocab_size") or size),
        source_vocab_size=None if shared else size,
        activation=ACTIVATIONS[activation],
        gated=False,
        biases=True,
        norm=LayerNorm(1e-5),
        norm_first=family.norm_first,
        positions=_positions(family, length),
        scaled_scores=True,
        scaled_embedding=config.get("scale_embedding", False),
        embedding_norm=family.embedding_norm,
        head=Tied(scaled=False) if config.get("tie_word_embeddings", True) else UntiedHead(),
        logits_bias=facts.logits_bias,
        zero_token=_pad_token(config) if facts.zero_pad and family.zero_pad else None,
        pad_token=_pad_token(config),
        initial=Normal(config.get("init_std", 0.02)),
        **{name: config.get(name, default) for name, default in DROPOUTS.items()},
        shared_dropout=False,
    )


def _positions(family: BartFamily, length: int) -> Learned | Sinusoidal:
    if not family.sinusoidal:
        return Learned(length, OFFSET)
    return Sinusoidal(length) if family.zero_pad else Sinusoidal(length, last_included=True, first=OFFSET)


def _is_m2m(model: Model) -> bool:
    return isinstance(model.positions, Sinusoidal) and model.positions.first == OFFSET


def write_config(model: Model) -> dict[str, Any]:
    """Return the fields of config.json that describe the model, for the family nearest to it."""
    static = isinstance(model.positions, Sinusoidal)
    plain = "mbart" if model.norm_first else "bart"
    model_type = "m2m_100" if _is_m2m(model) else "marian" if static else plain
    config: dict[str, Any] = {"model_type": model_type, "architectures": [FAMILIES[model_type].architecture]}
    config |= {name: getattr(model, field) for field, name in SIZES.items()}
    for stack in ("encoder", "decoder"):
        config |= {f"{stack}_{name}": getattr(model, field) for field, name in EQUAL_SIZES.items()}
    if model_type == "marian":
        source = model.source_vocab_size
        config |= {"decoder_vocab_size": model.vocab_size, "share_encoder_decoder_embeddings": source is None}
    match model.positions:
        case Learned(length=length) | Sinusoidal(length=length):
            config["max_position_embeddings"] = length
    match model.initial:
        case Normal(deviation=deviation):
            config["init_std"] = deviation
    return config | {
        "vocab_size": model.vocab_size if model.source_vocab_size is None else model.source_vocab_size,
        "activation_function": written_activation(model),
        "scale_embedding": model.scaled_embedding,
        "tie_word_embeddings": isinstance(model.head, Tied),
        # CTranslate2's converter reads these two.
        **{"normalize_before": model.norm_first, "normalize_embedding": model.embedding_norm},
        **{name: getattr(model, name) for name in DROPOUTS},
    }


# --- The table --------------------------------------------------------------------------------------------------------

QKV = {"q": "query", "k": "key", "v": "value"}
NORM = {"weight": "scale", "bias": "bias"}
LAYER, DECODER_LAYER = "model.{stack}.layers.{layer}.", "model.decoder.layers.{layer}."

ROWS: tuple[Row | Alias | FixedTensor, ...] = (
    *(
        row
        for foreign, path in (
            (LAYER + "self_attn.", "{stack}/layers/self_attention/"),
            (DECODER_LAYER + "encoder_attn.", "decoder/layers/cross_attention/"),
        )
        for row in (
            Row(foreign + "{part}_proj.weight", path + "{part}/weight", HEADS_OUT, QKV),
            Row(foreign + "{part}_proj.bias", path + "{part}/bias", HEADS_BIAS, QKV),
            Row(foreign + "out_proj.weight", path + "output/weight", HEADS_IN),
            Row(foreign + "out_proj.bias", path + "output/bias"),
        )
    ),
    Row(LAYER + "self_attn_layer_norm.{part}", "{stack}/layers/self_attention_norm/{part}", parts=NORM),
    Row(DECODER_LAYER + "encoder_attn_layer_norm.{part}", "decoder/layers/cross_attention_norm/{part}", parts=NORM),
    Row(LAYER + "final_layer_norm.{part}", "{stack}/layers/feed_forward_norm/{part}", parts=NORM),
    Row(LAYER + "fc1.weight", "{stack}/layers/feed_forward/up/weight", TRANSPOSED),
    Row(LAYER + "fc1.bias", "{stack}/layers/feed_forward/up/bias"),
    Row(LAYER + "fc2.weight", "{stack}/layers/feed_forward/down/weight", TRANSPOSED),
    Row(LAYER + "fc2.bias", "{stack}/layers/feed_forward/down/bias"),
    Row("model.{stack}.layernorm_embedding.{part}", "{stack}/embedding_norm/{part}", parts=NORM),
    Row("model.{stack}.layer_norm.{part}", "{stack}/norm/{part}", parts=NORM),
    # Leftovers from fairseq in early conversions.
    Alias("model.{stack}.version", None),
    Alias("model.{stack}.embed_positions._float_tensor", None),
)

# If they differ, the decoder's is the last.
EMBEDDINGS = ("model.encoder.embed_tokens.weight", "model.shared.weight", "model.decoder.embed_tokens.weight")


def table(model: Model, names: Container[str] = ()) -> list[Row | Alias | FixedTensor]:
    """Return the rows for a model; each of `names` must match exactly one.

    Checkpoints saved without the head, such as facebook/bart-base, lack the prefix "model." in every name.
    """
    bare = any(name in names for name in map(_bare, EMBEDDINGS))
    known = {name for name in EMBEDDINGS if (_bare(name) if bare else name) in names}
    rows = [*ROWS, *_embeddings(model, known), *_outer(model)]
    return [row._replace(foreign=_bare(row.foreign), **_original(row)) for row in rows] if bare else rows


def _bare(name: str) -> str:
    return name.removeprefix("model.")


def _original(row: Row | Alias | FixedTensor) -> dict[str, Any]:
    return {"original": _bare(row.original)} if isinstance(row, Alias) and row.original is not None else {}


def _embeddings(model: Model, known: Container[str]) -> list[Row | Alias | FixedTensor]:
    """Return the rows of the embeddings and the head; without `known` names those to write."""
    encoder, shared, decoder = EMBEDDINGS
    rows: list[Row | Alias | FixedTensor] = []
    if model.source_vocab_size is not None:
        rows += [Row(encoder, "source_embedding"), Row(decoder, "embedding")]
        embedding = decoder
    else:
        embedding, *_ = [name for name in EMBEDDINGS if name in known] or [shared]
        # With an untied head, transformers 5 expects a separate embedding matrix for each stack as well.
        copied = isinstance(model.head, UntiedHead)
        rows += [Row(embedding, "embedding")]
        rows += [Alias(name, embedding, written=copied) for name in EMBEDDINGS if name != embedding]
    rows.append(head_row(model, embedding))
    return rows


def _stored_positions(model: Model) -> Iterator[FixedTensor]:
    """Yield the row of M2M-100's positions, which transformers 4 kept; that of padding is zero."""
    match model.positions:
        case Sinusoidal(length=length) as positions:
            every = replace(positions, length=length + OFFSET, first=0)
            padding = np.arange(every.length)[:, None] != model.pad_token
            name, shape = "model.{stack}.embed_positions.weights", (every.length, model.width)
            yield FixedTensor(name, shape, lambda: sinusoids(every, model.width) * padding, tolerance=1e-3)


def _outer(model: Model) -> list[Row | Alias | FixedTensor]:
    """Return the rows of the logits' bias and of the positions."""
    rows: list[Row | Alias | FixedTensor] = [Row("final_logits_bias", "logits_bias", ONE_ROW)]
    if _is_m2m(model):
        return [*(rows if model.logits_bias else ()), *_stored_positions(model)]
    if not model.logits_bias:
        shape = (1, model.vocab_size)
        rows = [FixedTensor("final_logits_bias", shape, partial(np.zeros, shape, np.float32), written=True)]
    match model.positions:
        case Sinusoidal() as positions:
            shape, waves = (positions.length, model.width), partial(sinusoids, positions, model.width)
            # The tolerance of half precision; any other convention differs by far more.
            rows.append(FixedTensor("model.{stack}.embed_positions.weight", shape, waves, tolerance=1e-3))
        case _:
            rows.append(Row("model.{stack}.embed_positions.weight", "{stack}/position_embedding"))
    return rows
