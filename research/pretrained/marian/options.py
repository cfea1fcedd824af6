"""The options stored in Marian's model files, and the model that they describe.

An option with no counterpart in this model raises an error that names it.
"""

import re
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Literal

import yaml

from research.config import TRAINING_ONLY, ConfigError, LayerNorm, Model, Normal, Sinusoidal, Tied, UntiedHead, require

# Marian's "gelu", x * sigmoid(1.702 x), is not supported.
ACTIVATIONS: dict[str, Literal["relu", "silu"]] = {"relu": "relu", "swish": "silu"}

# transformer-preprocess, -postprocess and -postprocess-top -> norm_first: d is dropout, a the residual, n the norm.
ORDERS = {("", "dan", ""): False, ("n", "da", "n"): True}

# transformer-postprocess-emb -> embedding_norm; dropout (d) is ignored.
EMBEDDINGS = {"d": False, "nd": True, "": False, "n": True}

NONE: tuple[Any, ...] = ([], "", "~")
FALSE = ("false",)
# Values allowed for other options, if present; options not listed do not affect a Transformer's weights.
ALLOWED: dict[str, tuple[Any, ...]] = {
    "type": ("transformer",),
    "input-types": (*NONE, ["sequence", "sequence"]),
    "right-left": FALSE,
    "ulr": FALSE,
    "lemma-dim-emb": ("0",),
    "transformer-decoder-autoreg": ("self-attention",),
    "transformer-decoder-ffn-depth": ("0", "2"),
    "transformer-ffn-depth": ("2",),
    "transformer-no-affine": FALSE,
    "transformer-no-bias": FALSE,
    "transformer-no-projection": FALSE,
    "transformer-tied-layers": NONE,
    "transformer-train-position-embeddings": FALSE,
    "transformer-train-positions": FALSE,
}
SWITCHES = ("tied-embeddings", "tied-embeddings-src", "tied-embeddings-all", "output-omit-bias")

Options = dict[str, Any]  # strings and lists of strings when read; when written also numbers and booleans

LENGTH = 1024  # positions for reading; Marian itself has no limit


def parse(content: bytes, path: Path) -> Options:
    """Parse options in YAML that ends with a 0 byte."""
    try:
        text = content.rstrip(b"\0").decode()
        # A few lines of nested aliases can expand to more than fits in memory.
        aliases = any(isinstance(token, yaml.AliasToken) for token in yaml.scan(text))
        require(not aliases, f"{path}: its options contain YAML aliases, which Marian never writes.")
        # BaseLoader keeps every scalar a string: "n" and "no" are values of options.
        options = yaml.load(text, Loader=yaml.BaseLoader)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"{path}: its options are not YAML: {' '.join(str(error).split())}.") from error
    require(isinstance(options, dict), f"{path}: its options are not a mapping.")
    return options


def dump(options: Options) -> bytes:
    return yaml.safe_dump(options).encode("ascii") + b"\0"


def model_of(options: Options, path: Path) -> Model:
    """Build the model configuration that the options of the file at `path` describe.

    Raises:
        ConfigError: an option is missing, or has no counterpart in this model.
    """
    same = {"transformer-decoder-dim-ffn": ("0", options.get("transformer-dim-ffn"))}
    for name, allowed in (ALLOWED | same).items():
        value, choices = options.get(name, allowed[0]), ", ".join(map(repr, allowed))
        require(value in allowed, f"{path}: option {name} is {value!r}; only {choices} can be read.")
    width, heads = number(options, "dim-emb", path), number(options, "transformer-heads", path)
    require(width % heads == 0, f"{path}: option dim-emb is {width}, not a multiple of transformer-heads, {heads}.")
    source, target = vocabularies(options, path)
    tied, shared, every, unbiased = (switch(options, name, path) for name in SWITCHES)
    shared = shared or every
    require(
        not shared or source == target, f"{path}: option dim-vocabs is {source}, {target}, but embeddings are tied."
    )
    order = [options.get(f"transformer-{name}", "") for name in ("preprocess", "postprocess", "postprocess-top")]
    return Model(
        vocab_size=target,
        width=width,
        heads=heads,
        head_width=width // heads,
        feed_forward=number(options, "transformer-dim-ffn", path),
        encoder_layers=number(options, "enc-depth", path),
        decoder_layers=number(options, "dec-depth", path),
        source_vocab_size=None if shared else source,
        activation=choice(ACTIVATIONS, options.get("transformer-ffn-activation"), "transformer-ffn-activation", path),
        gated=False,
        biases=True,
        norm=LayerNorm(1e-6),
        norm_first=choice(ORDERS, tuple(order), "transformer-preprocess, -postprocess, -postprocess-top", path),
        positions=Sinusoidal(LENGTH, last_included=True),
        scaled_scores=True,
        scaled_embedding=True,
        embedding_norm=choice(
            EMBEDDINGS, options.get("transformer-postprocess-emb", ""), "transformer-postprocess-emb", path
        ),
        head=Tied(scaled=False) if tied or every else UntiedHead(),
        logits_bias=not unbiased,
        zero_token=target,
        initial=Normal(0.02),
        dropout=0.1,
        shared_dropout=False,
    )


def number(options: Options, name: str, path: Path) -> int:
    value = options.get(name)
    whole = isinstance(value, str) and re.fullmatch("[0-9]{1,9}", value) is not None and int(value) > 0
    require(whole, f"{path}: option {name} is {value!r}: it must be given, as an integer above 0.")
    return int(str(value))


def vocabularies(options: Options, path: Path) -> list[int]:
    sizes = options.get("dim-vocabs")
    two = isinstance(sizes, list) and len(sizes) == 2
    require(two, f"{path}: option dim-vocabs is {sizes!r}: it must be two numbers, for the source and the target.")
    return [number({"dim-vocabs": size}, "dim-vocabs", path) for size in sizes or ()]


def switch(options: Options, name: str, path: Path) -> bool:
    return choice({"true": True, "false": False}, options.get(name, "false"), name, path)


def choice(allowed: Mapping[Any, Any], value: Any, name: str, path: Path) -> Any:
    choices = ", ".join(map(repr, allowed))
    require(value in list(allowed), f"{path}: option {name} is {value!r}; only {choices} can be read.")
    return allowed[value]


def options_of(model: Model) -> Options:
    """Return the Marian options that describe the model, as far as they exist, and those that converters require."""
    order = {first: order for order, first in ORDERS.items()}[model.norm_first]
    shared, tied = model.source_vocab_size is None, isinstance(model.head, Tied)
    names: dict[str, str] = {ours: theirs for theirs, ours in ACTIVATIONS.items()}
    activation = names.get(model.activation, "relu")
    return {
        "dec-cell-base-depth": 2,
        "dec-cell-high-depth": 1,
        "dec-depth": model.decoder_layers,
        "dim-emb": model.width,
        "dim-vocabs": [model.source_vocab_size or model.vocab_size, model.vocab_size],
        "enc-depth": model.encoder_layers,
        "input-types": [],
        "layer-normalization": False,
        "lemma-dim-emb": 0,
        "output-omit-bias": not model.logits_bias,
        "right-left": False,
        "skip": False,
        "tied-embeddings": tied and not shared,
        "tied-embeddings-all": tied and shared,
        "tied-embeddings-src": shared and not tied,
        "transformer-aan-activation": activation,
        "transformer-aan-depth": 2,
        "transformer-aan-nogate": False,
        "transformer-decoder-autoreg": "self-attention",
        "transformer-dim-aan": model.feed_forward,
        "transformer-dim-ffn": model.feed_forward,
        "transformer-ffn-activation": activation,
        "transformer-ffn-depth": 2,
        "transformer-guided-alignment-layer": "last",
        "transformer-heads": model.heads,
        "transformer-no-projection": False,
        "transformer-postprocess": order[1],
        "transformer-postprocess-emb": "nd" if model.embedding_norm else "d",
        "transformer-postprocess-top": order[2],
        "transformer-preprocess": order[0],
        "transformer-tied-layers": [],
        "transformer-train-position-embeddings": False,
        "type": "transformer",
        "ulr": False,
        "ulr-dim-emb": 0,
    }


def refuse_differences(model: Model, path: Path) -> None:
    """Raise ConfigError, listing every difference, unless the model's Marian options describe it completely."""
    native = model_of(parse(dump(options_of(model)), path), path)
    match model.positions:
        case Sinusoidal(length=length):
            native = replace(native, positions=Sinusoidal(length, last_included=True))
    wrong = [
        f"model.{field.name} is {ours!r}, where Marian has {theirs!r}"
        for field in fields(Model)
        if field.name not in TRAINING_ONLY
        and (ours := getattr(model, field.name)) != (theirs := getattr(native, field.name))
    ]
    require(not wrong, f"{path} cannot hold this model: {'; '.join(wrong)}.")
