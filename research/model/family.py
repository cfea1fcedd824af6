"""Published models as data: a family is a table of sizes and common fields. No other module may know of families."""

from dataclasses import fields, replace
from typing import Any, NamedTuple

from research.config import LayerNorm, Learned, Model, Normal, Relative, Sinusoidal, Tied, UntiedHead, require


class Size(NamedTuple):
    width: int
    heads: int
    head_width: int
    feed_forward: int
    encoder_layers: int
    decoder_layers: int


# T5 v1.0, arXiv:1910.10683, 3.7.
T5 = {
    "small": Size(512, 8, 64, 2048, 6, 6),
    "base": Size(768, 12, 64, 3072, 12, 12),
    "large": Size(1024, 16, 64, 4096, 24, 24),
    "3b": Size(1024, 32, 128, 16384, 24, 24),
    "11b": Size(1024, 128, 128, 65536, 24, 24),
}

# T5 v1.1 and mT5 (T5X's t5_1_1 and mt5 configurations; arXiv:2010.11934).
T5_V1_1 = {
    "small": Size(512, 6, 64, 1024, 8, 8),
    "base": Size(768, 12, 64, 2048, 12, 12),
    "large": Size(1024, 16, 64, 2816, 24, 24),
    "xl": Size(2048, 32, 64, 5120, 24, 24),
    "xxl": Size(4096, 64, 64, 10240, 24, 24),
}

# ByT5, arXiv:2105.13626, table 1: a deep encoder and a shallow decoder.
BYT5 = {
    "small": Size(1472, 6, 64, 3584, 12, 4),
    "base": Size(1536, 12, 64, 3968, 18, 6),
    "large": Size(1536, 16, 64, 3840, 36, 12),
    "xl": Size(2560, 32, 64, 6720, 36, 12),
    "xxl": Size(4672, 64, 64, 12352, 36, 12),
}

# umT5 (arXiv:2304.09151): mT5's sizes, no "large" among them, with a table of relative biases in every layer.
UMT5 = {size: T5_V1_1[size] for size in ("small", "base", "xl", "xxl")}

# UL2, arXiv:2205.05131, 3.4.
UL2 = {"20b": Size(4096, 16, 256, 16384, 32, 32)}

# BART (arXiv:1910.13461, 5) and mBART (arXiv:2001.08210, 2.2), as in fairseq.
BART = {"base": Size(768, 12, 64, 3072, 6, 6), "large": Size(1024, 16, 64, 4096, 12, 12)}
MBART = {"large": BART["large"]}

# Marian's --task transformer-base and transformer-big; tiny is for small corpora such as Multi30k.
MARIAN = {
    "tiny": Size(128, 4, 32, 256, 4, 4),
    "base": Size(512, 8, 64, 2048, 6, 6),
    "big": Size(1024, 16, 64, 4096, 6, 6),
}

# v1.0 was pretrained with dropout 0.1; v1.1 and its successors without dropout (enable it to fine-tune).
DROPOUT = {"dropout": 0.1, "attention_dropout": 0.1, "activation_dropout": 0.1, "output_dropout": 0.1}
V1_0 = {"activation": "relu", "gated": False, "head": Tied(scaled=True), **DROPOUT}
V1_1 = {"activation": "gelu_tanh", "gated": True, "head": UntiedHead()}

# Fields that BART, mBART and Marian share with the first Transformer (arXiv:1706.03762).
TRANSFORMER = {
    "gated": False,
    "biases": True,
    "norm": LayerNorm(1e-5),
    "norm_first": False,
    "scaled_scores": True,
    "head": Tied(scaled=False),
    "initial": Normal(0.02),
    "dropout": 0.1,
    "shared_dropout": False,
}
V_BART = {**TRANSFORMER, "activation": "gelu", "positions": Learned(1024, offset=2), "embedding_norm": True}
V_MBART = {**V_BART, "norm_first": True, "scaled_embedding": True}
V_MARIAN = {
    **TRANSFORMER,
    "activation": "relu",
    "positions": Sinusoidal(1024, last_included=True),
    "norm": LayerNorm(1e-6),
    "scaled_embedding": True,
    "logits_bias": True,
    "vocab_size": 32_000,
    "zero_token": 32_000,
}

FAMILIES: dict[str, tuple[dict[str, Size], dict[str, Any]]] = {
    "t5": (T5, {"vocab_size": 32128, **V1_0}),
    "t5_v1_1": (T5_V1_1, {"vocab_size": 32128, **V1_1}),
    "flan_t5": (T5_V1_1, {"vocab_size": 32128, **V1_1}),
    "mt5": (T5_V1_1, {"vocab_size": 250112, **V1_1}),
    "byt5": (BYT5, {"vocab_size": 384, **V1_1}),
    "umt5": (UMT5, {"vocab_size": 256384, **V1_1, "positions": Relative(per_layer=True)}),
    "ul2": (UL2, {"vocab_size": 32128, **V1_1, "activation": "silu"}),
    "bart": (BART, {"vocab_size": 50265, **V_BART}),
    "mbart": (MBART, {"vocab_size": 250027, **V_MBART}),
    "mbart_50": (MBART, {"vocab_size": 250054, **V_MBART}),
    "marian": (MARIAN, V_MARIAN),
}

PRESETS = tuple(f"{family}/{size}" for family, (sizes, _) in FAMILIES.items() for size in sizes)


def preset(name: str, **changes: Any) -> Model:
    """Return a published model by name, such as "t5_v1_1/base", with some fields changed.

    Raises:
        ConfigError: no preset has this name, or a change is not a field of Model.
    """
    require(name in PRESETS, f"There is no preset {name!r}; use one of {', '.join(PRESETS)}.")
    allowed = [field.name for field in fields(Model)]
    unknown = sorted(set(changes) - set(allowed))
    require(not unknown, f"A model has no field {', '.join(unknown)}; it has {', '.join(allowed)}.")
    family, size = name.split("/")
    sizes, common = FAMILIES[family]
    if "zero_token" in common:  # a token beyond the vocabulary, whatever its size
        changes = {"zero_token": changes.get("vocab_size", common["vocab_size"]), **changes}
    return replace(Model(**sizes[size]._asdict(), **common), **changes)


def t5(size: str, **changes: Any) -> Model:
    return preset(f"t5/{size}", **changes)


def t5_v1_1(size: str, **changes: Any) -> Model:
    return preset(f"t5_v1_1/{size}", **changes)


def flan_t5(size: str, **changes: Any) -> Model:
    return preset(f"flan_t5/{size}", **changes)


def mt5(size: str, **changes: Any) -> Model:
    return preset(f"mt5/{size}", **changes)


def byt5(size: str, **changes: Any) -> Model:
    return preset(f"byt5/{size}", **changes)


def umt5(size: str, **changes: Any) -> Model:
    return preset(f"umt5/{size}", **changes)


def ul2(size: str, **changes: Any) -> Model:
    return preset(f"ul2/{size}", **changes)


def bart(size: str, **changes: Any) -> Model:
    return preset(f"bart/{size}", **changes)


def mbart(size: str = "large", **changes: Any) -> Model:
    return preset(f"mbart/{size}", **changes)


def mbart_50(size: str = "large", **changes: Any) -> Model:
    return preset(f"mbart_50/{size}", **changes)


def marian(size: str, **changes: Any) -> Model:
    return preset(f"marian/{size}", **changes)
