"""The architecture: what tells T5, BART, mBART and Marian from each other, as structural fields."""

from dataclasses import dataclass
from typing import Literal

from research.config.base import require, require_positive


@dataclass(frozen=True)
class Relative:
    """T5's learned bias by bucketed distance, one a stack or (umT5) one a layer."""

    buckets: int = 32
    max_distance: int = 128
    per_layer: bool = False

    def __post_init__(self) -> None:
        buckets, reach = self.buckets, self.max_distance
        require(buckets >= 4 and buckets % 2 == 0, f"model.positions.buckets is {buckets}: even, and at least 4.")
        require(reach > buckets // 2, f"model.positions.max_distance is {reach}: above buckets / 2, {buckets // 2}.")


@dataclass(frozen=True)
class Tied:
    """The head is the embedding transposed; `scaled` multiplies its input by width ** -0.5 (T5 v1.0)."""

    scaled: bool = True


@dataclass(frozen=True)
class Separate:
    """The head has a matrix of its own (T5 v1.1)."""


@dataclass(frozen=True)
class Model:
    vocab_size: int  # rows of the embedding; at least the tokenizer's size, often padded up
    width: int
    heads: int
    head_width: int
    feed_forward: int
    encoder_layers: int
    decoder_layers: int
    activation: Literal["relu", "gelu_tanh", "silu"] = "gelu_tanh"
    gated: bool = True
    positions: Relative = Relative()
    head: Tied | Separate = Separate()
    norm_epsilon: float = 1e-6
    dropout: float = 0.0
    compute: Literal["float32", "bfloat16"] = "bfloat16"  # activations; master weights stay float32
    remat: Literal["none", "dots", "full"] = "none"  # what a layer keeps for its backward pass: all, products, nothing
    unroll: int = 1  # layers a scan step holds: 1 compiles fastest

    def __post_init__(self) -> None:
        require_positive("model.", self, "vocab_size", "width", "heads", "head_width", "feed_forward")
        require_positive("model.", self, "encoder_layers", "decoder_layers", "norm_epsilon", "unroll")
        require(0 <= self.dropout < 1, f"model.dropout is {self.dropout}: it must lie in [0, 1).")
